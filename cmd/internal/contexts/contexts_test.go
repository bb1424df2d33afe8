package contexts

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

func newPerson(t *testing.T, ca *pkitest.CA, name string) *pki.Person {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssuePerson(name, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pki.NewPerson(chain, key, nil, []string{"192.0.2.1:2377"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newKey is a Key of an age identity, which is quicker than a passphrase.
func newKey(t *testing.T) Key {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	k, err := Identity("/home/alice/key.txt", strings.NewReader("# a comment\n"+i.String()+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func always(k Key) func(Header) (Key, error) { return func(Header) (Key, error) { return k, nil } }

func newStore(t *testing.T) Store {
	return Store{Dir: filepath.Join(t.TempDir(), "redoubt", "contexts")}
}

func TestContexts(t *testing.T) {
	s, ca, k := newStore(t), pkitest.New(t), newKey(t)
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	p := newPerson(t, ca, "alice")
	for _, name := range []string{"prod", "test"} {
		if err := errors.Join(s.Prepare(t.Context(), name, false), s.Create(t.Context(), name, p, k)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Prepare(t.Context(), "prod", false); !errors.Is(err, ErrExists) {
		t.Errorf("there is one already: %v", err)
	}
	if err := s.Prepare(t.Context(), "prod", true); err != nil {
		t.Error(err)
	}
	o, err := s.Open("prod", always(k))
	if err != nil {
		t.Fatal(err)
	}
	if !o.Person.Key.Equal(p.Key) || o.Person.Name() != "alice" || o.Person.ClusterID() != ca.ClusterID || o.Header.Identity != "/home/alice/key.txt" || o.Person.Managers[0] != "192.0.2.1:2377" {
		t.Errorf("%+v", o.Header)
	}
	if _, err := s.Open("prod", always(newKey(t))); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another identity: %v", err)
	}
	for path, mode := range map[string]os.FileMode{"": 0o700, "prod.context": 0o600, "prod.lock": 0o600} {
		if fi, err := os.Stat(filepath.Join(s.Dir, path)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v", path, fi.Mode(), err)
		}
	}
	if err := s.Use("prod"); err != nil {
		t.Fatal(err)
	}
	if name, err := s.Current(); name != "prod" || err != nil {
		t.Errorf("%s is in use, %v", name, err)
	}
	if err := s.Use("none"); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "prod"); err != nil {
		t.Fatal(err)
	}
	if name, err := s.Current(); name != "" || err != nil {
		t.Errorf("%s is in use after it was removed, %v", name, err)
	}
	if _, err := s.Open("prod", always(k)); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "prod"); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	for _, name := range []string{"", "default", "../x", "A", ".", "a/b", "a.context"} {
		if CheckName(name) == nil || s.Prepare(t.Context(), name, true) == nil || s.Use(name) == nil && name != Local {
			t.Errorf("%q is a name", name)
		}
	}
}

// TestNothingInClear looks for the key in what is on disk.
func TestNothingInClear(t *testing.T) {
	p, k := newPerson(t, pkitest.New(t), "alice"), newKey(t)
	raw, err := k.seal("prod", p)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := p.Key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, scalar) || bytes.Contains(raw, p.Chain.GetCertificates()[0]) {
		t.Error("key or certificate are there in clear")
	}
}

func TestPassphrase(t *testing.T) {
	p := newPerson(t, pkitest.New(t), "alice")
	k, err := Passphrase("correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := k.seal("prod", p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(raw); err != nil {
		t.Error(err)
	}
	other, err := Passphrase("correct horse batterz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.open(raw); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another passphrase: %v", err)
	}
}

// TestChangedFile changes a context's file as somebody would who can write it.
func TestChangedFile(t *testing.T) {
	ca := pkitest.New(t)
	p, k := newPerson(t, ca, "alice"), newKey(t)
	raw, err := k.seal("prod", p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(raw); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(raw); i += 5 { // a bit anywhere
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if q, err := k.open(bad); err == nil {
			t.Fatalf("bit 0 of byte %d: opened as %s", i, q.Name())
		}
	}
	for name, bad := range map[string][]byte{
		"another person":  bytes.Replace(raw, []byte(`"alice"`), []byte(`"carol"`), 1),
		"another manager": bytes.Replace(raw, []byte("192.0.2.1"), []byte("192.0.2.6"), 1),
		"another name":    bytes.Replace(raw, []byte(`"prod"`), []byte(`"test"`), 1),
		"an unknown key":  bytes.Replace(raw, []byte(`"person"`), []byte(`"x":1,"person"`), 1),
		"cut":             raw[:len(raw)-1],
		"longer":          append(bytes.Clone(raw), 0),
		"nothing":         nil,
		"a header alone":  raw[:bytes.IndexByte(raw[len(magic):], '\n')+len(magic)+1],
		"another version": append([]byte("RDTX2\n"), raw[len(magic):]...),
	} {
		if _, err := k.open(bad); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	// The header of another context with the content of this one.
	other, err := k.seal("prod", newPerson(t, ca, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	cut := func(b []byte) int { return bytes.IndexByte(b[len(magic):], '\n') + len(magic) + 1 }
	if _, err := k.open(append(bytes.Clone(other[:cut(other)]), raw[cut(raw):]...)); err == nil {
		t.Error("a header of another person: opened")
	}
	s := newStore(t)
	if err := s.Prepare(t.Context(), "prod", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("test"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("test", always(k)); err == nil {
		t.Error("a context under another's name: opened")
	}
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].Damaged == nil {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestIdentityFiles(t *testing.T) {
	for name, text := range map[string]string{"nothing": "", "no identity": "hello", "a recipient": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
		"a damaged key": "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"} {
		if _, err := Identity("f", strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), "QQQQ") {
			t.Errorf("%s: %v shows a key", name, err)
		}
	}
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	k, err := Identity("f", strings.NewReader(h.String()))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := k.seal("prod", newPerson(t, pkitest.New(t), "alice"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(raw); err != nil {
		t.Error(err)
	}
}

// TestRenewOnce: of commands that find a renewal due together one renews, and what is on
// disk is what that one got.
func TestRenewOnce(t *testing.T) {
	s, ca, k := newStore(t), pkitest.New(t), newKey(t)
	if err := errors.Join(s.Prepare(t.Context(), "prod", false), s.Create(t.Context(), "prod", newPerson(t, ca, "alice"), k)); err != nil {
		t.Fatal(err)
	}
	next := newPerson(t, ca, "alice")
	var mu sync.Mutex
	calls := 0
	var opened []*Opened
	for range 8 {
		o, err := s.Open("prod", always(k))
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, o)
	}
	var wg sync.WaitGroup
	for _, o := range opened {
		wg.Go(func() {
			if err := o.Renew(t.Context(), func(context.Context, *pki.Person) (*pki.Person, error) {
				mu.Lock()
				defer mu.Unlock()
				calls++
				return next, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if calls != 1 {
		t.Errorf("%d renewals", calls)
	}
	for i, o := range opened {
		if !o.Person.Key.Equal(next.Key) {
			t.Errorf("command %d goes on with the certificate from before", i)
		}
	}
	o, err := s.Open("prod", always(k))
	if err != nil || !o.Person.Key.Equal(next.Key) {
		t.Errorf("the next key is not there: %v", err)
	}
	failed := errors.New("no manager")
	if err := o.Renew(t.Context(), func(context.Context, *pki.Person) (*pki.Person, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if o, err = s.Open("prod", always(k)); err != nil || !o.Person.Key.Equal(next.Key) {
		t.Errorf("a renewal that failed changed the file: %v", err)
	}
}

// TestLocked: a command that hangs while it renews does not have others hang, and what
// they have goes on being good.
func TestLocked(t *testing.T) {
	s, ca, k := newStore(t), pkitest.New(t), newKey(t)
	p := newPerson(t, ca, "alice")
	if err := errors.Join(s.Prepare(t.Context(), "prod", false), s.Create(t.Context(), "prod", p, k)); err != nil {
		t.Fatal(err)
	}
	o, err := s.Open("prod", always(k))
	if err != nil {
		t.Fatal(err)
	}
	hangs, err := os.OpenFile(filepath.Join(s.Dir, "prod.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	if err := syscall.Flock(int(hangs.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	calls := 0
	renew := func(bound time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		return o.Renew(ctx, func(_ context.Context, p *pki.Person) (*pki.Person, error) {
			calls++
			return p, nil
		})
	}
	if err := renew(10 * time.Millisecond); !errors.Is(err, ErrBusy) || calls != 0 || !o.Person.Key.Equal(p.Key) {
		t.Errorf("%d renewals beside one that hangs: %v", calls, err)
	}
	if err := hangs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := renew(time.Minute); err != nil || calls != 1 {
		t.Errorf("%d renewals after it: %v", calls, err)
	}
}

// TestPrepare: where no context could be written an error says so, before an invitation
// is used for it.
func TestPrepare(t *testing.T) {
	s := newStore(t)
	if err := s.Prepare(t.Context(), "prod", false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) != 1 || left[0].Name() != "prod.lock" {
		t.Errorf("what it left: %v, %v", left, err)
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "test.lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), "test", false); err == nil {
		t.Error("no lock can be taken, and the context is prepared")
	}
	if os.Geteuid() == 0 {
		return // whom no mode of a directory holds
	}
	if err := os.Chmod(s.Dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(s.Dir, 0o700)
	if err := s.Prepare(t.Context(), "prod", true); err == nil {
		t.Error("nothing can be written, and the context is prepared")
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte(magic + `{"name":"prod","person":"a","cluster":"c","managers":null,"ends":1,"identity":""}` + "\nage"))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, _, err := split(raw); err == nil && CheckName(h.Name) != nil {
			t.Errorf("%q is a context's name", h.Name)
		}
	})
}
