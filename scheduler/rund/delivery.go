package rund

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
	"github.com/redoubt-cluster/redoubt/secrets/render"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// Deliveries. What a task is to have arrives sealed to the key that this process
// made when it started, is opened here, and goes into the task's file system in
// memory (package taskfiles). Nothing of it is kept in this process but for a
// credential, until the image is there. A task that needs files is not prepared
// before its first delivery.

// delivered is what a task has. Guarded by mu, which is held while files change.
type delivered struct {
	mu    sync.Mutex
	over  bool // the task ended: nothing is put any more
	ready bool // a container may be made
	// identity says that the files of its identity are there.
	identity bool
	files    []*taskpb.FileVersion
	// serial is of the newest statement of the deployment lock that let the task in or
	// gave it files, contents what these were made of (lock.Contents); 0, empty: the
	// lock was off.
	serial   int64
	contents []byte
	// credential is for the task's image, until that is here.
	credential *credential.Credential
	signals    []unix.Signal // to be sent
}

// NodeKey tells the key that this process has.
func (s *Server) NodeKey(_ context.Context, req *rundpb.NodeKeyRequest) (*rundpb.NodeKeyResponse, error) {
	b, err := s.key.Statement(req.GetClusterId(), req.GetNodeId())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &rundpb.NodeKeyResponse{Statement: b}, nil
}

// Deliver gives a task files in the place of those it has. FailedPrecondition: what
// it names is not so any more, such as the key of a rund before this one.
func (s *Server) Deliver(_ context.Context, req *rundpb.DeliverRequest) (*rundpb.DeliverResponse, error) {
	if !ident.Valid(req.GetTaskId()) {
		return nil, status.Errorf(codes.InvalidArgument, "%q is no task id", req.GetTaskId())
	}
	statement, err := s.key.Statement(req.GetFacts().GetClusterId(), req.GetFacts().GetNodeId())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if sum := sha256.Sum256(statement); !bytes.Equal(sum[:], req.GetStatement()) {
		return nil, status.Error(codes.FailedPrecondition, "the delivery is sealed to another key than rund has now")
	}
	s.mu.Lock()
	w := s.workers[req.GetTaskId()]
	s.mu.Unlock()
	if w == nil {
		return nil, status.Errorf(codes.NotFound, "task %s is not on this node", req.GetTaskId())
	}
	d, governed := w.wanted()
	if !governed || d == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "task %s is not wanted on this node", req.GetTaskId())
	}
	if err := w.deliver(d, req); err != nil {
		return nil, status.Error(codes.FailedPrecondition, oneline.Text(err.Error(), maxSaid))
	}
	w.rouse()
	return &rundpb.DeliverResponse{}, nil
}

// deliver opens, renders and puts, for the task that this one was from the first: its
// container is made from the same uses.
func (w *worker) deliver(wanted *rundpb.TaskDesired, req *rundpb.DeliverRequest) error {
	if err := w.fix(wanted); err != nil {
		return err
	}
	d := w.fixed(wanted)
	if err := w.s.checkGrants(d.GetSpec()); err != nil {
		return err
	}
	if f := req.GetFacts(); f.GetServiceId() != d.GetServiceId() {
		return errors.New("the delivery is for another service")
	}
	uses := grants(d.GetSpec())
	list := req.GetFiles()
	auth := d.GetSpec().GetContainer().GetRegistryAuth()
	for i, f := range list {
		switch {
		case i < len(uses) && f.GetVersion().GetObjectId() == uses[i].GetSource() && f.GetConfig() == uses[i].config:
		case i == len(uses) && auth != "" && f.GetVersion().GetObjectId() == auth && !f.GetConfig():
		default:
			return errors.New("the delivery has other files than the task names")
		}
	}
	w.has.mu.Lock()
	defer w.has.mu.Unlock()
	if w.has.over {
		return errors.New("the task ended")
	}
	if len(list) != len(uses) && (len(list) != len(uses)+1 || auth == "") || auth != "" && !w.has.ready && len(list) == len(uses) {
		return errors.New("the delivery does not have all files that the task names")
	}
	serial, contents, err := w.admitFiles(d, req)
	if err != nil {
		return err
	}
	now := make([]*taskpb.FileVersion, len(uses))
	for i := range uses {
		now[i] = list[i].GetVersion()
	}
	record, err := proto.Marshal(&rundpb.TaskFiles{TaskId: w.id, Files: now, Serial: serial, Contents: contents})
	if err != nil {
		return err
	}
	files, cred, err := w.s.open(req, uses)
	if err != nil {
		return err
	}
	if err := w.s.files.Put(w.id, files, record); err != nil {
		cred.Wipe()
		return err
	}
	w.has.signals = append(w.has.signals, owed(uses, w.has.files, now)...)
	w.has.files, w.has.serial, w.has.contents = now, serial, contents
	if w.has.ready { // the image is there, or is being got
		cred.Wipe()
	} else {
		w.has.ready, w.has.credential = true, cred
	}
	return nil
}

// owed are the signals, each once, for versions that took the place of others.
func owed(uses []granted, former, now []*taskpb.FileVersion) (out []unix.Signal) {
	if len(former) != len(now) {
		return nil // the first, or read back by nobody
	}
	for i, u := range uses {
		if u.GetOnUpdate() != taskpb.OnUpdate_ON_UPDATE_SIGNAL || proto.Equal(former[i], now[i]) {
			continue
		}
		if sig, err := parseSignal(u.GetSignal()); err == nil && sig != 0 && !slices.Contains(out, sig) {
			out = append(out, sig)
		}
	}
	return out
}

