package boltcheck

import (
	"bytes"
	"encoding/binary"
)

// page is a page of a tree, or the list of the free ones: a header of its id
// (8 bytes), flags and count (2 each) and how many pages overflow from it (4).
type page struct {
	id       uint64
	flags    uint16
	count    uint16
	overflow uint64
	b        []byte // all of it
}

func parse(head []byte) page {
	order := binary.NativeEndian
	return page{id: order.Uint64(head), flags: order.Uint16(head[8:]), count: order.Uint16(head[10:]), overflow: uint64(order.Uint32(head[12:]))}
}

// element is what a page of a tree has for a key: a page below, or a value.
type element struct {
	key    []byte
	child  uint64
	value  []byte
	bucket bool
}

// elements are 16 bytes each, behind the header: in a leaf flags, position, and
// the sizes of key and value (4 bytes each); in a branch position and the key's
// size (4 each) and the page below (8). Positions count from the element. A page
// begins with the key that the one above has for it: bbolt finds the place to
// change there by that.
func (p page) elements(first, beyond []byte) ([]element, error) {
	if p.flags != flagLeaf && p.flags != flagBranch {
		return nil, damaged("page %d is of no kind that it may be", p.id)
	}
	ends := pageHeader + elementBytes*int(p.count)
	if ends > len(p.b) {
		return nil, damaged("page %d has no room for %d keys", p.id, p.count)
	}
	out := make([]element, 0, p.count)
	for at := pageHeader; at < ends; at += elementBytes {
		e, ok := p.element(at, ends)
		if !ok {
			return nil, damaged("page %d has a key or a value outside of it", p.id)
		}
		if len(e.key) == 0 || len(e.key) > maxKey || beyond != nil && bytes.Compare(e.key, beyond) >= 0 {
			return nil, damaged("page %d has a key that does not belong there", p.id)
		}
		if n := len(out); n > 0 && bytes.Compare(out[n-1].key, e.key) >= 0 {
			return nil, damaged("the keys of page %d are not in order", p.id)
		}
		out = append(out, e)
	}
	if first != nil && (len(out) == 0 || !bytes.Equal(out[0].key, first)) {
		return nil, damaged("page %d does not begin with the key that leads there", p.id)
	}
	return out, nil
}

// element reads the one at an offset; all of its page's end at ends.
func (p page) element(at, ends int) (e element, ok bool) {
	order, b := binary.NativeEndian, p.b[at:]
	pos, keyBytes, valueBytes := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), uint64(0)
	if p.flags == flagLeaf {
		flags := order.Uint32(b)
		if flags > flagBucket {
			return e, false
		}
		e.bucket = flags == flagBucket
		pos, keyBytes, valueBytes = uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[12:]))
	} else {
		e.child = order.Uint64(b[8:])
	}
	pos += uint64(at)
	if pos < uint64(ends) || pos+keyBytes+valueBytes > uint64(len(p.b)) {
		return e, false
	}
	e.key, e.value = p.b[pos:pos+keyBytes], p.b[pos+keyBytes:pos+keyBytes+valueBytes]
	return e, true
}
