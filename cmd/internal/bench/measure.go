package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (c *cluster) store(ctx context.Context) error {
	return c.measure(ctx, func(ctx context.Context, api *apiclient.Client, client, n int) error {
		_, err := api.CreateConfig(ctx, c.config(fmt.Sprintf("bench-%d-%d", client, n)))
		return err
	})
}

func (c *cluster) services(ctx context.Context) error {
	return c.measure(ctx, func(ctx context.Context, api *apiclient.Client, client, n int) error {
		_, err := api.CreateService(ctx, c.service(fmt.Sprintf("bench-%d-%d", client, n)))
		return err
	})
}

func (c *cluster) reads(ctx context.Context) error {
	api, err := c.lab.AnyManager(ctx)
	if err != nil {
		return err
	}
	defer api.Close()
	if _, err := api.CreateConfig(ctx, c.config("one")); err != nil {
		return apiclient.Err(err)
	}
	return c.measure(ctx, func(ctx context.Context, api *apiclient.Client, _, _ int) error {
		r, err := api.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{"one"}})
		if err == nil && (len(r.GetConfigs()) != 1 || len(r.GetConfigs()[0].GetSpec().GetData()) != c.o.size) {
			err = fmt.Errorf("the answer is not the one config with its data")
		}
		return err
	})
}

func (c *cluster) measure(ctx context.Context, op func(ctx context.Context, api *apiclient.Client, client, n int) error) error {
	conns, leader, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	before, err := c.processorTime(leader)
	if err != nil {
		return err
	}
	var calls atomic.Int64
	l, err := load(ctx, c.o.clients, c.o.window, func(ctx context.Context, client, n int) error {
		calls.Add(1)
		return apiclient.Err(op(ctx, conns[client%len(conns)], client, n))
	})
	if err != nil {
		return err
	}
	after, err := c.processorTime(leader)
	if err != nil {
		return err
	}
	control, all, err := c.memory(leader)
	if err != nil {
		return err
	}
	each := after.since(before, calls.Load())
	fmt.Printf("%v leader=%dMiB daemons=%dMiB leader-cpu=%v/call managers-cpu=%v/call clients-cpu=%v/call\n", l, control, all,
		each.leader, each.managers, each.clients)
	return nil
}

// list measures the listing of many services, and what it costs the leader.
func (c *cluster) list(ctx context.Context) error {
	conns, leader, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	g, gctx := errgroup.WithContext(ctx)
	for client := range c.o.clients {
		g.Go(func() error {
			for n := client; n < c.o.objects; n += c.o.clients {
				if _, err := conns[client%len(conns)].CreateService(gctx, c.service(fmt.Sprintf("bench-%d", n))); err != nil {
					return apiclient.Err(err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	before, _, err := c.memory(leader)
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := conns[0].ListServices(ctx, &controlpb.ListServicesRequest{})
	took := time.Since(start)
	if err != nil {
		return apiclient.Err(err)
	}
	if len(r.GetServices()) != c.o.objects {
		return fmt.Errorf("%d services are listed, and %d were created", len(r.GetServices()), c.o.objects)
	}
	after, _, err := c.memory(leader)
	if err != nil {
		return err
	}
	fmt.Printf("objects=%d took=%s leader-before=%dMiB leader-after=%dMiB\n", c.o.objects, millis(took), before, after)
	return nil
}
