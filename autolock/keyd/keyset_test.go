package keyd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// twoRoots is a keyset in the middle of a change of its root, as its parts.
func twoRoots(t *testing.T, now time.Time) *keyset {
	t.Helper()
	first, err := newKeyset(now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.destroy)
	k := *first
	k.epoch = 9
	if k.other, k.otherKey, err = newCA(k.clusterID, "root", now, rootLife, nil, nil); err != nil {
		t.Fatal(err)
	}
	gone, _, err := newCA(k.clusterID, "root", now, rootLife, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.formerRoots = []*x509.Certificate{gone}
	k.cross = []*x509.Certificate{crossSigned(t, k.other, k.root, k.rootKey), crossSigned(t, k.root, k.other, k.otherKey)}
	old, _, err := newCA(k.clusterID, "issuing", now, issuingLife, k.other, k.otherKey)
	if err != nil {
		t.Fatal(err)
	}
	k.former = []*x509.Certificate{old}
	k.formerMasters = []epochKey{{1, bytes.Repeat([]byte{7}, 32)}}
	k.master.epoch = 8
	return &k
}

// crossSigned is a CA's certificate, signed by another one.
func crossSigned(t *testing.T, ca, by *x509.Certificate, byKey []byte) *x509.Certificate {
	t.Helper()
	tmpl := *ca
	tmpl.SerialNumber, tmpl.SignatureAlgorithm = big.NewInt(5), 0
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, by, ca.PublicKey, scalarSigner{by.PublicKey.(*ecdsa.PublicKey), byKey})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// What was put together is what is read, to the byte.
func TestKeysetIsReadAsWritten(t *testing.T) {
	k := twoRoots(t, time.Now())
	got, err := k.pack()
	if err != nil {
		t.Fatal(err)
	}
	defer got.destroy()
	want, have := k.parts(), got.parts()
	if len(want) != len(have) {
		t.Fatalf("%d parts, want %d", len(have), len(want))
	}
	for i := range want {
		if !bytes.Equal(want[i], have[i]) {
			t.Errorf("part %d is another one", i)
		}
	}
	next, err := got.next(time.Now(), [][]byte{[]byte("some keyd key")})
	if err != nil {
		t.Fatal(err)
	}
	defer next.destroy()
	if next.epoch != 10 || next.master.epoch != 10 || !next.other.Equal(got.other) || len(next.former) != 2 || next.workload.Equal(got.workload) ||
		bytes.Equal(next.tokenKey, got.tokenKey) || !next.isRetired([]byte("some keyd key")) {
		t.Errorf("the next one is not as it should be: %+v", next)
	}
}

// Each certificate and each key in a keyset is held against the others.
func TestKeysetThatDoesNotFit(t *testing.T) {
	now := time.Now()
	stranger := twoRoots(t, now)
	for name, tc := range map[string]struct {
		lie  func(k *keyset)
		want string
	}{
		"the other root is the first one": {func(k *keyset) { k.other, k.otherKey = k.root, k.rootKey }, "the other root: it is the same one"},
		"the other root under its cross":  {func(k *keyset) { k.other = k.cross[0] }, "the other root: "},
		"another key of the other root":   {func(k *keyset) { k.otherKey = k.rootKey }, "the other root: the key is not"},
		"a key without the other root":    {func(k *keyset) { k.other, k.cross, k.former = nil, nil, nil }, "malformed encoding"},
		"no key of the other root":        {func(k *keyset) { k.otherKey = nil }, "malformed encoding"},
		"a stranger's cross certificate":  {func(k *keyset) { k.cross = stranger.cross }, "cross certificates: "},
		"a former root that signs itself not": {func(k *keyset) { k.formerRoots = k.cross[:1] },
			"former roots: "},
		"a stranger's issuing CA of before": {func(k *keyset) { k.former = stranger.former }, "former issuing CAs: "},
		"a leaf among the CAs of before":    {func(k *keyset) { k.former = append(k.former, &x509.Certificate{Raw: []byte("no")}) }, "malformed certificate"},
		"more of before than there may be": {func(k *keyset) {
			for len(k.former) <= maxFormer {
				k.former = append(k.former, k.former[0])
			}
		}, "more than 8"},
		"a stranger's workload CA":         {func(k *keyset) { k.workload, k.workloadKey = stranger.workload, stranger.workloadKey }, "workload CA: "},
		"another key of the workload CA":   {func(k *keyset) { k.workloadKey = k.issuingKey }, "workload CA: the key"},
		"an issuing CA of the other root":  {func(k *keyset) { k.root, k.rootKey, k.other, k.otherKey = k.other, k.otherKey, k.root, k.rootKey }, "issuing CA: "},
		"a token key that is none":         {func(k *keyset) { k.tokenKey = make([]byte, scalarLen) }, "token key: "},
		"a master of the time to come":     {func(k *keyset) { k.master.epoch = 10 }, "malformed encoding"},
		"a master of before that is newer": {func(k *keyset) { k.formerMasters[0].epoch = 8 }, "malformed encoding"},
		"a master of no epoch":             {func(k *keyset) { k.formerMasters[0].epoch = 0 }, "malformed encoding"},
		"a short master":                   {func(k *keyset) { k.master.key = k.master.key[:31] }, "malformed encoding"},
		"retired keys cut short":           {func(k *keyset) { k.retired = []byte("short") }, "malformed encoding"},
		"no epoch":                         {func(k *keyset) { k.epoch = 0 }, "malformed encoding"},
		"no cluster":                       {func(k *keyset) { k.clusterID = strings.Repeat("!", len(k.clusterID)) }, "malformed cluster id"},
	} {
		t.Run(name, func(t *testing.T) {
			k := twoRoots(t, now)
			tc.lie(k)
			got, err := k.pack()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want one with %q", err, tc.want)
			}
			got.destroy()
		})
	}
}

// A keyset as the first release wrote it is read as epoch 1, and its successor
// has what it lacks.
func TestFirstKeysetFormat(t *testing.T) {
	c := newCluster(t)
	k := c.server.secrets.keyset
	b := []byte(keysetMagicV1)
	for _, p := range [][]byte{[]byte(k.clusterID), k.root.Raw, k.issuing.Raw, k.rootKey, k.issuingKey, k.recordSeed, k.master.key, k.audit} {
		b = lp.Append(b, p)
	}
	got, err := openKeyset(memguard.NewBufferFromBytes(b))
	if err != nil || got.epoch != 1 || got.former != nil || got.workload != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	defer got.destroy()
	next, err := got.next(time.Now(), nil)
	if err != nil || next.epoch != 2 || next.workload == nil || next.tokenKey == nil || !next.former[0].Equal(got.issuing) {
		t.Fatalf("%+v, %v", next, err)
	}
	next.destroy()
}
