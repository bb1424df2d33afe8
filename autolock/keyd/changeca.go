package keyd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// changes says what each step does, for the journal.
var changes = map[keydpb.CAChange]string{
	keydpb.CAChange_CA_CHANGE_ISSUER:      "new issuing CAs",
	keydpb.CAChange_CA_CHANGE_NEW_ROOT:    "a second root",
	keydpb.CAChange_CA_CHANGE_SWITCH_ROOT: "the other root signs",
	keydpb.CAChange_CA_CHANGE_DROP_ROOT:   "the other root goes",

	keydpb.CAChange_CA_CHANGE_EXTERNAL:    "an external CA signs workers",
	keydpb.CAChange_CA_CHANGE_NO_EXTERNAL: "no external CA signs",
}

// rotateCA makes the keyset of the next epoch in which one of the CAs is another,
// for all managers. That it is wanted, and who the managers are, is redoubtd's
// word; keys leave for nobody but keyds that this CA certified and did not
// retire, and a root that was dropped never comes back.
func (s *Server) rotateCA(req *keydpb.RotateCARequest) (*keydpb.RotateCAResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	what, ok := changes[req.GetChange()]
	if !ok {
		return nil, invalid("no such change of the CAs")
	}
	if err := opened.keyset.allows(req.GetChange()); err != nil {
		return nil, err
	}
	var outside *external
	if req.GetChange() == keydpb.CAChange_CA_CHANGE_EXTERNAL {
		if outside, err = parseExternal(opened.keyset, req.GetExternal(), now); err != nil {
			return nil, err
		}
		what += fmt.Sprintf(", %s, certificate %x", outside.url, sha256.Sum256(outside.signer.Raw))
	} else if req.GetExternal() != nil {
		return nil, invalid("an external CA is named where none is set")
	}
	to, err := s.recipients(opened, &keydpb.RotateKeysetRequest{Managers: req.GetManagers()}, now)
	if err != nil {
		return nil, err
	}
	if err := s.managers.check(managerRate, now); err != nil {
		return nil, err
	}
	detail := fmt.Sprintf("%s: epoch %d for", what, opened.keyset.epoch+1)
	for _, id := range to {
		detail += " " + id.NodeID
	}
	if err := s.note(entry{Event: "rotate-ca", Detail: detail}); err != nil {
		return nil, err
	}
	k, err := opened.keyset.changed(now, req.GetChange(), outside)
	if err != nil {
		return nil, fmt.Errorf("making the next keyset: %w", err)
	}
	defer k.destroy()
	resp := &keydpb.RotateCAResponse{Epoch: k.epoch, Root: k.root.Raw, Other: rawOf(k.other), Issuer: k.issuing.Raw, WorkloadIssuer: k.workload.Raw}
	if k.external != nil {
		resp.External = k.external.issuer.Raw
	}
	for _, c := range k.cross {
		resp.Cross = append(resp.Cross, c.Raw)
	}
	resp.Sealed, err = k.sealFor(to)
	return resp, err
}

// allows returns why that change cannot be made now.
func (k *keyset) allows(change keydpb.CAChange) error {
	switch one := k.other == nil; {
	case change == keydpb.CAChange_CA_CHANGE_NEW_ROOT && !one:
		return denied("the root is being replaced already")
	case (change == keydpb.CAChange_CA_CHANGE_SWITCH_ROOT || change == keydpb.CAChange_CA_CHANGE_DROP_ROOT) && one:
		return denied("there is one root, and it is not being replaced")
	case (change == keydpb.CAChange_CA_CHANGE_EXTERNAL || change == keydpb.CAChange_CA_CHANGE_NO_EXTERNAL) && !one:
		return denied("the root is being replaced: who signs workers is changed before or after that")
	case change == keydpb.CAChange_CA_CHANGE_NO_EXTERNAL && k.external == nil:
		return denied("no external CA is set")
	}
	return nil
}

