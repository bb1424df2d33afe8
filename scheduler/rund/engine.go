package rund

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/health"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/tasklog"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// Namespace is containerd's namespace of everything here.
const Namespace = "redoubt"

const runtimeName = "io.containerd.runc.v2"

// Labels and the extension by which a container is known again.
const (
	labelTask    = "redoubt.task"
	labelService = "redoubt.service"
	labelSignal  = "redoubt.stop-signal"
	labelStarted = "redoubt.started" // unix nanoseconds
	labelExit    = "redoubt.exit"    // exit code
	labelExited  = "redoubt.exited"  // unix nanoseconds
	labelOOM     = "redoubt.oom"
	labelFailure = "redoubt.failure"
	labelRoot    = "containerd.io/gc.root" // of snapshots
	extension    = "redoubt.task"

	labelHealthy    = "redoubt.healthy"   // unix nanoseconds of the first time
	labelUnhealthy  = "redoubt.unhealthy" // why, once it is to be ended for it
	extensionHealth = "redoubt.healthcheck"
)

// rejected marks an error that another attempt on this node will not change.
func rejected(err error) error {
	if err == nil || image.IsRejected(err) {
		return err
	}
	return &image.Rejected{Err: err}
}

// transient reports whether err means that containerd is away.
func transient(err error) bool {
	return errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err) || errors.Is(err, context.DeadlineExceeded)
}

