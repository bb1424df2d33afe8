package doctor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// well is a cluster in which nothing is wrong.
func well() *Facts {
	return &Facts{
		Now: now,
		Local: &controlpb.LocalStatusResponse{Phase: controlpb.NodePhase_NODE_PHASE_ACTIVE, Role: profilepb.Role_ROLE_MANAGER, Session: true,
			LeafNotAfter: now.Add(time.Hour).Unix(), Features: []*taskpb.Feature{{Name: "nftables", Present: true, Required: true}, {Name: "userns"}}},
		Status: &controlpb.GetStatusResponse{},
		Nodes: []*controlpb.NodeView{{Name: "worker-1", Effective: schedulerpb.Availability_AVAILABILITY_ACTIVE, Tasks: 3,
			Node: &schedulerpb.Node{Description: &schedulerpb.NodeDescription{Storage: &taskpb.Storage{DiskBytes: 100, DiskFree: 50}}}}},
		Services: []*controlpb.ServiceView{{Service: service("id-web", "web"), Running: 3, Wanted: 3}},
	}
}

func service(id, name string) *schedulerpb.Service {
	return &schedulerpb.Service{Id: id, Spec: &schedulerpb.ServiceSpec{Name: name}}
}

func TestNothingWrong(t *testing.T) {
	d := Diagnose(well())
	if len(d.Findings) != 0 || d.Ill() != 0 || d.Findings == nil || d.Unseen == nil {
		t.Errorf("%+v", d)
	}
}

