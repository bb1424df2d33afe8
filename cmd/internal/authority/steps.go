package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
)

// Signer has keyd make the keyset of the next epoch with one of the CAs changed,
// for managers whose leaves these are, in DER. external goes with the change that
// sets one.
type Signer interface {
	RotateCA(ctx context.Context, change keydpb.CAChange, external *keydpb.External, managers [][]byte) (*keydpb.RotateCAResponse, error)
}

// Config is what a Server needs; every field is required.
type Config struct {
	Store  *raftstore.Store
	Signer Signer
	// Epoch is that of the keyset that keyd here signs with.
	Epoch func() uint64
	// Sessions lists the nodes that are connected now.
	Sessions func() []dispatcher.SessionInfo
	// Probe returns why no external CA answers there, whose TLS ends in that root.
	Probe func(ctx context.Context, url string, root *x509.Certificate) error
	// OrderKey is what such a CA verifies keyd's orders with.
	OrderKey func(ctx context.Context) ([]byte, error)
	Logger   *slog.Logger
}

// Server implements controlpb.AuthorityServer, and runs what was begun.
type Server struct {
	controlpb.UnimplementedAuthorityServer
	c    Config
	kick chan struct{}
}

// New returns a server.
func New(c Config) *Server { return &Server{c: c, kick: make(chan struct{}, 1)} }

// Look has Run look at the nodes: one of them said something.
func (s *Server) Look() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// errBehind says that keyd here does not sign with the keyset in force yet.
var errBehind = apierr.State("try again in a few seconds", "the leader has not taken over the cluster's last keyset yet")

// made is a keyset that was made and not committed.
type made struct {
	next     pki.NextCA
	sealed   []*keydpb.SealedKeyset
	managers []string // whom it is for, by id
}

// make has keyd make the next keyset for every manager that can come back: one whose
// certificate nobody takes any more keeps nobody from going on.
func (s *Server) make(ctx context.Context, change keydpb.CAChange, external *keydpb.External) (*made, error) {
	var leaves [][]byte
	m := &made{}
	err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		if s.c.Epoch() < pki.KeysetEpoch(c) {
			return errBehind
		}
		for _, n := range recipients(r, c) {
			if len(n.GetLeaf()) == 0 {
				return apierr.State("wait until it has renewed its certificate, or remove it", "the certificate of manager %s is not on record yet", n.GetName())
			}
			leaves, m.managers = append(leaves, n.GetLeaf()), append(m.managers, n.GetId())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp, err := s.c.Signer.RotateCA(ctx, change, external, leaves)
	if keydclient.CodeOf(err) == keydpb.Code_CODE_RATE_LIMITED {
		return nil, apierr.State("try again in half a minute", "the cluster's keys were rotated or given too often just now")
	}
	if err != nil {
		return nil, err
	}
	m.sealed = resp.GetSealed()
	m.next = pki.NextCA{Epoch: resp.GetEpoch(), Root: resp.GetRoot(), Other: resp.GetOther(), Issuer: resp.GetIssuer(), Cross: resp.GetCross(), External: resp.GetExternal()}
	return m, nil
}

// commit puts a keyset in force with what do writes. It fails where the managers
// are not those that it was sealed to.
func (s *Server) commit(ctx context.Context, m *made, do func(*raftstore.Tx, pki.NextCA) error) error {
	return s.c.Store.Update(ctx, func(tx *raftstore.Tx) error {
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		var now []string
		for _, n := range recipients(tx, c) {
			now = append(now, n.GetId())
		}
		if !slices.Equal(now, m.managers) {
			return pki.ErrRotated
		}
		if err := do(tx, m.next); err != nil {
			return err
		}
		return PutKeysets(tx, m.next.Epoch, m.sealed)
	})
}

// step is make and commit.
func (s *Server) step(ctx context.Context, change keydpb.CAChange, do func(*raftstore.Tx, pki.NextCA) error) error {
	return s.stepTo(ctx, change, nil, do)
}

// stepTo is step with the external CA that comes.
func (s *Server) stepTo(ctx context.Context, change keydpb.CAChange, external *keydpb.External, do func(*raftstore.Tx, pki.NextCA) error) error {
	m, err := s.make(ctx, change, external)
	if err != nil {
		return err
	}
	return s.commit(ctx, m, do)
}

// recipients are the managers that get the next keyset, in the order of their ids:
// those that were neither removed nor forgotten.
func recipients(r raftstore.Reader, c *pkipb.Cluster) (out []*pkipb.Node) {
	forgotten := pki.Forgotten(c)
	for n := range pkistore.Nodes.By(r, "role", "manager") {
		if !n.GetDenied() && !forgotten(n) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *pkipb.Node) int { return strings.Compare(a.GetId(), b.GetId()) })
	return out
}

// PutKeysets stores a keyset as it was sealed to each manager, for its keyd to
// adopt.
func PutKeysets(tx *raftstore.Tx, epoch uint64, sealed []*keydpb.SealedKeyset) error {
	for _, k := range sealed {
		rec := &autolockpb.KeysetRecord{Id: k.GetNodeId(), Epoch: epoch, Sealed: k.GetSealed()}
		if old, ok := autolockstore.Keysets.Get(tx, k.GetNodeId()); ok {
			rec.Meta = old.GetMeta()
		}
		if err := autolockstore.Keysets.Put(tx, rec); err != nil {
			return err
		}
		n, ok := pkistore.Nodes.Get(tx, k.GetNodeId())
		if !ok {
			return pki.ErrRotated
		}
		n = proto.CloneOf(n)
		n.KeysetEpoch = epoch
		if err := pkistore.Nodes.Put(tx, n); err != nil {
			return err
		}
	}
	return nil
}

// refusal is what an operator is told.
func refusal(err error) error {
	switch {
	case errors.Is(err, pki.ErrRotating):
		return apierr.State("`redoubt ca rotate --watch` shows how far it is", "a root is being replaced already")
	case errors.Is(err, pki.ErrNotRotating):
		return apierr.State("", "no root is being replaced: there is nothing to give up")
	case errors.Is(err, pki.ErrNoAbort):
		return apierr.State("`redoubt ca rotate --watch` shows how far it is", "the replacement of the root is being given up already")
	case errors.Is(err, pki.ErrExternalFailing):
		return apierr.State("mend it (`redoubt ca external show`) and run `redoubt ca external set` again, or `redoubt ca external rm`",
			"the external CA certifies no worker: none would get a certificate below a new root")
	case errors.Is(err, pki.ErrRotated):
		return apierr.Conflict("cluster's set of managers")
	}
	return err
}
