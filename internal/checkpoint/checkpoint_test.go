package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// someone has a key.
type someone struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
}

func newSomeone(t testing.TB) someone {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return someone{public, private}
}

func (s someone) cluster(c Checkpoint) (key, line string) {
	return ClusterKey(c, s.public), ClusterLine(c, s.public, ed25519.Sign(s.private, c.Text()))
}

func (s someone) manager(c Checkpoint, node string, at int64) (key, line string) {
	return ManagerKey(c.Cluster, node, s.public), ManagerLine(c.Cluster, node, s.public, at, ed25519.Sign(s.private, CosignText(c.Text(), at)))
}

func sample() Checkpoint {
	return Checkpoint{Cluster: ident.New(), Incarnation: 3, Size: 1042, Root: tlog.Hash{1, 2, 3}}
}

func TestOpen(t *testing.T) {
	c, node := sample(), ident.New()
	at := time.Date(2026, 11, 23, 4, 5, 6, 0, time.UTC)
	key, line := newSomeone(t).cluster(c)
	mkey, mline := newSomeone(t).manager(c, node, at.Unix())
	whole := Note(c, line, mline)
	for name, tc := range map[string]struct {
		keys []string
		by   []Signer
	}{
		"both":       {[]string{key, mkey}, []Signer{{Name: c.Origin()}, {ManagerName(c.Cluster, node), at}}},
		"cluster":    {[]string{key}, []Signer{{Name: c.Origin()}}},
		"manager":    {[]string{mkey, mkey}, []Signer{{ManagerName(c.Cluster, node), at}}},
		"nobody":     {nil, nil},
		"a stranger": {[]string{ClusterKey(c, newSomeone(t).public)}, nil},
	} {
		got, err := Open(whole, tc.keys)
		if unsigned := new(UnsignedError); tc.by == nil {
			if !errors.As(err, &unsigned) || unsigned.Checkpoint != c {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || got.Checkpoint != c || len(got.By) != len(tc.by) {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		for i, by := range tc.by {
			if got.By[i] != by {
				t.Errorf("%s: signed by %v, want %v", name, got.By[i], by)
			}
		}
	}
	// A tool that knows notes and nothing of Redoubt reads the cluster's signature.
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(whole, note.VerifierList(v)); err != nil || n.Text != string(c.Text()) {
		t.Errorf("note: %v", err)
	}
	if node2 := NodeOf(c.Cluster, ManagerName(c.Cluster, node)); node2 != node || NodeOf(ident.New(), ManagerName(c.Cluster, node)) != "" || NodeOf(c.Cluster, c.Origin()) != "" {
		t.Errorf("the key is manager %q's", node2)
	}
}

// TestChanged: whatever is changed in a note, it is not what was signed.
func TestChanged(t *testing.T) {
	c, node := sample(), ident.New()
	key, line := newSomeone(t).cluster(c)
	mkey, mline := newSomeone(t).manager(c, node, 1)
	whole := Note(c, line, mline)
	keys := []string{key, mkey}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		got, err := Open(b, keys)
		// What changes a name or a hash makes a stranger of one signer: the other is left.
		if err == nil && (got.Checkpoint != c || len(got.By) == 2) {
			t.Fatalf("byte %d changed: %+v", i, got)
		}
	}
	for i := range whole {
		if got, err := Open(whole[:i], keys); err == nil && (got.Checkpoint != c || len(got.By) == 2) {
			t.Fatalf("cut to %d bytes: %+v", i, got)
		}
	}
	// The time of a cosignature is signed with it.
	later := ManagerLine(c.Cluster, node, mustKey(t, mkey).public, 2, mustSig(t, mline))
	if _, err := Open(Note(c, line, later), keys); !errors.As(err, new(*note.InvalidSignatureError)) {
		t.Errorf("another time: %v", err)
	}
	// A signature of another log's key vouches for nothing, nor one of another incarnation.
	other := c
	other.Incarnation++
	s := newSomeone(t)
	okey, _ := s.cluster(other)
	foreign := line2(other, s, c)
	if _, err := Open(Note(c, foreign), []string{okey}); !errors.As(err, new(*UnsignedError)) {
		t.Errorf("of another incarnation: %v", err)
	}
}

// line2 is a good signature over c by the key of another log.
func line2(other Checkpoint, s someone, c Checkpoint) string {
	return ClusterLine(other, s.public, ed25519.Sign(s.private, c.Text()))
}

func mustKey(t *testing.T, s string) key {
	t.Helper()
	k, err := parseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSig(t *testing.T, line string) []byte {
	t.Helper()
	_, err := Open(Note(sample(), line), nil)
	if !errors.As(err, new(*UnsignedError)) {
		t.Fatal(err)
	}
	raw := decode(t, line[strings.LastIndexByte(line, ' ')+1:len(line)-1])
	return raw[4+timeBytes:]
}

func TestParse(t *testing.T) {
	c := sample()
	if got, err := Parse(c.Text()); err != nil || got != c {
		t.Fatalf("%+v, %v", got, err)
	}
	text := string(c.Text())
	for name, bad := range map[string]string{
		"nothing":              "",
		"no end":               strings.TrimSuffix(text, "\n"),
		"a line more":          text + "more\n",
		"another log":          strings.Replace(text, "/audit/", "/events/", 1),
		"no cluster":           strings.Replace(text, c.Cluster, "", 1),
		"a padded number":      strings.Replace(text, "\n1042\n", "\n01042\n", 1),
		"a sign":               strings.Replace(text, "\n1042\n", "\n+1042\n", 1),
		"no records":           strings.Replace(text, "\n1042\n", "\n0\n", 1),
		"too many":             strings.Replace(text, "\n1042\n", "\n9223372036854775808\n", 1),
		"incarnation 0":        strings.Replace(text, "/audit/3", "/audit/0", 1),
		"a short root":         strings.Replace(text, "AQID", "AQ==", 1),
		"another way of a bit": strings.Replace(text, "A=\n", "B=\n", 1),
		"a carriage return":    strings.ReplaceAll(text, "\n", "\r\n"),
	} {
		if got, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestKeys(t *testing.T) {
	c := sample()
	s := newSomeone(t)
	good := ManagerKey(c.Cluster, ident.New(), s.public)
	if name, err := CheckKey(good); err != nil || NodeOf(c.Cluster, name) == "" {
		t.Fatal(name, err)
	}
	for i := range good {
		b := []byte(good)
		b[i] ^= 1
		if _, err := CheckKey(string(b)); err == nil {
			t.Errorf("byte %d changed, and it is still a key: %s", i, b)
		}
	}
	for _, bad := range []string{"", "a", "a+b", "a+b+c", good + "=", strings.Repeat("a", maxKey+1), writeKey("a b", algCluster, s.public), writeKey("a", 2, s.public), writeKey("", algCluster, s.public)} {
		if _, err := CheckKey(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
	if _, err := Open(Note(c), make([]string, MaxKeys+1)); err == nil {
		t.Error("more keys than there may be")
	}
	if _, err := Open(make([]byte, MaxNote+1), nil); err == nil {
		t.Error("a note larger than one may be")
	}
}

// TestOfLog: what is kept of a log is one of it, of as many records as it is said to be.
func TestOfLog(t *testing.T) {
	c := sample()
	_, line := newSomeone(t).cluster(c)
	root := func(size uint64) (tlog.Hash, error) {
		if size != c.Size {
			return tlog.Hash{}, errors.New("not read")
		}
		return c.Root, nil
	}
	if got, err := OfLog(Note(c, line), c.Size, c.Size+7, root); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	other := c
	other.Root[5] ^= 1
	for name, bad := range map[string]struct {
		msg           []byte
		size, records uint64
	}{
		"nothing":             {nil, 0, 9},
		"rubbish":             {[]byte("x\n\n"), c.Size, c.Size},
		"of another size":     {Note(c, line), c.Size - 1, c.Size},
		"more than there are": {Note(c, line), c.Size, c.Size - 1},
		"other records":       {Note(other), c.Size, c.Size},
	} {
		if got, err := OfLog(bad.msg, bad.size, bad.records, root); !errors.As(err, new(*ForeignError)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	later := c
	later.Size++
	if _, err := OfLog(Note(later), later.Size, later.Size, root); err == nil || errors.As(err, new(*ForeignError)) {
		t.Errorf("what cannot be read: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	c := sample()
	s := newSomeone(f)
	key, line := s.cluster(c)
	mkey, mline := newSomeone(f).manager(c, ident.New(), 1)
	f.Add(Note(c, line, mline))
	f.Add(c.Text())
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Open(b, []string{key, mkey}); err == nil && got.Checkpoint != c {
			t.Fatalf("nobody signed %+v", got)
		}
		if got, err := Parse(b); err == nil && !bytes.Equal(got.Text(), b) {
			t.Fatal("two writings of one checkpoint")
		}
	})
}

func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
