package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
)

const stricter = `format: 1
signers:
  - name: release
    keys:
      - |
        %s
rules:
  - name: own
    images: ["registry.lab:5000/*"]
    signatures: {by: [release]}
`

var sabotagedTasks = []sabotage{{
	name: "a process with all rights in a container",
	do: func(s *sabotaged) []said {
		task := s.taskOf("web")
		intruder := exec.Command("nsenter", "--target", s.process(task), "--pid", "sleep", "600")
		s.none(intruder.Start())
		go intruder.Wait() // it ends with the container
		return []said{{control: "containers-confined", target: "node/worker-1", evidence: "task " + task.ID + ", its process"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "containers-confined", "stop the task")
		s.ok("manager-1", "service", "update", "--force", "web")
	},
}, {
	name: "a secret where it was not granted",
	do: func(s *sabotaged) []said {
		task := s.taskOf("db")
		found := strings.Fields(s.inHost("worker-2", "find", s.host("worker-2").RunDir, "-path", "*"+task.ID+"*/secrets/key"))
		if len(found) == 0 {
			s.t.Fatal("the task has no secret")
		}
		s.inHost("worker-2", "cp", found[0], filepath.Join(filepath.Dir(found[0]), "another"))
		return []said{{control: "containers-files-granted", target: "node/worker-2", evidence: "task " + task.ID + " has 2 files in secrets, and was granted 1"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "containers-files-granted", "drain the node, restart rund, and renew the secrets")
		s.ok("manager-1", "node", "update", "--availability", "drain", "worker-2")
		s.restart("worker-2", "redoubt-rund")
		s.ok("manager-1", "node", "update", "--availability", "active", "worker-2")
		if r := s.onIn("manager-1", []byte("another value"), "secret", "update", "key", "-"); r.code != 0 {
			s.t.Fatal(r)
		}
	},
}, {
	name: "a network's rules taken away",
	do: func(s *sabotaged) []said {
		id := wordAfter(s.ok("manager-1", "network", "inspect", "back"), "ID:")
		pin := filepath.Join(s.host("worker-2").RunDir, "netns", "net-"+id)
		s.inHost("worker-2", "nsenter", "--net="+pin, "nft", "delete", "table", "inet", "redoubt_overlay")
		return []said{{control: "networks-enforced", target: "node/worker-2", evidence: "the rules of network " + id}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "networks-enforced", "restart redoubt-netd")
		s.restart("worker-2", "redoubt-netd")
	},
}, {
	name: "an image that is not admitted any more",
	do: func(s *sabotaged) []said {
		const unsigned = "registry.lab:5000/unsigned:1"
		s.signedImage(unsigned, nil)
		s.create("app", "--constraint", "node.hostname==worker-1", unsigned)
		if r := s.onIn("manager-1", fmt.Appendf(nil, stricter, imagepolicytest.Indent(s.signer.PEM(), 8)), "image", "policy", "set", "-"); r.code != 0 {
			s.t.Fatal(r)
		}
		return []said{{control: "containers-image", target: "node/worker-1", evidence: "rule own: it has no signature by release"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.runs(p, "containers-image", "redoubt service update --image IMAGE SERVICE", "IMAGE", signed, "SERVICE", "app")
		s.ok("manager-1", "image", "policy", "rm")
	},
}}

// taskOf is the task of a service with one.
func (s *sabotaged) taskOf(service string) taskJSON {
	s.t.Helper()
	for _, t := range s.tasks("manager-1", service) {
		if t.State == "running" && t.Desired == "running" {
			return t
		}
	}
	s.t.Fatalf("%s does not run", service)
	return taskJSON{}
}
