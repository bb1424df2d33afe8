package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/external"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// noteTimeout bounds writing down what became of an external CA.
const noteTimeout = 10 * time.Second

// externals carries what keyd ordered to the CA outside of the cluster, and its
// answer back.
type externals struct {
	client external.Client
	// outcome is told what the CA made of each order, which a keyset of that epoch
	// made: "", or why that is no certificate.
	outcome func(ctx context.Context, epoch uint64, failure string)
}

// fill has the external CA sign, where keyd ordered that instead of signing. There
// is no other way to a leaf then: what fails is an error, and the node keeps what it
// has.
func (s signer) fill(ctx context.Context, o *keydpb.Order, csr []byte) (*profilepb.CertificateChain, error) {
	leaf, err := s.order(ctx, o, csr)
	switch {
	case err == nil:
		return leaf, nil
	case gone(ctx):
		return nil, err
	}
	return nil, &pki.ExternalError{Err: fmt.Errorf("the certificate is not signed: %w", err)}
}

// gone reports whether who asked went away.
func gone(ctx context.Context) bool {
	return ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled)
}

// hurried reports whether who asks leaves the CA less than its time, as nodes can and
// none does by itself: what it does not manage then says nothing of it.
func hurried(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return ok && time.Until(end) < external.SignTimeout
}

func (s signer) order(ctx context.Context, o *keydpb.Order, csr []byte) (*profilepb.CertificateChain, error) {
	hasty := hurried(ctx)
	root, err := x509.ParseCertificate(o.GetRoot())
	if err != nil {
		return nil, err
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	ca := s.external.client.Authorized(ctx, external.Order{URL: o.GetUrl(), Root: root, Token: o.GetToken(), NotAfter: time.Unix(o.GetNotAfter(), 0)})
	answer, err := ca.CreateCertificate(&apiv1.CreateCertificateRequest{CSR: req})
	if err != nil {
		if !gone(ctx) && !hasty {
			s.external.outcome(ctx, o.GetEpoch(), err.Error())
		}
		return nil, err
	}
	take := &keydpb.TakeExternalRequest{Order: o.GetId(), Chain: [][]byte{answer.Certificate.Raw}}
	for _, c := range answer.CertificateChain {
		take.Chain = append(take.Chain, c.Raw)
	}
	taken, err := s.keyd.TakeExternal(ctx, take)
	switch {
	case err == nil:
		s.external.outcome(ctx, o.GetEpoch(), "")
	case keydclient.CodeOf(err) == keydpb.Code_CODE_DENIED: // what else fails is keyd's
		s.external.outcome(ctx, o.GetEpoch(), err.Error())
	}
	return taken.GetLeaf(), err
}

// noteExternal writes down what became of an order to the external CA, where that is
// news.
func (m *managerState) noteExternal(ctx context.Context, epoch uint64, failure string) {
	news := false
	_ = m.store.View(func(r *raftstore.ReadTx) error { // a store that is closed takes none
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		news = ok && pki.ExternalNews(c, epoch, failure, r.Clock())
		return nil
	})
	if !news {
		return
	}
	if failure == "" {
		m.n.log.Info("the external CA signs again")
	} else {
		m.n.log.Warn("the external CA certified nothing", "why", failure)
	}
	// Also where the caller's time is up: it is what there is to be told.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if err := m.store.Update(ctx, func(tx *raftstore.Tx) error { return pki.NoteExternal(tx, epoch, failure) }); err != nil {
		m.n.log.Warn("what became of the external CA is not on record", "err", err)
	}
}

// orderKey is what an external CA verifies keyd's orders with.
func (n *Node) orderKey(ctx context.Context) ([]byte, error) {
	st, err := n.keyd.Status(ctx)
	return st.GetOrderKey(), err
}
