// Mobyclient calls a cluster by moby's own client library, as programs of others do, and
// ends with an error where an answer is not what that library's users count on. It makes
// what it needs, an image's name its one argument, and removes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := client.New(client.FromEnv)
	if err == nil {
		err = run(ctx, c, os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mobyclient:", err)
		os.Exit(1)
	}
}

// holds is an error with what was looked at, unless ok.
func holds(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func run(ctx context.Context, c *client.Client, image string) error {
	for _, step := range []func(context.Context, *client.Client, string) error{cluster, nodes, objects, services} {
		if err := step(ctx, c, image); err != nil {
			return err
		}
	}
	_, err := c.ContainerList(ctx, client.ContainerListOptions{})
	return holds(err != nil && strings.Contains(err.Error(), "Containers are tasks of services here"), "containers: %v", err)
}

func cluster(ctx context.Context, c *client.Client, _ string) error {
	ping, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return err
	}
	version, err := c.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return err
	}
	info, err := c.Info(ctx, client.InfoOptions{})
	if err != nil {
		return err
	}
	sw, err := c.SwarmInspect(ctx, client.SwarmInspectOptions{})
	return errors.Join(err,
		holds(ping.SwarmStatus != nil && ping.SwarmStatus.ControlAvailable && ping.APIVersion == "1.51", "ping: %+v", ping),
		holds(version.APIVersion == "1.51" && version.MinAPIVersion == "1.40", "version: %+v", version),
		holds(info.Info.Swarm.LocalNodeState == swarm.LocalNodeStateActive && info.Info.Swarm.Nodes > 0, "info: %+v", info.Info.Swarm),
		holds(sw.Swarm.ID == info.Info.Swarm.Cluster.ID && sw.Swarm.TLSInfo.TrustRoot != "", "swarm: %+v", sw.Swarm.ClusterInfo))
}

func nodes(ctx context.Context, c *client.Client, _ string) error {
	all, err := c.NodeList(ctx, client.NodeListOptions{Filters: make(client.Filters).Add("role", "worker")})
	if err != nil || len(all.Items) == 0 {
		return errors.Join(err, errors.New("no worker"))
	}
	n, err := c.NodeInspect(ctx, all.Items[0].ID, client.NodeInspectOptions{})
	if err != nil {
		return err
	}
	was := n.Node.Version
	n.Node.Spec.Labels["moby"] = "client"
	if _, err = c.NodeUpdate(ctx, n.Node.ID, client.NodeUpdateOptions{Version: was, Spec: n.Node.Spec}); err != nil {
		return err
	}
	n.Node.Spec.Labels["moby"] = "stale"
	_, err = c.NodeUpdate(ctx, n.Node.ID, client.NodeUpdateOptions{Version: was, Spec: n.Node.Spec})
	return holds(err != nil && strings.Contains(err.Error(), "update out of sequence"), "an update at a version of before: %v", err)
}

func objects(ctx context.Context, c *client.Client, _ string) error {
	named := func(name string) swarm.Annotations {
		return swarm.Annotations{Name: name, Labels: map[string]string{"of": "moby"}}
	}
	sec, err := c.SecretCreate(ctx, client.SecretCreateOptions{Spec: swarm.SecretSpec{Annotations: named("moby-secret"), Data: []byte("hunter2")}})
	if err != nil {
		return err
	}
	seen, err := c.SecretInspect(ctx, sec.ID, client.SecretInspectOptions{})
	if err != nil {
		return err
	}
	secrets, err := c.SecretList(ctx, client.SecretListOptions{Filters: make(client.Filters).Add("label", "of=moby")})
	if err != nil {
		return err
	}
	conf, err := c.ConfigCreate(ctx, client.ConfigCreateOptions{Spec: swarm.ConfigSpec{Annotations: named("moby-config"), Data: []byte("colour=red")}})
	if err != nil {
		return err
	}
	read, err := c.ConfigInspect(ctx, conf.ID, client.ConfigInspectOptions{})
	if err != nil {
		return err
	}
	net, err := c.NetworkCreate(ctx, "moby-network", client.NetworkCreateOptions{Driver: "overlay", Labels: map[string]string{"of": "moby"}})
	if err != nil {
		return err
	}
	inspected, err := c.NetworkInspect(ctx, net.ID, client.NetworkInspectOptions{Verbose: true})
	if err != nil {
		return err
	}
	networks, err := c.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("driver", "overlay")})
	if err != nil {
		return err
	}
	if err := errors.Join(
		holds(seen.Secret.Spec.Data == nil && seen.Secret.Spec.Name == "moby-secret" && len(secrets.Items) == 1, "secrets: %+v", secrets),
		holds(string(read.Config.Spec.Data) == "colour=red", "config: %+v", read.Config),
		holds(inspected.Network.Scope == "swarm" && len(inspected.Network.IPAM.Config) == 1 && len(networks.Items) == 1, "network: %+v", inspected.Network)); err != nil {
		return err
	}
	_, e1 := c.SecretRemove(ctx, sec.ID, client.SecretRemoveOptions{})
	_, e2 := c.ConfigRemove(ctx, conf.ID, client.ConfigRemoveOptions{})
	_, e3 := c.NetworkRemove(ctx, net.ID, client.NetworkRemoveOptions{})
	return errors.Join(e1, e2, e3)
}