// open makes files of what was delivered. The plaintext is in them alone.
func (s *Server) open(req *rundpb.DeliverRequest, uses []granted) (files []taskfiles.File, c *credential.Credential, err error) {
	facts := req.GetFacts()
	secrets := map[string][]byte{}
	defer func() {
		if err != nil {
			for _, p := range secrets {
				clear(p)
			}
			for _, f := range files {
				clear(f.Data)
			}
			c.Wipe()
		}
	}()
	for i, d := range req.GetFiles() {
		if d.GetConfig() {
			continue
		}
		kind := seal.KindFile
		if i == len(uses) {
			kind = seal.KindRegistry
		}
		plain, err := s.key.Open(facts.GetNodeId(), seal.Grant{ServiceID: facts.GetServiceId(), TaskID: req.GetTaskId()},
			seal.Subject{ClusterID: facts.GetClusterId(), SecretID: d.GetVersion().GetObjectId(), VersionID: d.GetVersion().GetVersionId(), Kind: kind},
			d.GetKey(), d.GetData())
		if err != nil {
			return files, c, fmt.Errorf("secret %s: %w", d.GetName(), err)
		}
		if i < len(uses) {
			files = append(files, s.file(req.GetTaskId(), uses[i], d.GetName(), true, plain))
			secrets[d.GetName()] = plain
			continue
		}
		if c, err = credential.Parse(plain); err != nil {
			clear(plain)
			return files, c, fmt.Errorf("secret %s: %w", d.GetName(), err)
		}
	}
	for i, d := range req.GetFiles() {
		if !d.GetConfig() {
			continue
		}
		data, private := d.GetData(), false
		if d.GetTemplate() {
			if data, private, err = rendered(data, req.GetTaskId(), facts, secrets); err != nil {
				return files, c, fmt.Errorf("config %s: %w", d.GetName(), err)
			}
		}
		files = append(files, s.file(req.GetTaskId(), uses[i], d.GetName(), private, data))
	}
	return files, c, nil
}

// rendered also tells whether there is a secret in it.
func rendered(data []byte, task string, f *taskpb.FileFacts, secrets map[string][]byte) (out []byte, private bool, err error) {
	t, err := render.Parse(data)
	if err != nil {
		return nil, false, err
	}
	out, err = t.Render(confine.Facts(task, f), secrets)
	return out, len(t.Secrets()) > 0, err
}

// awaitFiles reports whether a container may be made of d, and says what it waits
// for otherwise.
func (w *worker) awaitFiles(d *rundpb.TaskDesired) (ready bool, err error) {
	if !needsFiles(d.GetSpec()) || w.s.checkGrants(d.GetSpec()) != nil { // prepare refuses it
		return true, nil
	}
	w.has.mu.Lock()
	ready, w.has.over = w.has.ready, false
	w.has.mu.Unlock()
	if ready || w.state.GetWantsFiles() {
		return ready, nil
	}
	if err := os.MkdirAll(w.s.taskDir(w.id).log(), 0o700); err != nil { // as in create
		return false, err
	}
	w.report(rundpb.Phase_PHASE_PREPARING, func(a *rundpb.TaskActual) {
		a.Spec, a.Endpoint, a.WantsFiles, a.Message = d.GetSpec(), d.GetEndpoint(), true, "waiting for its secrets and configs"
	})
	return false, nil
}

// tendFiles says which versions the task has, and sends what is owed for new ones.
func (w *worker) tendFiles(ctx context.Context) error {
	w.has.mu.Lock()
	files, wants, signals := w.has.files, w.state.GetWantsFiles() && !w.has.ready, w.has.signals
	if w.phase() != rundpb.Phase_PHASE_RUNNING {
		signals = nil // the program has not begun, or is about to end
	}
	w.has.signals = nil
	w.has.mu.Unlock()
	if w.state != nil && (!slices.Equal(files, w.state.GetFiles()) || wants != w.state.GetWantsFiles()) {
		w.state.Files, w.state.WantsFiles = files, wants
		w.s.hub.set(w.state)
	}
	for i, sig := range signals {
		if err := w.kill(ctx, sig); err != nil {
			w.has.mu.Lock()
			w.has.signals = append(slices.Clone(signals[i:]), w.has.signals...)
			w.has.mu.Unlock()
			return err
		}
	}
	return nil
}

// dropFiles is for a task that ended: nothing of them stays.
func (w *worker) dropFiles() {
	w.has.mu.Lock()
	defer w.has.mu.Unlock()
	w.has.identity = false
	w.has.credential.Wipe()
	w.has.over, w.has.ready, w.has.files, w.has.credential, w.has.signals = true, false, nil, nil, nil
	w.has.serial, w.has.contents = 0, nil
	if err := w.s.files.Remove(w.id); err != nil {
		w.log.Error("the files of a task that ended could not be removed", "err", err)
	}
}

// credential is what the registry of the task's image is shown.
func (w *worker) shows() *credential.Credential {
	w.has.mu.Lock()
	defer w.has.mu.Unlock()
	return w.has.credential
}

// recallFiles finds what an earlier rund put for a task that goes on.
func (w *worker) recallFiles() {
	b, err := w.s.files.Record(w.id)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	kept := &rundpb.TaskFiles{}
	if err == nil {
		err = proto.Unmarshal(b, kept)
	}
	if err != nil {
		w.log.Error("it is not known which versions of its files a task has", "err", err)
		return
	}
	w.has.mu.Lock()
	defer w.has.mu.Unlock()
	w.has.files, w.has.ready, w.has.serial, w.has.contents = kept.GetFiles(), true, kept.GetSerial(), kept.GetContents()
}

// sweepFiles removes those of tasks that are not in goesOn.
func (s *Server) sweepFiles(goesOn map[string]bool) error {
	ids, err := s.files.List()
	for _, id := range ids {
		if !goesOn[id] {
			err = errors.Join(err, s.files.Remove(id))
		}
	}
	return err
}