// changed is the keyset of the next epoch with one change, in memory of its own.
// outside is the external CA that comes, where the change is that.
func (k *keyset) changed(now time.Time, change keydpb.CAChange, outside *external) (*keyset, error) {
	if err := k.allows(change); err != nil {
		return nil, err
	}
	next := *k
	next.buf, next.epoch = nil, k.epoch+1
	made := &fresh{now: now}
	defer made.wipe()
	switch change {
	case keydpb.CAChange_CA_CHANGE_NEW_ROOT:
		made.root(&next)
	case keydpb.CAChange_CA_CHANGE_SWITCH_ROOT:
		next.root, next.rootKey, next.other, next.otherKey = k.other, k.otherKey, k.root, k.rootKey
		made.issuers(&next)
		made.external(&next, next.external)
	case keydpb.CAChange_CA_CHANGE_EXTERNAL:
		made.external(&next, outside)
	case keydpb.CAChange_CA_CHANGE_NO_EXTERNAL:
		made.external(&next, nil)
	case keydpb.CAChange_CA_CHANGE_DROP_ROOT:
		next.formerRoots = append([]*x509.Certificate{k.other}, k.formerRoots...)
		next.other, next.otherKey = nil, nil
	default:
		made.issuers(&next)
	}
	if next.workload == nil || next.tokenKey == nil { // of the first format
		made.workload(&next)
	}
	if made.err != nil {
		return nil, made.err
	}
	next.prune()
	return next.pack()
}

// prune forgets the roots of before below which no issuing CA is remembered, such as
// one that was given up before it signed, and the cross certificates that lead to none
// of the others: they would push out those that are needed. Each that stays signed one
// of at most maxFormer.
func (k *keyset) prune() {
	var used []*x509.Certificate
	for _, root := range k.formerRoots {
		if slices.ContainsFunc(k.former, func(c *x509.Certificate) bool { return c.CheckSignatureFrom(root) == nil }) {
			used = append(used, root)
		}
	}
	k.formerRoots = used
	roots := append(k.roots(), used...)
	var cross []*x509.Certificate
	for _, x := range k.cross {
		if signedByOne(x, roots) && slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return isOf(x, root) }) {
			cross = append(cross, x)
		}
	}
	k.cross = cross
}

func atMost(certs []*x509.Certificate) []*x509.Certificate { return certs[:min(len(certs), maxFormer)] }

// fresh makes new keys, and wipes what of them is not in locked memory.
type fresh struct {
	now     time.Time
	secrets [][]byte
	err     error
}

func (f *fresh) wipe() {
	for _, s := range f.secrets {
		clear(s)
	}
}

func (f *fresh) ca(kind string, k *keyset, parent *x509.Certificate, parentKey []byte, life time.Duration) (*x509.Certificate, []byte) {
	if f.err != nil {
		return nil, nil
	}
	cert, scalar, err := newCA(k.clusterID, kind, f.now, life, parent, parentKey)
	f.secrets, f.err = append(f.secrets, scalar), err
	return cert, scalar
}

// root makes a second root, which the first certifies, and a new key for token
// records: what joined by a token of before would trust the root that goes.
//
// The first is not certified by the second: whoever has the first one's key
// could then speak for the second.
func (f *fresh) root(k *keyset) {
	k.other, k.otherKey = f.ca("root", k, nil, nil, rootLife)
	if f.err != nil {
		return
	}
	cross, err := crossCertify(k.other, k.root, k.rootKey)
	if err != nil {
		f.err = err
		return
	}
	k.cross = atMost(append([]*x509.Certificate{cross}, k.cross...))
	k.recordSeed = make([]byte, len(k.recordSeed))
	f.secrets = append(f.secrets, k.recordSeed)
	rand.Read(k.recordSeed)
}

// issuers makes the issuing CAs of nodes and of workloads below the root that
// signs. The ones before are former ones.
func (f *fresh) issuers(k *keyset) {
	k.former = atMost(append([]*x509.Certificate{k.issuing}, k.former...))
	k.issuing, k.issuingKey = f.ca("issuing", k, k.root, k.rootKey, issuingLife)
	k.workload, k.workloadKey = f.ca("workload", k, k.root, k.rootKey, issuingLife)
}

