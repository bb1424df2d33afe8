package node

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

const (
	// reconcileAfter is how long a certificate that no record names waits to be looked
	// at again: records of a manager lag behind, and a manager may have re-issued its
	// own.
	reconcileAfter = 3 * time.Second
	// reconcileAgain is the pause before it is looked at once more where keyd or the
	// store gave no answer, and reconcilePatience how long that goes on.
	reconcileAgain, reconcilePatience = time.Second, 2 * time.Minute
	// adoptPatience is how long the leader may take to take over a certificate that a
	// manager re-issued.
	adoptPatience = 15 * time.Second
	// maxSuspect bounds a certificate that another manager asks about, in bytes.
	maxSuspect = 16 << 10
)

// shown is a certificate that no record named.
type shown struct {
	peer *authz.Peer
	at   time.Time
	// source is the host it came from; empty: not known.
	source string
}

// journal says of keys whether this manager's keyd certified them.
type journal interface {
	Journalled(ctx context.Context, req *keydpb.JournalledRequest) (*keydpb.JournalledResponse, error)
}

// presented has it looked into where a peer that verified shows a certificate that
// no record names, unless it is a person. It decides nothing: who is admitted is for others to say.
func (m *managerState) presented(p *authz.Peer) {
	if p == nil || p.Leaf == nil || p.Person != "" || !m.opened.Load() || !m.forged(p) {
		return
	}
	source := ""
	if p.Source != nil {
		source = p.Source.String()
		if host, _, err := net.SplitHostPort(source); err == nil {
			source = host
		}
	}
	m.suspect(shown{p, time.Now(), source}) // whoever comes so often comes again
}

// suspect reports whether there was room for it.
func (m *managerState) suspect(s shown) bool {
	select {
	case m.strange <- s:
		return true
	default:
		return false
	}
}

// forged reports whether nobody gave out a certificate, as far as the records say, and
// no alarm of it is on record.
func (m *managerState) forged(p *authz.Peer) (forged bool) {
	_ = m.store.View(func(r *raftstore.ReadTx) error { // a store that is closed knows nothing
		forged = pki.Forged(r, r.Level(), p) && !pki.Told(r, p)
		return nil
	})
	return forged
}

// reconcile holds what was presented against the records, once they have had time,
// and against keyd's journal, and has the alarm raised where neither knows of it.
func (m *managerState) reconcile(ctx context.Context) error {
	for {
		var s shown
		select {
		case s = <-m.strange:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, time.Until(s.at.Add(reconcileAfter))); err != nil {
			return err
		}
		began := time.Now()
		for err := m.lookInto(ctx, s, began); err != nil; err = m.lookInto(ctx, s, began) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Since(began) > reconcilePatience {
				m.logOf(s).Error("a certificate was shown that no record names, and whether somebody gave it out could not be found out", "err", err)
				break
			}
			if err := sleep(ctx, reconcileAgain); err != nil {
				return err
			}
		}
	}
}

// errAdopting is why a certificate is looked at again.
var errAdopting = errors.New("the leader has not taken over the manager's certificate")

// lookInto decides what a certificate is that no record named when it was shown. An
// error means that this could not be said yet: what does not answer says neither.
func (m *managerState) lookInto(ctx context.Context, s shown, began time.Time) error {
	if !m.forged(s.peer) {
		return nil
	}
	if m.adopted(s.peer) && time.Since(began) < adoptPatience {
		return errAdopting
	}
	resp, err := m.journal.Journalled(ctx, &keydpb.JournalledRequest{Spki: [][]byte{s.peer.SPKI}, NodeId: s.peer.NodeID})
	switch {
	case err != nil:
		return err
	case len(resp.GetKnown()) != 1:
		return errors.New("keyd did not say what its journal has")
	case resp.GetKnown()[0]:
		return nil
	case !m.store.IsLeader():
		return m.tellLeader(ctx, s)
	}
	source := s.source
	if source == "" {
		source = "an address that is not known"
	}
	noted := false
	err = m.store.Update(ctx, func(tx *raftstore.Tx) (err error) {
		noted, err = pki.NoteUnjournalled(tx, s.peer, source)
		return err
	})
	if err == nil && noted {
		m.logOf(s).Error("a certificate was shown that nobody gave out: the key of a CA is in other hands")
	}
	return err
}

func (m *managerState) adopted(p *authz.Peer) (adopted bool) {
	_ = m.store.View(func(r *raftstore.ReadTx) error {
		adopted = pki.Adopted(r, p)
		return nil
	})
	return adopted
}

func (m *managerState) logOf(s shown) *slog.Logger {
	p := s.peer
	return m.n.log.With("node", p.NodeID, "role", profile.RoleName(p.Role), "serial", p.Leaf.SerialNumber.Text(16), "source", s.source)
}

// tellLeader has the leader look at a certificate by its own records and journal.
func (m *managerState) tellLeader(ctx context.Context, s shown) error {
	id, addr := m.store.Leader()
	if id == "" || id == m.n.who().NodeID {
		return errors.New("no leader is heard")
	}
	ctx, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	c, _, err := m.toWitness(ctx, id, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err = pkipb.NewWitnessClient(c).Suspect(ctx, &pkipb.SuspectRequest{Certificate: s.peer.Leaf.Raw, Source: s.source}); err != nil {
		return err
	}
	m.logOf(s).Warn("a certificate was shown that no record names: the leader looks into it")
	return nil
}

// Suspect implements pkipb.WitnessServer.
func (s witnessServer) Suspect(_ context.Context, req *pkipb.SuspectRequest) (*pkipb.SuspectResponse, error) {
	m := s.m
	if !m.store.IsLeader() {
		return nil, status.Error(codes.FailedPrecondition, "this manager does not lead")
	}
	seen, err := suspected(req, m.n.who().ClusterID, time.Now())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// Forged finds whether it is of a CA in force.
	if m.forged(seen.peer) && !m.suspect(seen) {
		return nil, status.Error(codes.ResourceExhausted, "others are looked into: try again in a few seconds")
	}
	return &pkipb.SuspectResponse{}, nil
}

// suspected reads what another manager was shown.
func suspected(req *pkipb.SuspectRequest, clusterID string, now time.Time) (shown, error) {
	if n := len(req.GetCertificate()); n == 0 || n > maxSuspect {
		return shown{}, errors.New("a certificate is needed, and not a long one")
	}
	source := ""
	if req.GetSource() != "" {
		at, err := netip.ParseAddr(req.GetSource())
		if err != nil {
			return shown{}, errors.New("the source is no address")
		}
		source = at.String()
	}
	leaf, err := x509.ParseCertificate(req.GetCertificate())
	if err != nil {
		return shown{}, errors.New("that is no certificate")
	}
	id, err := profile.NodeFromCert(leaf)
	if err != nil || id.ClusterID != clusterID {
		return shown{}, errors.New("that is no certificate of a node of this cluster")
	}
	return shown{&authz.Peer{Identity: id, Leaf: leaf}, now, source}, nil
}
