package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// cluster is a lab of managers.
type cluster struct {
	o   options
	lab *lab.Lab
}

func newCluster(ctx context.Context, o options) (*cluster, error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return nil, err
	}
	c := &cluster{o: o}
	c.lab, err = lab.Up(ctx, lab.Options{Name: fmt.Sprintf("bench-%d", os.Getpid()), Managers: o.managers, BinDir: bin})
	if err != nil && c.lab != nil {
		err = errors.Join(err, c.close(ctx))
	}
	return c, err
}

// close removes the lab, also when ctx has ended.
func (c *cluster) close(ctx context.Context) error {
	return lab.Down(context.WithoutCancel(ctx), c.lab.Name)
}

// leader finds the host that leads now, and one that does not.
func (c *cluster) leader(ctx context.Context) (leader, follower lab.Host, err error) {
	api, err := c.lab.AnyManager(ctx)
	if err != nil {
		return leader, follower, err
	}
	defer api.Close()
	r, err := api.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if err != nil {
		return leader, follower, apiclient.Err(err)
	}
	found := false
	for _, n := range r.GetNodes() {
		h, err := c.lab.Host(n.GetName())
		if err != nil {
			return leader, follower, err
		}
		if n.GetManager().GetLeader() {
			leader, found = h, true
		} else {
			follower = h
		}
	}
	if !found {
		return leader, follower, errors.New("no node is the leader")
	}
	if follower.Name == "" {
		follower = leader // the only manager
	}
	return leader, follower, nil
}

// connect opens the connections that clients share.
func (c *cluster) connect(ctx context.Context) (conns []*apiclient.Client, leader lab.Host, err error) {
	leader, h, err := c.leader(ctx)
	if err != nil {
		return nil, leader, err
	}
	if c.o.via == "leader" {
		h = leader
	}
	for range min(c.o.conns, c.o.clients) {
		conn, err := apiclient.Dial(ctx, c.lab.APISocket(h))
		if err != nil {
			closeAll(conns)
			return nil, leader, err
		}
		conns = append(conns, conn)
	}
	return conns, leader, nil
}

func closeAll(conns []*apiclient.Client) {
	for _, c := range conns {
		c.Close()
	}
}

// config is the like of what peers write: an object with so much data, and a name
// of its own that is checked and unique.
func (c *cluster) config(name string) *controlpb.CreateConfigRequest {
	return &controlpb.CreateConfigRequest{Spec: &secretspb.ConfigSpec{Name: name, Data: bytes.Repeat([]byte("v"), c.o.size)}}
}

// service is what else is written: no replicas, so that the store is measured and
// not the scheduler.
func (c *cluster) service(name string) *controlpb.CreateServiceRequest {
	return &controlpb.CreateServiceRequest{Spec: &schedulerpb.ServiceSpec{
		Name: name, Labels: map[string]string{"bench": strings.Repeat("v", c.o.size)},
		Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{}},
		Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "bench@sha256:" + strings.Repeat("0", 64)}},
	}}
}

// daemons are the processes of h: those that were told its data directory.
func (c *cluster) daemons(h lab.Host) (byName map[string]int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	byName = map[string]int{}
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || !bytes.Contains(b, append([]byte(c.lab.DataDir(h)), 0)) {
			continue // it ended, or is none of this host
		}
		name, _, _ := bytes.Cut(b, []byte{0})
		if byName[filepath.Base(string(name))], err = strconv.Atoi(filepath.Base(d)); err != nil {
			return nil, err
		}
	}
	if byName["redoubtd"] == 0 {
		return nil, fmt.Errorf("%s has no control daemon", h.Name)
	}
	return byName, nil
}

// memory is what the control daemon of h holds, and all daemons of h together.
func (c *cluster) memory(h lab.Host) (control, all int, err error) {
	pids, err := c.daemons(h)
	if err != nil {
		return 0, 0, err
	}
	if control, err = residentMiB(pids["redoubtd"]); err != nil {
		return 0, 0, err
	}
	all, err = residentMiB(slices.Collect(maps.Values(pids))...)
	return control, all, err
}

// processorTime is what the leader's control daemon, those of all managers, and
// this process, which is the clients, have used up to now. Unlike what is measured
// by the clock, it depends little on what else the machine does.
func (c *cluster) processorTime(leader lab.Host) (out used, err error) {
	for _, h := range c.lab.Hosts {
		pids, err := c.daemons(h)
		if err != nil {
			return out, err
		}
		t, err := processorTime(pids["redoubtd"])
		if err != nil {
			return out, err
		}
		out.managers += t
		if h.Name == leader.Name {
			out.leader = t
		}
	}
	out.clients, err = processorTime(os.Getpid())
	return out, err
}

type used struct{ leader, managers, clients time.Duration }

// since is what was used by each of n calls.
func (u used) since(before used, n int64) used {
	each := func(a, b time.Duration) time.Duration { return ((a - b) / time.Duration(n)).Round(time.Microsecond) }
	return used{each(u.leader, before.leader), each(u.managers, before.managers), each(u.clients, before.clients)}
}

func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(b, []byte(") ")) // the name may hold anything
	f := strings.Fields(string(rest))
	if len(f) < 13 {
		return 0, errors.New("/proc/<pid>/stat is too short")
	}
	user, err := strconv.Atoi(f[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(f[12])
	return time.Duration(user+system) * (time.Second / 100), err // USER_HZ is 100 everywhere
}
