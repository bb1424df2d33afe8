package e2e

import (
	"os"
	"path/filepath"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
)

// signed is what services run.
const signed = "registry.lab:5000/demo:1"

// What a sound service is made with.
var soundFlags = []string{"--read-only", "--limit-memory", "64M", "--limit-cpu", "0.5"}

// sound makes services that nothing is said against: web on worker-1 and db on
// worker-2, on a network that denies, db with a secret.
func (s *sabotaged) sound() {
	s.t.Helper()
	s.lab("registry") // it has nothing, and says so
	s.signedImage(signed, map[string]*imagepolicytest.Signer{imagepolicytest.Sign: s.signer})
	s.ok("manager-1", "network", "create", "--default-deny", "back")
	if r := s.onIn("manager-1", []byte("a value"), "secret", "create", "key", "-"); r.code != 0 {
		s.t.Fatal(r)
	}
	s.create("web", "--network", "back", "--constraint", "node.hostname==worker-1", signed)
	s.create("db", "--network", "back", "--secret", "key", "--constraint", "node.hostname==worker-2", signed)
}

// create makes a service that is bounded.
func (s *sabotaged) create(name string, more ...string) {
	s.t.Helper()
	s.ok("manager-1", append(append([]string{"service", "create", "--name", name}, soundFlags...), more...)...)
}

const inCluster = "cluster/cluster"

const unfinished = "no backup"

var sabotagedBackup = []sabotage{{
	name: unfinished,
	do: func(*sabotaged) []said {
		return []said{{control: "backup-recent", target: inCluster, evidence: "no backup was made within 7 days"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.runs(p, "backup-recent", "redoubt backup create FILE", "FILE", filepath.Join(s.dir, "backup"))
	},
}}

var sabotagedCluster = []sabotage{{
	name: "autolock is off",
	do: func(s *sabotaged) []said {
		s.ok("manager-1", "autolock", "off")
		return []said{{control: "slots-no-file", target: inCluster, evidence: "autolock is off"}, {control: "autolock-on", target: "node/manager-1", evidence: "auto-"}, {control: "autolock-on", target: "node/manager-2", evidence: "auto-"}, {control: "autolock-on", target: "node/manager-3", evidence: "auto-"}}
	},
	mend: func(s *sabotaged, p printed) { s.runs(p, "autolock-on", "redoubt autolock on") },
}, {
	name: "a token that lives too long",
	do: func(s *sabotaged) []said {
		_, id := s.token("worker", "--long-lived")
		os.WriteFile(filepath.Join(s.dir, "token"), []byte(id), 0o600)
		return []said{{control: "join-tokens-bounded", target: inCluster, evidence: "join token " + id + " does not end"}}
	},
	mend: func(s *sabotaged, p printed) {
		id, _ := os.ReadFile(filepath.Join(s.dir, "token"))
		s.runs(p, "join-tokens-bounded", "redoubt join-token revoke ID", "ID", string(id))
	},
}, {
	name: "a majority of managers in one place",
	do: func(s *sabotaged) []said {
		s.ok("manager-1", "node", "update", "--label-add", "zone=cellar", "manager-2")
		s.ok("manager-1", "node", "update", "--label-add", "zone=cellar", "manager-3")
		return []said{{control: "managers-spread", target: inCluster, evidence: "managers manager-2, manager-3 share zone cellar"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.runs(p, "managers-spread", "redoubt node update --label-add zone=ZONE NODE", "ZONE", "attic", "NODE", "manager-3")
	},
}, {
	name: "a manager that does other work",
	do: func(s *sabotaged) []said {
		s.ok("manager-1", "node", "update", "--availability", "active", "manager-1")
		s.create("guest", "--constraint", "node.role==manager", signed)
		return []said{{control: "managers-drained", target: inCluster, evidence: "manager manager-1 runs 1 tasks of services"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.runs(p, "managers-drained", "redoubt node update --availability drain NODE", "NODE", "manager-1")
		s.ok("manager-1", "service", "rm", "guest")
	},
}}

var sabotagedServices = []sabotage{{
	name: "a service without bounds, on a low port of every address",
	do: func(s *sabotaged) []said {
		s.ok("manager-1", "service", "create", "--name", "loose", "--publish", "81:80", signed)
		return []said{{control: "services-memory-bounded", target: inCluster, evidence: "tasks of loose may take all memory"}, {control: "services-cpu-bounded", target: inCluster, evidence: "tasks of loose may take all processors"},
			{control: "services-read-only", target: inCluster, evidence: "containers of loose may change their own programs"}, {control: "services-ports-high", target: inCluster, evidence: "loose publishes port 81"},
			{control: "services-ports-addressed", target: inCluster, evidence: "loose publishes port 81 on every address"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.runs(p, "services-memory-bounded", "redoubt service update --limit-memory SIZE SERVICE", "SIZE", "64M", "SERVICE", "loose")
		s.runs(p, "services-cpu-bounded", "redoubt service update --limit-cpu N SERVICE", "SERVICE", "loose", "N", "0.5")
		s.runs(p, "services-read-only", "redoubt service update --read-only SERVICE", "SERVICE", "loose")
		s.says(p, "services-ports-high", "publish another port")
		s.says(p, "services-ports-addressed", "publish with host_ip")
		s.ok("manager-1", "service", "update", "--publish-rm", "80", "--publish-add", "published=8081,target=80,host_ip="+s.host("worker-1").Address, "loose")
	},
}, {
	name: "a network on which all reach each other",
	do: func(s *sabotaged) []said {
		s.ok("manager-1", "network", "create", "front")
		s.create("one", "--network", "front", signed)
		s.create("two", "--network", "front", signed)
		return []said{{control: "networks-deny", target: inCluster, evidence: "2 services on network front reach each other"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "networks-deny", "make a network with --default-deny, with policies, and move the services there")
		s.ok("manager-1", "network", "create", "--default-deny", "strict")
		s.ok("manager-1", "service", "update", "--network-rm", "front", "--network-add", "strict", "one")
		s.ok("manager-1", "service", "update", "--network-rm", "front", "--network-add", "strict", "two")
		s.ok("manager-1", "network", "rm", "front")
	},
}, {
	name: "a service that sees what its node is made of",
	do: func(s *sabotaged) []said {
		s.ok("manager-1", append([]string{"service", "create", "--detach", "--name", "nosy", "--mount", "type=bind,source=/etc,target=/host"}, append(soundFlags, signed)...)...)
		return []said{{control: "services-mounts-harmless", target: inCluster, evidence: "containers of nosy have /etc of their node"}, {control: "services-mounts-read-only", target: inCluster, evidence: "containers of nosy write to /etc"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "services-mounts-read-only", "or leave it out")
		s.runs(p, "services-mounts-harmless", "redoubt service update --mount-rm TARGET SERVICE", "TARGET", "/host", "SERVICE", "nosy")
	},
}}
