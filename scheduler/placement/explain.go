package placement

// Verdict is what one node says to one more task.
type Verdict struct {
	NodeID string
	// Reason is why not; empty: it could run it.
	Reason string
	// ServiceTasks and Tasks are those that may have a container there: of the
	// request's service, and of all.
	ServiceTasks, Tasks int
}

// Explain asks every node, in no order.
func (c *Cluster) Explain(r *Request) []Verdict {
	out := make([]Verdict, 0, len(c.nodes))
	own := c.services[r.ServiceID]
	for id, info := range c.nodes {
		v := Verdict{NodeID: id, ServiceTasks: own[info], Tasks: info.live}
		if why := info.refuses(r, own[info], 0); why != nil {
			v.Reason = why.one
		}
		out = append(out, v)
	}
	return out
}
