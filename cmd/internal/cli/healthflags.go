package cli

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// healthFlags are the healthcheck's, as docker service has them.
type healthFlags struct {
	cmd                                           string
	interval, timeout, startPeriod, startInterval nonNegative
	retries                                       uint32
	off                                           bool
}

func (h *healthFlags) add(f *pflag.FlagSet) {
	f.StringVar(&h.cmd, "health-cmd", "", "command, for /bin/sh in the container, that fails while it does not work (empty: the image's)")
	f.Var(&h.interval, "health-interval", "time between two checks (default the image's, or 30s)")
	f.Var(&h.timeout, "health-timeout", "time after which a check has failed (default the image's, or 30s)")
	f.Uint32Var(&h.retries, "health-retries", 0, "failures in a row that make it unhealthy (default the image's, or 3)")
	f.Var(&h.startPeriod, "health-start-period", "time to come up, in which failures do not count (default the image's, or 0s)")
	f.Var(&h.startInterval, "health-start-interval", "time between two checks while it comes up (default the image's, or 5s)")
	f.BoolVar(&h.off, "no-healthcheck", false, "no check, also where the image has one")
}

// apply puts the flags that were given into c.
func (h *healthFlags) apply(f *pflag.FlagSet, c *taskpb.ContainerSpec) error {
	given := false
	f.Visit(func(g *pflag.Flag) { given = given || strings.HasPrefix(g.Name, "health-") })
	if f.Changed("no-healthcheck") && h.off {
		if given {
			return usagef("--no-healthcheck and --health-… exclude each other")
		}
		c.Healthcheck = &taskpb.Healthcheck{Test: []string{"NONE"}}
		return nil
	}
	off := c.GetHealthcheck().GetTest() != nil && c.GetHealthcheck().GetTest()[0] == "NONE"
	if f.Changed("no-healthcheck") && off {
		c.Healthcheck, off = nil, false // --no-healthcheck=false: the image's again
	}
	if !given {
		return nil
	}
	if off && h.cmd == "" {
		return usagef("the healthcheck is switched off: give --health-cmd as well, or --no-healthcheck=false")
	}
	check := orNew(c.Healthcheck)
	if f.Changed("health-cmd") {
		check.Test = nil
		if h.cmd != "" {
			check.Test = []string{"CMD-SHELL", h.cmd}
		}
	}
	set := func(name string, do func()) {
		if f.Changed(name) {
			do()
		}
	}
	set("health-interval", func() { check.IntervalNs = int64(h.interval) })
	set("health-timeout", func() { check.TimeoutNs = int64(h.timeout) })
	set("health-retries", func() { check.Retries = h.retries })
	set("health-start-period", func() { check.StartPeriodNs = int64(h.startPeriod) })
	set("health-start-interval", func() { check.StartIntervalNs = int64(h.startInterval) })
	c.Healthcheck = check
	return nil
}