func services(ctx context.Context, c *client.Client, image string) error {
	since := time.Now()
	one := uint64(1)
	made, err := c.ServiceCreate(ctx, client.ServiceCreateOptions{QueryRegistry: true, Spec: swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: "moby-service", Labels: map[string]string{"of": "moby"}},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: image}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &one}},
	}})
	if err != nil {
		return err
	}
	got, err := c.ServiceInspect(ctx, made.ID, client.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	spec := got.Service.Spec
	if !strings.Contains(spec.TaskTemplate.ContainerSpec.Image, image+"@sha256:") || len(made.Warnings) > 0 {
		return fmt.Errorf("made: %+v, image %s", made, spec.TaskTemplate.ContainerSpec.Image)
	}
	two := uint64(2)
	spec.Mode.Replicated.Replicas = &two
	if _, err = c.ServiceUpdate(ctx, made.ID, client.ServiceUpdateOptions{Version: got.Service.Version, Spec: spec}); err != nil {
		return err
	}
	if _, err = c.ServiceUpdate(ctx, made.ID, client.ServiceUpdateOptions{Version: got.Service.Version, Spec: spec}); err == nil || !strings.Contains(err.Error(), "update out of sequence") {
		return fmt.Errorf("an update at a version of before: %v", err)
	}
	if err := run2(ctx, c, made.ID); err != nil {
		return err
	}
	logs, err := c.ServiceLogs(ctx, made.ID, client.ServiceLogsOptions{ShowStdout: true, ShowStderr: true, Details: true})
	if err != nil {
		return err
	}
	text, err := io.ReadAll(logs)
	logs.Close()
	if err != nil || !strings.Contains(string(text), "com.docker.swarm.task.id=") || !strings.Contains(string(text), "listening on") {
		return fmt.Errorf("logs: %q, %v", text, err)
	}
	if _, err := c.ServiceRemove(ctx, made.ID, client.ServiceRemoveOptions{}); err != nil {
		return err
	}
	events := c.Events(ctx, client.EventsListOptions{Since: fmt.Sprint(since.Unix() - 1), Until: fmt.Sprint(time.Now().Unix() + 1), Filters: make(client.Filters).Add("type", "service")})
	var actions []string
	for {
		select {
		case e := <-events.Messages:
			actions = append(actions, string(e.Action))
			continue
		case err := <-events.Err:
			if !errors.Is(err, io.EOF) {
				return err
			}
		}
		break
	}
	all := strings.Join(actions, " ")
	return holds(strings.HasPrefix(all, "create update") && strings.HasSuffix(all, "remove"), "events: %s", all)
}

// run2 waits until both tasks run.
func run2(ctx context.Context, c *client.Client, service string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := c.ServiceList(ctx, client.ServiceListOptions{Status: true, Filters: make(client.Filters).Add("id", service)})
		if err != nil {
			return err
		}
		tasks, err := c.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", service).Add("desired-state", "running")})
		if err != nil {
			return err
		}
		if len(list.Items) == 1 && list.Items[0].ServiceStatus.RunningTasks == 2 && len(tasks.Items) == 2 {
			one, err := c.TaskInspect(ctx, tasks.Items[0].ID, client.TaskInspectOptions{})
			return errors.Join(err, holds(one.Task.ServiceID == service && one.Task.NodeID != "", "task: %+v", one.Task))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it does not run: %+v", tasks.Items)
		}
	}
}
