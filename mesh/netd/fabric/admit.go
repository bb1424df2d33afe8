package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/vishvananda/netlink"
)

// Admit says what peers may send on overlays: all of it, each time. Nothing else
// is let through, and nothing before the mesh is declared.
func (f *Fabric) Admit(_ context.Context, all []Admission) error { return f.admit(forOverlays, all) }

// AdmitIngress does so for ingress networks.
func (f *Fabric) AdmitIngress(_ context.Context, all []Admission) error {
	return f.admit(forIngress, all)
}

// AdmitIngressMore changes what AdmitIngress said: peers may send no more what is
// removed, and what is added. What is both stays.
func (f *Fabric) AdmitIngressMore(_ context.Context, remove, add []Admission) error {
	gone, err := keysOf(remove)
	if err != nil {
		return err
	}
	come, err := keysOf(add)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	own := f.admitted[forIngress]
	if own == nil {
		return errors.New("nothing was admitted that could be changed: say all of it")
	}
	if len(own)+len(come) > maxAdmissions {
		return fmt.Errorf("%d admissions exceed the limit of %d", len(own)+len(come), maxAdmissions)
	}
	for k := range gone {
		if come[k] || !own[k] {
			delete(gone, k)
			continue
		}
		delete(own, k)
		for _, some := range f.admitted {
			if some[k] { // it may be sent as somebody else says
				delete(gone, k)
			}
		}
	}
	maps.Copy(own, come)
	return f.inside(func(*netlink.Handle) error { return f.table.admit(gone, come) })
}

func keysOf(all []Admission) (map[[16]byte]bool, error) {
	keys := make(map[[16]byte]bool, len(all))
	for _, a := range all {
		if !a.Node.Is4() || a.VNI == 0 || a.VNI >= 1<<24 || a.MAC[0]&1 != 0 || a.MAC == [6]byte{} {
			return nil, fmt.Errorf("admission of %s, VNI %d, MAC %x: it takes an IPv4 mesh address, a VNI of 24 bits and the MAC of one host", a.Node, a.VNI, a.MAC)
		}
		keys[a.key()] = true
	}
	return keys, nil
}

// Who says what peers may send. What an earlier process let through is forgotten
// when the first of them does.
const (
	forOverlays = iota
	forIngress
	admitters
)

func (f *Fabric) admit(by int, all []Admission) error {
	if len(all) > maxAdmissions {
		return fmt.Errorf("%d admissions exceed the limit of %d", len(all), maxAdmissions)
	}
	own, err := keysOf(all)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted[by] = own
	set := make(map[[16]byte]bool, len(own))
	for _, some := range f.admitted {
		maps.Copy(set, some)
	}
	return f.inside(func(*netlink.Handle) error {
		c := f.table.content
		c.assigned = set
		return f.table.set(c)
	})
}