// Each thing that may be wrong is found, ranked, and comes with what mends it.
func TestFindings(t *testing.T) {
	phase := func(p controlpb.NodePhase) func(*Facts) {
		return func(f *Facts) { *f = Facts{Now: now, Local: &controlpb.LocalStatusResponse{Phase: p, Message: "why"}} }
	}
	warns := func(text string) func(*Facts) {
		return func(f *Facts) { f.Status.Warnings = []string{text} }
	}
	for name, tc := range map[string]struct {
		harm  func(*Facts)
		rank  Rank
		about string
		what  string
		mend  string
	}{
		"nobody answers": {func(f *Facts) {
			*f = Facts{Now: now, Reach: apierr.New(apierr.ReasonUnreachable, "start redoubt-node", "no node answers at x")}
		}, Critical, "this node", "no node answers", "systemctl status redoubt.target"},
		"not for this user": {func(f *Facts) {
			*f = Facts{Now: now, Reach: apierr.New(apierr.ReasonDenied, "be root", "this user may not")}
		}, Critical, "you", "may not", ""},
		"empty":     {phase(controlpb.NodePhase_NODE_PHASE_EMPTY), Critical, "this node", "in no cluster", "redoubt init"},
		"locked":    {phase(controlpb.NodePhase_NODE_PHASE_LOCKED), Critical, "this node", "locked", "redoubt unlock"},
		"no quorum": {phase(controlpb.NodePhase_NODE_PHASE_NO_QUORUM), Critical, "this node", "no leader", "redoubt unlock"},
		"broken":    {phase(controlpb.NodePhase_NODE_PHASE_BROKEN), Critical, "this node", "why", "journalctl -u redoubtd -n 50"},
		"removed":   {phase(controlpb.NodePhase_NODE_PHASE_REMOVED), Critical, "this node", "removed", "redoubt leave --force"},
		"starting":  {phase(controlpb.NodePhase_NODE_PHASE_UNSPECIFIED), Warning, "this node", "starting", "journalctl -u redoubtd -n 50"},
		"waits to be let in": {func(f *Facts) {
			*f = Facts{Now: now, Local: &controlpb.LocalStatusResponse{Phase: controlpb.NodePhase_NODE_PHASE_EMPTY, Approval: "K3QF"}}
		}, Note, "this node", "waits", "redoubt node approve K3QF"},
		"no session":  {func(f *Facts) { f.Local.Session = false }, Critical, "this node", "no manager answers", "journalctl -u redoubtd -n 50"},
		"expired":     {func(f *Facts) { f.Local.LeafNotAfter = now.Unix() }, Critical, "this node", "ended 2026-03-04T05:06:07Z", "timedatectl"},
		"lacks":       {func(f *Facts) { f.Local.Features[0].Present = false }, Critical, "this node", "nftables", ""},
		"tunnels":     {func(f *Facts) { f.Local.Mesh = &schedulerpb.MeshState{Degraded: []string{"table put back"}} }, Warning, "this node", "table put back", ""},
		"a worker":    {func(f *Facts) { f.Local.Role = profilepb.Role_ROLE_WORKER }, Note, "this node", "knows nothing", "redoubt doctor"},
		"locked peer": {warns("manager m2 is locked: `redoubt unlock` on it"), Critical, "node m2", "is locked", "redoubt unlock"},
		"last margin": {warns("the loss of one more manager stops the cluster: 2 of 3 voters are up and 2 are needed; bring the others back"), Critical, "cluster", "one more", ""},
		"worker away": {warns("node w is down: start it, or `redoubt node rm abc`"), Warning, "node w", "is down", ""},
		"alone":       {warns("one manager only: its loss is the loss of the cluster; add two (`redoubt join-token manager`)"), Note, "cluster", "one manager", "redoubt join-token manager"},
		"of no rule":  {warns("a thing nobody thought of"), Warning, "cluster", "nobody thought of", ""},
		"revoked":     {func(f *Facts) { f.Nodes[0].RevokedAt = 1 }, Warning, "node worker-1", "revoked", "redoubt node rm worker-1"},
		"drained":     {func(f *Facts) { f.Nodes[0].Effective = schedulerpb.Availability_AVAILABILITY_DRAIN }, Note, "node worker-1", "3 tasks", "redoubt node inspect worker-1"},
		"peer lacks": {func(f *Facts) {
			f.Nodes[0].Node.Description.Features = []*taskpb.Feature{{Name: "runc", Required: true}}
		}, Critical, "node worker-1", "runc", ""},
		"disk full":    {func(f *Facts) { f.Nodes[0].Node.Description.Storage.DiskFree = 1 }, Critical, "node worker-1", "are free", ""},
		"disk filling": {func(f *Facts) { f.Nodes[0].Node.Description.Storage.DiskFree = 9 }, Warning, "node worker-1", "are free", ""},
		"disk policy":  {func(f *Facts) { f.Nodes[0].Node.Description.Storage.Message = "in use" }, Warning, "node worker-1", "in use", ""},
		"paused": {func(f *Facts) {
			f.Services[0].Service.UpdateStatus = &schedulerpb.UpdateStatus{State: schedulerpb.UpdateStatus_STATE_PAUSED, Message: "web.1 failed"}
		}, Warning, "service web", "web.1 failed", "redoubt service rollback web"},
		"rollback paused": {func(f *Facts) {
			f.Services[0].Service.UpdateStatus = &schedulerpb.UpdateStatus{State: schedulerpb.UpdateStatus_STATE_ROLLBACK_PAUSED, Message: "web.1 failed"}
		}, Warning, "service web", "rollback is paused", "redoubt service ps web"},
		"a run failed": {func(f *Facts) {
			f.Services[0].Runs = []*schedulerpb.ServiceRun{{Number: 7, BeganAt: 1, State: schedulerpb.ServiceRun_STATE_FAILED, Message: "web.1 exited with 3"}}
		}, Warning, "service web", "its run 7 failed: web.1 exited with 3", "redoubt service runs web"},
		"short": {func(f *Facts) {
			f.Services[0].Running = 1
			f.Explained = map[string]*controlpb.ExplainResponse{"id-web": {Summary: []string{"no node has room"}, Remedies: []string{"redoubt node update --availability active w"}}}
		}, Warning, "service web", "1 of 3 tasks run: no node has room", "redoubt node update --availability active w"},
		"none runs": {func(f *Facts) {
			f.Services[0].Running = 0
			f.Explained = map[string]*controlpb.ExplainResponse{"id-web": {}}
		}, Critical, "service web", "0 of 3", "redoubt service explain web"},
		"one of many": {func(f *Facts) { f.Services[0].Running = 0 }, Warning, "cluster", "1 more", "redoubt service ls"},
		"pending": {func(f *Facts) {
			f.Pending = []*controlpb.PendingNode{{Name: "m4", Source: "10.0.0.4", Fingerprint: "K3QF"}}
		}, Note, "cluster", "m4 at 10.0.0.4", "redoubt node approve K3QF"},
		"approval": {func(f *Facts) {
			f.Approvals = []*controlpb.ApprovalView{{Id: "aaaa", Requester: "person:bob", State: controlpb.ApprovalView_STATE_WAITING}}
		}, Note, "cluster", "bob", "redoubt approval show aaaa"},
		"waiver over": {func(f *Facts) {
			f.Waivers = []*controlpb.WaiverView{{Id: "w1", Control: "autolock-on", State: controlpb.WaiverView_STATE_EXPIRED}}
		}, Warning, "cluster", "has ended", "redoubt compliance waiver rm w1"},
		"waiver ends": {func(f *Facts) {
			f.Waivers = []*controlpb.WaiverView{{Control: "autolock-on", State: controlpb.WaiverView_STATE_IN_FORCE, ExpiresAt: now.Add(time.Hour).Unix()}}
		}, Note, "cluster", "ends in 1h", "redoubt compliance show autolock-on"},
	} {
		f := well()
		tc.harm(f)
		d := Diagnose(f)
		i := slices.IndexFunc(d.Findings, func(f Finding) bool {
			return f.About == tc.about && f.Rank == tc.rank && strings.Contains(f.What, tc.what) && (tc.mend == "" || slices.Contains(f.Mend, tc.mend))
		})
		if i < 0 {
			t.Errorf("%s: %+v", name, d.Findings)
		}
		if (tc.rank < Note) != (d.Ill() > 0) && name != "waits to be let in" {
			t.Errorf("%s: ill is %d", name, d.Ill())
		}
	}
}

