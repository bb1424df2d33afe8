// Package outside looks at a manager's port from outside: which strangers it answers,
// and what it shows to who belongs to the cluster.
//
// It is how a manager checks another one, which may have been changed so that it says
// of itself whatever it likes. It opens ten connections, one after the other, keeps
// none, and says nothing over any but the first words of HTTP/2. The one who is
// looked at counts the strangers as those they are.
package outside

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
)

// patience is how long an answer is waited for once hands were shaken.
const patience = 3 * time.Second

// protocol is one that managers alone speak, and by which a member looks.
const protocol = pki.ALPNWitness

// protocols are those that a manager serves to nobody without a certificate of the
// cluster.
var protocols = []string{pki.ALPNWitness, pki.ALPNRaft, pki.ALPNLeader}

// Seen is what a look found.
type Seen struct {
	// Admitted says which strangers were answered; empty is as it should be.
	Admitted []string
	// Group is the key exchange that was agreed on with a member, Shown the
	// certificate that the member saw.
	Group tls.CurveID
	Shown *x509.Certificate
}

// Look looks at the manager of that id at addr, as a member by its credentials. An
// error says that nothing can be said of it, as where it does not answer.
func Look(ctx context.Context, addr, nodeID string, as *pki.Credentials) (*Seen, error) {
	// It is offered the key exchange of before, too, and that is no error here: what it
	// chooses is what is looked at.
	member := as.ClientConfig(protocol, nodeID)
	member.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	verify := member.VerifyConnection
	member.VerifyConnection = func(cs tls.ConnectionState) error {
		cs.CurveID = tls.X25519MLKEM768
		return verify(cs)
	}
	conn, err := pki.DialTLS(ctx, addr, member)
	if err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	conn.Close()
	seen := &Seen{Group: state.CurveID, Shown: state.PeerCertificates[0]}
	forged, err := forge(as.Leaf())
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		who    string
		change func(*tls.Config)
	}{
		{"one without a certificate", func(*tls.Config) {}},
		{"one with a certificate of another CA", func(c *tls.Config) { c.Certificates = []tls.Certificate{forged} }},
		{"a member without a key exchange that a quantum computer leaves whole", func(c *tls.Config) {
			c.CurvePreferences, c.GetClientCertificate = []tls.CurveID{tls.X25519}, as.GetClientCertificate
		}},
	} {
		for _, p := range protocols {
			cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{p}} // it is told nothing
			s.change(cfg)
			in, err := answered(ctx, addr, cfg)
			if err != nil {
				return nil, fmt.Errorf("%s, by %s: %w", s.who, p, err)
			}
			if in {
				seen.Admitted = append(seen.Admitted, s.who+", by "+p)
			}
		}
	}
	return seen, nil
}

// greeting is how a client of HTTP/2 begins: its preface, and settings that are empty.
const greeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// answered reports whether who dials so hears a word. Only an alert of TLS is a refusal:
// a connection that ends in another way has said nothing of who is let in. In TLS 1.3 a
// client's handshake is over before the server has judged it; so it listens first, as
// what it says to one that refuses it would reset the connection before the alert is
// read.
func answered(ctx context.Context, addr string, cfg *tls.Config) (bool, error) {
	conn, err := pki.DialTLS(ctx, addr, cfg)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return false, refused(err)
	}
	defer conn.Close()
	for _, say := range []string{"", greeting} {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return false, err
		}
		if _, err := conn.Write([]byte(say)); err != nil {
			return false, err
		}
		n, err := conn.Read(make([]byte, 1))
		if n > 0 {
			return true, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, refused(err)
		}
	}
	return false, errors.New("it is kept, and not answered")
}

// refused is nil where an error is an alert that the other end sent.
func refused(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
		return nil
	}
	return fmt.Errorf("neither let in nor refused: %w", err)
}

// forge makes a certificate that says all that like does, of a CA by the same name.
func forge(like *x509.Certificate) (tls.Certificate, error) {
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	issuer := &x509.Certificate{Subject: like.Issuer, SerialNumber: big.NewInt(1), NotBefore: like.NotBefore, NotAfter: like.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{Subject: like.Subject, SerialNumber: like.SerialNumber, NotBefore: like.NotBefore, NotAfter: like.NotAfter,
		URIs: like.URIs, KeyUsage: like.KeyUsage, ExtKeyUsage: like.ExtKeyUsage, BasicConstraintsValid: true}
	root, err := x509.CreateCertificate(rand.Reader, issuer, issuer, ca.Public(), ca)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), ca)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, root}, PrivateKey: key}, nil
}
