package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// failover takes the leader away again and again, and measures how long no
// write succeeds on the sockets of the others.
func (c *cluster) failover(ctx context.Context) error {
	var took []time.Duration
	for round := range c.o.rounds {
		victim, _, err := c.leader(ctx)
		if err != nil {
			return err
		}
		var others []*apiclient.Client
		for _, h := range c.lab.Hosts {
			if h == victim {
				continue
			}
			api, err := apiclient.Dial(ctx, c.lab.APISocket(h))
			if err != nil {
				return err
			}
			defer api.Close()
			others = append(others, api)
		}
		start, err := c.takeAway(ctx, victim)
		if err != nil {
			return err
		}
		err = firstSuccess(ctx, len(others), func(ctx context.Context, server, try int) error {
			_, err := others[server].CreateService(ctx, c.service(fmt.Sprintf("failover-%d-%d-%d", round, server, try)))
			return apiclient.Err(err)
		})
		if err != nil {
			return err
		}
		took = append(took, time.Since(start))
		if err := c.bringBack(ctx, victim); err != nil {
			return err
		}
		if err := c.lab.AwaitReady(ctx, c.o.managers); err != nil {
			return err
		}
	}
	fmt.Println(spread(took))
	return nil
}

// takeAway makes h useless and returns since when it is.
func (c *cluster) takeAway(ctx context.Context, h lab.Host) (time.Time, error) {
	switch c.o.how {
	case "kill":
		start := time.Now()
		return start, c.lab.Kill(ctx, h, false)
	case "cut":
		start := time.Now()
		return start, c.lab.Cut([]lab.Host{h}, false)
	}
	start := time.Now()
	return start, c.signal(h, unix.SIGSTOP)
}

func (c *cluster) bringBack(ctx context.Context, h lab.Host) error {
	switch c.o.how {
	case "kill":
		_, err := c.lab.Start(ctx, h, true)
		return err
	case "cut":
		return c.lab.Heal([]lab.Host{h})
	}
	return c.signal(h, unix.SIGCONT)
}

func (c *cluster) signal(h lab.Host, s unix.Signal) error {
	pids, err := c.daemons(h)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err = errors.Join(err, unix.Kill(pid, s))
	}
	return err
}
