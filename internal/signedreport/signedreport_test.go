package signedreport

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
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

// sign returns an envelope and the key that verifies it.
func (s someone) sign(t testing.TB, st Statement) (msg []byte, key string) {
	t.Helper()
	text, err := st.Text()
	if err != nil {
		t.Fatal(err)
	}
	if msg, err = Envelope(st.Cluster, text, s.public, ed25519.Sign(s.private, Message(text))); err != nil {
		t.Fatal(err)
	}
	return msg, Key(st.Cluster, s.public)
}

// Verify, KeyID and Public implement dsse.Verifier.
func (s someone) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(s.public, data, sig) {
		return errors.New("no")
	}
	return nil
}
func (s someone) KeyID() (string, error)   { return "", nil }
func (s someone) Public() crypto.PublicKey { return s.public }

func sample() Statement {
	return Statement{SHA256: sha256.Sum256([]byte("report")), Cluster: ident.New(), Manager: ident.New(), Incarnation: 3, Number: 7,
		Previous: sha256.Sum256([]byte("six")), Signed: time.Date(2026, 11, 23, 7, 8, 9, 0, time.UTC), Records: 1042, Root: sha256.Sum256([]byte("root"))}
}

func after(t testing.TB, st Statement) Statement {
	t.Helper()
	next := st
	next.Number++
	next.Records += 5
	var err error
	if next.Previous, err = st.Sum(); err != nil {
		t.Fatal(err)
	}
	return next
}

