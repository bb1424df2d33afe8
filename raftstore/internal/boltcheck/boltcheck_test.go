package boltcheck_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/boltcheck"
)

const pageSize = 4096

// database is one with branches, pages that overflow, free pages and a small
// bucket in the page of its name.
func database(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	for i := uint64(1); i <= 60; i++ {
		if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: bytes.Repeat([]byte{byte(i)}, 700)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, do := range []error{
		s.StoreLog(&raft.Log{Index: 61, Term: 1, Data: make([]byte, 3*pageSize)}), s.DeleteRange(1, 9),
		s.SetUint64([]byte("term"), 7), s.Set([]byte("vote"), []byte("x")), s.Close(),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t testing.TB, path string) *raftboltdb.BoltStore {
	t.Helper()
	s, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{FreelistType: bbolt.FreelistMapType}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func check(b []byte) error {
	return boltcheck.Check(bytes.NewReader(b), int64(len(b)), "logs", "conf")
}

func TestWholeDatabases(t *testing.T) {
	if err := check(database(t)); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(b); err != nil {
		t.Errorf("one without entries: %v", err)
	}
}

// TestEveryDatabaseIsWhole writes and deletes as a log does, and as it does not,
// and looks after each transaction.
func TestEveryDatabaseIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s, err := raftboltdb.New(raftboltdb.Options{Path: path, NoSync: true, BoltOptions: &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoGrowSync: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for n := range 200 {
		var logs []*raft.Log
		at := uint64(r.IntN(3000))
		for range r.IntN(40) {
			logs = append(logs, &raft.Log{Index: at, Data: make([]byte, r.IntN(1500))})
			at += uint64(1 + r.IntN(3))
		}
		var err error
		switch r.IntN(4) {
		case 0:
			err = s.DeleteRange(at, at+uint64(r.IntN(600)))
		case 1:
			err = s.Set(fmt.Append(nil, r.IntN(30)), make([]byte, 1+r.IntN(400)))
		default:
			err = s.StoreLogs(logs)
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(b); err != nil {
			t.Fatalf("after transaction %d: %v", n, err)
		}
	}
}

// pagesOf are the pages of a kind that the database uses.
func pagesOf(t testing.TB, b []byte, flags uint16) (ids []int) {
	t.Helper()
	db, err := bbolt.Open(write(t, b), 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		for id := 2; ; id++ {
			p, err := tx.Page(id)
			if p == nil || err != nil {
				return err
			}
			if p.Type != "free" && binary.NativeEndian.Uint16(b[id*pageSize+8:]) == flags {
				ids = append(ids, id)
			}
			id += p.OverflowCount
		}
	}); err != nil {
		t.Fatal(err)
	}
	if len(ids) == 0 {
		t.Fatalf("no page of kind %x", flags)
	}
	return ids
}

func write(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDamage has what ends a process that opens the file, or lets it overwrite
// what counts, first of all.
func TestDamage(t *testing.T) {
	whole, order := database(t), binary.NativeEndian
	branch := pagesOf(t, whole, 1)[0] * pageSize
	leaf := pagesOf(t, whole, 2)[1] * pageSize
	free := pagesOf(t, whole, 0x10)[0] * pageSize
	first := order.Uint64(whole[branch+16+8:])
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		says   string
	}{
		"a circle":                  {func(b []byte) []byte { order.PutUint64(b[branch+24:], uint64(branch/pageSize)); return b }, "used twice"},
		"a page twice":              {func(b []byte) []byte { order.PutUint64(b[branch+16+24:], first); return b }, "used twice"},
		"more keys than there are":  {func(b []byte) []byte { b[branch+10] ^= 4; return b }, "page"},
		"no keys in a branch":       {func(b []byte) []byte { order.PutUint16(b[branch+10:], 0); return b }, "nothing below"},
		"a page far away":           {func(b []byte) []byte { b[branch+24+5] = 1; return b }, "refers to page"},
		"a meta page in the tree":   {func(b []byte) []byte { order.PutUint64(b[branch+24:], 1); return b }, "refers to page 1"},
		"overflow beyond the end":   {func(b []byte) []byte { b[leaf+15] = 0xff; return b }, "beyond the end"},
		"overflow over a neighbour": {func(b []byte) []byte { b[leaf+12]++; return b }, "twice"},
		"another page's id":         {func(b []byte) []byte { b[leaf]++; return b }, "says that it is"},
		"no kind":                   {func(b []byte) []byte { b[leaf+8] = 7; return b }, "of no kind"},
		"a leaf that is a branch":   {func(b []byte) []byte { b[leaf+8] = 1; return b }, "page"},
		"a key before the page":     {func(b []byte) []byte { order.PutUint32(b[leaf+16+4:], 0); return b }, "outside"},
		"a value beyond the page":   {func(b []byte) []byte { b[leaf+16+15] = 0x7f; return b }, "outside"},
		"a key in another order":    {func(b []byte) []byte { b[leaf+16+order32(b, leaf+16+4)] ^= 0x80; return b }, "key"},
		"a key of no bytes":         {func(b []byte) []byte { order.PutUint32(b[leaf+16+8:], 0); return b }, "belong"},
		"a bucket among the values": {func(b []byte) []byte { b[leaf+16] ^= 1; return b }, "wrong kind"},
		"a page in use is free":     {func(b []byte) []byte { order.PutUint64(b[free+16:], uint64(leaf/pageSize)); return b }, "page"},
		"a page is free twice":      {func(b []byte) []byte { copy(b[free+24:free+32], b[free+16:]); return b }, "list of free"},
		"a meta page is free":       {func(b []byte) []byte { order.PutUint64(b[free+16:], 1); return b }, "list of free"},
		"a far page is free":        {func(b []byte) []byte { b[free+16+8*int(order.Uint16(b[free+10:]))-1] = 1; return b }, "list of free"},
		"many free pages":           {func(b []byte) []byte { order.PutUint16(b[free+10:], 0xffff); b[free+16+4] = 1; return b }, "room"},
		"all pages free":            {func(b []byte) []byte { order.PutUint16(b[free+10:], 0xfffe); return b }, "room"},
		"no list of free pages":     {func(b []byte) []byte { b[free+8] = 2; return b }, "not the list"},
		"a bucket of another name":  {func(b []byte) []byte { i := bytes.LastIndex(b[:], []byte("logs")); b[i]++; return b }, ""},
		"cut short":                 {func(b []byte) []byte { return b[:pageSize*4] }, "bytes, and its database"},
		"a meta page alone":         {func(b []byte) []byte { return b[:pageSize] }, "not whole"},
		"nothing":                   {func([]byte) []byte { return nil }, "not whole"},
		"zeros":                     {func(b []byte) []byte { clear(b); return b }, "not whole"},
		"one state":                 {func(b []byte) []byte { b[pageSize+40]++; return b }, "not whole"},
		"one state twice":           {func(b []byte) []byte { copy(b[pageSize:2*pageSize], b[:pageSize]); return b }, "not whole"},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.damage(slices.Clone(whole))
			err := check(b)
			if err == nil && c.says == "" { // the name stood in a page that is free by now
				return
			}
			if !errors.Is(err, boltcheck.ErrDamaged) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

// A page of a large file says that most of the file overflows from it. It is
// refused before anybody asks for as much memory.
func TestOverflowIsBounded(t *testing.T) {
	b, order := database(t), binary.NativeEndian
	const pages = 1 << 20 // the file has 4 GiB, of which nothing is read but its beginning
	order.PutUint32(b[pagesOf(t, b, 0x10)[0]*pageSize+12:], pages/2)
	for at := 16; at <= pageSize+16; at += pageSize { // both metas, sealed anew
		order.PutUint64(b[at+40:], pages)
		sum := fnv.New64a()
		sum.Write(b[at : at+56])
		order.PutUint64(b[at+56:], sum.Sum64())
	}
	err := boltcheck.Check(bytes.NewReader(b), pages*pageSize, "logs", "conf")
	if !errors.Is(err, boltcheck.ErrDamaged) || !strings.Contains(err.Error(), "overflow from page") {
		t.Error(err)
	}
}

func order32(b []byte, at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }

// FuzzCheck damages a database at some places. What is found whole, raft's own
// store reads and writes to the end, without a panic.
func FuzzCheck(f *testing.F) {
	whole := database(f)
	for _, id := range append(pagesOf(f, whole, 1), append(pagesOf(f, whole, 2), pagesOf(f, whole, 0x10)...)...) {
		for _, at := range []int{0, 8, 10, 12, 16, 20, 24, 28, 32, 40} {
			f.Add(binary.BigEndian.AppendUint32(nil, uint32(id*pageSize+at)<<8|4))
		}
	}
	f.Fuzz(func(t *testing.T, places []byte) {
		b := slices.Clone(whole)
		for ; len(places) >= 4; places = places[4:] { // where, and what is changed
			b[int(binary.BigEndian.Uint32(places)>>8)%len(b)] ^= places[3]
		}
		if err := check(b); err != nil {
			if !errors.Is(err, boltcheck.ErrDamaged) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			return
		}
		s := open(t, write(t, b))
		if err := readAndWrite(s); err != nil {
			t.Logf("its values are damaged: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func readAndWrite(s *raftboltdb.BoltStore) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= min(last, first+100); i++ {
		var l raft.Log
		err = errors.Join(err, s.GetLog(i, &l))
	}
	for i := range uint64(20) {
		err = errors.Join(err, s.StoreLog(&raft.Log{Index: 1000 + i, Data: make([]byte, 2000)}))
	}
	_, gerr := s.GetUint64([]byte("term"))
	return errors.Join(err, gerr, s.Set([]byte("new"), []byte("x")), s.DeleteRange(0, 1<<62))
}

// BenchmarkCheck is what an opening pays, for a log of 8,192 entries of 1 KiB.
func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "db")
	s := open(b, path)
	for i := uint64(1); i <= 8192; i += 64 {
		var logs []*raft.Log
		for j := range uint64(64) {
			logs = append(logs, &raft.Log{Index: i + j, Data: make([]byte, 1<<10)})
		}
		if err := s.StoreLogs(logs); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		if err := boltcheck.Check(f, info.Size(), "logs", "conf"); err != nil {
			b.Fatal(err)
		}
	}
}
