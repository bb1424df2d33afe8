package rund

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/netns"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// Options say where a server works.
type Options struct {
	Config Config
	// RunDir holds rund/ and the shared mount netns/.
	RunDir string
	// DataDir is only protected from bind mounts.
	DataDir string
	// CNI runs plugins; nil: this node has no CNI networks.
	CNI *cni.Client
	// Logger is a binary that calls tasklog.Main for the subcommand
	// tasklog.Command; empty means this one.
	Logger string
	// Proxy is the program redoubt-proxy; empty means the one beside this program.
	Proxy string
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
	netns    *netns.Store
	binds    *binds
	users    users
	locals   *locals
	files    *taskfiles.Store
	key      *seal.NodeKey
	plugins  *cni.Client // nil: none
	hub      *hub
	callers  *callers
	creates  chan struct{} // slots
	checks   chan struct{} // places of healthchecks that are being started
	answers  chan struct{} // buffered 1; containerd answers again, for adopt
	adopted  chan struct{} // closed by adopt when existing containers are known

	applying   sync.Mutex // one Apply at a time; networks' namespaces change under it
	mu         sync.Mutex
	generation uint64                // guarded by mu
	applied    []*rundpb.TaskDesired // nil before the first Apply. Guarded by mu
	workers    map[string]*worker    // guarded by mu
	running    sync.WaitGroup        // workers; grows only under mu
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
	ids := o.Config.ids()
	ns, err := netns.Open(filepath.Join(o.RunDir, "netns"), ids)
	if err != nil {
		return nil, err
	}
	files, err := taskfiles.Open(filepath.Join(o.RunDir, "netns"), int(ids.Base), int(ids.Base))
	if err != nil {
		return nil, err
	}
	key, err := seal.NewNodeKey()
	if err != nil {
		return nil, err
	}
	s := &Server{
		files: files, key: key, config: o.Config, taskRoot: filepath.Join(o.RunDir, "rund"), logger: o.Logger, proxy: o.Proxy, log: o.Log, netns: ns,
		binds:  &binds{o.Config.BindMounts, []string{o.RunDir, o.DataDir, filepath.Dir(o.Config.Containerd.Socket)}},
		locals: newLocals(o.CNI, ns.Loopback), plugins: o.CNI,
		hub: newHub(), callers: newCallers(o.Log, o.Config.CgroupParent), creates: make(chan struct{}, parallelCreates), checks: make(chan struct{}, parallelChecks),
		answers: make(chan struct{}, 1), adopted: make(chan struct{}), workers: map[string]*worker{},
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

// adopt learns of existing containers, however long containerd takes to come.
func (s *Server) adopt(ctx context.Context) {
	delay := retryMin
	for {
		err := s.adoptOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("cannot list containers yet", "err", err)
		t := time.NewTimer(delay)
		select {
		case <-t.C:
			delay = min(2*delay, retryMax)
		case <-s.answers:
			delay = retryMin
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (s *Server) adoptOnce(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := s.client.Containers(cctx, `labels."`+labelTask+`"`)
	if err != nil {
		return err
	}
	if err := s.forbidContainerd(cctx); err != nil {
		return err
	}
	found := map[string]*worker{}
	tasks, containers := map[string]bool{}, map[string]bool{}
	var twice []containerd.Container
	for _, c := range list {
		containers[c.ID()] = true
		id, ok := taskOf(c.ID())
		if !ok {
			s.log.Error("container is not ours and left alone", "container", c.ID())
			continue
		}
		tasks[id] = true
		w := s.newWorker(id)
		w.cid, w.stale = c.ID(), true
		if err := w.reload(ctx); err != nil {
			if transient(err) || ctx.Err() != nil {
				return err
			}
			s.log.Error("container is not understood and left alone", "container", c.ID(), "err", err)
			continue
		}
		other := found[id]
		if other == nil {
			found[id] = w
			continue
		}
		// Of two attempts at one task, the one that came further counts. The
		// other was never started: an attempt is the last if it is.
		if other.phase() < w.phase() {
			w, other, found[id] = other, w, w
		}
		if other.state != nil {
			s.hub.set(other.state)
		}
		twice = append(twice, list[slices.IndexFunc(list, func(c containerd.Container) bool { return c.ID() == w.cid })])
	}
	for _, c := range twice {
		s.log.Warn("removing what an interrupted start left", "container", c.ID())
		if _, err := s.removeOne(ctx, c); err != nil {
			return err
		}
		delete(containers, c.ID()) // its file system goes with the others that have no container
	}
	if err := s.adoptLocals(cctx, found); err != nil {
		return err
	}
	goesOn := map[string]bool{}
	for id, w := range found {
		goesOn[id] = w.alive() || w.phase() == rundpb.Phase_PHASE_CREATED
	}
	if err := s.sweepFiles(goesOn); err != nil {
		s.log.Error("cannot remove the files of tasks that ended", "err", err)
	}
	if err := s.sweep(ctx, tasks, containers); err != nil {
		s.log.Warn("cannot remove leftovers", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, w := range found {
		if w.made != nil && (w.alive() || w.phase() == rundpb.Phase_PHASE_CREATED) {
			if w.recallFiles(); len(w.has.files) > 0 {
				w.state.Files = w.has.files
				s.hub.set(w.state)
			}
			if err := s.openCallers(w.made); err != nil {
				s.log.Error("a task has no Workload API", "task", id, "err", err)
			}
		}
		s.spawn(w)
	}
	close(s.adopted)
	if s.applied != nil {
		s.distribute()
	}
	s.log.Info("adopted", "containers", len(found))
	return nil
}

// adoptLocals finds out where tasks are on networks of this node, and takes those
// off that ended or are gone.
func (s *Server) adoptLocals(ctx context.Context, found map[string]*worker) error {
	var alive []string
	for id, w := range found {
		if p := w.phase(); p != rundpb.Phase_PHASE_EXITED && p != rundpb.Phase_PHASE_FAILED && w.state != nil {
			alive = append(alive, id)
		}
	}
	if err := s.locals.adopt(ctx, alive); err != nil {
		return err
	}
	for _, id := range alive {
		if at := s.locals.of(id); at != nil {
			found[id].state.LocalAttachments = at
			s.hub.set(found[id].state)
		}
	}
	return nil
}

// sweep removes what belongs to no container: a crash in the middle of making
// or removing one left it.
func (s *Server) sweep(ctx context.Context, owners, containers map[string]bool) error {
	var errs []error
	for _, id := range s.listCgroups() {
		if !owners[id] {
			errs = append(errs, s.reap(ctx, id))
		}
	}
	pinned, err1 := s.netns.List()
	dirs, err2 := s.listTaskDirs()
	errs = append(errs, err1, err2, s.sweepSnapshots(ctx, containers))
	for _, id := range append(pinned, dirs...) {
		if !owners[id] {
			errs = append(errs, s.netns.Remove(id), s.taskDir(id).remove())
		}
	}
	return errors.Join(errs...)
}

// sweepSnapshots removes file systems of containers that were never made.
func (s *Server) sweepSnapshots(ctx context.Context, containers map[string]bool) error {
	sn := s.client.SnapshotService(image.Snapshotter)
	var left []string
	err := sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if _, ours := taskOf(info.Name); ours && !containers[info.Name] && info.Labels[labelRoot] != "" {
			left = append(left, info.Name)
		}
		return nil
	})
	for _, id := range left {
		if rerr := sn.Remove(ctx, id); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// forbidContainerd adds containerd's own directories to what must not be
// mounted into containers. It runs before any worker.
func (s *Server) forbidContainerd(ctx context.Context) error {
	resp, err := s.client.IntrospectionService().Plugins(ctx)
	if err != nil {
		return err
	}
	for _, p := range resp.GetPlugins() {
		if root := p.GetExports()["root"]; filepath.IsAbs(root) && p.GetType() == "io.containerd.snapshotter.v1" && p.GetID() == image.Snapshotter {
			s.mu.Lock()
			s.containerdRoot = root
			s.mu.Unlock()
		}
		if root := p.GetExports()["root"]; filepath.IsAbs(root) && !slices.Contains(s.binds.forbidden, filepath.Dir(root)) {
			s.binds.forbidden = append(s.binds.forbidden, filepath.Dir(root))
		}
	}
	return nil
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
