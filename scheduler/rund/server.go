package rund

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/netns"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/volume"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// Options say where a server works.
type Options struct {
	Config Config
	// RunDir holds rund/ and the shared mount netns/.
	RunDir string
	// DataDir has rund/, with what the deployment lock keeps, and is protected from bind
	// mounts.
	DataDir string
	// CNI runs plugins; nil: this node has no CNI networks.
	CNI *cni.Client
	// Logger is a binary that calls tasklog.Main for the subcommand
	// tasklog.Command; empty means this one.
	Logger string
	// Proxy is the program redoubt-proxy; empty means the one beside this program.
	Proxy string
	// Check judges this node by controls, by their ids; nil: it cannot. One that does
	// not exist has no result. containers lists what runs here.
	Check func(ctx context.Context, controls []string, of Inventory) []*taskpb.CheckResult
	Log   *slog.Logger
}

// Server is rund.
type Server struct {
	rundpb.UnimplementedRundServer

	config   Config
	taskRoot string
	logger   string
	proxy    string
	log      *slog.Logger
	client   *containerd.Client
	images   *image.Store
	// admission says which images may run.
	admission *admission
	netns     *netns.Store
	binds     *binds
	allowed   *allowed
	ranges    *ranges
	users     users
	locals    *locals
	files     *taskfiles.Store
	volumes   *volume.Store
	removed   chan struct{} // of one: volumes were, and their data is to be deleted
	key       *seal.NodeKey
	trust     *lock.Trust
	plugins   *cni.Client // nil: none
	hub       *hub
	callers   *callers
	creates   chan struct{} // slots
	checks    chan struct{} // places of healthchecks that are being started
	check     func(context.Context, []string, Inventory) []*taskpb.CheckResult
	checking  chan struct{} // capacity 1: controls are being run
	execs     execPlaces
	execLife  time.Duration // of a command
	answers   chan struct{} // buffered 1; containerd answers again, for adopt
	adopted   chan struct{} // closed by adopt when existing containers are known

	applying   sync.Mutex // one Apply at a time; networks' namespaces change under it
	mu         sync.Mutex
	generation uint64                // guarded by mu
	applied    []*rundpb.TaskDesired // nil before the first Apply. Guarded by mu
	workers    map[string]*worker    // guarded by mu
	running    sync.WaitGroup        // workers, and commands in containers; grows only under mu
	storage    *taskpb.Storage       // of the last collection. Guarded by mu
	// containerdRoot lies on the disk that images fill. Guarded by mu
	containerdRoot string
	ctx            context.Context // of workers, while Serve runs. Guarded by mu
}

