package ingress

import (
	"context"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
)

// admit tells the mesh what other nodes may send, as a difference to what it was
// told; a look at everything tells it all.
func (i *Ingress) admit(ctx context.Context, before *plan) error {
	err := i.tell(ctx, before)
	if err == nil {
		i.admitted = i.plan
	} else if i.admitted != nil {
		i.admitted = emptyPlan() // what it is now is not known
	}
	return err
}

func (i *Ingress) tell(ctx context.Context, before *plan) error {
	was := i.admitted
	if was == nil || was.generation == 0 || before == i.plan || was.mesh != i.plan.mesh {
		return i.mesh.AdmitIngress(ctx, i.plan.admissions())
	}
	remove, add := was.admissionsBut(i.plan), i.plan.admissionsBut(was)
	if maps.Equal(remove, add) {
		return nil
	}
	return i.mesh.AdmitIngressMore(ctx, slices.Collect(maps.Keys(remove)), slices.Collect(maps.Keys(add)))
}

// admissionsBut are those of services that the other plan has not, or others of.
func (p *plan) admissionsBut(q *plan) map[fabric.Admission]bool {
	all := map[fabric.Admission]bool{}
	for id, s := range p.services {
		if q.services[id] != s {
			maps.Copy(all, p.admissionsOf(s))
		}
	}
	return all
}

// admissions are what other nodes may send: tasks' nodes answer, entry nodes ask.
func (p *plan) admissions() (all []fabric.Admission) {
	for _, s := range p.services {
		all = slices.AppendSeq(all, maps.Keys(p.admissionsOf(s)))
	}
	return all
}

func (p *plan) admissionsOf(s *service) map[fabric.Admission]bool {
	asks, asked := p.uplink(s)
	from := map[fabric.Admission]bool{}
	if asked {
		for a := range s.entries {
			from[fabric.Admission{Node: a, VNI: s.vni, MAC: routerMAC(a)}] = true
		}
	}
	for _, e := range s.endpoints {
		if asks && !e.isLocal() {
			from[fabric.Admission{Node: e.node, VNI: s.vni, MAC: routerMAC(e.node)}] = true
		}
	}
	return from
}
