package rund

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// checkCommand refuses what no process can be made of.
func checkCommand(c *taskpb.ExecCommand) error {
	if len(c.GetArgs()) == 0 || c.GetArgs()[0] == "" {
		return errors.New("there is no command: name a program of the container")
	}
	if err := checkProcess(&taskpb.ContainerSpec{Command: c.GetArgs(), Env: c.GetEnv(), Workdir: c.GetWorkdir()}); err != nil {
		return err
	}
	if n := len(c.GetUser()); n > maxExecUser {
		return fmt.Errorf("the user has %d characters: at most %d are allowed", n, maxExecUser)
	}
	return nil
}

func checkWindow(w *taskpb.WindowSize) error {
	if w.GetRows() > maxWindow || w.GetColumns() > maxWindow {
		return fmt.Errorf("a terminal of %d by %d: at most %d by %d is possible", w.GetColumns(), w.GetRows(), maxWindow, maxWindow)
	}
	return nil
}

// execProcess is a command as a process of a container, whose own process was started
// as first: another user makes it no more than that was.
func execProcess(first *specs.Process, own *taskpb.ContainerSpec, user specs.User, ids uint32, c *taskpb.ExecCommand) (*specs.Process, error) {
	for _, id := range append([]uint32{user.UID, user.GID}, user.AdditionalGids...) {
		if id >= ids {
			return nil, fmt.Errorf("user %q has the id %d, which is outside the user namespace of %d ids", c.GetUser(), id, ids)
		}
	}
	p := *first
	p.User, p.Args, p.Env = user, c.GetArgs(), ocispec.MergeEnv(first.Env, c.GetEnv())
	var held []string
	if first.Capabilities != nil {
		held = slices.DeleteFunc(confine.Held(own, user.UID == 0), func(name string) bool {
			return !slices.Contains(first.Capabilities.Bounding, name)
		})
	}
	p.Capabilities, p.NoNewPrivileges = ocispec.Capabilities(user.UID, held), true
	if w := c.GetWorkdir(); w != "" {
		p.Cwd = path.Clean(w)
	}
	if err := ocispec.CheckCwd(p.Cwd); err != nil {
		return nil, err
	}
	p.Terminal, p.ConsoleSize = c.GetTty(), nil
	if p.Terminal {
		if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
			p.Env = append(slices.Clip(p.Env), "TERM=xterm")
		}
	}
	return &p, nil
}

// execUser finds the numbers of a user in the image that a container was made from.
// What the container has written since is not asked: it is not the image's word.
func (s *Server) execUser(ctx context.Context, snapshot, name, user string) (specs.User, error) {
	snapshots := s.client.SnapshotService(image.Snapshotter)
	st, err := snapshots.Stat(ctx, snapshot)
	if err != nil {
		return specs.User{}, err
	}
	ctx, done, err := s.client.WithLease(ctx)
	if err != nil {
		return specs.User{}, err
	}
	defer done(context.WithoutCancel(ctx)) // and with it what it holds
	view := snapshot + "-" + name
	if _, err := snapshots.View(ctx, view, st.Parent); err != nil {
		return specs.User{}, err
	}
	defer snapshots.Remove(context.WithoutCancel(ctx), view)
	return s.users.resolve(ctx, s.client, view, st.Parent, user, nil)
}

// execPlaces counts the commands that run, and gives each a number among those of its
// task.
type execPlaces struct {
	mu    sync.Mutex // guards the following
	tasks map[string]map[int]context.CancelCauseFunc
	all   int
}

// take returns how to leave the place; stop ends the command.
func (e *execPlaces) take(task string, stop context.CancelCauseFunc) (place int, leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all >= maxExecs {
		return 0, nil, fmt.Errorf("%d commands run in containers of this node already: end one", maxExecs)
	}
	for place < maxTaskExecs && e.tasks[task][place] != nil {
		place++
	}
	if place == maxTaskExecs {
		return 0, nil, fmt.Errorf("%d commands run in this container already: end one", maxTaskExecs)
	}
	if e.tasks == nil {
		e.tasks = map[string]map[int]context.CancelCauseFunc{}
	}
	if e.tasks[task] == nil {
		e.tasks[task] = map[int]context.CancelCauseFunc{}
	}
	e.tasks[task][place] = stop
	e.all++
	return place, sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if delete(e.tasks[task], place); len(e.tasks[task]) == 0 {
			delete(e.tasks, task)
		}
		e.all--
	}), nil
}

func (e *execPlaces) taken(task string, place int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tasks[task][place] != nil
}

// end ends all commands.
func (e *execPlaces) end(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, places := range e.tasks {
		for _, stop := range places {
			stop(why)
		}
	}
}