// What gives a node up is there with its condition, and not among what mends.
func TestNothingIsGivenUp(t *testing.T) {
	f := well()
	f.Status.Warnings = []string{"manager m is down: start it and `redoubt unlock` it; `redoubt node rm abc` only if it never comes back"}
	if x := Diagnose(f).Findings; len(x) != 1 || !slices.Equal(x[0].Mend, []string{"redoubt unlock"}) {
		t.Errorf("%+v", x)
	}
}

// What is not told of: approvals that were decided, waivers that have long to go, nodes
// that said nothing of their disk, the warning of a service that is explained.
func TestNotFound(t *testing.T) {
	f := well()
	f.Approvals = []*controlpb.ApprovalView{{State: controlpb.ApprovalView_STATE_USED}}
	f.Waivers = []*controlpb.WaiverView{{State: controlpb.WaiverView_STATE_IN_FORCE, ExpiresAt: now.Add(30 * 24 * time.Hour).Unix()}}
	f.Nodes[0].Node.Description.Storage = &taskpb.Storage{}
	f.Status.Warnings = []string{"service web runs 1 of 3 tasks: `redoubt service ps web`"}
	if d := Diagnose(f); len(d.Findings) != 0 {
		t.Errorf("%+v", d.Findings)
	}
	f.Services = nil // not answered
	if d := Diagnose(f); len(d.Findings) != 1 || d.Findings[0].About != "service web" {
		t.Errorf("%+v", d.Findings)
	}
}

// The worst is first, and what is to be mended first among what is as bad.
func TestOrder(t *testing.T) {
	f := well()
	f.Services[0].Running, f.Explained = 0, map[string]*controlpb.ExplainResponse{"id-web": {}}
	f.Status.Warnings = []string{"one manager only: …", "node w is down: …", "manager m is locked: …"}
	f.Local.Features[0].Present = false
	var got []string
	for _, x := range Diagnose(f).Findings {
		got = append(got, x.Rank.String()+" "+x.About)
	}
	want := []string{"critical this node", "critical node m", "critical service web", "warning node w", "note cluster"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestRulesOfWarnings: each rule is of a warning that the cluster gives, in its words.
func TestRulesOfWarnings(t *testing.T) {
	var texts []string
	verb := regexp.MustCompile(`%[a-z]`)
	const dir = "../control"
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				text, err := strconv.Unquote(l.Value)
				if err != nil {
					t.Fatal(err)
				}
				texts = append(texts, verb.ReplaceAllString(strings.ReplaceAll(text, "%d", "7"), "manager"))
			}
			return true
		})
	}
	for _, r := range rules {
		if !slices.ContainsFunc(texts, r.begins.MatchString) {
			t.Errorf("nothing in %s begins as %s", dir, r.begins)
		}
	}
}
