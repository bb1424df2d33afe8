package fabric

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// However it is said who may send what, all of it or as a difference, by one or by
// both who say it: the table admits what it comes to.
func TestAdmissionsAreTheSumOfWhatWasSaid(t *testing.T) {
	t.Parallel()
	n := newLab(t, 1).nodes[0]
	random := func() (out []Admission) {
		for range rand.N(6) {
			out = append(out, Admission{Node: netip.AddrFrom4([4]byte{198, 18, 0, byte(2 + rand.N(3))}), VNI: 5 + rand.Uint32N(4), MAC: [6]byte{2, 82, 0, 0, 0, 9}})
		}
		return out
	}
	set := func(all []Admission) map[[16]byte]bool {
		keys := map[[16]byte]bool{}
		for _, a := range all {
			keys[a.key()] = true
		}
		return keys
	}
	if err := n.f.AdmitIngressMore(t.Context(), nil, random()); err == nil {
		t.Error("a difference to nothing was taken")
	}
	overlays, ingress := map[[16]byte]bool{}, map[[16]byte]bool{}
	if err := n.f.AdmitIngress(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var nf *kernel.Netfilter
	within(t, n.ns, func() (err error) { nf, err = kernel.OpenNetfilter(); return err })
	defer nf.Close()
	for step := range 150 {
		said, err := "", error(nil)
		switch rand.N(4) {
		case 0:
			all := random()
			said, overlays = fmt.Sprint("overlays ", all), set(all)
			err = n.f.Admit(t.Context(), all)
		case 1:
			all := random()
			said, ingress = fmt.Sprint("ingress ", all), set(all)
			err = n.f.AdmitIngress(t.Context(), all)
		default:
			remove, add := random(), random()
			said = fmt.Sprint("ingress less ", remove, " and more ", add)
			for k := range set(remove) {
				delete(ingress, k)
			}
			maps.Copy(ingress, set(add))
			err = n.f.AdmitIngressMore(t.Context(), remove, add)
		}
		if err != nil {
			t.Fatalf("%s: %v", said, err)
		}
		want, found := maps.Clone(overlays), map[[16]byte]bool{}
		maps.Copy(want, ingress)
		read := table{nf: nf}
		all, err := read.read(setAssigned)
		for _, e := range all {
			found[[16]byte(slices.Clone(e.Key))] = true
		}
		if err != nil || !maps.Equal(found, want) {
			t.Fatalf("step %d, %s: %d are admitted, not %d (%v)", step, said, len(found), len(want), err)
		}
	}
}