// external has the root that signs certify an external CA, or nobody where that is
// nil. The certificate of before is a former one.
func (f *fresh) external(k *keyset, to *external) {
	if k.external != nil {
		k.former = atMost(append([]*x509.Certificate{k.external.issuer}, k.former...))
	}
	if k.external = nil; to == nil || f.err != nil {
		return
	}
	issuer, err := certifyExternal(k, to.signer, f.now)
	f.err = err
	k.external = &external{url: to.url, provisioner: to.provisioner, signer: to.signer, root: to.root, issuer: issuer}
}

func (f *fresh) workload(k *keyset) {
	if k.workload == nil {
		k.workload, k.workloadKey = f.ca("workload", k, k.root, k.rootKey, issuingLife)
	}
	if k.tokenKey == nil && f.err == nil {
		k.tokenKey, f.err = newScalar()
		f.secrets = append(f.secrets, k.tokenKey)
	}
}

// crossCertify certifies a root by another one: same subject, same key, so that
// who trusts only the other takes what this one signed.
func crossCertify(root, by *x509.Certificate, byKey []byte) (*x509.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber:                newSerial(),
		RawSubject:                  root.RawSubject,
		SubjectKeyId:                root.SubjectKeyId,
		NotBefore:                   root.NotBefore,
		NotAfter:                    root.NotAfter,
		KeyUsage:                    root.KeyUsage,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLen:                  1, // of an issuing CA and its leaves
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         root.PermittedURIDomains,
	}
	if t.NotAfter.After(by.NotAfter) {
		t.NotAfter = by.NotAfter
	}
	if t.NotBefore.Before(by.NotBefore) {
		t.NotBefore = by.NotBefore
	}
	signer := scalarSigner{by.PublicKey.(*ecdsa.PublicKey), byKey}
	der, err := x509.CreateCertificate(rand.Reader, t, by, root.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	cross, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if cross.CheckSignatureFrom(by) != nil || string(cross.RawSubjectPublicKeyInfo) != string(root.RawSubjectPublicKeyInfo) {
		return nil, errors.New("the cross certificate just signed is not as it should be")
	}
	return cross, nil
}

// succeeds reports whether this keyset's root is one that the holder of old has,
// or one that such a root certified, by way of others perhaps.
func (k *keyset) succeeds(old *keyset) bool {
	trusted := old.roots()
	candidates := append(k.roots(), k.formerRoots...)
	for range candidates { // each round finds one more, or nothing
		for _, c := range candidates {
			if !isOneOf(c, trusted) && certifiedBy(c, k.cross, trusted) {
				trusted = append(trusted, c)
			}
		}
	}
	return isOneOf(k.root, trusted)
}

func isOneOf(c *x509.Certificate, list []*x509.Certificate) bool {
	for _, o := range list {
		if c.Equal(o) {
			return true
		}
	}
	return false
}

// certifiedBy reports whether one of the cross certificates is of root's subject
// and key, by one of those trusted.
func certifiedBy(root *x509.Certificate, cross, trusted []*x509.Certificate) bool {
	for _, x := range cross {
		if x.MaxPathLen > 0 && isOf(x, root) && signedByOne(x, trusted) {
			return true
		}
	}
	return false
}

// isOf reports whether a cross certificate is of that root's subject and key.
func isOf(cross, root *x509.Certificate) bool {
	return string(cross.RawSubject) == string(root.RawSubject) && string(cross.RawSubjectPublicKeyInfo) == string(root.RawSubjectPublicKeyInfo)
}

// journalled says which of these keys the journal in use has a certificate of the node
// for.
func (s *Server) journalled(req *keydpb.JournalledRequest) (*keydpb.JournalledResponse, error) {
	if _, err := s.opened(); err != nil {
		return nil, err
	}
	if len(req.GetSpki()) > maxJournalled {
		return nil, invalid("more than %d keys", maxJournalled)
	}
	if !ident.Valid(req.GetNodeId()) {
		return nil, invalid("the node is not named whose certificates are asked for")
	}
	resp := &keydpb.JournalledResponse{}
	for _, spki := range req.GetSpki() {
		resp.Known = append(resp.Known, s.journal.issued[given{req.GetNodeId(), hex.EncodeToString(spki)}])
	}
	return resp, nil
}
