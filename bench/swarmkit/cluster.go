package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/encryption"
)

type cluster struct {
	o       options
	dir     string
	members []*member
	leader  int
	// unlock opens a manager that starts again; autolock is on.
	unlock  string
	workers string // join token
	agents  *process
}

type member struct {
	name, dir, address string
	process            *process
	conn               *grpc.ClientConn
	control            api.ControlClient
}

func (m *member) socket() string { return filepath.Join(m.dir, "control.sock") }

// dial connects to the member's control socket, which speaks TLS and asks for no
// certificate there: that is how SwarmKit's own client uses it.
func (m *member) dial() (*grpc.ClientConn, error) {
	return grpc.Dial("unix://"+m.socket(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
}

func newCluster(ctx context.Context, o options) (_ *cluster, err error) {
	c := &cluster{o: o}
	if c.dir, err = workDir("swarmkit"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	ports, err := freePorts(o.managers)
	if err != nil {
		return nil, err
	}
	token := ""
	for i := range o.managers {
		m := &member{name: fmt.Sprintf("m%d", i), address: fmt.Sprintf("127.0.0.1:%d", ports[i])}
		m.dir = filepath.Join(c.dir, m.name)
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
		if err := c.start(m, token); err != nil {
			return nil, err
		}
		if m.conn, err = m.dial(); err != nil {
			return nil, err
		}
		m.control = api.NewControlClient(m.conn)
		if err := c.await(ctx); err != nil {
			return nil, err
		}
		if i == 0 {
			if token, err = c.secrets(ctx); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// secrets takes the join tokens and the unlock key from the first manager.
func (c *cluster) secrets(ctx context.Context) (managers string, err error) {
	err = await(ctx, "the cluster's tokens", func(ctx context.Context) error {
		r, err := c.members[0].control.ListClusters(ctx, &api.ListClustersRequest{})
		if err != nil {
			return err
		}
		if len(r.Clusters) != 1 || r.Clusters[0].RootCA.JoinTokens.Manager == "" {
			return errors.New("not there yet")
		}
		managers, c.workers = r.Clusters[0].RootCA.JoinTokens.Manager, r.Clusters[0].RootCA.JoinTokens.Worker
		if !r.Clusters[0].Spec.EncryptionConfig.AutoLockManagers {
			return errors.New("autolock is off")
		}
		k, err := api.NewCAClient(c.members[0].conn).GetUnlockKey(ctx, &api.GetUnlockKeyRequest{})
		if err != nil {
			return err
		}
		if c.unlock = encryption.HumanReadableKey(k.UnlockKey); len(k.UnlockKey) == 0 {
			return errors.New("no unlock key")
		}
		return nil
	})
	return managers, err
}

// start runs m as a process. With a token it joins the first member; without
// one it founds the cluster, or is one that starts again.
func (c *cluster) start(m *member, token string) (err error) {
	args := []string{"member", "-name", m.name, "-dir", m.dir, "-address", m.address, "-socket", m.socket()}
	if token != "" {
		args = append(args, "-join", c.members[0].address, "-token", token)
	} else if c.unlock != "" {
		args = append(args, "-unlock", c.unlock)
	}
	os.Remove(m.socket())
	m.process, err = spawn(c.dir, m.name, args...)
	return err
}

// await waits until every member answers, knows all of them as reachable
// managers, and agrees on the leader.
func (c *cluster) await(ctx context.Context) error {
	return await(ctx, "the managers do not agree (logs in "+c.dir+")", func(ctx context.Context) error {
		leader := ""
		for _, m := range c.members {
			r, err := m.control.ListNodes(ctx, &api.ListNodesRequest{})
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			reachable := 0
			for _, n := range r.Nodes {
				st := n.ManagerStatus
				if st == nil || st.Reachability != api.RaftMemberStatus_REACHABLE {
					continue
				}
				reachable++
				if st.Leader && leader != "" && leader != st.Addr {
					return errors.New("two leaders are named")
				}
				if st.Leader {
					leader = st.Addr
				}
			}
			if reachable != len(c.members) {
				return fmt.Errorf("%s knows %d of %d managers", m.name, reachable, len(c.members))
			}
		}
		for i, m := range c.members {
			if m.address == leader {
				c.leader = i
				return nil
			}
		}
		return errors.New("no leader")
	})
}

func (c *cluster) close() {
	if c.agents != nil {
		c.agents.kill()
	}
	for _, m := range c.members {
		if m.conn != nil {
			m.conn.Close()
		}
		if m.process != nil {
			m.process.kill()
		}
	}
	os.RemoveAll(c.dir)
}
