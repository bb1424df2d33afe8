package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

type cluster struct {
	o       options
	dir     string
	value   string
	members []*member
	leader  int
}

type member struct {
	name, client, peer string
	kv                 *clientv3.Client
	process            *process
}

func newCluster(ctx context.Context, o options) (_ *cluster, err error) {
	c := &cluster{o: o, value: value(o.size)}
	if c.dir, err = workDir("etcd"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	scheme := "http"
	if o.tls {
		scheme = "https"
		if err := makeCertificates(c.dir); err != nil {
			return nil, err
		}
	}
	ports, err := freePorts(2 * o.managers)
	if err != nil {
		return nil, err
	}
	for i := range o.managers {
		c.members = append(c.members, &member{name: fmt.Sprintf("m%d", i),
			client: fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[2*i]), peer: fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[2*i+1])})
	}
	for _, m := range c.members {
		if err := c.start(m); err != nil {
			return nil, err
		}
		if m.kv, err = c.dial(m); err != nil {
			return nil, err
		}
	}
	return c, c.await(ctx)
}

// start runs m as a process; its state is what its directory holds.
func (c *cluster) start(m *member) (err error) {
	var all []string
	for _, o := range c.members {
		all = append(all, o.name+"="+o.peer)
	}
	m.process, err = spawn(c.dir, m.name, "member", "-name", m.name, "-dir", filepath.Join(c.dir, m.name), "-client", m.client, "-peer", m.peer,
		"-cluster", strings.Join(all, ","), "-certs", c.dir)
	return err
}

// dial connects to that member and no other.
func (c *cluster) dial(m *member) (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{m.client}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if c.o.tls {
		info := tlsInfo(c.dir)
		t, err := info.ClientConfig()
		if err != nil {
			return nil, err
		}
		t.MinVersion = tls.VersionTLS13
		cfg.TLS = t
	}
	return clientv3.New(cfg)
}

// await waits until all members agree on a leader and have its log.
func (c *cluster) await(ctx context.Context) error {
	return await(ctx, "the members do not agree (logs in "+c.dir+")", func(ctx context.Context) error {
		var leader, index uint64
		for i, m := range c.members {
			st, err := m.kv.Status(ctx, m.client)
			switch {
			case err != nil:
				return err
			case st.Leader == 0 || leader != 0 && st.Leader != leader:
				return errors.New("no leader that all know")
			case len(st.Errors) > 0:
				return fmt.Errorf("%s: %s", m.name, st.Errors[0])
			}
			leader = st.Leader
			if st.Leader == st.Header.MemberId {
				c.leader, index = i, st.RaftIndex
			}
		}
		for _, m := range c.members {
			if st, err := m.kv.Status(ctx, m.client); err != nil || st.RaftAppliedIndex < index {
				return errors.Join(err, errors.New(m.name+" is behind"))
			}
		}
		return nil
	})
}

func (c *cluster) close() {
	for _, m := range c.members {
		if m.kv != nil {
			m.kv.Close()
		}
		if m.process != nil {
			m.process.kill()
		}
	}
	os.RemoveAll(c.dir)
}

// runMember is the whole life of a member's process.
func runMember(args []string) error {
	f := flag.NewFlagSet("member", flag.ContinueOnError)
	name, dir := f.String("name", "", ""), f.String("dir", "", "")
	client, peer := f.String("client", "", ""), f.String("peer", "", "")
	all, certs := f.String("cluster", "", ""), f.String("certs", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	cu, err := url.Parse(*client)
	if err != nil {
		return err
	}
	pu, err := url.Parse(*peer)
	if err != nil {
		return err
	}
	cfg := embed.NewConfig() // its defaults are what its users run
	cfg.Name, cfg.Dir, cfg.InitialCluster = *name, *dir, *all
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*cu}, []url.URL{*cu}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*pu}, []url.URL{*pu}
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	cfg.QuotaBackendBytes = 8 << 30
	if cu.Scheme == "https" {
		cfg.ClientTLSInfo, cfg.PeerTLSInfo = tlsInfo(*certs), tlsInfo(*certs)
		cfg.ClientTLSInfo.ClientCertAuth, cfg.PeerTLSInfo.ClientCertAuth = true, true
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	select {
	case err := <-e.Err():
		return err
	case <-stop:
		return nil
	}
}

func tlsInfo(dir string) transport.TLSInfo {
	return transport.TLSInfo{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		TrustedCAFile: filepath.Join(dir, "ca.pem")}
}