func TestOpen(t *testing.T) {
	s, stranger := newSomeone(t), newSomeone(t)
	st := sample()
	msg, key := s.sign(t, st)
	got, err := Open(msg, []string{checkpoint.ManagerKey(st.Cluster, st.Manager, stranger.public), Key(st.Cluster, stranger.public), key})
	if err != nil || got != st {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := got.Check(sha256.Sum256([]byte("report"))); err != nil {
		t.Error(err)
	}
	if err := got.Check(sha256.Sum256([]byte("Report"))); !errors.As(err, new(ChangedError)) {
		t.Errorf("a changed report: %v", err)
	}
	first := sample()
	first.Number, first.Previous = 1, [32]byte{}
	if msg, key := s.sign(t, first); true {
		if got, err := Open(msg, []string{key}); err != nil || got != first {
			t.Errorf("the first: %+v, %v", got, err)
		}
	}
	foreign := new(ForeignError)
	if _, err := Open(msg, []string{Key(ident.New(), s.public)}); !errors.As(err, &foreign) || foreign.Cluster != st.Cluster {
		t.Errorf("of another cluster: %v", err)
	}
	for name, keys := range map[string][]string{"no keys": nil, "a stranger's": {Key(st.Cluster, stranger.public)},
		"a key of checkpoints": {checkpoint.ManagerKey(st.Cluster, st.Manager, s.public)}} {
		if _, err := Open(msg, keys); !errors.As(err, new(UnknownKeyError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(msg, []string{"a"}); err == nil {
		t.Error("a key that is none")
	}

	// Another statement under the same signature.
	other := st
	other.SHA256[0] ^= 1
	text, err := other.Text()
	if err != nil {
		t.Fatal(err)
	}
	was, _ := st.Text()
	forged, err := Envelope(st.Cluster, text, s.public, ed25519.Sign(s.private, Message(was)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(forged, []string{key}); !errors.As(err, new(SignatureError)) {
		t.Errorf("a changed statement: %v", err)
	}
	// The same key signs without DSSE's encoding, or for another type.
	for name, message := range map[string][]byte{"bare": was, "another type": dsse.PAE("text/plain", was)} {
		forged, err := Envelope(st.Cluster, was, s.public, ed25519.Sign(s.private, message))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(forged, []string{key}); !errors.As(err, new(SignatureError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An envelope that names another cluster's key.
	if forged, err = Envelope(ident.New(), was, s.public, ed25519.Sign(s.private, Message(was))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(forged, []string{key}); err == nil {
		t.Error("it names another key than the one that it is signed with")
	}
}

// TestChanged: whatever is changed in an envelope, or cut off, it is not what was signed.
func TestChanged(t *testing.T) {
	msg, key := newSomeone(t).sign(t, sample())
	for i := range msg {
		b := bytes.Clone(msg)
		b[i] ^= 1
		if got, err := Open(b, []string{key}); err == nil {
			t.Fatalf("byte %d changed: %+v", i, got)
		}
		if got, err := Open(msg[:i], []string{key}); !errors.As(err, new(CutError)) {
			t.Fatalf("cut to %d bytes: %+v, %v", i, got, err)
		}
	}
}

func TestFollows(t *testing.T) {
	st := sample()
	next := after(t, st)
	if err := next.Follows(st); err != nil {
		t.Fatal(err)
	}
	foreign, fork, later, back := st, st, next, next
	foreign.Cluster = ident.New()
	fork.Signed = fork.Signed.Add(time.Second)
	later.Number++
	back.Records = st.Records - 1
	first := st
	first.Number, first.Previous = 1, [32]byte{}
	for name, c := range map[string]struct {
		of, before Statement
		want       string
	}{
		"another cluster": {next, foreign, "of another cluster"},
		"a fork":          {next, fork, "report 8 was signed after another report 7"},
		"a gap":           {later, st, "report 9 comes after report 8, and this is 7"},
		"itself":          {st, st, "report 7 comes after report 6, and this is 7"},
		"the other way":   {st, next, "comes after report 6"},
		"a shorter log":   {back, st, "the audit log had 1041 records"},
		"the first":       {first, st, "report 1 is the first"},
	} {
		if err := c.of.Follows(c.before); !errors.As(err, new(*ChainError)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFits: a statement and a checkpoint of one audit log do not contradict each other,
// whichever was made first.
func TestFits(t *testing.T) {
	st := sample()
	at := func(size uint64, root [32]byte, after time.Duration) checkpoint.Signed {
		c := checkpoint.Signed{Checkpoint: checkpoint.Checkpoint{Cluster: st.Cluster, Incarnation: st.Incarnation, Size: size, Root: root}}
		c.By = []checkpoint.Signer{{Name: "the cluster"}, {Name: "a manager", At: st.Signed.Add(after)}}
		return c
	}
	foreign, restored := at(st.Records, st.Root, 0), at(st.Records-9, st.SHA256, time.Hour)
	foreign.Cluster = ident.New()
	restored.Incarnation++
	for name, c := range map[string]struct {
		of   checkpoint.Signed
		want string // empty: it fits
	}{
		"the same":                  {at(st.Records, st.Root, 0), ""},
		"one of before":             {at(st.Records-9, st.SHA256, -time.Hour), ""},
		"one of after":              {at(st.Records+9, st.SHA256, time.Hour), ""},
		"by a clock that is off":    {at(st.Records-9, st.SHA256, time.Minute), ""},
		"of another incarnation":    {restored, ""},
		"of another cluster":        {foreign, "the checkpoint is of another cluster"},
		"another log":               {at(st.Records, st.SHA256, 0), "have another root in each"},
		"after it, of fewer":        {at(st.Records-9, st.SHA256, time.Hour), "there were 1042 records on 2026-11-23T07:08:09Z, and 1033 on 2026-11-23T08:08:09Z"},
		"before it, of more by one": {at(st.Records+1, st.SHA256, -time.Hour), "there were 1042 records"},
	} {
		err := st.Fits(c.of)
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, new(*LogError)) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	text, err := sample().Text()
	if err != nil {
		t.Fatal(err)
	}
	s := string(text)
	for name, bad := range map[string]string{
		"nothing":           "",
		"something after":   s + " ",
		"an unknown key":    strings.Replace(s, `"number":7`, `"number":7,"more":1`, 1),
		"a key twice":       strings.Replace(s, `"number":7`, `"number":7,"number":7`, 1),
		"another case":      strings.Replace(s, `"number":7`, `"Number":7`, 1),
		"another type":      strings.Replace(s, inTotoType, inTotoType+"1", 1),
		"another predicate": strings.Replace(s, predicateType, predicateType+"1", 1),
		"another subject":   strings.Replace(s, subjectName, "page.html", 1),
		"two subjects":      strings.Replace(s, `"subject":[`, `"subject":[{"name":"report.json","digest":{"sha256":""}},`, 1),
		"number 0":          strings.Replace(s, `"number":7`, `"number":0`, 1),
		"the first":         strings.Replace(s, `"number":7`, `"number":1`, 1),
		"no records":        strings.Replace(s, `"records":1042`, `"records":0`, 1),
		"incarnation 0":     strings.Replace(s, `"incarnation":3`, `"incarnation":0`, 1),
		"parts of a second": strings.Replace(s, `07:08:09Z`, `07:08:09.5Z`, 1),
		"another zone":      strings.Replace(s, `07:08:09Z`, `08:08:09+01:00`, 1),
		"a long digest":     strings.Replace(s, `"previous":"`, `"previous":"00`, 1),
		"capital digits":    strings.Replace(s, `"root":"`, `"root":"A`, 1),
	} {
		if bad == s {
			t.Fatalf("%s changes nothing", name)
		}
		if got, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, change := range map[string]func(*Statement){
		"no cluster":                 func(s *Statement) { s.Cluster = "" },
		"no manager":                 func(s *Statement) { s.Manager = "a\"b" },
		"nothing before the seventh": func(s *Statement) { s.Previous = [32]byte{} },
		"something before the first": func(s *Statement) { s.Number = 1 },
	} {
		st := sample()
		change(&st)
		if text, err := st.Text(); err == nil {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// TestInterop: a library that knows DSSE and nothing of Redoubt takes the envelope.
func TestInterop(t *testing.T) {
	s := newSomeone(t)
	st := sample()
	msg, _ := s.sign(t, st)
	var e dsse.Envelope
	if err := json.Unmarshal(msg, &e); err != nil {
		t.Fatal(err)
	}
	e.Signatures[0].KeyID = "" // a hint, which it would hold against its own naming
	v, err := dsse.NewEnvelopeVerifier(s)
	if err != nil {
		t.Fatal(err)
	}
	_, body, err := v.VerifyAndDecode(t.Context(), &e)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(body); err != nil || got != st {
		t.Errorf("%+v, %v", got, err)
	}
	text, _ := st.Text()
	if !bytes.Equal(Message(text), dsse.PAE(PayloadType, text)) {
		t.Error("another encoding than DSSE's")
	}
	e.Payload = base64.StdEncoding.EncodeToString(append(body, ' '))
	if _, err := v.Verify(t.Context(), &e); err == nil {
		t.Error("it takes anything")
	}
}

// FuzzParseEnvelope: what is an envelope has one writing, and whatever is in it is what
// it was made of.
func FuzzParseEnvelope(f *testing.F) {
	s := newSomeone(f)
	msg, _ := s.sign(f, sample())
	f.Add(msg)
	f.Add(msg[:len(msg)-1])
	f.Add(bytes.Replace(msg, []byte(`"payload"`), []byte(`"payload":"","payload"`), 1))
	f.Add(bytes.Replace(msg, []byte(`"signatures":[`), []byte(`"signatures":[{"keyid":"","sig":""},`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		text, key, sig, err := parseEnvelope(b)
		if err != nil {
			return
		}
		name, public, err := checkpoint.ParseKey(key)
		if err != nil || clusterOf(name) == "" {
			t.Fatalf("%q is no key of reports: %v", key, err)
		}
		if again, err := Envelope(clusterOf(name), text, public, sig); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two writings of one envelope: %q and %q", b, again)
		}
	})
}

func FuzzOpen(f *testing.F) {
	s := newSomeone(f)
	st := sample()
	msg, key := s.sign(f, st)
	f.Add(msg)
	text, _ := st.Text()
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Open(b, []string{key}); err == nil && got != st {
			t.Fatalf("nobody signed %+v", got)
		}
		if got, err := Parse(b); err == nil {
			if again, err := got.Text(); err != nil || !bytes.Equal(again, b) {
				t.Fatal("two writings of one statement")
			}
		}
	})
}
