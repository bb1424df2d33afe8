package placement

// Verdict is what one node says to one more task.
type Verdict struct {
	NodeID string
	// Reason is why not; empty: it could run it.
	Reason string
	// ServiceTasks and Tasks are those that may have a container there: of the
	// request's service, and of all.
	ServiceTasks, Tasks int
	// Values are what it has of each of the request's preferences.
	Values []string
}

// Levels are the preferences of a request, the widest first: "node.labels.zone".
func (r *Request) Levels() (out []string) {
	for _, p := range r.preferences {
		out = append(out, p.Over())
	}
	return out
}

// Packs reports whether nodes are filled one after the other for a request.
func (c *Cluster) Packs(r *Request) bool { return c.packs(r) }

// Explain asks every node, in no order.
func (c *Cluster) Explain(r *Request) []Verdict {
	out := make([]Verdict, 0, len(c.nodes))
	own, homes := c.services[r.ServiceID], c.homes(r, nil)
	for id, info := range c.nodes {
		v := Verdict{NodeID: id, ServiceTasks: own[info].live, Tasks: info.live}
		why := info.refuses(r, own[info].live, 0)
		if why == nil {
			why = away(homes, info)
		}
		if why != nil {
			v.Reason = why.one
		}
		for _, p := range r.preferences {
			v.Values = append(v.Values, value(info.node, p))
		}
		out = append(out, v)
	}
	return out
}