// prepare makes everything of a task up to a created container whose process
// waits to be started. cid is a container's id that nothing has yet; cred is for the
// registry.
func (s *Server) prepare(ctx context.Context, d *rundpb.TaskDesired, cid string, cred *credential.Credential, note func(string)) (containerd.Task, *admitted, error) {
	c := d.GetSpec().GetContainer()
	if err := cmp.Or(checkTask(d), s.allowed.check(c), s.checkGrants(d.GetSpec()), checkIdentity(d.GetSpec())); err != nil {
		return nil, nil, rejected(err)
	}
	filled, err := expand(d)
	if err != nil {
		return nil, nil, rejected(err)
	}
	under, err := s.admit(ctx, c, cred, note) // before anything of it is fetched
	if err != nil {
		return nil, nil, err
	}
	img, err := s.images.Ensure(ctx, c.GetImage(), c.GetDigest(), cred, note)
	if err != nil {
		return nil, nil, err
	}
	s.keep(ctx, c, under)
	select {
	case s.creates <- struct{}{}:
		defer func() { <-s.creates }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	s.volumes.Release(d.GetTaskId()) // of an attempt before
	hostname := hostnameOf(filled)
	// The kernel's part and containerd's do not need each other.
	var sandbox errgroup.Group
	sandbox.Go(func() error {
		if err := s.netns.Create(d.GetTaskId()); err != nil {
			return err
		}
		if err := s.netns.Sysctls(d.GetTaskId(), slices.Sorted(maps.Keys(sysctls(c)))); err != nil {
			return rejected(err)
		}
		if err := s.locals.attach(ctx, d); err != nil {
			return err
		}
		if err := s.taskDir(d.GetTaskId()).create(hostname, withHosts(d.GetEndpoint(), s.locals.of(d.GetTaskId())), c); err != nil {
			return err
		}
		return s.openCallers(d)
	})
	err = s.snapshot(ctx, d, cid, img.Parent)
	if errdefs.IsNotFound(err) { // containerd forgot the image
		s.images.Forget(img)
		if img, err = s.images.Ensure(ctx, c.GetImage(), c.GetDigest(), cred, note); err == nil {
			err = s.snapshot(ctx, d, cid, img.Parent)
		}
	}
	if err = errors.Join(err, sandbox.Wait()); err != nil {
		return nil, nil, err
	}
	cont, spec, err := s.createContainer(ctx, d, filled, cid, img)
	if err != nil {
		return nil, nil, err
	}
	log := tasklog.Spec{
		Dir: s.taskDir(d.GetTaskId()).log(), MaxBytes: s.config.Limits.LogBytes,
		UID: s.ids(d.GetTaskId()).Base + spec.Process.User.UID, GID: s.ids(d.GetTaskId()).Base + spec.Process.User.GID,
	}
	args := map[string]string{tasklog.Command: log.String()}
	io := cio.BinaryIO(s.logger, args)
	if c.GetTty() {
		io = cio.TerminalBinaryIO(s.logger, args)
	}
	task, err := cont.NewTask(ctx, io)
	if err != nil {
		return nil, nil, fmt.Errorf("create container: %w", err)
	}
	return task, under, nil
}

// snapshot makes the container's own file system. It is a root of containerd's
// collector, which a lease would be, too, for two more transactions: rund
// removes it by its key, also where a crash left no container (see sweep).
func (s *Server) snapshot(ctx context.Context, d *rundpb.TaskDesired, cid, parent string) error {
	_, err := s.client.SnapshotService(image.Snapshotter).Prepare(ctx, cid, parent,
		snapshots.WithLabels(map[string]string{labelRoot: now(), labelTask: d.GetTaskId()}))
	if err == nil && alone(d.GetSpec()) {
		err = s.images.Shift(ctx, cid, s.ids(d.GetTaskId()).Base)
	}
	if err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	return nil
}

// hostnameOf is a task's, whose templates are filled in.
func hostnameOf(d *rundpb.TaskDesired) string {
	return cmp.Or(d.GetSpec().GetContainer().GetHostname(), d.GetTaskId()[:12])
}

// hostnameWritten is that of a task whose container was made.
func hostnameWritten(d *rundpb.TaskDesired) string {
	filled, err := expand(d)
	if err != nil {
		return ""
	}
	return hostnameOf(filled)
}

// createContainer makes the container of d as filled says, whose templates are filled
// in: what it carries is what was wanted.
func (s *Server) createContainer(ctx context.Context, d, filled *rundpb.TaskDesired, cid string, img *image.Ready) (containerd.Container, *specs.Spec, error) {
	id := d.GetTaskId()
	in, err := s.describe(ctx, filled, cid, img)
	if err != nil {
		return nil, nil, err
	}
	c := d.GetSpec().GetContainer()
	if in.User, err = s.users.resolve(ctx, s.client, cid, img.Parent, cmp.Or(c.GetUser(), img.Config.User), c.GetGroups()); err != nil {
		return nil, nil, err
	}
	in.Held = confine.Held(c, in.User.UID == 0)
	if err := s.ownIdentity(id, d.GetSpec(), in.User.UID, in.User.GID); err != nil {
		return nil, nil, err
	}
	spec, err := ocispec.Build(in)
	if err != nil {
		return nil, nil, rejected(err)
	}
	signal := d.GetSpec().GetContainer().GetStopSignal()
	if signal == "" {
		signal = img.Config.StopSignal
	}
	if len(signal) > maxSignal {
		return nil, nil, rejected(fmt.Errorf("the stop signal has %d characters: at most %d are allowed", len(signal), maxSignal))
	}
	extensions := map[string]typeurl.Any{}
	if extensions[extension], err = typeurl.MarshalAny(d); err != nil {
		return nil, nil, err
	}
	// What is checked is decided once: the image may be gone later.
	check, err := health.Effective(d.GetSpec().GetContainer().GetHealthcheck(), img.Healthcheck)
	if err != nil {
		return nil, nil, rejected(err)
	}
	if check != nil {
		if extensions[extensionHealth], err = typeurl.MarshalAny(check.Proto()); err != nil {
			return nil, nil, err
		}
	}
	runtime, err := typeurl.MarshalAny(&options.Options{BinaryName: s.config.Containerd.Runtime})
	if err != nil {
		return nil, nil, err
	}
	anySpec, err := typeurl.MarshalAny(spec)
	if err != nil {
		return nil, nil, err
	}
	_, err = s.client.ContainerService().Create(ctx, containers.Container{
		ID: cid, Image: img.Name, Snapshotter: image.Snapshotter, SnapshotKey: cid, Spec: anySpec,
		Runtime:    containers.RuntimeInfo{Name: runtimeName, Options: runtime},
		Labels:     s.rangeLabel(d, map[string]string{labelTask: id, labelService: d.GetServiceId(), labelSignal: signal}),
		Extensions: extensions,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("container: %w", err)
	}
	cont, err := s.client.LoadContainer(ctx, cid)
	return cont, spec, err
}

// describe puts the service's wishes, the image's and the node's rules together, but
// for who it runs as.
func (s *Server) describe(ctx context.Context, d *rundpb.TaskDesired, cid string, img *image.Ready) (ocispec.Container, error) {
	entrypoint, cmd, cwd := img.Config.Entrypoint, img.Config.Cmd, img.Config.WorkingDir
	id, c, dir := d.GetTaskId(), d.GetSpec().GetContainer(), s.taskDir(d.GetTaskId())
	limits, reserved := d.GetSpec().GetLimits(), d.GetSpec().GetReservations()
	in := ocispec.Container{
		Env: ocispec.MergeEnv(img.Config.Env, c.GetEnv()), Cwd: "/", Hostname: hostnameOf(d), ReadOnly: c.GetReadOnly(), Terminal: c.GetTty(),
		UserNS: s.netns.UserPath(id), NetNS: s.netns.Path(id), IDBase: s.ids(id).Base, IDSize: s.config.UserNS.Size,
		CgroupsPath: path.Join(s.config.CgroupParent, cid),
		NanoCPUs:    limits.GetNanoCpus(), Shares: reserved.GetNanoCpus(),
		MemoryBytes: limits.GetMemoryBytes(), MemoryLow: reserved.GetMemoryBytes(), Pids: limits.GetPids(),
		Hosts: dir.hosts(), HostnameFile: dir.hostname(), ResolvConf: dir.resolvConf(),
		Sysctls: sysctls(c), Seccomp: s.allowed.profiles[c.GetSecurity().GetSeccomp()], Unconfined: c.GetSecurity().GetSeccomp() == confine.Unconfined,
	}
	if in.Pids == 0 {
		in.Pids = s.config.Limits.Pids
	}
	// A command replaces the entrypoint and with it the image's arguments.
	switch {
	case len(c.GetCommand()) > 0:
		in.Args = append(append(in.Args, c.GetCommand()...), c.GetArgs()...)
	case len(c.GetArgs()) > 0:
		in.Args = append(append(in.Args, entrypoint...), c.GetArgs()...)
	default:
		in.Args = append(append(in.Args, entrypoint...), cmd...)
	}
	if w := c.GetWorkdir(); w != "" {
		in.Cwd = w
	} else if cwd != "" {
		in.Cwd = path.Join("/", cwd)
	}
	if !d.GetSpec().GetIdentity().GetNone() {
		in.Identity = dir.identity()
		in.Env = ocispec.MergeEnv(img.Config.Env, append([]string{ocispec.IdentityEnv}, c.GetEnv()...))
	}
	var err error
	if reached(d.GetSpec()) {
		if in.Relay, err = s.relaySource(id); err != nil {
			return in, err
		}
	}
	if c.GetInit() {
		if in.Init, err = s.initSource(id); err != nil {
			return in, rejected(err)
		}
	}
	for _, want := range c.GetDevices() {
		found, err := findDevice(want.GetSource(), want.GetAccess())
		if err != nil {
			return in, rejected(err)
		}
		found.Target = want.GetTarget()
		in.Devices = append(in.Devices, *found)
	}
	in.Files = s.fileMounts(id, d.GetSpec())
	if to := d.GetSpec().GetIdentity().GetFiles(); to != "" {
		in.Files = append(in.Files, ocispec.Mount{Source: s.files.DirPath(id, taskfiles.Identity), Target: to, ReadOnly: true})
	}
	in.Mounts, err = s.mounts(ctx, d, cid)
	return in, err
}

func sysctls(c *taskpb.ContainerSpec) map[string]string {
	out := map[string]string{}
	for _, s := range c.GetSysctls() {
		out[s.GetName()] = s.GetValue()
	}
	return out
}

// initSource pins the program for --init.
func (s *Server) initSource(id string) (string, error) {
	f, err := s.allowed.openInit()
	if err != nil {
		return "", err
	}
	defer f.Close()
	return s.netns.PinSource(id, maxMounts+1, f)
}

func (s *Server) mounts(ctx context.Context, d *rundpb.TaskDesired, cid string) ([]ocispec.Mount, error) {
	var out []ocispec.Mount
	for n, m := range d.GetSpec().GetContainer().GetMounts() {
		mount := ocispec.Mount{Target: m.GetTarget(), ReadOnly: m.GetReadOnly(), Size: m.GetTmpfsSize(), Mode: m.GetTmpfsMode()}
		switch m.GetType() {
		case taskpb.Mount_TYPE_TMPFS:
			if mount.Size == 0 {
				mount.Size = s.config.Limits.TmpfsBytes
			}
		case taskpb.Mount_TYPE_BIND:
			f, err := s.binds.open(m.GetSource(), m.GetReadOnly())
			if err != nil {
				return nil, rejected(err)
			}
			mount.Source, err = s.netns.PinSource(d.GetTaskId(), n, f)
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, rejected(fmt.Errorf("bind source %s: %w", m.GetSource(), err))
			}
		case taskpb.Mount_TYPE_VOLUME:
			f, err := s.useVolume(ctx, d, cid, m)
			if err != nil {
				return nil, err
			}
			mount.Source, err = s.netns.PinSource(d.GetTaskId(), n, f)
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, rejected(fmt.Errorf("volume %s: %w", m.GetVolume().GetName(), err))
			}
		}
		out = append(out, mount)
	}
	return out, nil
}

// recorded returns what a container was made from.
func recorded(c containers.Container) (*rundpb.TaskDesired, error) {
	id := c.Labels[labelTask]
	if task, ok := taskOf(c.ID); !ok || id != task {
		return nil, fmt.Errorf("container %s is not ours", c.ID)
	}
	d := &rundpb.TaskDesired{}
	ext := c.Extensions[extension]
	if ext == nil {
		return nil, fmt.Errorf("container %s carries no task", c.ID)
	}
	if err := proto.Unmarshal(ext.GetValue(), d); err != nil {
		return nil, fmt.Errorf("container %s carries a malformed task: %w", c.ID, err)
	}
	if d.GetTaskId() != id {
		return nil, fmt.Errorf("container %s carries the task of another", c.ID)
	}
	return d, nil
}

func nanos(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Now().UnixNano()
	}
	return n
}

// executable is the path under which containerd's shim can start this binary.
func executable() (string, error) {
	p, err := os.Executable()
	if err != nil {
		return "", err
	}
	return p, nil
}
