package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dockerStory drives docker.sock by the docker command that people have.
type dockerStory struct {
	*cluster
	docker string
}

func newDockerStory(t *testing.T, c *cluster) *dockerStory {
	t.Helper()
	path := os.Getenv("REDOUBT_DOCKER")
	if path == "" {
		path = filepath.Join("..", "..", "..", "out", "tools", "docker")
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: name a docker command of version 28 by REDOUBT_DOCKER, as `make stories` does", err)
	}
	return &dockerStory{c, path}
}

// in runs `docker args…` on a host.
func (d *dockerStory) in(host, stdin string, args ...string) result {
	d.t.Helper()
	return run(d.t, []byte(stdin), append([]string{"lab", "exec", "--name", d.name, host, "--", d.docker}, args...)...)
}

// says runs `docker line…` on the first manager: it succeeds, and its output matches.
func (d *dockerStory) says(line, pattern string) string {
	d.t.Helper()
	return d.saysOn("manager-1", "", line, pattern)
}

func (d *dockerStory) saysOn(host, stdin, line, pattern string) string {
	d.t.Helper()
	r := d.in(host, stdin, words(line)...)
	if r.code != 0 || !regexp.MustCompile(pattern).MatchString(r.stdout) {
		d.t.Fatalf("docker %s: want %q, got %v", line, pattern, r)
	}
	return r.stdout
}

// refuses runs `docker line…`: it fails with 1 and says so.
func (d *dockerStory) refuses(line, want string) {
	d.t.Helper()
	r := d.in("manager-1", "", words(line)...)
	if r.code != 1 || !strings.Contains(r.stderr, want) {
		d.t.Errorf("docker %s: want exit 1 and %q, got %v", line, want, r)
	}
}

// words are those of a line; what is in single quotes is one.
func words(line string) (out []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// TestDocker is a session of the docker command with a cluster of five, command by
// command: nodes, services, secrets, configs, networks, logs, events, and what is refused.
func TestDocker(t *testing.T) {
	t.Parallel()
	c := up(t, "docker", 3, 2)
	c.load()
	d := newDockerStory(t, c)

	d.says("version --format '{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Platform.Name}}'", "^1.51 1.40 Redoubt\n$")
	d.says("info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}} {{.Swarm.Cluster.Spec.EncryptionConfig.AutoLockManagers}} {{.Name}}'", "^active true 5 3 true manager-1\n$")
	d.says("info", `(?s)Swarm: active.*Is Manager: true.*Managers: 3.*Nodes: 5.*Autolock Managers: true`)
	d.saysOn("worker-1", "", "info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'", "^active false\n$")
	if r := d.in("worker-1", "", "node", "ls"); r.code != 1 || !strings.Contains(r.stderr, "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state.") {
		t.Errorf("node ls on a worker: %v", r)
	}
	d.nodes()
	d.files()
	d.networks()
	d.services()
	d.ports()
	d.unsupported()
	out := d.says("events --since 1h --until 0s --filter type=service --format '{{.Action}} {{.Actor.Attributes.name}}'", "")
	for _, want := range []string{"create api\n", "update api\n", "remove api\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the events:\n%s", want, out)
		}
	}
	d.refuses("events --until 0s --filter colour=red", "invalid filter 'colour'")
	d.roles()
}

// roles makes a worker a manager, and takes that back.
func (d *dockerStory) roles() {
	d.t.Helper()
	d.says("node promote worker-2", "^Node worker-2 promoted to a manager in the swarm.\n$")
	d.says("node ls --filter role=manager --format '{{.Hostname}}'", "^manager-1\nmanager-2\nmanager-3\nworker-2\n$")
	d.says("node demote worker-2", "^Manager worker-2 demoted in the swarm.\n$")
	eventually(d.t, 30*time.Second, func() string {
		if out := d.says("node inspect worker-2 --format '{{.Spec.Role}} {{.Status.State}}'", ""); out != "worker ready\n" {
			return out
		}
		return ""
	})
	d.says("node rm --force worker-2", "^worker-2\n$")
	d.says("node ls --format '{{.Hostname}}'", "^manager-1\nmanager-2\nmanager-3\nworker-1\n$")
}

func (d *dockerStory) nodes() {
	d.t.Helper()
	d.says("node ls", `(?m)^[a-z2-7]{26} \*   manager-1 +Ready +Drain +(Leader|Reachable) .*\n(.*\n)*[a-z2-7]{26} +worker-2 +Ready +Active +`)
	d.says("node ls --filter role=worker --format '{{.Hostname}}/{{.Status}}/{{.ManagerStatus}}/{{.TLSStatus}}'", "^worker-1/Ready//Ready\nworker-2/Ready//Ready\n$")
	d.says("node inspect self --format '{{.Description.Hostname}} {{.ManagerStatus.Addr}} {{.Spec.Role}}'", `^manager-1 [0-9.]+:2377 manager\n$`)
	d.says("node inspect --pretty worker-1", `(?s)Hostname:\s+worker-1.*State:\s+Ready.*Availability:\s+Active`)
	d.says("node update --label-add disk=ssd --availability pause worker-1", "^worker-1\n$")
	d.says("node inspect worker-1 --format '{{.Spec.Labels.disk}} {{.Spec.Availability}}'", "^ssd pause\n$")
	d.says("node update --label-rm disk --availability active worker-1", "^worker-1\n$")
	d.says("node inspect worker-1 --format '{{len .Spec.Labels}} {{.Spec.Availability}}'", "^0 active\n$")
	d.refuses("node rm worker-2", "worker-2 is up")
	d.refuses("node inspect nobody", "node nobody not found")
	d.refuses("node ls --filter colour=red", "invalid filter 'colour'")
	d.refuses("node update --role chief worker-1", "invalid role")
}

