package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// A volume has data on some nodes, each its own. While there is data that no task of the
// service uses, the next task goes where that is, and nowhere else: it would begin upon an
// empty volume there. With none, any node will do, and has data from then on. Tasks that
// are meant for one node, as those of a global service, are not asked for.

// Have notes the volumes that the tasks have. pinned: they go where data of them is.
func (r *Request) Have(list []*taskpb.Volume, pinned bool) {
	if pinned {
		r.volumes = list
	}
	for _, v := range list {
		for _, f := range volumes.Features(v.GetSpec()) {
			if !slices.Contains(r.features, f) {
				r.features = append(r.features, f)
			}
		}
	}
}

// Current reports whether a request still has the volumes that its specification names:
// id gives the one of a name, empty where there is none. What is removed, and made again,
// is another.
func (r *Request) Current(id func(name string) string) bool {
	for _, name := range r.names {
		had := ""
		for _, v := range r.volumes {
			if v.GetSpec().GetName() == name {
				had = v.GetId()
			}
		}
		if had != id(name) {
			return false
		}
	}
	return true
}

// home is where data of a volume is that no task of the service uses.
type home struct {
	volume string
	on     map[*nodeInfo]bool
	why    *reason // of every other node
}

// homes are those of a request's volumes that have one; added is what is meant for nodes
// and not counted yet.
func (c *Cluster) homes(r *Request, added map[*nodeInfo]int) (out []home) {
	own := c.services[r.ServiceID]
	for _, v := range r.volumes {
		h := home{volume: v.GetSpec().GetName(), on: map[*nodeInfo]bool{}}
		var first string
		for _, info := range c.nodes {
			if own[info].live+added[info] > 0 || store.Instance(info.node, v.GetId()) == nil {
				continue
			}
			h.on[info] = true
			if name := cmp.Or(info.node.GetDescription().GetHostname(), info.node.GetId()); first == "" || name < first {
				first = name
			}
		}
		if len(h.on) == 0 {
			continue
		}
		where := first
		if more := len(h.on) - 1; more > 0 {
			where = fmt.Sprintf("%s and %d more", first, more)
		}
		text := fmt.Sprintf("no data of volume %s, which is on %s", h.volume, where)
		h.why = &reason{12, "has " + text, "have " + text}
		out = append(out, h)
	}
	return out
}

func away(homes []home, info *nodeInfo) *reason {
	for _, h := range homes {
		if !h.on[info] {
			return h.why
		}
	}
	return nil
}

// placeWithData is Place for a request with volumes: one task after the other, as each
// takes a home.
func (c *Cluster) placeWithData(r *Request, n int, now time.Time) ([]string, *Refusal) {
	var chosen []string
	added := map[*nodeInfo]int{}
	for len(chosen) < n {
		root, refusal := c.tree(r, now, added)
		if root.empty() {
			return chosen, refusal
		}
		info := root.best().info
		chosen = append(chosen, info.node.GetId())
		added[info]++
	}
	return chosen, nil
}
