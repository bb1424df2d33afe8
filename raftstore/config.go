package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Sealer encrypts what the store keeps on disk. Label names the stream, aad is
// what the record is bound to; Open must fail for anything but what Seal gave
// under the same label and aad. It must be safe for concurrent use.
type Sealer interface {
	Seal(label string, aad, plaintext []byte) ([]byte, error)
	Open(label string, aad, sealed []byte) ([]byte, error)
	// Name is a keyed, deterministic one-way function: it replaces keys that
	// must be found again without being readable.
	Name(key []byte) []byte
}

// Keyring is a Sealer with the keys of several epochs, newest first: it seals and
// names by the newest and opens a record under the one that the record names. With
// it the store's key can be renewed, see Rekey.
type Keyring interface {
	Sealer
	Epochs() []uint32
	// NameUnder is Name by the key of that epoch; nil where there is none.
	NameUnder(epoch uint32, key []byte) []byte
}

// Transport carries raft's messages. Authentication is the caller's: Listener
// must only ever return connections of peers that Store.PeerAllowed accepts,
// and Dial must verify that it reached the id that addr names. A Dial that
// nobody listens for must fail with an error that is syscall.ECONNREFUSED, and
// no other may be: it stands for "that process is gone".
type Transport struct {
	// Listener returns connections that are a PeerConn; others are closed.
	Listener net.Listener
	// Advertise is this server's own address, id@host:port.
	Advertise string
	// Dial connects to addr, of the form id@host:port; SplitAddr takes it apart.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Config is what a store needs. Zero timeouts mean the defaults.
type Config struct {
	// Dir belongs to the store alone; it is made with mode 0700.
	Dir string
	// NodeID, ClusterID and Incarnation are bound into every sealed record.
	NodeID, ClusterID string
	Incarnation       uint64
	// Tables are all tables of this version, in any order.
	Tables    []Registered
	Sealer    Sealer
	Transport Transport
	// LogStore is the kind of the log; empty means the one that Dir has, or the
	// default. A log of another kind is converted when the store is opened.
	LogStore LogStore
	// Storage, for tests, stands between the store and its files: open opens
	// those in Dir, and what Storage returns is used in their place.
	Storage func(open func() (*Storage, error)) (*Storage, error)
	// For tests in this package: wrapStable stands between the sealing and every
	// stable value, the list of segments among them, segmentBytes is the size of a
	// segment, and reached is told of every state, before the next one is made.
	wrapStable   func(raft.StableStore) raft.StableStore
	segmentBytes int
	reached      func(*ReadTx)
	// rekeyed is told of each step of Rekey; an error ends it there.
	rekeyed func(step string) error
	// InitialPeers are ids that PeerAllowed accepts while this server does not
	// know the cluster's configuration yet.
	InitialPeers []string
	// Clock, if not nil, stands in for the machine's.
	Clock Clock
	// Dormant opens the store without taking part: it is woken by Wake, once its
	// owner has asked the others about it (Witnessed), or closed.
	Dormant bool
	Logger  *slog.Logger

	// ElectionTimeout is how long silence of the leader is borne; raft's
	// heartbeat timeout and its lease are the same.
	ElectionTimeout time.Duration
	// CommitTimeout is how often an idle leader tells followers what is
	// committed.
	CommitTimeout time.Duration
	// IOTimeout bounds one message to a peer.
	IOTimeout time.Duration
	// SnapshotThreshold and TrailingLogs: see limits.go. Zero means the default.
	SnapshotThreshold, TrailingLogs uint64
	// SnapshotInterval is how often the threshold is looked at.
	SnapshotInterval time.Duration
}

func (c *Config) complete() error {
	switch {
	case c.Dir == "":
		return errors.New("raftstore: Config.Dir is empty")
	case c.NodeID == "" || c.ClusterID == "":
		return errors.New("raftstore: Config.NodeID and Config.ClusterID are required")
	case c.Sealer == nil:
		return errors.New("raftstore: Config.Sealer is required: nothing is stored in clear")
	case c.Transport.Listener == nil || c.Transport.Dial == nil:
		return errors.New("raftstore: Config.Transport needs a Listener and a Dial function")
	case c.Logger == nil:
		return errors.New("raftstore: Config.Logger is required")
	}
	if _, err := ParseLogStore(string(c.LogStore)); err != nil {
		return fmt.Errorf("raftstore: Config.LogStore: %w", err)
	}
	if c.Clock == nil {
		c.Clock = machineClock{}
	}
	id, _, err := SplitAddr(c.Transport.Advertise)
	if err != nil {
		return fmt.Errorf("raftstore: Config.Transport.Advertise: %w", err)
	}
	if id != c.NodeID {
		return fmt.Errorf("raftstore: Config.Transport.Advertise names node %q, not %q", id, c.NodeID)
	}
	setDefault(&c.ElectionTimeout, defaultElectionTimeout)
	setDefault(&c.CommitTimeout, defaultCommitTimeout)
	setDefault(&c.IOTimeout, defaultIOTimeout)
	setDefault(&c.SnapshotInterval, snapshotInterval)
	setDefault(&c.SnapshotThreshold, snapshotThreshold)
	setDefault(&c.TrailingLogs, trailingLogs)
	setDefault(&c.segmentBytes, SegmentBytes)
	return nil
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// SplitAddr takes an address of the form id@host:port apart.
func SplitAddr(addr string) (id, hostport string, err error) {
	id, hostport, ok := strings.Cut(addr, "@")
	if !ok || id == "" {
		return "", "", fmt.Errorf("address %q is not of the form id@host:port", addr)
	}
	if _, port, err := net.SplitHostPort(hostport); err != nil || port == "" {
		return "", "", fmt.Errorf("address %q is not of the form id@host:port", addr)
	}
	return id, hostport, nil
}

// JoinAddr is the reverse of SplitAddr.
func JoinAddr(id, hostport string) string { return id + "@" + hostport }
