package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

const witnessName = "witness.example/w1"

// witness is what a witness of that name has said.
func (s someone) witness(c Checkpoint, name string, at int64) (key, written string) {
	sig := binary.BigEndian.AppendUint64(nil, uint64(at))
	sig = append(sig, ed25519.Sign(s.private, CosignText(c.Text(), at))...)
	return writeKey(name, algManager, s.public), line(name, algManager, s.public, sig)
}

func TestWitnesses(t *testing.T) {
	c, at := sample(), time.Date(2026, 11, 23, 4, 5, 6, 0, time.UTC)
	key, own := newSomeone(t).cluster(c)
	one, first := newSomeone(t).witness(c, witnessName, at.Unix())
	two, second := newSomeone(t).witness(c, "witness.example/w2", at.Unix()+1)
	stranger, _ := newSomeone(t).witness(c, witnessName, at.Unix())
	whole := Note(c, own, first, second)
	for name, tc := range map[string]struct {
		keys []string
		want []string
	}{
		"both":          {[]string{two, one, one}, []string{witnessName, "witness.example/w2"}},
		"one":           {[]string{two}, []string{"witness.example/w2"}},
		"nobody":        {nil, nil},
		"another's key": {[]string{stranger}, nil},
	} {
		by, err := Witnesses(whole, tc.keys)
		var names []string
		for _, w := range by {
			names = append(names, w.Name)
		}
		if err != nil || strings.Join(names, " ") != strings.Join(tc.want, " ") {
			t.Errorf("%s: %v, %v", name, by, err)
		}
	}
	by, err := Witnesses(whole, []string{one})
	if err != nil || !by[0].At.Equal(at) || by[0].Line != first {
		t.Errorf("%+v, %v", by, err)
	}
	// What witnesses add changes nothing of who signed in the cluster.
	if got, err := Open(whole, []string{key}); err != nil || got.Checkpoint != c || len(got.By) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if by, err := Witnesses(b, []string{one, two}); err == nil && len(by) == 2 && !strings.HasPrefix(string(b), string(c.Text())+"\n") {
			t.Fatalf("byte %d changed: %+v", i, by)
		}
	}
	other := c
	other.Size++
	if by, err := Witnesses(Note(other, first), []string{one}); err == nil {
		t.Errorf("a cosignature of another checkpoint: %v", by)
	}
}

func TestCosigned(t *testing.T) {
	c := sample()
	s := newSomeone(t)
	key, good := s.witness(c, witnessName, 7)
	_, others := newSomeone(t).witness(c, "witness.example/w2", 8)
	_, early := s.witness(c, witnessName, -1)
	_, late := s.witness(c, witnessName, math.MaxInt64)
	next := c
	next.Size++
	_, ofNext := s.witness(next, witnessName, 7)
	got, err := Cosigned(c, others+good, key)
	if err != nil || got.Name != witnessName || got.At.Unix() != 7 || got.Line != good {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, lines := range map[string]string{
		"nothing":                   "",
		"a stranger":                others,
		"another checkpoint":        ofNext,
		"no end":                    strings.TrimSuffix(good, "\n"),
		"an empty line":             good + "\n" + others,
		"a text before":             "hello\n" + good,
		"a text behind":             good + "hello\n",
		"a page":                    "<html>",
		"a time before all":         early,
		"the end of all time":       late,
		"more than there may be":    strings.Repeat(others, 101) + good,
		"a changed signature":       good[:len(good)-8] + "AAAAAA=\n",
		"another checkpoint's note": "— x AAAAAAAA\n\n" + string(Note(next, ofNext)),
	} {
		if got, err := Cosigned(c, lines, key); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWitnessKeys(t *testing.T) {
	c := sample()
	s := newSomeone(t)
	good, _ := s.witness(c, witnessName, 1)
	if name, err := CheckWitnessKey(good); err != nil || name != witnessName {
		t.Fatal(name, err)
	}
	for name, bad := range map[string]string{
		"a log's":          writeKey(witnessName, algCluster, s.public),
		"a manager's":      ManagerKey(c.Cluster, ident.New(), s.public),
		"of any cluster":   writeKey("redoubt/elsewhere", algManager, s.public),
		"a long name":      writeKey(strings.Repeat("w", MaxWitnessName+1), algManager, s.public),
		"an escape":        writeKey("w\x1b", algManager, s.public),
		"not ASCII":        writeKey("wítness", algManager, s.public),
		"an ML-DSA-44 key": "witness.example/w1+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{6}, make([]byte, 1312)...)),
		"a line end":       good + "\n",
		"nothing":          "",
	} {
		if got, err := CheckWitnessKey(bad); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, err := Witnesses(Note(c), []string{writeKey(witnessName, algCluster, s.public)}); err == nil {
		t.Error("a log's key is taken for a witness's")
	}
	if got := TextOf(Note(c, "— x AAAAAAAA\n")); string(got) != string(c.Text()) || TextOf([]byte("x")) != nil {
		t.Errorf("%q", got)
	}
}

// FuzzCosigned: whatever a witness answers, what is taken is its cosignature of that
// checkpoint, in one writing.
func FuzzCosigned(f *testing.F) {
	c := sample()
	key, good := newSomeone(f).witness(c, witnessName, 7)
	_, other := newSomeone(f).witness(c, "w2", 7)
	f.Add(good)
	f.Add(other + good)
	f.Add(good + "\n" + other)
	f.Fuzz(func(t *testing.T, lines string) {
		got, err := Cosigned(c, lines, key)
		if err != nil {
			return
		}
		if got.Line != good || !strings.Contains(lines, good) {
			t.Fatalf("%q is taken from %q", got.Line, lines)
		}
		if _, err := note.Open(Note(c, got.Line), note.VerifierList()); err == nil {
			t.Fatal("nobody verified it")
		}
	})
}
