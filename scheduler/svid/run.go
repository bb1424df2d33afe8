package svid

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Run asks for what tasks are to have, renews it, and forgets what was revoked,
// until ctx ends.
func (h *Holder) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.watchDenials(ctx) })
	g.Go(func() error { return h.work(ctx) })
	return g.Wait()
}

// watchDenials heeds denials as they come, whatever managers or rund are being
// waited for.
func (h *Holder) watchDenials(ctx context.Context) error {
	for {
		changed := h.c.DenialsChanged()
		h.heed()
		h.wake()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *Holder) work(ctx context.Context) error {
	var reported, askAt time.Time
	var retry time.Duration
	for {
		h.lookAtRoots()
		now := time.Now()
		batch, wake := h.next(now)
		if batch != nil {
			h.ask(ctx, batch)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		if h.isStale() {
			if wait := askAt.Sub(now); wait > 0 {
				wake = min(wake, wait)
			} else if err := h.refresh(ctx); err == nil {
				retry = 0
			} else if ctx.Err() == nil {
				retry = min(max(2*retry, minRetry), maxRetry)
				askAt = now.Add(retry)
				wake = min(wake, retry)
				h.c.Logger.Warn("what tokens are verified with was not told, asking again", "err", err)
			}
		}
		if f := h.unfiled(now); f != nil && h.c.Files != nil {
			h.file(ctx, f)
			continue
		}
		if h.c.Report != nil && h.due() {
			if wait := reportPause - now.Sub(reported); wait <= 0 {
				reported = now
				rctx, cancel := context.WithTimeout(ctx, issueTimeout)
				if err := h.c.Report(rctx, h.held()); err != nil && ctx.Err() == nil {
					h.c.Logger.Debug("what tasks hold was not reported", "err", err)
				}
				cancel()
			} else {
				wake = min(wake, wait)
			}
		}
		t := time.NewTimer(min(max(wake, time.Millisecond), lookAgain))
		select {
		case <-t.C:
		case <-h.kick:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (h *Holder) due() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// pending is a batch that is being asked for: what each item is for.
type pending struct {
	batch *profilepb.WorkloadBatch
	keys  map[int]*ecdsa.PrivateKey
	calls map[int]*tokenCall
}

// next makes the next batch, or says when there is one.
func (h *Holder) next(now time.Time) (*pending, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &pending{batch: &profilepb.WorkloadBatch{At: now.Unix()}, keys: map[int]*ecdsa.PrivateKey{}, calls: map[int]*tokenCall{}}
	wake := lookAgain
	for len(h.asked) > 0 && len(p.batch.Items) < profile.MaxBatchItems {
		c := h.asked[0]
		h.asked = h.asked[1:]
		p.calls[len(p.batch.Items)] = c
		p.batch.Items = append(p.batch.Items, &profilepb.WorkloadItem{TaskId: c.task, Identity: c.identity, Life: int64(tokenLife / time.Second),
			Document: &profilepb.WorkloadItem_Audience{Audience: &profilepb.WorkloadAudience{Names: c.audience}}})
	}
	for id, e := range h.tasks {
		if e.want.Files && !e.filed && h.good(e, now) {
			wake = min(wake, max(e.fileAt.Sub(now), 0))
		}
		switch {
		case e.denied:
			continue
		case now.Before(e.renewAt):
			wake = min(wake, e.renewAt.Sub(now))
			continue
		case len(p.batch.Items) == profile.MaxBatchItems:
			continue
		}
		key, csr, err := newKey()
		if err != nil {
			e.why, e.renewAt = err.Error(), now.Add(maxRetry)
			continue
		}
		p.keys[len(p.batch.Items)] = key
		p.batch.Items = append(p.batch.Items, &profilepb.WorkloadItem{TaskId: id, Identity: e.want.Identity, Life: int64(h.life(e) / time.Second),
			Document: &profilepb.WorkloadItem_Csr{Csr: csr}})
	}
	if len(p.batch.Items) == 0 {
		return nil, wake
	}
	return p, 0
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csr, err := profile.NewCSR(key, nil)
	return key, csr, err
}

// ask has a batch answered, and takes over what came.
func (h *Holder) ask(ctx context.Context, p *pending) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	resp, err := h.issue(ctx, p.batch)
	var a *answer
	if err == nil {
		a, err = h.open(resp, len(p.batch.Items))
	}
	if err != nil {
		if s, ok := status.FromError(err); ok {
			err = errors.New(s.Message())
		}
		h.c.Logger.Warn("identities of tasks were not issued, asking again", "items", len(p.batch.Items), "err", err)
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if a != nil && a.bundle != nil {
		h.takeBundle(a.bundle)
	}
	for i, item := range p.batch.Items {
		var doc *profilepb.WorkloadDocument
		if a != nil {
			doc = a.documents[i]
		}
		if c := p.calls[i]; c != nil {
			h.takeToken(c, doc, err, now)
			continue
		}
		e := h.tasks[item.GetTaskId()]
		if e == nil || e.want.Identity != item.GetIdentity() || e.denied {
			continue // not wanted any more
		}
		one := err
		switch {
		case one != nil:
		case h.c.Denied(item.GetIdentity(), now):
			one = errRevoked
		default:
			one = e.take(a, doc, p.keys[i], now)
		}
		h.report = true
		if one == nil {
			continue
		}
		e.why = one.Error()
		e.retry = min(max(2*e.retry, minRetry), maxRetry)
		e.renewAt = now.Add(e.retry/2 + mrand.N(e.retry/2+1))
	}
}

var errRevoked = errors.New("the identity was revoked")

func (h *Holder) issue(ctx context.Context, b *profilepb.WorkloadBatch) (*schedulerpb.IssueResponse, error) {
	batch, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err != nil {
		return nil, err
	}
	chain, proof, err := h.c.Say(profile.BatchInput(batch))
	if err != nil {
		return nil, err
	}
	return h.c.Issue(ctx, &schedulerpb.IssueRequest{Batch: batch, Proof: proof, Chain: chain})
}

// answer is one that ends in this node's roots, or one that refuses all and has
// nothing but reasons.
type answer struct {
	documents []*profilepb.WorkloadDocument
	ca        *x509.Certificate
	between   [][]byte // ca first, without the root
	bundle    *profilepb.WorkloadBundle
}

func (h *Holder) open(resp *schedulerpb.IssueResponse, items int) (*answer, error) {
	if len(resp.GetDocuments()) != items {
		return nil, fmt.Errorf("the managers answered %d of %d items", len(resp.GetDocuments()), items)
	}
	a := &answer{documents: resp.GetDocuments()}
	if !slices.ContainsFunc(a.documents, func(d *profilepb.WorkloadDocument) bool { return d.GetError() == "" }) {
		return a, nil // all was refused, and keyd was not asked
	}
	var err error
	if a.ca, a.between, err = h.trusted(resp.GetIssuer()); err != nil {
		return nil, err
	}
	if a.bundle, err = h.openBundle(resp.GetBundle()); err != nil {
		return nil, err
	}
	return a, nil
}

// trusted returns the first of a chain that ends in a root of this node.
func (h *Holder) trusted(chain *profilepb.CertificateChain) (*x509.Certificate, [][]byte, error) {
	ders := chain.GetCertificates()
	if len(ders) < 2 || len(ders) > profile.MaxChain {
		return nil, nil, errors.New("the managers did not say who issued their answer")
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range h.c.Roots() {
		roots.AddCert(r)
	}
	var ca *x509.Certificate
	var between [][]byte
	for i, der := range ders {
		if len(der) > profile.MaxCert {
			return nil, nil, errors.New("the managers' issuer is too large")
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, errors.New("the managers' issuer is malformed")
		}
		if i == 0 {
			ca = c
		}
		others.AddCert(c)
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			between = append(between, der)
		}
	}
	_, err := ca.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil || !ca.IsCA {
		return nil, nil, errors.New("what the managers answered is of no CA below this node's roots")
	}
	return ca, between, nil
}

// take makes a document the task's certificate. The Holder's mu is held.
func (e *entry) take(a *answer, doc *profilepb.WorkloadDocument, key *ecdsa.PrivateKey, now time.Time) error {
	if doc.GetError() != "" {
		return errors.New(doc.GetError())
	}
	leaf, err := x509.ParseCertificate(doc.GetCertificate())
	if err != nil {
		return errors.New("the certificate that came is malformed")
	}
	id, err := profile.CheckSVID(leaf)
	switch {
	case err != nil:
		return err
	case id != e.want.Identity || !key.PublicKey.Equal(leaf.PublicKey) || leaf.CheckSignatureFrom(a.ca) != nil:
		return errors.New("the certificate that came is not what was asked for")
	case !now.Before(leaf.NotAfter) || now.Add(skew).Before(leaf.NotBefore):
		return errors.New("the certificate that came is not good now: look at the clocks of this node and the managers'")
	}
	e.key, e.leaf, e.chain = key, leaf, append([][]byte{leaf.Raw}, a.between...)
	e.issued, e.retry, e.why, e.filed = now, 0, "", false
	issuer := sha256.Sum256(a.ca.Raw)
	e.given = append(e.given, &schedulerpb.HeldCertificate{Serial: leaf.SerialNumber.Bytes(), Issuer: issuer[:], ExpiresAt: leaf.NotAfter.Unix()})
	e.given = e.given[max(0, len(e.given)-maxGiven):]
	part := renewFrom + mrand.Float64()*(renewTo-renewFrom)
	e.renewAt = now.Add(time.Duration(part * float64(leaf.NotAfter.Sub(now))))
	e.tell()
	return nil
}

// tellAll wakes all who wait for bundles. The Holder's mu is held.
func (h *Holder) tellAll() {
	close(h.news)
	h.news = make(chan struct{})
}

func (h *Holder) lookAtRoots() {
	roots := h.c.Roots()
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.EqualFunc(roots, h.roots, (*x509.Certificate).Equal) {
		return
	}
	h.roots = roots
	for _, e := range h.tasks {
		e.filed = false
		e.tell()
	}
	h.tellAll()
}
