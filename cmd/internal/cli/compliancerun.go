package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// What --scope names.
const (
	scopeAll     = "all"
	scopeNode    = "node"
	scopeCluster = "cluster"
)

// judged is what a scope gave.
type judged struct {
	scope   string // scopeNode: that alone was judged
	cluster string // its id, where somebody said it
	results []report.Result
	worker  bool // it was judged by a node that is none of the managers
}

// judge runs the controls of a profile on what scope names.
func (a *app) judge(ctx context.Context, by, scope string) (*report.Report, error) {
	p, err := profile.Load(by, controlIDs())
	if err != nil {
		return nil, err
	}
	wanted := p.Controls()
	asked := slices.DeleteFunc(control.All(), func(c control.Control) bool { return !slices.Contains(wanted, c.ID) })
	begun := time.Now()
	j, err := a.judgeScope(ctx, scope, asked)
	if err != nil {
		return nil, err
	}
	if j.scope == scopeNode {
		p = p.Within(scopeNode, "one node", func(id string) bool { return !ofCluster(id) && !byDaemon(id) })
	}
	waivers, unasked := a.waivers(ctx)
	if unasked != nil && slices.ContainsFunc(j.results, func(r report.Result) bool { return r.Outcome == control.Fail }) {
		fmt.Fprintf(a.Stderr, "no waiver counts: %s\n", oneline.Error(unasked, maxWhyNot))
	}
	r, err := report.New(p, j.cluster, j.results, waivers, begun, time.Now())
	if err == nil && unasked != nil && !j.worker { // a worker has none
		r.WaiversUnknown(unasked.Error())
	}
	return r, err
}

// ofCluster reports whether the leader answers for the control of that id.
func ofCluster(id string) bool {
	return slices.ContainsFunc(control.All(), func(c control.Control) bool { return c.ID == id && c.OfCluster() })
}

// byDaemon reports whether a daemon of the node alone judges it, when the leader asks.
func byDaemon(id string) bool {
	return slices.ContainsFunc(control.All(), func(c control.Control) bool { return c.ID == id && c.By != "" })
}

// judgeScope has what scope names judged: this node here, cluster and nodes by the
// leader. What root reads of this node goes before what its daemons answer, but
// for what they alone know.
func (a *app) judgeScope(ctx context.Context, scope string, asked []control.Control) (judged, error) {
	if !slices.Contains([]string{scopeAll, scopeCluster, scopeNode}, scope) {
		return judged{}, fmt.Errorf("--scope %q: use %s, %s or %s", scope, scopeAll, scopeCluster, scopeNode)
	}
	away, err := a.contextInUse()
	if err != nil {
		return judged{}, err
	}
	if scope == scopeCluster || scope == scopeAll && away != "" {
		return a.judgeByLeader(ctx, asked)
	}
	path, err := a.socketPath()
	if err != nil {
		return judged{}, err
	}
	n, err := control.FindNode(filepath.Dir(path))
	if err != nil {
		return judged{}, fmt.Errorf("%w: run it as root on a machine whose node is up", err)
	}
	results := control.Run(ctx, asked, n)
	target, cluster := a.thisNode(ctx)
	manager, err := n.Manager()
	if scope == scopeNode || err == nil && !manager {
		return judged{scopeNode, cluster, report.Of(target, results), err == nil && !manager}, nil
	}
	var all judged
	if err == nil {
		all, err = a.judgeByLeader(ctx, asked)
	}
	if err != nil {
		// The node was judged; of the cluster nothing is known, which is no pass.
		fmt.Fprintf(a.Stderr, "cluster and nodes are not judged: %s: --scope node is this machine alone\n", oneline.Error(err, maxWhyNot))
		all.results = unjudged(report.Target{Kind: scopeCluster, Name: scopeCluster, ID: cluster}, nil, asked, err.Error())
	}
	all.results = slices.DeleteFunc(all.results, func(r report.Result) bool {
		if r.Target.Kind != scopeNode || target.ID == "" || r.Target.ID != target.ID {
			return false
		}
		target.Name = r.Target.Name
		return !byDaemon(r.Control)
	})
	return judged{scope: scopeAll, cluster: cluster, results: append(report.Of(target, results), all.results...)}, nil
}

