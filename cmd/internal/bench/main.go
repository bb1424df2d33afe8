// Command bench measures Redoubt as its operators run it, so that it can be held
// against peers: the real daemons in a lab of managers, sealed stores on a real
// disk with fsync, mutual TLS between them, called through the operator API on
// a manager's socket. The runners in bench/ measure peers in the same way, and
// bench/compare runs all of them in turn.
//
//	bench store    [-managers 3] [-clients 64] [-conns 8] [-size 1024] [-seconds 10] [-via leader|follower]
//	bench service  the same
//	bench reads    the same
//	bench list     [-objects 100000]
//	bench failover [-managers 3] [-rounds 10] [-how kill|stop|cut]
//	bench stability [-managers 3] [-seconds 600] [-spinners 4]
//
// store creates configs with data of that size, which is the like of what peers
// write. service creates services without replicas that carry a label of that
// size: each is a service and its first revision, validated, in one transaction.
// reads shows one such config with its data, linearizably. list creates as many
// services and then lists them all. stability keeps every core busy with other
// processes, writes all along and fails where the managers elected anybody. It
// needs root, and binaries in -bin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

type options struct {
	managers, clients, conns, size, rounds, objects, spinners int
	window                                                    time.Duration
	via, how, bin                                             string
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	measures := map[string]func(*cluster, context.Context) error{
		"store": (*cluster).store, "service": (*cluster).services, "reads": (*cluster).reads, "list": (*cluster).list, "failover": (*cluster).failover,
		"stability": (*cluster).stability,
	}
	if len(args) == 1 && args[0] == spinVerb {
		spin()
	}
	if len(args) == 0 || measures[args[0]] == nil {
		return errors.New("say what to measure: store, service, reads, list, failover or stability")
	}
	var o options
	seconds := 0
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.IntVar(&o.managers, "managers", 3, "managers")
	f.IntVar(&o.clients, "clients", 64, "concurrent clients")
	f.IntVar(&o.conns, "conns", 8, "connections they share")
	f.IntVar(&o.size, "size", 1024, "bytes of an object")
	f.IntVar(&seconds, "seconds", 10, "length of the measurement")
	f.IntVar(&o.rounds, "rounds", 10, "failover: how often")
	f.IntVar(&o.objects, "objects", 100_000, "list: services to list")
	f.IntVar(&o.spinners, "spinners", 2*runtime.NumCPU(), "stability: processes that do nothing but use a core")
	f.StringVar(&o.via, "via", "leader", "whose socket the clients use: the leader's or a follower's")
	f.StringVar(&o.how, "how", "kill", "failover: kill the leader's daemons, stop them (they fall silent), or cut its host off")
	f.StringVar(&o.bin, "bin", "bin", "directory of Redoubt's binaries")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	o.window = time.Duration(seconds) * time.Second
	switch {
	case o.via != "leader" && o.via != "follower":
		return fmt.Errorf("-via %s: use leader or follower", o.via)
	case o.how != "kill" && o.how != "stop" && o.how != "cut":
		return fmt.Errorf("-how %s: use kill, stop or cut", o.how)
	}
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close(ctx)) }()
	return measures[args[0]](c, ctx)
}
