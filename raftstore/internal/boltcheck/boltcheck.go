// Package boltcheck reads the file of a bbolt database from its bytes and says
// what of it is damaged, before bbolt maps it.
//
// bbolt trusts what stands in its file. Where a byte of a page is not what it
// was, it may panic, read beyond the mapping, go down the tree in a circle until
// the stack has eaten the memory, take in hand as many pages as a damaged length
// says, or write over a page that is in use because the list of the free ones
// names it. Some of that ends the process, and no caller can prevent it.
//
// So this package goes the way that bbolt would, with a bound at each step: both
// meta pages, the list of free pages, and each page of the tree. No page may be
// reached twice, be in use and free, or lie outside of the file; every element
// lies in its page; keys are in order, in a page and between pages, and each page
// begins with the key that leads there. It wants
// the shape that raft-boltdb gives a database, buckets of plain values, and
// nothing deeper. What the values say is their owner's business, and a page that
// nobody uses is only lost room.
//
// It reads the file once, a page with what overflows from it at a time, of which
// there is a bound, and holds a byte for each page of it.
package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// ErrDamaged is what every finding is.
var ErrDamaged = errors.New("the file is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// meta is the state of a database after a transaction.
type meta struct {
	pageSize         uint32
	root, free, high uint64 // pages: the first of the tree, the list of the free ones, the first beyond all
	txid             uint64
}

// Check returns nil for a database of the bytes in f that bbolt can go through.
// Buckets are the names of those there may be.
func Check(f io.ReaderAt, size int64, buckets ...string) error {
	m, err := newest(f)
	if err != nil {
		return err
	}
	if m.high < metaPages || m.high > uint64(size)/uint64(m.pageSize) {
		return damaged("it has %d bytes, and its database %d pages of %d", size, m.high, m.pageSize)
	}
	w := &walk{f: f, meta: m, owned: make([]state, m.high), buckets: buckets}
	w.owned[0], w.owned[1] = used, used
	if err := w.freeList(); err != nil {
		return err
	}
	return w.tree(m.root, depthOf{buckets: true}, nil, nil)
}

// newest reads both meta pages, which must be those of two successive
// transactions. bbolt would go on with either if the other does not verify: the
// one before the last transaction, and the last entries acknowledged, or the last
// vote, would be gone without a word. A crash does not do this: what counts of a
// meta page lies in one sector, and the page written is never the one in force.
func newest(f io.ReaderAt) (meta, error) {
	first, err := readMeta(f, 0)
	if err != nil {
		return meta{}, err
	}
	second, err := readMeta(f, int64(first.pageSize))
	if err != nil {
		return meta{}, err
	}
	switch {
	case first.pageSize != second.pageSize:
		return meta{}, damaged("its two states have pages of %d and of %d bytes", first.pageSize, second.pageSize)
	case first.txid == second.txid+1:
		return first, nil
	case second.txid == first.txid+1:
		return second, nil
	}
	return meta{}, damaged("the last state of its database is not whole")
}

func readMeta(f io.ReaderAt, off int64) (m meta, err error) {
	var page [metaBytes]byte
	if _, err := f.ReadAt(page[:], off); errors.Is(err, io.EOF) {
		return m, damaged("the last state of its database is not whole")
	} else if err != nil {
		return m, err
	}
	b, order := page[pageHeader:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(b[:metaSum])
	if order.Uint32(b) != magic || order.Uint32(b[4:]) != version || sum.Sum64() != order.Uint64(b[metaSum:]) {
		return m, damaged("the last state of its database is not whole")
	}
	m = meta{pageSize: order.Uint32(b[8:]), root: order.Uint64(b[16:]), free: order.Uint64(b[32:]), high: order.Uint64(b[40:]), txid: order.Uint64(b[48:])}
	if m.pageSize < minPage || m.pageSize > maxPage || m.pageSize&(m.pageSize-1) != 0 {
		return m, damaged("its pages have %d bytes", m.pageSize)
	}
	return m, nil
}

// state is what a page is known to be.
type state uint8

const (
	unknown state = iota
	used
	free
)

// walk goes through one state of a database.
type walk struct {
	f       io.ReaderAt
	meta    meta
	owned   []state // by page
	buckets []string
}

// page reads a page with all that overflows from it, and notes that it is used.
func (w *walk) page(id uint64) (page, error) {
	if id < metaPages || id >= w.meta.high {
		return page{}, damaged("it refers to page %d, and has %d", id, w.meta.high)
	}
	size := uint64(w.meta.pageSize)
	var head [pageHeader]byte
	if _, err := w.f.ReadAt(head[:], int64(id*size)); err != nil {
		return page{}, err
	}
	p := parse(head[:])
	if p.id != id {
		return page{}, damaged("page %d says that it is page %d", id, p.id)
	}
	if p.overflow >= w.meta.high-id {
		return page{}, damaged("page %d goes on beyond the end", id)
	}
	if p.overflow*size > maxOverflow {
		return page{}, damaged("%d pages overflow from page %d", p.overflow, id)
	}
	for i := id; i <= id+p.overflow; i++ {
		if w.owned[i] != unknown {
			return page{}, damaged("page %d is used twice, or free and used", i)
		}
		w.owned[i] = used
	}
	p.b = make([]byte, (1+p.overflow)*size)
	_, err := w.f.ReadAt(p.b, int64(id*size))
	return p, err
}

// freeList notes which pages are free.
func (w *walk) freeList() error {
	p, err := w.page(w.meta.free)
	if err != nil {
		return err
	}
	if p.flags != flagFree {
		return damaged("page %d is not the list of free pages", p.id)
	}
	list, n := p.b[pageHeader:], uint64(p.count)
	if n == manyFree {
		n, list = binary.NativeEndian.Uint64(list), list[8:]
	}
	if n > uint64(len(list)/8) {
		return damaged("the list of free pages has no room for %d", n)
	}
	var last uint64
	for i := range n {
		id := binary.NativeEndian.Uint64(list[8*i:])
		if id < metaPages || id >= w.meta.high || id <= last || w.owned[id] != unknown {
			return damaged("the list of free pages names page %d", id)
		}
		w.owned[id], last = free, id
	}
	return nil
}

// depthOf is where in the database a page is.
type depthOf struct {
	buckets bool // its values are buckets
	levels  int  // above it, of its own tree
}

// tree checks the page and all below it: it begins with the key first, and all
// of its keys are before beyond, where these are not nil.
func (w *walk) tree(id uint64, at depthOf, first, beyond []byte) error {
	if at.levels > maxLevels {
		return damaged("page %d lies too deep", id)
	}
	p, err := w.page(id)
	if err != nil {
		return err
	}
	elements, err := p.elements(first, beyond)
	if err != nil {
		return err
	}
	if p.flags == flagLeaf {
		return w.leaf(p, elements, at)
	}
	if len(elements) == 0 {
		return damaged("page %d has nothing below it", id)
	}
	at.levels++
	for i, e := range elements {
		to := beyond
		if i+1 < len(elements) {
			to = elements[i+1].key
		}
		if err := w.tree(e.child, at, e.key, to); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the values of a page, as far as they are buckets.
func (w *walk) leaf(p page, elements []element, at depthOf) error {
	for _, e := range elements {
		if e.bucket != at.buckets {
			return damaged("page %d has a value of the wrong kind", p.id)
		}
		if !at.buckets {
			continue
		}
		if !w.known(e.key) || len(e.value) < bucketHeader {
			return damaged("page %d has a bucket that is none", p.id)
		}
		root, inline := binary.NativeEndian.Uint64(e.value), e.value[bucketHeader:]
		var err error
		switch {
		case root != 0 && len(inline) == 0:
			err = w.tree(root, depthOf{}, nil, nil)
		case root == 0 && len(inline) >= pageHeader:
			err = w.inline(inline)
		default:
			err = damaged("page %d has a bucket of %d bytes", p.id, len(e.value))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inline checks a bucket that is so small that it lies in the page of its name.
func (w *walk) inline(b []byte) error {
	p := parse(b)
	p.b = b
	if p.id != 0 || p.overflow != 0 || p.flags != flagLeaf {
		return damaged("a small bucket is none")
	}
	elements, err := p.elements(nil, nil)
	if err != nil {
		return err
	}
	return w.leaf(p, elements, depthOf{})
}

func (w *walk) known(name []byte) bool {
	for _, b := range w.buckets {
		if bytes.Equal(name, []byte(b)) {
			return true
		}
	}
	return false
}
