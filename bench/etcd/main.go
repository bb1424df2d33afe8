// Command etcd measures etcd as bench/ measures Redoubt: a real cluster of
// member processes on loopback, on a real disk with fsync, written to through
// its client's API.
//
//	etcd store    [-managers 3] [-clients 64] [-conns 8] [-size 1024] [-seconds 10] [-tls]
//	etcd reads    the same
//	etcd failover [-managers 3] [-rounds 10] [-how kill|stop]
//
// store puts distinct keys; reads gets one key, linearizably, which is etcd's
// default. Clients are connected to the leader, where etcd is fastest. Without
// -tls nothing is encrypted or authenticated; with it every connection is mutual
// TLS. etcd encrypts nothing on disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

type options struct {
	managers, clients, conns, size, rounds int
	seconds                                time.Duration
	tls                                    bool
	how                                    string
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to measure: store, reads or failover")
	}
	if args[0] == "member" { // one of its own children
		return runMember(args[1:])
	}
	var o options
	seconds := 0
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.IntVar(&o.managers, "managers", 3, "members")
	f.IntVar(&o.clients, "clients", 64, "concurrent clients")
	f.IntVar(&o.conns, "conns", 8, "connections they share")
	f.IntVar(&o.size, "size", 1024, "bytes of a value")
	f.IntVar(&seconds, "seconds", 10, "length of the measurement")
	f.IntVar(&o.rounds, "rounds", 10, "failover: how often")
	f.BoolVar(&o.tls, "tls", false, "mutual TLS everywhere")
	f.StringVar(&o.how, "how", "kill", "failover: kill the leader's process, or stop it (it falls silent)")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	o.seconds = time.Duration(seconds) * time.Second
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer c.close()
	switch args[0] {
	case "store":
		return c.measure(ctx, func(ctx context.Context, kv clientv3.KV, client, n int) error {
			_, err := kv.Put(ctx, fmt.Sprintf("/bench/%d/%d", client, n), c.value)
			return err
		})
	case "reads":
		if _, err := c.members[c.leader].kv.Put(ctx, "/bench/one", c.value); err != nil {
			return err
		}
		return c.measure(ctx, func(ctx context.Context, kv clientv3.KV, _, _ int) error {
			r, err := kv.Get(ctx, "/bench/one")
			if err == nil && len(r.Kvs) != 1 {
				err = fmt.Errorf("%d keys instead of one", len(r.Kvs))
			}
			return err
		})
	case "failover":
		return c.failover(ctx)
	}
	return fmt.Errorf("%q cannot be measured here", args[0])
}

// measure runs op on connections to the leader.
func (c *cluster) measure(ctx context.Context, op func(ctx context.Context, kv clientv3.KV, client, n int) error) error {
	var conns []*clientv3.Client
	for range min(c.o.conns, c.o.clients) {
		cl, err := c.dial(c.members[c.leader])
		if err != nil {
			return err
		}
		defer cl.Close()
		conns = append(conns, cl)
	}
	l, err := load(ctx, c.o.clients, c.o.seconds, func(ctx context.Context, client, n int) error {
		return op(ctx, conns[client%len(conns)], client, n)
	})
	if err != nil {
		return err
	}
	mib, err := residentMiB(c.members[c.leader].process.pid())
	if err != nil {
		return err
	}
	fmt.Printf("%v leader=%dMiB\n", l, mib)
	return nil
}

func (c *cluster) failover(ctx context.Context) error {
	var took []time.Duration
	for round := range c.o.rounds {
		victim := c.members[c.leader]
		var others []*member
		for _, m := range c.members {
			if m != victim {
				others = append(others, m)
			}
		}
		start := time.Now()
		if c.o.how == "stop" {
			if err := victim.process.signal(syscall.SIGSTOP); err != nil {
				return err
			}
		} else {
			victim.process.kill()
			start = time.Now()
		}
		err := firstSuccess(ctx, len(others), func(ctx context.Context, server, try int) error {
			_, err := others[server].kv.Put(ctx, fmt.Sprintf("/bench/%d/%d/%d", round, server, try), c.value)
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, time.Since(start))
		if c.o.how == "stop" {
			err = victim.process.signal(syscall.SIGCONT)
		} else {
			err = c.start(victim)
		}
		if err != nil {
			return err
		}
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	fmt.Println(spread(took))
	return nil
}

func value(n int) string { return strings.Repeat("v", n) }