// New prepares a server. It touches no container.
func New(o Options) (*Server, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	registries, err := image.NewRegistries(o.Config.Registries)
	if err != nil {
		return nil, err
	}
	if err := registries.Load(); err != nil {
		return nil, err
	}
	admission, err := newAdmission(o.Config.ImagePolicy)
	if err != nil {
		return nil, err
	}
	allowed, err := newAllowed(o.Config)
	if err != nil {
		return nil, err
	}
	ids := o.Config.ids()
	ranges := newRanges(o.Config)
	ns, err := netns.Open(filepath.Join(o.RunDir, "netns"), ranges.of)
	if err != nil {
		return nil, err
	}
	files, err := taskfiles.Open(filepath.Join(o.RunDir, "netns"), int(ids.Base), int(ids.Base))
	if err != nil {
		return nil, err
	}
	vols, volumesDir, err := openVolumes(o)
	if err != nil {
		return nil, err
	}
	key, err := seal.NewNodeKey()
	if err != nil {
		return nil, err
	}
	trust := lock.Open(filepath.Join(o.DataDir, "rund"), o.Config.Lock == lockRequired)
	if err := trust.Damaged(); err != nil { // nothing runs but what does, and root is to say anew whom to trust
		o.Log.Error("nothing is begun on this node", "err", err)
	}
	s := &Server{
		admission: admission, allowed: allowed, ranges: ranges, files: files, volumes: vols, removed: make(chan struct{}, 1), key: key, trust: trust, config: o.Config, taskRoot: filepath.Join(o.RunDir, "rund"), logger: o.Logger, proxy: o.Proxy, log: o.Log, netns: ns,
		binds:  &binds{o.Config.BindMounts, []string{o.RunDir, o.DataDir, volumesDir, filepath.Dir(o.Config.Containerd.Socket)}},
		locals: newLocals(o.CNI, ns.Loopback), plugins: o.CNI,
		hub: newHub(), callers: newCallers(o.Log, o.Config.CgroupParent), creates: make(chan struct{}, parallelCreates), checks: make(chan struct{}, parallelChecks), check: o.Check, checking: make(chan struct{}, 1),
		execLife: maxExecLife, answers: make(chan struct{}, 1), adopted: make(chan struct{}), workers: map[string]*worker{},
	}
	if s.logger == "" {
		if s.logger, err = executable(); err != nil {
			return nil, err
		}
	}
	if s.proxy == "" {
		if s.proxy, err = relayProgram(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(s.taskRoot, 0o700); err != nil {
		return nil, err
	}
	s.client, err = containerd.New(o.Config.Containerd.Socket,
		containerd.WithDefaultNamespace(Namespace),
		containerd.WithDefaultRuntime(runtimeName),
		containerd.WithDefaultPlatform(image.Platform),
		containerd.WithTimeout(time.Second), // of one connection attempt; they repeat for ever
		containerd.WithExtraDialOpts([]grpc.DialOption{redial()}))
	if err != nil {
		return nil, err
	}
	s.images = image.New(s.client, registries, ids.Base, ids.Size, o.Config.Limits.ImageBytes, parallelPulls)
	return s, nil
}

// Serve answers on l until ctx ends. It leaves containers as they are. It may
// be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()

	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	rundpb.RegisterRundServer(srv, s)
	var tasks sync.WaitGroup
	tasks.Go(func() { s.adopt(ctx) })
	tasks.Go(func() { s.followRuntime(ctx) })
	tasks.Go(func() { s.collecting(ctx) })
	tasks.Go(func() { s.sweeping(ctx) })
	tasks.Go(func() { <-ctx.Done(); srv.Stop() })
	var lost error // read after tasks
	if s.plugins != nil {
		tasks.Go(func() {
			select {
			case <-ctx.Done():
			case <-s.plugins.Done(): // only a new rund can start another
				lost = s.plugins.Err()
				cancel()
			}
		})
	}
	err := srv.Serve(l)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	cancel()
	tasks.Wait()
	if lost != nil {
		err = lost
	}
	s.mu.Lock()
	s.ctx = nil // no worker is added after this
	s.mu.Unlock()
	s.running.Wait()
	s.callers.end()
	return errors.Join(err, s.client.Close())
}

// ServeIdentity hands callers of tasks' Workload APIs to redoubtd, which connects
// to l, until ctx ends.
func (s *Server) ServeIdentity(ctx context.Context, l net.Listener) error {
	return s.callers.serveRedoubtd(ctx, l)
}

// openCallers gives a task its Workload API's socket, unless it wants none.
func (s *Server) openCallers(d *rundpb.TaskDesired) error {
	if d.GetSpec().GetIdentity().GetNone() {
		return nil
	}
	return s.callers.open(d.GetTaskId(), s.taskDir(d.GetTaskId()))
}

func (s *Server) newWorker(id string) *worker {
	return &worker{s: s, id: id, cid: id, log: s.log.With("task", id), wake: make(chan struct{}, 1)}
}

// spawn runs w. Called with mu held.
func (s *Server) spawn(w *worker) {
	if s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	ctx := s.ctx
	s.workers[w.id] = w
	s.running.Go(func() { w.run(ctx) })
}

// distribute hands the applied state to the workers. Called with mu held, after
// adoption.
func (s *Server) distribute() {
	present := make(map[string]bool, len(s.applied))
	for _, d := range s.applied {
		present[d.GetTaskId()] = true
		w := s.workers[d.GetTaskId()]
		if w == nil {
			w = s.newWorker(d.GetTaskId())
			s.spawn(w)
		}
		w.want(d)
	}
	for id, w := range s.workers {
		if !present[id] {
			w.want(nil)
		}
	}
}

// retire forgets a worker whose task is removed, unless it is wanted again.
func (s *Server) retire(w *worker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, _ := w.wanted(); d != nil {
		return false
	}
	delete(s.workers, w.id)
	return true
}

func now() string { return strconv.FormatInt(time.Now().UnixNano(), 10) }
