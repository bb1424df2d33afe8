package keyd

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
)

func TestSignCRL(t *testing.T) {
	c := newCluster(t)
	chain := c.init.GetManager().GetCertificates()
	for i, name := range map[int]string{1: "issuing CA", 2: "root"} {
		ca, err := x509.ParseCertificate(chain[i])
		if err != nil {
			t.Fatal(err)
		}
		hash := sha256.Sum256(chain[i])
		at := time.Now().Add(-time.Minute).Unix()
		req := &keydpb.SignCRLRequest{Issuer: hash[:], Number: 7, Revoked: []*keydpb.RevokedCertificate{{Serial: []byte{0x45, 1}, At: at}}}
		resp, err := c.SignCRL(t.Context(), req)
		if err != nil {
			t.Fatal(name, err)
		}
		list, err := x509.ParseRevocationList(resp.GetCrl())
		if err != nil {
			t.Fatal(name, err)
		}
		if err := list.CheckSignatureFrom(ca); err != nil {
			t.Error(name, err)
		}
		e := list.RevokedCertificateEntries
		if list.Number.Uint64() != 7 || len(e) != 1 || e[0].SerialNumber.Int64() != 0x4501 || e[0].RevocationTime.Unix() != at {
			t.Errorf("%s: number %v, entries %v", name, list.Number, e)
		}
		if list.ThisUpdate.After(time.Now()) || time.Until(list.NextUpdate) > crlLife || time.Until(list.NextUpdate) < crlLife-time.Minute || list.NextUpdate.Unix() != resp.GetNextUpdate() {
			t.Errorf("%s: good from %v until %v", name, list.ThisUpdate, list.NextUpdate)
		}
		// Never back, and not the same again.
		for _, n := range []uint64{7, 6, 1} {
			if _, err := c.SignCRL(t.Context(), &keydpb.SignCRLRequest{Issuer: hash[:], Number: n}); keydclient.CodeOf(err) != keydpb.Code_CODE_STALE_EPOCH {
				t.Errorf("%s: list %d after 7: %v", name, n, err)
			}
		}
	}
	hash := sha256.Sum256(chain[1])
	many := make([]*keydpb.RevokedCertificate, maxRevoked+1)
	for i := range many {
		many[i] = &keydpb.RevokedCertificate{Serial: []byte{1, byte(i >> 8), byte(i)}, At: 1}
	}
	one := func(serial []byte, at int64) []*keydpb.RevokedCertificate {
		return []*keydpb.RevokedCertificate{{Serial: serial, At: at}}
	}
	other := sha256.Sum256(chain[0]) // a leaf's
	for name, bad := range map[string]*keydpb.SignCRLRequest{
		"no CA":              {Number: 8},
		"a leaf as CA":       {Issuer: other[:], Number: 8},
		"no number":          {Issuer: hash[:]},
		"too many":           {Issuer: hash[:], Number: 8, Revoked: many},
		"no serial":          {Issuer: hash[:], Number: 8, Revoked: one(nil, 1)},
		"a padded serial":    {Issuer: hash[:], Number: 8, Revoked: one([]byte{0, 1}, 1)},
		"a serial too long":  {Issuer: hash[:], Number: 8, Revoked: one(bytes.Repeat([]byte{1}, 21), 1)},
		"no time":            {Issuer: hash[:], Number: 8, Revoked: one([]byte{1}, 0)},
		"a time before 1970": {Issuer: hash[:], Number: 8, Revoked: one([]byte{1}, -1)},
	} {
		if _, err := c.SignCRL(t.Context(), bad); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if resp, err := c.SignCRL(t.Context(), &keydpb.SignCRLRequest{Issuer: hash[:], Number: 8, Revoked: many[1:]}); err != nil || len(resp.GetCrl()) == 0 {
		t.Error("as many as are allowed:", err)
	}
	c.restart(t)
	if _, err := c.SignCRL(t.Context(), &keydpb.SignCRLRequest{Issuer: hash[:], Number: 9}); keydclient.CodeOf(err) != keydpb.Code_CODE_LOCKED {
		t.Error("locked:", err)
	}
	if n := strings.Count(string(readJournal(t, c.dir)), `"event":"sign-crl"`); n < 3 {
		t.Errorf("the journal has %d lines of it", n)
	}
}
