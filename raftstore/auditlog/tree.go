package auditlog

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// tree has the whole nodes over some hashes, by level: the hashes first. A node of
// which a part is missing is not there. It does not change.
type tree [][]Hash

func treeOf(h []Hash) tree {
	t := tree{h}
	for len(h) > 1 {
		next := make([]Hash, len(h)/2)
		for i := range next {
			next[i] = tlog.NodeHash(h[2*i], h[2*i+1])
		}
		t, h = append(t, next), next
	}
	return t
}

// with returns the tree with one more hash.
func (t tree) with(h Hash) tree {
	t = slices.Clone(t)
	for level := 0; ; level++ {
		if level == len(t) {
			t = append(t, nil)
		}
		t[level] = append(slices.Clip(t[level]), h)
		n := len(t[level])
		if n%2 != 0 {
			return t
		}
		h = tlog.NodeHash(t[level][n-2], t[level][n-1])
	}
}

// hashes are those that it is over.
func (t tree) hashes() []Hash {
	if len(t) == 0 {
		return nil
	}
	return t[0]
}

// root is the node over all of them, as many as a power of two.
func (t tree) root() Hash { return t[len(t)-1][0] }
