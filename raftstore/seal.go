package raftstore

import (
	"encoding/binary"
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// Labels of the sealed streams.
const (
	labelLog      = "log"
	labelStable   = "stable"
	labelSnapshot = "snapshot"
	labelFile     = "file"
)

// binder makes the authenticated data of every sealed record: cluster,
// incarnation and node first, then what the record is. Every part is preceded
// by its length, so no two different records have the same.
type binder struct {
	sealer Sealer
	prefix []byte
	// epoch is of the key that the database's names are by; 0: the sealer has no
	// epochs.
	epoch uint32
}

// at is the binder of a database whose names are by the key of that epoch.
func (b *binder) at(epoch uint32) *binder {
	out := *b
	out.epoch = epoch
	return &out
}

// name is what a stable value's key is replaced by.
func (b *binder) name(key []byte) []byte {
	if ring, ok := b.sealer.(Keyring); ok && b.epoch != 0 {
		return ring.NameUnder(b.epoch, key)
	}
	return b.sealer.Name(key)
}

func newBinder(c *Config) *binder {
	p := lp.Append(nil, []byte(c.ClusterID))
	p = lp.Append(p, u64(c.Incarnation))
	p = lp.Append(p, []byte(c.NodeID))
	return &binder{sealer: c.Sealer, prefix: p}
}

func (b *binder) aad(parts ...[]byte) []byte {
	out := append([]byte(nil), b.prefix...)
	for _, p := range parts {
		out = lp.Append(out, p)
	}
	return out
}

func (b *binder) logAAD(index, term uint64, kind uint8) []byte {
	return b.aad([]byte("log"), u64(index), u64(term), []byte{kind})
}

func (b *binder) stableAAD(name []byte) []byte { return b.aad([]byte("stable"), name) }

func (b *binder) chunkAAD(snapshot string, n uint64, last bool) []byte {
	flag := byte(0)
	if last {
		flag = 1
	}
	return b.aad([]byte("snap"), []byte(snapshot), u64(n), []byte{flag})
}

func (b *binder) fileAAD(name string) []byte { return b.aad([]byte("file"), []byte(name)) }

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

var errMalformed = errors.New("the sealed record is malformed")

// takeLP is the reverse of lp.
func takeLP(b []byte) (part, rest []byte, err error) {
	part, rest, ok := lp.Take(b)
	if !ok {
		return nil, nil, errMalformed
	}
	return part, rest, nil
}