func (d *dockerStory) files() {
	d.t.Helper()
	id := strings.TrimSpace(d.saysOn("manager-1", "hunter2-of-the-story", "secret create --label team=web db-password -", `^[a-z2-7]{26}\n$`))
	d.says("secret ls --format '{{.Name}}' --filter label=team=web", "^db-password\n$")
	if out := d.says("secret inspect "+id, `"Name": "db-password"`); strings.Contains(out, "Data") {
		d.t.Errorf("a secret is shown: %s", out)
	}
	if r := d.in("manager-1", "other", "secret", "create", "db-password", "-"); r.code != 1 || !strings.Contains(r.stderr, "exists") {
		d.t.Errorf("a secret of the same name: %v", r)
	}
	d.saysOn("manager-1", "hello\n", "config create greeting -", `^[a-z2-7]{26}\n$`)
	d.says("config ls --format '{{.Name}}'", "^greeting\n$")
	d.says("config inspect --pretty greeting", "Data:\nhello\n")
	d.refuses("secret inspect nothing", "secret nothing not found")
	d.refuses("secret create --driver vault x /dev/null", "")
}

func (d *dockerStory) networks() {
	d.t.Helper()
	d.says("network create --driver overlay --label a=b --subnet 10.77.0.0/24 back", `^[a-z2-7]{26}\n$`)
	d.says("network ls --filter driver=overlay --format '{{.Name}} {{.Driver}} {{.Scope}}'", "^back overlay swarm\n$")
	d.says("network inspect back --format '{{(index .IPAM.Config 0).Subnet}} {{.Labels.a}} {{.Scope}}'", "^10.77.0.0/24 b swarm\n$")
	d.refuses("network create --driver overlay back", "exists")
	d.refuses("network create --driver overlay --ingress other", "each service has an ingress network of its own")
	d.refuses("network create --driver overlay --aux-address a=10.78.0.9 --subnet 10.78.0.0/24 other", "IPAM.Config.AuxAddress is not supported here")
	d.refuses("network connect back x", "is not answered by Redoubt")
}

func (d *dockerStory) services() {
	d.t.Helper()
	t := d.t
	d.says("service create --quiet --name api --replicas 1 --network back --secret db-password --config source=greeting,target=/etc/greeting --env A=b --label tier=back "+
		"--hostname '{{.Task.Name}}' --ulimit nofile=100:200 --host db.example:192.0.2.9 --cap-drop CAP_CHOWN --constraint node.role==worker --limit-memory 64M --restart-max-attempts 3 "+image, `^[a-z2-7]{26}\n$`)
	d.says("service ls --format '{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}'", "^api replicated 1/1 "+regexp.QuoteMeta(image)+"\n$")
	d.says("service ls --filter label=tier=front --quiet", "^$")
	d.says("service ps api --format '{{.Name}} {{.DesiredState}} {{.CurrentState}}'", `^api\.1 Running Running `)
	d.says("service inspect --pretty api", `(?s)Name:\s+api.*Replicas:\s+1.*Constraints:\s+\[node.role==worker\].*greeting.*db-password.*Memory:\s+64MiB.*Networks: back`)
	d.says("service scale --detach api=3", "^api scaled to 3\n$")
	d.says("service update --quiet --env-add C=d api", "^api\n$")
	d.says("service inspect api --format '{{.Spec.TaskTemplate.ContainerSpec.Env}} {{.Spec.Mode.Replicated.Replicas}}'", `^\[(A=b C=d|C=d A=b)\] 3\n$`)
	d.says("service rollback --quiet api", "^api\n$")
	d.says("service inspect api --format '{{.Spec.TaskTemplate.ContainerSpec.Env}} {{.UpdateStatus.State}}'", `^\[A=b\] rollback_completed\n$`)
	d.says("service update --quiet --update-parallelism 2 --update-order start-first --update-delay 100ms --update-failure-action rollback --update-monitor 1s --env-add E=f api", "^api\n$")
	d.says("service inspect --pretty api", `(?s)State:\s+(completed|updating).*Parallelism:\s+2.*On failure:\s+rollback.*Update order:\s+start-first`)
	d.says("service update --detach --replicas 2 api", "^api\n$")
	d.says("service update --detach --force api", "^api\n$")
	eventually(t, 60*time.Second, func() string {
		if out := d.says("service ls --filter name=api --format '{{.Replicas}}'", ""); out != "2/2\n" {
			return out
		}
		return ""
	})
	d.says("service logs --tail 5 api", `(?m)^api\.\d\.[a-z2-7]{12}@worker-\d +\| listening on`)
	d.says("service logs --raw --timestamps --tail 5 api", `(?m)^\d{4}-\d\d-\d\dT[0-9:.]+Z listening on`)
	task := strings.TrimSpace(d.says("service ps --quiet --filter desired-state=running --no-trunc api", `^[a-z2-7]{26}\n`))[:26]
	d.says("inspect --type task "+task+" --format '{{.Status.State}}'", "^running\n$")
	d.says("node ps worker-1 worker-2 --filter desired-state=running --format '{{.Name}}'", `api\.\d`)
	// Jobs: the command waits until they have completed.
	d.says("service create --quiet --name job --mode replicated-job --replicas 2 --max-concurrent 1 --no-healthcheck --constraint node.role==worker "+image+" exit 0", `^[a-z2-7]{26}\n$`)
	d.says("service ls --filter name=job --format '{{.Mode}} {{.Replicas}}'", `^replicated job 0/0 \(2/2 completed\)\n$`)
	d.says("service update --quiet --force job", "^job\n$")
	d.says("service inspect job --format '{{.JobStatus.JobIteration.Index}} {{.Spec.Mode.ReplicatedJob.TotalCompletions}}'", `^2 2\n$`)
	d.says("service create --quiet --name each --mode global-job --no-healthcheck "+image+" exit 0", "")
	d.says("service ls --filter mode=global-job --format '{{.Replicas}}'", `^0/\d \((\d)/\d completed\)\n$`)
	d.says("service rm job each", "^job\neach\n$")
	d.refuses("service inspect nothing", "no such service: nothing")
	d.refuses("secret rm db-password", "is in use")
	d.refuses("network rm back", "")
	d.says("service rm api", "^api\n$")
	d.says("service ls --quiet", "^$")
	d.says("secret rm db-password", "^db-password\n$")
	d.says("config rm greeting", "^greeting\n$")
	eventually(t, 30*time.Second, func() string {
		if r := d.in("manager-1", "", "network", "rm", "back"); r.code != 0 || r.stdout != "back\n" {
			return r.String()
		}
		return ""
	})
}

