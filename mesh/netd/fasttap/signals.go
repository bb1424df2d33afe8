package fasttap

import (
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
)

// signals are what wireguard-go hears of an interface: the MTU that whoever made
// it follows, and nothing of up and down. wireguard-go would close its socket, and
// open it in whatever namespace it happens to run in.
type signals struct {
	mtu atomic.Int32

	mu     sync.Mutex     // guards the following
	events chan tun.Event // of capacity 1; closed by end
	ended  bool
}

func newSignals(mtu int) *signals {
	s := &signals{events: make(chan tun.Event, 1)}
	s.mtu.Store(int32(mtu))
	return s
}

func (s *signals) MTU() (int, error)        { return int(s.mtu.Load()), nil }
func (s *signals) Events() <-chan tun.Event { return s.events }

// FollowMTU tells wireguard-go the interface's new MTU.
func (s *signals) FollowMTU(mtu int) {
	old := s.mtu.Swap(int32(mtu))
	s.mu.Lock()
	defer s.mu.Unlock()
	if old != int32(mtu) && !s.ended {
		select {
		case s.events <- tun.EventMTUUpdate:
		default: // one waits already and will find this value
		}
	}
}

func (s *signals) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.events)
	}
}
