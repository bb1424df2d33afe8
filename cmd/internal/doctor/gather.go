package doctor

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// maxExplained bounds the services of which the scheduler is asked why they do not run.
const maxExplained = 10

// Facts are what was answered; nil, or empty: was not asked for, or not answered.
type Facts struct {
	Now time.Time
	// Reach is why the node does not answer at all.
	Reach error
	// Local is absent for who is elsewhere, by a context.
	Local     *controlpb.LocalStatusResponse
	Status    *controlpb.GetStatusResponse
	Nodes     []*controlpb.NodeView
	Services  []*controlpb.ServiceView
	Explained map[string]*controlpb.ExplainResponse // by the service's id
	Approvals []*controlpb.ApprovalView
	Pending   []*controlpb.PendingNode
	Waivers   []*controlpb.WaiverView
	Unseen    []Unseen
}

// Gather asks the node behind c, and the cluster where that node is a manager that can
// answer for it. It fails in nothing: what is refused is among the Unseen.
func Gather(ctx context.Context, c *apiclient.Client, now time.Time) *Facts {
	f := &Facts{Now: now, Explained: map[string]*controlpb.ExplainResponse{}}
	if !c.Remote() {
		var err error
		if f.Local, err = c.LocalStatus(ctx, &controlpb.LocalStatusRequest{}); err != nil {
			f.Reach = apiclient.Err(err)
			return f
		}
		if f.Local.GetPhase() != controlpb.NodePhase_NODE_PHASE_ACTIVE || f.Local.GetRole() != profilepb.Role_ROLE_MANAGER {
			return f
		}
	}
	status, err := c.GetStatus(ctx, &controlpb.GetStatusRequest{})
	if f.note("the cluster's state", err) {
		f.Status = status
	}
	nodes, err := c.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if f.note("nodes", err) {
		f.Nodes = nodes.GetNodes()
	}
	services, err := c.ListServices(ctx, &controlpb.ListServicesRequest{})
	if f.note("services", err) {
		f.Services = services.GetServices()
	}
	f.explain(ctx, c)
	approvals, err := c.ListApprovals(ctx, &controlpb.ListApprovalsRequest{})
	if f.note("requests that wait for approval", err) {
		f.Approvals = approvals.GetApprovals()
	}
	pending, err := c.ListPending(ctx, &controlpb.ListPendingRequest{})
	if f.note("machines that wait to be approved", err) {
		f.Pending = pending.GetNodes()
	}
	waivers, err := c.ListWaivers(ctx, &controlpb.ListWaiversRequest{})
	if f.note("waivers", err) {
		f.Waivers = waivers.GetWaivers()
	}
	return f
}

// note reports whether something was answered, and keeps why it was not.
func (f *Facts) note(what string, err error) bool {
	if err != nil {
		f.Unseen = append(f.Unseen, Unseen{what, apiclient.Err(err).Error()})
	}
	return err == nil
}

// explain asks about the services that lack most tasks.
func (f *Facts) explain(ctx context.Context, c *apiclient.Client) {
	short := slices.DeleteFunc(slices.Clone(f.Services), func(v *controlpb.ServiceView) bool { return lacks(v) == 0 })
	slices.SortStableFunc(short, func(a, b *controlpb.ServiceView) int { return cmp.Compare(lacks(b), lacks(a)) })
	for _, v := range short[:min(len(short), maxExplained)] {
		id := v.GetService().GetId()
		r, err := c.Explain(ctx, &controlpb.ExplainRequest{Target: id})
		if f.note("why tasks of service "+v.GetService().GetSpec().GetName()+" do not run", err) {
			f.Explained[id] = r
		}
	}
}

// lacks is how many tasks a service wants and has not running.
func lacks(v *controlpb.ServiceView) uint64 {
	return v.GetWanted() - min(v.GetRunning(), v.GetWanted())
}