// ports publishes as people do: on every node, on the nodes that have a task, and there
// by a global service.
func (d *dockerStory) ports() {
	d.t.Helper()
	answers := func(host string, port int) string {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(d.host(host).Address, strconv.Itoa(port)), time.Second)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		head := make([]byte, 8)
		if n, _ := conn.Read(head); !strings.HasPrefix(string(head[:n]), "HTTP/1.") {
			return "no answer"
		}
		return ""
	}
	d.says("service create --detach --name edge --publish published=8080,target=80 "+image, "")
	d.says("service create --detach --name near --publish published=8081,target=80,mode=host --constraint node.hostname==worker-1 "+image, "")
	d.says("service create --detach --name each --mode global --publish published=8082,target=80,mode=host "+image, "")
	d.says("service ls --filter mode=global --format '{{.Name}} {{.Mode}}'", "^each global\n$")
	for _, p := range []struct {
		host string
		port int
	}{{"manager-1", 8080}, {"worker-1", 8080}, {"worker-2", 8080}, {"worker-1", 8081}, {"worker-1", 8082}, {"worker-2", 8082}} {
		eventually(d.t, 60*time.Second, func() string {
			if why := answers(p.host, p.port); why != "" {
				return fmt.Sprintf("%s:%d: %s", p.host, p.port, why)
			}
			return ""
		})
	}
	d.says("service ls --filter name=edge --format '{{.Ports}}'", `^\*:8080->80/tcp\n$`)
	d.says("service ps near --filter desired-state=running --format '{{.Ports}}'", `^\*:8081->80/tcp\n$`)
	d.says("service rm edge near each", "^edge\nnear\neach\n$")
}

// unsupported is what is not done: it is an error that names it, and nothing is made.
func (d *dockerStory) unsupported() {
	d.t.Helper()
	for flags, want := range map[string]string{
		"--log-driver syslog":                                       "LogDriver",
		"--mode replicated-job --publish 80:80":                     "ports in mode ingress",
		"--mount type=cluster,source=a,target=/b":                   "mount of type \"cluster\"",
		"--mount source=a,target=/b,volume-opt=type=nfs":            "mounts something of elsewhere",
		"--no-resolve-image --with-registry-auth --network nowhere": "network nowhere not found",
		"--oom-score-adj 100":                                       "OomScoreAdj",
	} {
		d.refuses("service create --detach --name x "+flags+" "+image, want)
	}
	for line, want := range map[string]string{
		"ps": "Containers are tasks of services here", "images": "Images are the nodes' own", "volume create --driver nfs a": "there is no volume driver",
		"system df": "redoubt node inspect", "build -q /var/empty": "", "login --username a --password b registry.example": "redoubt secret create --registry",
		"service create --detach --name x " + "redoubt.lab/none:1": "", "swarm update --task-history-limit 3": "TaskHistoryRetentionLimit",
	} {
		d.refuses(line, want)
	}
	d.says("service ls --quiet", "^$")
	d.says("volume ls --quiet", "^$")
}
