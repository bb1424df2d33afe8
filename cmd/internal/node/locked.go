package node

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/outside"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
)

// absenceFresh is how long what the other managers said of themselves is told
// without asking again: `redoubt unlock` asks many times a second.
const absenceFresh = 2 * time.Second

// absence is what keeps the quorum from being there, as far as asking tells.
type absence struct {
	mu    sync.Mutex // held while asking, so that one asks for all
	asked time.Time
	text  string
}

// askLocked asks another manager whether it is locked; one that does not answer
// is not known to be.
func (m *managerState) askLocked(ctx context.Context, nodeID, addr string) bool {
	resp, err := m.lockStatus(ctx, nodeID, addr)
	return err == nil && resp.GetLocked()
}

// look looks at another manager from outside.
func (m *managerState) look(ctx context.Context, nodeID, addr string) (*outside.Seen, error) {
	return outside.Look(ctx, addr, nodeID, m.creds)
}

// dialLock connects to another manager to ask what a locked one answers, too.
// It does so by the boot leaf: a locked manager has no records to hold another
// certificate against, and this manager's may have ended and been re-issued,
// and is then on no record before somebody leads.
func (m *managerState) dialLock(ctx context.Context, nodeID, addr string) (*pki.GRPCConn, error) {
	conn, err := pki.DialTLS(ctx, addr, m.boot.ClientConfig(pki.ALPNLock, nodeID))
	if err != nil {
		return nil, err
	}
	return pki.GRPCOver(conn)
}

func (m *managerState) lockStatus(ctx context.Context, nodeID, addr string) (*pkipb.LockStatusResponse, error) {
	c, err := m.dialLock(ctx, nodeID, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return pkipb.NewLockClient(c).LockStatus(ctx, &pkipb.LockStatusRequest{})
}

// absent says which managers are missing for a quorum, and what brings each
// back; empty where all answer.
func (m *managerState) absent(ctx context.Context) string {
	a := &m.absence
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.asked.IsZero() && time.Since(a.asked) < absenceFresh {
		return a.text
	}
	directory, self := pkistore.Directory{Store: m.store}, m.n.who().NodeID
	servers := m.store.Servers()
	said := make([]string, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		if s.ID == self {
			continue
		}
		name := s.ID
		if n, err := directory.Node(s.ID); err == nil && n.GetName() != "" {
			name = n.GetName()
		}
		wg.Go(func() {
			switch resp, err := m.lockStatus(ctx, s.ID, s.Addr); {
			case err != nil:
				said[i] = name + " at " + s.Addr + " does not answer: start it and `redoubt unlock` it"
			case resp.GetLocked():
				said[i] = name + " is locked: `redoubt unlock` on it"
			}
		})
	}
	wg.Wait()
	said = slices.DeleteFunc(said, func(s string) bool { return s == "" })
	slices.Sort(said)
	a.asked, a.text = time.Now(), strings.Join(said, "; ")
	return a.text
}
