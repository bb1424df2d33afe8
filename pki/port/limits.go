package port

import "time"

// Limits bound what strangers can use up. Zero fields take the defaults.
type Limits struct {
	// Connections in all, of every kind.
	Connections int
	// HalfOpen bounds handshakes at a time, HalfOpenPerSource those of one
	// source (an IPv4 address or an IPv6 /64), and both again connections whose
	// ClientHello did not come yet. Beyond them the oldest go.
	HalfOpen          int
	HalfOpenPerSource int
	// Anonymous bounds callers without a certificate. Beyond it the oldest go.
	Anonymous          int
	AnonymousPerSource int
	// Told bounds connections of nodes that are refused and told why, ToldPerNode
	// those of one node. Beyond them the oldest go.
	Told        int
	ToldPerNode int
	// HandshakeBurst and HandshakeRate (a second) bound how often a source may
	// begin a handshake here or have one carried to the leader; AnonymousBurst
	// and AnonymousRate bound its connections without a certificate. Who comes
	// too early waits.
	HandshakeBurst int
	HandshakeRate  int
	AnonymousBurst int
	AnonymousRate  int
	// CarriedHalfOpen and CarriedAnonymous bound what one follower may carry here
	// in handshakes and in connections without a certificate, whatever sources
	// it names. Beyond them the oldest go.
	CarriedHalfOpen  int
	CarriedAnonymous int
	// SplicesPerSource bounds connections handed through to the leader.
	SplicesPerSource int
	// PerNode bounds the h2 connections of one node.
	PerNode int
	// Handshake bounds the time from accept to a known peer.
	Handshake time.Duration
	// AnonymousLife and AnonymousBytes bound what a caller without a
	// certificate, or one that is only told why it is refused, may take and send
	// in all.
	AnonymousLife  time.Duration
	AnonymousBytes int64
	// ToldLife bounds a connection that is only there to be told why.
	ToldLife time.Duration
}

var defaults = Limits{
	Connections:        16384,
	HalfOpen:           1024,
	HalfOpenPerSource:  64,
	Anonymous:          64,
	AnonymousPerSource: 8,
	Told:               64,
	ToldPerNode:        2,
	HandshakeBurst:     1024,
	HandshakeRate:      250,
	AnonymousBurst:     128,
	AnonymousRate:      4,
	CarriedHalfOpen:    256,
	CarriedAnonymous:   32,
	SplicesPerSource:   1024,
	PerNode:            64,
	Handshake:          10 * time.Second,
	AnonymousLife:      90 * time.Second,
	AnonymousBytes:     64 << 10,
	ToldLife:           10 * time.Second,
}

const (
	// maxSourceHeader bounds the source address before a spliced connection.
	maxSourceHeader = 64

	// maxPaced sources are measured apart.
	maxPaced = 8192
	// handshakePatience and anonymousPatience are how long a connection that
	// came too early waits for its turn.
	handshakePatience = 3 * time.Second
	anonymousPatience = 2 * time.Second

	// maxCarrying connections to the leader are made at a time, for callers that
	// are handed through. It is well below HalfOpenPerSource, which all of them
	// count against there.
	maxCarrying = 16

	// deliverTimeout is how long a finished connection waits for its server.
	deliverTimeout = 5 * time.Second

	// hedgeDelay is how long a dialler waits for one manager before it tries the
	// next one, too.
	hedgeDelay = time.Second
	// busyDelay is how long it waits for one that has taken the connection.
	busyDelay = 4 * time.Second
	// lingerTimeout is how long one direction of a splice may outlive the other.
	lingerTimeout = 5 * time.Second
)

func (l Limits) withDefaults() Limits {
	set(&l.Connections, defaults.Connections)
	set(&l.HalfOpen, defaults.HalfOpen)
	set(&l.HalfOpenPerSource, defaults.HalfOpenPerSource)
	set(&l.Anonymous, defaults.Anonymous)
	set(&l.AnonymousPerSource, defaults.AnonymousPerSource)
	set(&l.Told, defaults.Told)
	set(&l.ToldPerNode, defaults.ToldPerNode)
	set(&l.ToldLife, defaults.ToldLife)
	set(&l.HandshakeBurst, defaults.HandshakeBurst)
	set(&l.HandshakeRate, defaults.HandshakeRate)
	set(&l.AnonymousBurst, defaults.AnonymousBurst)
	set(&l.AnonymousRate, defaults.AnonymousRate)
	set(&l.CarriedHalfOpen, defaults.CarriedHalfOpen)
	set(&l.CarriedAnonymous, defaults.CarriedAnonymous)
	set(&l.SplicesPerSource, defaults.SplicesPerSource)
	set(&l.PerNode, defaults.PerNode)
	set(&l.Handshake, defaults.Handshake)
	set(&l.AnonymousLife, defaults.AnonymousLife)
	set(&l.AnonymousBytes, defaults.AnonymousBytes)
	return l
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
