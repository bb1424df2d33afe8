package store

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
)

// RefusedError is a change that breaks a rule; its text is for who asked.
type RefusedError struct{ text string }

func (e *RefusedError) Error() string { return e.text }

func refuse(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

// Pinned tells the numbers of versions that somebody was granted by number: those
// are not removed to make room.
type Pinned func(number uint64) bool

// renewed is a list of versions with a new one at its end, and those that went to
// make room for it: the oldest that are neither pinned nor current. The current one is
// what there is to go back to, also where it is an older one after a rollback.
func renewed(what string, have []*secretspb.VersionFacts, current uint64, add *secretspb.VersionFacts, keep uint32, pinned Pinned) (now, gone []*secretspb.VersionFacts, err error) {
	most := int(cmp.Or(keep, spec.DefaultKeep))
	now = slices.Clone(have)
	for len(now) >= most {
		i := slices.IndexFunc(now, func(v *secretspb.VersionFacts) bool { return v.GetNumber() != current && !pinned(v.GetNumber()) })
		if i < 0 {
			return nil, nil, refuse("%s has %d versions, and services name those that could go by number: update a service first", what, len(now))
		}
		gone, now = append(gone, now[i]), slices.Delete(now, i, i+1)
	}
	return append(now, add), gone, nil
}

// pick is the version of that number, or for 0 the newest one before the current.
func pick(what string, have []*secretspb.VersionFacts, current, number uint64) (*secretspb.VersionFacts, error) {
	var found *secretspb.VersionFacts
	for _, v := range have {
		if number == 0 && v.GetNumber() < current || number != 0 && v.GetNumber() == number {
			found = v
		}
	}
	switch {
	case found == nil && number == 0:
		return nil, refuse("%s has no version before the current one, which is %d", what, current)
	case found == nil:
		return nil, refuse("%s has no version %d: it has %s", what, number, numbers(have))
	}
	return found, nil
}

func numbers(have []*secretspb.VersionFacts) (text string) {
	for i, v := range have {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprint(v.GetNumber())
	}
	return text
}

func newest(have []*secretspb.VersionFacts) uint64 {
	if len(have) == 0 {
		return 0
	}
	return have[len(have)-1].GetNumber()
}

// factsOf is the version of that number, or for 0 the current one; nil: it is gone.
func factsOf(have []*secretspb.VersionFacts, current, number uint64) *secretspb.VersionFacts {
	i := slices.IndexFunc(have, func(v *secretspb.VersionFacts) bool { return v.GetNumber() == cmp.Or(number, current) })
	if i < 0 {
		return nil
	}
	return have[i]
}

// room returns an error where so much more does not fit into a table.
func room[T raftstore.Object](r *raftstore.ReadTx, t *raftstore.Table[T], what string, more, most int64) error {
	if t.Total(r, sumBytes, sumBytes)[0]+more > most {
		return refuse("the %s take %d MiB in all, as much as they may: remove some", what, most>>20)
	}
	return nil
}