// thisNode is the node that a report is of, and its cluster. One that does not answer
// has its machine's name alone.
func (a *app) thisNode(ctx context.Context) (report.Target, string) {
	name, err := os.Hostname()
	if err != nil {
		name = "this machine"
	}
	t, cluster := report.Target{Kind: "node", Name: name}, ""
	_ = a.within(ctx, statusTimeout, func(ctx context.Context, api *api) error { // what it knows is left out then
		s, err := api.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
		t.ID, cluster = s.GetNodeId(), s.GetClusterId()
		return err
	})
	return t, cluster
}

// judgeByLeader asks the leader, who asks the nodes.
func (a *app) judgeByLeader(ctx context.Context, asked []control.Control) (judged, error) {
	j := judged{scope: scopeAll}
	req := &controlpb.RunComplianceRequest{}
	for _, c := range asked {
		req.Controls = append(req.Controls, c.ID)
	}
	if len(req.GetControls()) == 0 {
		return j, nil
	}
	cluster := report.Target{Kind: scopeCluster, Name: scopeCluster}
	err := a.within(ctx, complianceTimeout, func(ctx context.Context, api *api) error {
		stream, err := api.RunCompliance(ctx, req)
		if err != nil {
			return err
		}
		for {
			r, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case len(j.results) == maxLeaderResults:
				return fmt.Errorf("the leader answers with more than %d results", maxLeaderResults)
			}
			cluster.ID = oneline.Text(r.GetCluster(), maxResultText)
			target := cluster
			if r.GetNode() != "" {
				target = report.Target{Kind: scopeNode, Name: r.GetNodeName(), ID: r.GetNode()}
			}
			if i := slices.IndexFunc(asked, func(c control.Control) bool { return c.ID == r.GetId() }); i >= 0 {
				j.results = append(j.results, answered(target, asked[i], r))
			}
		}
	})
	if err != nil {
		return judged{}, err
	}
	j.cluster = cluster.ID
	j.results = unjudged(cluster, j.results, asked, "not judged: the leader does not answer for this control; upgrade it")
	return j, nil
}

// answered is what the leader says of a control. An outcome that is none that is known
// here is no pass. What the control is called, how bad it is where it fails, and above
// all which command mends it, is not the leader's to say: somebody will run that.
func answered(t report.Target, c control.Control, r *controlpb.RunComplianceResponse) report.Result {
	out := report.Result{Control: c.ID, Title: c.Title, Severity: c.Severity, Target: t, Outcome: control.Outcome(r.GetOutcome()), Evidence: r.GetEvidence(),
		Remedy: c.Remedy, Seconds: time.Duration(r.GetTook()).Seconds()}
	if !slices.Contains([]control.Outcome{control.Pass, control.Fail, control.Error, control.NotApplicable}, out.Outcome) {
		out.Evidence = append([]string{fmt.Sprintf("the leader answers %q", r.GetOutcome())}, out.Evidence...)
		out.Outcome = control.Error
	}
	return out
}

// unjudged adds to results an error for each control that was asked for and is not
// among them: of the cluster, and of every node that was named, or of the cluster where
// none was.
func unjudged(cluster report.Target, results []report.Result, asked []control.Control, why string) []report.Result {
	nodes := []report.Target{}
	there := map[string]bool{}
	for _, r := range results {
		there[r.Control+" "+r.Target.ID] = true
		if r.Target.Kind == scopeNode && !slices.Contains(nodes, r.Target) {
			nodes = append(nodes, r.Target)
		}
	}
	if len(nodes) == 0 {
		nodes = append(nodes, cluster)
	}
	for _, c := range asked {
		of := nodes
		if c.OfCluster() {
			of = []report.Target{cluster}
		}
		for _, t := range of {
			if !there[c.ID+" "+t.ID] {
				results = append(results, report.Of(t, []control.Result{{Control: c, Outcome: control.Error, Evidence: []string{why}}})...)
			}
		}
	}
	return results
}
