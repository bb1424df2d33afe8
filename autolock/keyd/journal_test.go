package keyd

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
)

func sha(b []byte) [32]byte { return sha256.Sum256(b) }

func readJournal(t *testing.T, dir string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestJournalTellsWhatWasDone(t *testing.T) {
	c := newCluster(t)
	tok := c.mint(t, worker, nil)
	req := tok.join(t, newCSR(t, newKey(t), nil), nil)
	if _, err := c.SignJoin(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	c.SignJoin(t.Context(), req) // refused
	c.restart(t)
	other := autolock.NewOperatorKey()
	c.root.Unlock(t.Context(), other.Seed())
	c.unlock(t)
	raw := readJournal(t, c.dir)
	for _, want := range []string{
		`"event":"init","outcome":"begun"`, `"event":"mint-token"`, tok.id, req.NodeId,
		`"event":"sign-join","outcome":"denied"`, `"event":"unlock","outcome":"wrong key"`, `"event":"unlock","outcome":"ok"`,
	} {
		if !bytes.Contains(raw, []byte(want)) {
			t.Errorf("the journal does not have %s:\n%s", want, raw)
		}
	}
}

func TestJournalFindsChanges(t *testing.T) {
	j, _, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	j.key = []byte("a key of 112 bits or more")
	for _, e := range []string{"a", "b", "c"} {
		if err := j.add(entry{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	raw := readJournal(t, filepath.Dir(j.path))
	lines := bytes.SplitAfter(bytes.TrimPrefix(raw, []byte(journalMagic)), []byte("\n"))
	check := func(lines []byte) error { return new(journal).read(lines, j.key) }
	if err := check(raw); err != nil || !bytes.HasPrefix(raw, []byte(journalMagic)) {
		t.Fatal(err)
	}
	if err := check(bytes.Join(lines, nil)); err != nil {
		t.Errorf("a journal of the first release: %v", err)
	}
	if err := check(append([]byte("RDTJ2\n"), bytes.Join(lines, nil)...)); err == nil {
		t.Error("a journal of another format is read")
	}
	for i := range raw {
		raw[i] ^= 1
		if check(raw) == nil {
			t.Errorf("a flipped bit in byte %d was not found", i)
		}
		raw[i] ^= 1
	}
	if check(bytes.Join([][]byte{lines[0], lines[2]}, nil)) == nil {
		t.Error("a missing line was not found")
	}
	if check(bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil)) == nil {
		t.Error("two swapped lines were not found")
	}
	// Rewritten by somebody who can compute hashes but has no key.
	body, _, _ := bytes.Cut(lines[2], []byte("} "))
	body = append(bytes.Replace(body, []byte(`"event":"c"`), []byte(`"event":"d"`), 1), '}')
	forged := string(lines[0]) + string(lines[1]) + string(body) + " " + journalHash(body) + " " + strings.Repeat("0", 64) + "\n"
	if check([]byte(forged)) == nil {
		t.Error("a forged line was not found")
	}
}

func TestTornJournalGoesOn(t *testing.T) {
	c := newCluster(t)
	c.stop()
	path := filepath.Join(c.dir, journalName)
	whole := readJournal(t, c.dir)
	if err := os.WriteFile(path, append(bytes.Clone(whole), `{"seq":9,"ti`...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.restart(t)
	c.unlock(t)
	raw := readJournal(t, c.dir)
	if !bytes.HasPrefix(raw, whole) || bytes.Contains(raw, []byte(`"ti{`)) {
		t.Errorf("journal after a torn line:\n%s", raw)
	}
	if err := new(journal).read(raw, nil); err != nil {
		t.Error(err)
	}
}

func TestDamagedJournalIsSetAsideAndTold(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"found at start":  func(b []byte) []byte { b[20] ^= 1; return b },
		"found at unlock": forgeLastMAC,
		"stripped of its MACs": func(b []byte) []byte {
			var out []byte
			for line := range bytes.Lines(bytes.TrimPrefix(b, []byte(journalMagic))) {
				out = append(append(out, line[:len(line)-65]...), noMAC+"\n"...)
			}
			return out
		},
		"blown up": func(b []byte) []byte { return append(b, make([]byte, 2*maxJournal)...) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.stop()
			path := filepath.Join(c.dir, journalName)
			if err := os.WriteFile(path, damage(readJournal(t, c.dir)), 0o600); err != nil {
				t.Fatal(err)
			}
			c.restart(t)
			c.unlock(t)
			if kept, _ := filepath.Glob(path + ".*.damaged"); len(kept) != 1 {
				t.Errorf("set aside: %v", kept)
			}
			st, err := c.Status(t.Context())
			if err != nil || !strings.Contains(strings.Join(st.Protections, "\n"), "journal: damaged") {
				t.Errorf("status: %v, %v", st.GetProtections(), err)
			}
			if !bytes.Contains(readJournal(t, c.dir), []byte(`"outcome":"damaged"`)) {
				t.Error("the new journal does not say so")
			}
		})
	}
}

// TestEveryFlippedByteOfTheJournalIsTold: the last newline, too, without which
// the last line looks like one that a crash cut short. A MAC takes the key.
func TestEveryFlippedByteOfTheJournalIsTold(t *testing.T) {
	dir := t.TempDir()
	j, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.add(entry{Event: eventUnlock, Outcome: outcomeWrongKey}); err != nil {
		t.Fatal(err)
	}
	j.key = []byte("a key of 112 bits or more")
	if err := j.add(entry{Event: "e"}); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	whole := readJournal(t, dir)
	for i := range whole {
		for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, whole[i] ^ '\n', whole[i] ^ 0xff} {
			if x == 0 {
				continue // it is one
			}
			b := bytes.Clone(whole)
			b[i] ^= x
			end := bytes.LastIndexByte(b, '\n') + 1
			if new(journal).read(b[:end], j.key) == nil && torn(b[end:]) == nil {
				t.Fatalf("byte %d of %d became %q, and nobody tells", i, len(whole), b[i])
			}
		}
	}
	whole[len(whole)-1] = 'x'
	if err := os.WriteFile(j.path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, damaged, err := openJournal(dir); err != nil || !damaged {
		t.Errorf("the last newline was exchanged: damaged %t, %v", damaged, err)
	}
}

func forgeLastMAC(b []byte) []byte {
	copy(b[len(b)-65:], strings.Repeat("0", 64))
	return b
}

func TestJournalIsBounded(t *testing.T) {
	dir := t.TempDir()
	j, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range keepJournals + 3 {
		if err := j.add(entry{Event: "e"}); err != nil {
			t.Fatal(err)
		}
		j.size = maxJournal
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	old, _ := filepath.Glob(j.path + ".*")
	if len(old) != keepJournals {
		t.Errorf("%d old journals are kept", len(old))
	}
	again, damaged, err := openJournal(dir)
	if err != nil || damaged || again.seq != keepJournals+3 {
		t.Errorf("after rotation: seq %d, damaged %t, %v", again.seq, damaged, err)
	}
}
