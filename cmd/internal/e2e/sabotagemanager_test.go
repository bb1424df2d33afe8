package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

const victim = "manager-3"

// unsigned is said once the leader has asked for signatures again, which it does each
// minute.
var unsigned = said{control: "audit-log-signed", target: inCluster, evidence: "manager " + victim + " did not sign", soon: true}

var sabotagedLoss = []sabotage{{
	name: "a manager is lost, and a slot is made that it does not have",
	do: func(s *sabotaged) (all []said) {
		s.lab("stop", victim)
		eventually(s.t, time.Minute, func() string {
			if names, text := s.voters("manager-1"); len(names) != 2 {
				return text
			}
			return ""
		})
		if r := s.on("manager-1", "unlock-key", "slot", "add", "operator", "--name", "night"); r.code != 3 { // it says who is behind
			s.t.Fatal(r)
		}
		for _, c := range checks.All() {
			if !c.OfCluster() {
				all = append(all, said{control: c.ID, target: "node/" + victim, evidence: "error: the node is not connected"})
			}
		}
		for _, id := range []string{"managers-certificates-shown", "managers-quantum-safe", "managers-refuse-strangers"} {
			all = append(all, said{control: id, target: inCluster, evidence: "error: manager " + victim + " could not be looked at"})
		}
		return append(all, said{control: "audit-log-agreed", target: inCluster, evidence: "error: manager " + victim + " did not answer"}, unsigned, said{control: "managers-quorum", target: inCluster, evidence: "manager " + victim + " is down"}, said{control: "slots-current", target: inCluster, evidence: victim + " opens with the slots of epoch"})
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "slots-current", "start or unlock the manager")
		s.logStore(s.host(victim), "bolt") // for the round after this one
		s.lab("start", victim)
		s.says(p, "managers-quorum", "redoubt unlock on those that are locked")
		s.unlocks(victim)
	},
}}

var sabotagedManager = []sabotage{{
	name: "an audit log that is edited, and a snapshot in clear",
	do: func(s *sabotaged) []said {
		const was, is = "zone-of-truth", "zone-of-dream"
		s.ok("manager-1", "node", "update", "manager-2", "--label-add", "place="+was)
		s.ok("manager-1", "node", "update", "manager-2", "--label-add", "later=1")
		record := s.recordWith("manager-1", was)
		eventually(s.t, time.Minute, func() string {
			if out := s.ok("manager-1", "audit", "verify"); strings.Count(out, " same ") != 3 {
				return out
			}
			return ""
		})
		s.lab("stop", victim)
		if s.editLog(victim, []byte(was), []byte(is)) == 0 {
			s.t.Fatalf("record %d is in no entry of the log", record)
		}
		s.lab("start", "--unlock", victim)
		raft := s.data(victim, "control", "raft")
		uid, err := ownerOf(raft)
		s.none(err)
		at := filepath.Join(raft, "snapshots", "1-1-1")
		s.none(os.MkdirAll(at, 0o700))
		s.none(os.WriteFile(filepath.Join(at, "state"), []byte("{\"cluster\": \"in clear\"}"), 0o600))
		for _, path := range []string{filepath.Dir(at), at, filepath.Join(at, "state")} {
			s.none(os.Chown(path, int(uid), int(uid)))
		}
		return []said{unsigned, {control: "audit-log-agreed", target: inCluster, evidence: "manager " + victim},
			{control: "state-sealed", target: "node/" + victim, evidence: filepath.Join(at, "state") + " does not begin as a sealed file does"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "audit-log-agreed", "redoubt audit verify, and take the manager that it names out of the cluster")
		if r := s.on("manager-1", "audit", "verify"); r.code != 1 || !strings.Contains(r.stdout, victim) {
			s.t.Fatalf("audit verify does not name %s: %v", victim, r)
		}
		s.says(p, "state-sealed", "take the node out of the cluster, and let it join anew")
		s.leave("manager-1", "node", "rm", "--force", victim)
		eventually(s.t, time.Minute, func() string {
			if r := s.on(victim, "status"); !strings.Contains(r.stdout, "removed from cluster") || strings.Contains(r.stdout, "being ended") {
				return r.String()
			}
			return ""
		})
		token, _ := s.token("manager")
		if r := s.onIn(victim, []byte(token), "join", s.addr2377("manager-1")); r.code != 0 {
			s.t.Fatal(r)
		}
	},
	renews: true,
}}
