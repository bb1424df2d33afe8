package main

import (
	"fmt"
	"regexp"
	"strconv"
)

// measurements are all there are, in the order of the table.
func measurements(o options) []measurement {
	n, c, sec := strconv.Itoa(o.managers), strconv.Itoa(o.clients), strconv.Itoa(o.seconds)
	failovers := strconv.Itoa(o.failovers)
	rate, mid := regexp.MustCompile(`rate=([0-9.]+)/s`), regexp.MustCompile(`median=([0-9.]+)ms`)
	all := func(redoubt subject, peers ...subject) []subject {
		if o.peers {
			return append([]subject{redoubt}, peers...)
		}
		return []subject{redoubt}
	}
	rates := func(verb, managers, clients string, tls, swarmkit bool) []subject {
		args := func(runner string, more ...string) []string {
			return append([]string{runner, verb, "-managers", managers, "-clients", clients, "-seconds", sec}, more...)
		}
		peers := []subject{{name: "etcd, no TLS", args: args("etcd"), figure: rate}}
		if tls {
			peers = append(peers, subject{name: "etcd, TLS", args: args("etcd", "-tls"), figure: rate})
		}
		if swarmkit {
			peers = append(peers, subject{name: "SwarmKit", args: args("swarmkit"), figure: rate})
		}
		return all(subject{name: "Redoubt", args: args("redoubt", "-bin", o.bin), figure: rate}, peers...)
	}
	failover := func(runner, name, how string) subject {
		args := []string{runner, "failover", "-managers", n, "-rounds", failovers, "-how", how}
		if runner == "redoubt" {
			args = append(args, "-bin", o.bin)
		}
		return subject{name: name, args: args, figure: mid}
	}
	took := regexp.MustCompile(`(?:took=|all RUNNING )([0-9.]+)s`)
	return []measurement{
		{"store", fmt.Sprintf("1 KiB writes, %s managers, %s clients", n, c), "/s", o.rounds, rates("store", n, c, true, true)},
		{"store1", fmt.Sprintf("1 KiB writes, %s managers, 1 client", n), "/s", o.rounds, rates("store", n, "1", true, true)},
		{"service", fmt.Sprintf("services with 1 KiB, %s managers, %s clients", n, c), "/s", o.rounds,
			[]subject{{name: "Redoubt", args: []string{"redoubt", "service", "-managers", n, "-clients", c, "-seconds", sec, "-bin", o.bin}, figure: rate}}},
		{"single", fmt.Sprintf("1 KiB writes, 1 manager, %s clients", c), "/s", o.rounds, rates("store", "1", c, false, true)},
		{"reads", fmt.Sprintf("linearizable reads of 1 KiB, %s managers, %s clients", n, c), "/s", o.rounds, rates("reads", n, c, true, false)},
		{"failover", "leader's process killed → next write, median of " + failovers, " ms", 1,
			all(failover("redoubt", "Redoubt", "kill"), failover("etcd", "etcd, no TLS", "kill"), failover("swarmkit", "SwarmKit", "kill"))},
		{"cut", "leader's host cut off, or for peers its process stopped → next write, median of " + failovers, " ms", 1,
			all(failover("redoubt", "Redoubt, cut", "cut"), failover("redoubt", "Redoubt, stopped", "stop"),
				failover("etcd", "etcd, stopped", "stop"), failover("swarmkit", "SwarmKit, stopped", "stop"))},
		{"place", fmt.Sprintf("%d tasks placed on %d nodes", o.place, o.nodes), " s", o.rounds,
			all(subject{name: "Redoubt", args: []string{"place", "-test.run", "^TestPlaceLine$", "-test.v"},
				env:    []string{fmt.Sprintf("PLACE_NODES=%d", o.nodes), fmt.Sprintf("PLACE_TASKS=%d", o.place)},
				figure: regexp.MustCompile(`^nodes=.* all=([0-9.]+)s`)},
				subject{name: "SwarmKit", args: []string{"swarmkit", "place", "-nodes", strconv.Itoa(o.nodes), "-tasks", strconv.Itoa(o.place)}, figure: took})},
		{"tasks", fmt.Sprintf("%d tasks on %d agents that do nothing, created → all running", o.tasks, o.agents), " s", o.rounds,
			all(subject{name: "Redoubt", args: []string{"sim", "--bin", o.bin, "--tasks", strconv.Itoa(o.tasks), "--agents", strconv.Itoa(o.agents), "--rest", "1s"}, figure: took},
				subject{name: "SwarmKit", args: []string{"swarmkit", "tasks", "-tasks", strconv.Itoa(o.tasks), "-agents", strconv.Itoa(o.agents)}, figure: took})},
	}
}
