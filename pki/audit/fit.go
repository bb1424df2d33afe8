package audit

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
)

// value is one that was changed, whole.
type value struct {
	change         *auditpb.Change
	path, old, new string
	// document: it is a policy's text.
	document bool
	// field is what a record has of it; nil: there is no room.
	field *auditpb.Field
}

// kind is what values of one list or map have in common: of which change they are,
// and the path without what tells them apart.
type kind struct {
	change *auditpb.Change
	path   string
}

func (v value) kind() kind {
	var path strings.Builder
	inside := false
	for _, r := range v.path {
		switch {
		case inside && r != ']':
		case r == '[':
			inside = true
			path.WriteString("[…")
		default:
			inside = false
			path.WriteRune(r)
		}
	}
	return kind{v.change, path.String()}
}

// fit gives each change its values, as far as there is room, in bytes, and tells of
// those that do not fit by their kinds; it returns how many they are. Documents have
// room of their own.
func fit(values []value, room int) (omitted uint32) {
	total, documents := 0, documentBytes
	for i := range values {
		v := &values[i]
		whole := documents - documentOverhead
		if v.document && whole > maxValue {
			v.field = v.shown(whole)
			documents -= costOf(v.field)
			continue
		}
		v.document = false // no longer told from others
		v.field = v.shown(maxValue)
		total += costOf(v.field)
	}
	if total > room {
		choose(values, room)
	}
	for _, v := range values {
		if v.field != nil {
			v.change.Fields = append(v.change.Fields, v.field)
		}
	}
	return leaveOut(values)
}

// choose takes the fields of what there is no room for: the first of every kind goes
// before the second of any, so that many of one kind hide none of another.
func choose(values []value, room int) {
	turns := map[kind]int{}
	type turned struct {
		*value
		turn int // how many of its kind stand before it
	}
	var order []turned
	for i := range values {
		v := &values[i]
		if v.document {
			continue
		}
		k := v.kind()
		order = append(order, turned{v, turns[k]})
		turns[k]++
	}
	slices.SortStableFunc(order, func(a, b turned) int { return cmp.Compare(a.turn, b.turn) })
	for _, v := range order {
		if cost := costOf(v.field); cost <= room {
			room -= cost
		} else {
			v.field = nil
		}
	}
}

// shown is the value as a record has it: up to so many bytes of what it is, or was
// before it was removed.
func (v value) shown(most int) *auditpb.Field {
	mostOld, mostNew := maxValue, most
	if v.new == "" {
		mostOld = most
	}
	f := &auditpb.Field{Path: v.path}
	f.Old, f.OldCut = cut(v.old, mostOld)
	f.New, f.NewCut = cut(v.new, mostNew)
	return f
}

// cut is a text of at most so many bytes, and what it is of where it is not all.
func cut(s string, most int) (string, *auditpb.Cut) {
	if len(s) <= most {
		return s, nil
	}
	sum := sha256.Sum256([]byte(s))
	return clip(s, most), &auditpb.Cut{Bytes: uint64(len(s)), Sha256: sum[:]}
}

func costOf(f *auditpb.Field) int {
	cost := len(f.GetPath()) + len(f.GetOld()) + len(f.GetNew()) + fieldOverhead
	for _, c := range []*auditpb.Cut{f.GetOldCut(), f.GetNewCut()} {
		if c != nil {
			cost += len(c.GetSha256()) + fieldOverhead
		}
	}
	return cost
}

// leaveOut tells of the values that have no field, by their kinds.
func leaveOut(values []value) (omitted uint32) {
	type left struct {
		times uint32
		bytes []byte
	}
	var kinds []kind // in order
	all := map[kind]*left{}
	for _, v := range values {
		if v.field != nil {
			continue
		}
		omitted++
		k := v.kind()
		l := all[k]
		if l == nil {
			l = &left{}
			all[k], kinds = l, append(kinds, k)
		}
		l.times++
		for _, s := range []string{v.path, v.old, v.new} {
			l.bytes = lp.Append(l.bytes, []byte(s))
		}
	}
	room := omittedBytes
	for _, k := range kinds {
		l := all[k]
		sum := sha256.Sum256(l.bytes)
		f := &auditpb.Field{Path: k.path, Omitted: l.times, NewCut: &auditpb.Cut{Bytes: uint64(len(l.bytes)), Sha256: sum[:]}}
		if cost := costOf(f) + fieldOverhead; cost <= room {
			room -= cost
			k.change.Fields = append(k.change.Fields, f)
		}
	}
	return omitted
}
