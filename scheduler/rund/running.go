package rund

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Running is what rund knows of a container that runs, or of a task that has files
// here and no container, for who judges this node.
type Running struct {
	Task  string
	Image string // as its service names it
	// Wanted is the digest that managers want the task to run; Made is the one that it
	// was made from.
	Wanted, Made string
	// Layers is the snapshot that its file system lies upon; Should is the one that the
	// image of Made has.
	Layers, Should string
	// Refused says why the image policies in force do not admit it, by what is here;
	// empty: they do.
	Refused string
	// Unsigned says why nothing that a deployer signed lets it run now; empty: something
	// does, or the node has no deployment lock.
	Unsigned string
	// PID is its first process; 0: there is no container.
	PID int
	// IDs begin at Base on the host and are Size.
	Base, Size uint32
	User       uint32 // in the container, when it was started
	ReadOnly   bool   // its root file system is to be
	// Capabilities that it may hold: those that it was started with and that this node
	// allows. Unfiltered: it was started without a filter of system calls, and the node
	// allows that.
	Capabilities uint64
	Unfiltered   bool
	// Granted is how many files its service was granted, by where they are; Files is
	// how many there are.
	Granted, Files map[string]int
	// Inside runs a function, on a thread of its own, as who may look into the
	// container; nil: whoever asks may.
	Inside func(func() error) error
}

// Inventory is what rund tells of its node to who judges it.
type Inventory struct {
	// Containers lists those that run.
	Containers func(context.Context) ([]Running, error)
	// Lock is the deployment lock.
	Lock func() Locked
}

// Locked is what rund goes by of the deployment lock.
type Locked struct {
	On bool // tasks are begun only where they are signed
	// Changed says what is in the file instead; empty: what rund goes by.
	Changed string
}

func (s *Server) locked() Locked {
	l := Locked{On: s.trust.On()}
	if err := s.trust.Kept(); err != nil {
		l.Changed = err.Error()
	}
	return l
}

// inventory lists the containers that run, as containerd and the kernel have them.
func (s *Server) inventory(ctx context.Context) (out []Running, err error) {
	list, err := s.client.Containers(ctx, `labels."`+labelTask+`"`)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, c := range list {
		if id, ok := taskOf(c.ID()); ok {
			known[id] = true
		}
		r, err := s.runningOne(ctx, c)
		if errdefs.IsNotFound(err) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, *r)
		}
	}
	left, err := s.filesLeft(known)
	return append(out, left...), err
}

// runningOne is nil for a container that does not run.
func (s *Server) runningOne(ctx context.Context, c containerd.Container) (*Running, error) {
	task, err := c.Task(ctx, nil)
	if err != nil {
		return nil, err
	}
	st, err := task.Status(ctx)
	if err != nil || st.Status != containerd.Running {
		return nil, err
	}
	info, err := c.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return nil, err
	}
	made, err := recorded(info)
	if err != nil {
		return nil, err
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return nil, err
	}
	if spec.Process == nil || spec.Root == nil {
		return nil, errors.New("container " + c.ID() + " has half a specification")
	}
	own := made.GetSpec().GetContainer()
	r := &Running{Task: made.GetTaskId(), Image: own.GetImage(), Made: own.GetDigest(), Wanted: own.GetDigest(), PID: int(task.Pid()),
		Base: s.ids(made.GetTaskId()).Base, Size: s.config.UserNS.Size, User: spec.Process.User.UID, ReadOnly: own.GetReadOnly() || spec.Root.Readonly,
		Granted: granting(made.GetSpec()), Inside: func(f func() error) error { return s.netns.AsOwner(made.GetTaskId(), f) }}
	r.Capabilities, r.Unfiltered = s.allowed.held(own, r.User == 0)
	signed := [][]byte{made.GetSigned()}
	s.mu.Lock()
	for _, d := range s.applied {
		if d.GetTaskId() == r.Task {
			r.Wanted = d.GetSpec().GetContainer().GetDigest()
			signed = append(signed, d.GetSigned())
		}
	}
	s.mu.Unlock()
	r.Unsigned = s.unsigned(made, signed)
	snapshot, err := s.client.SnapshotService(image.Snapshotter).Stat(ctx, info.SnapshotKey)
	if err != nil {
		return nil, err
	}
	r.Layers = snapshot.Parent
	if r.Should, err = s.images.Parent(ctx, r.Made); err != nil {
		return nil, err
	}
	if r.Refused, err = s.refuses(ctx, own); err != nil {
		return nil, err
	}
	r.Files, err = s.filesOf(r.Task)
	return r, err
}

// unsigned says why none of those signed lets run what was made, by whom this node
// trusts now: what was signed then may have ended, or been voided.
func (s *Server) unsigned(made *rundpb.TaskDesired, signed [][]byte) string {
	var read []*lockpb.Signed
	for _, raw := range signed {
		if sig, err := lock.Read(raw); err == nil {
			read = append(read, sig)
		}
	}
	if err := s.trust.Holds(time.Now(), lockTask(made), read...); err != nil {
		return err.Error()
	}
	return ""
}

// refuses says why the policies in force do not admit what runs, by what is here
// alone: no registry is asked.
func (s *Server) refuses(ctx context.Context, c *taskpb.ContainerSpec) (why string, err error) {
	list, _, err := s.admission.inForce()
	if err != nil {
		return err.Error(), nil
	}
	for _, p := range list {
		rule, err := p.Decide(c.GetImage())
		if err != nil {
			return err.Error(), nil
		}
		if rule.NeedsEvidence() {
			kept, err := s.images.Kept(ctx, c.GetDigest())
			if err != nil {
				return "", err
			}
			if err := verify([]*imagepolicy.Rule{rule}, c.GetDigest(), kept); err != nil {
				return err.Error(), nil
			}
		}
		if rule.NeedsOrigin() {
			came, err := s.images.Came(ctx, c.GetImage(), c.GetDigest())
			if err != nil {
				return "", err
			}
			if !came {
				return rule.NotThere(c.GetDigest()).Error(), nil
			}
		}
	}
	return "", nil
}

// granting is how many files a task is granted, by where they are.
func granting(spec *taskpb.TaskSpec) map[string]int {
	n := map[string]int{}
	for _, g := range grants(spec) {
		if dir, _, _ := g.place("name"); dir != "" {
			n[string(dir)]++
		} else {
			n["at/"+strconv.Itoa(g.own)]++
		}
	}
	return n
}

// filesOf is how many files a task has, by where they are.
func (s *Server) filesOf(task string) (map[string]int, error) {
	n := map[string]int{}
	for _, dir := range []taskfiles.Dir{taskfiles.Secrets, taskfiles.Configs} {
		names, err := names(s.files.DirPath(task, dir))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, "..") { // the generations behind the names
				n[string(dir)]++
			}
		}
	}
	own, err := names(filepath.Dir(s.files.OwnPath(task, 0)))
	for _, name := range own {
		n["at/"+name]++
	}
	return n, err
}

// filesLeft are tasks that have files here and are none of those known.
func (s *Server) filesLeft(known map[string]bool) (out []Running, err error) {
	tasks, err := s.files.List()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	for id := range s.workers { // one that is being made, or taken away
		known[id] = true
	}
	s.mu.Unlock()
	for _, id := range tasks {
		if known[id] {
			continue
		}
		r := Running{Task: id}
		if r.Files, err = s.filesOf(id); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// names are those of a directory, none where it is not there.
func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
