package node

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/headed"
)

func TestDiskKeepsAndWipes(t *testing.T) {
	d := disk{t.TempDir()}
	if m, err := d.loadMember(); m != nil || err != nil {
		t.Fatalf("an empty directory: %v, %v", m, err)
	}
	want := &member{NodeID: "n", ClusterID: "c", Manager: true, Managers: []string{"192.0.2.1:2377"}, Founding: true}
	if err := d.saveLeaf("leaf", &leafFile{Chain: [][]byte{{1}}, Sealed: []byte{2}}); err != nil {
		t.Fatal(err)
	}
	if err := d.saveMember(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.loadMember()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, name := range []string{"member", "leaf"} {
		fi, err := os.Stat(d.path(name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	if err := d.noteFailure("the disk\nis full"); err != nil || d.failure() != "the disk is full" {
		t.Errorf("kept %q, %v", d.failure(), err)
	}
	if err := d.noteFailure(""); err != nil || d.failure() != "" {
		t.Errorf("still %q, %v", d.failure(), err)
	}
	before, _ := os.ReadDir(d.dir)
	if err := d.takesWrites(); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadDir(d.dir); len(after) != len(before) {
		t.Errorf("left behind by the probe: %v", after)
	}
	if err := (disk{d.path("none")}).takesWrites(); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a directory that takes no writes: %v", err)
	}
	if err := os.Mkdir(d.raftDir(1), 0o700); err != nil || !d.used() {
		t.Errorf("a store is there: %v", err)
	}
	if err := d.wipe(); err != nil {
		t.Fatal(err)
	}
	if e, _ := os.ReadDir(d.dir); len(e) != 0 {
		t.Errorf("left after wipe: %v", e)
	}
}

func TestDamagedFilesSaySo(t *testing.T) {
	d := disk{t.TempDir()}
	other := headed.Encode("leaf", []byte(`{"node_id": "a"}`))
	unknown := headed.Encode("member", []byte(`{"node_id": "a", "surprise": 1}`))
	more := headed.Encode("member", []byte(`{"node_id": "a"} {}`))
	for _, text := range []string{"", "{", `{"node_id": 3}`, `{"node_id": "a", "surprise": 1}`, `{"node_id": "a"}x`, string(other), string(unknown), string(more)} {
		if err := os.WriteFile(d.path("member"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := d.loadMember(); err == nil || !strings.Contains(err.Error(), "is damaged") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}

// TestFlippedByteOfASmallFile: each bit of each byte, of each file there can be.
func TestFlippedByteOfASmallFile(t *testing.T) {
	d := disk{t.TempDir()}
	chain := leafFile{Chain: [][]byte{{1, 2, 3}}, Key: []byte{4}}
	m := member{NodeID: "n", ClusterID: "c", Managers: []string{"192.0.2.1:2377"}}
	for name, v := range map[string]struct{ full, empty any }{
		"member": {&m, &member{}}, "leaf": {&chain, &leafFile{}}, "boot": {&chain, &leafFile{}},
		"removed":   {&removal{NodeID: "n", ClusterID: "c", At: 1}, &removal{}},
		"promotion": {&promotion{Member: m, Leaf: chain, Boot: chain}, &promotion{}},
	} {
		if err := d.save(name, v.full); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(d.path(name))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 * len(whole) {
			b := slices.Clone(whole)
			b[i/8] ^= 1 << (i % 8)
			if err := os.WriteFile(d.path(name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.load(name, v.empty); err == nil || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%s: bit %d of byte %d was flipped: %v", name, i%8, i/8, err)
			}
		}
	}
	if err := d.noteFailure("the disk is full"); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(d.path("failure"))
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 1
	if err := os.WriteFile(d.path("failure"), whole, 0o600); err != nil || d.failure() != "" {
		t.Errorf("a damaged note says %q, %v", d.failure(), err)
	}
}

// TestFilesOfTheFirstRelease: JSON alone is read, and has a header afterwards.
func TestFilesOfTheFirstRelease(t *testing.T) {
	d := disk{t.TempDir()}
	const old = `{"node_id":"n","cluster_id":"c","manager":true,"name":"m","managers":["192.0.2.1:2377"]}`
	for name, text := range map[string]string{"member": old, "leaf": `{"chain":["AQ=="],"sealed":"Ag=="}`, "boot": `{"chain":["Aw=="],"key":"BA=="}`, "removed": "{"} {
		if err := os.WriteFile(d.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, err := d.loadMember()
	if err != nil || before.NodeID != "n" || !before.Manager {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := d.migrate(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"member", "leaf", "boot"} {
		if raw, err := os.ReadFile(d.path(name)); err != nil || !strings.HasPrefix(string(raw), headed.Magic) {
			t.Errorf("%s has no header: %q, %v", name, raw, err)
		}
	}
	if raw, err := os.ReadFile(d.path("removed")); err != nil || string(raw) != "{" {
		t.Errorf("a damaged file was changed: %q, %v", raw, err)
	}
	after, err := d.loadMember()
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("%+v, %v", after, err)
	}
	if l, err := d.loadLeaf("boot"); err != nil || !slices.Equal(l.Key, []byte{4}) {
		t.Errorf("%+v, %v", l, err)
	}
}

// A manager gone bad names managers: what it says is kept where it can be so, and
// the former list otherwise.
func TestHostileListsOfManagers(t *testing.T) {
	n := &Node{disk: disk{t.TempDir()}, log: slog.New(slog.DiscardHandler), self: &member{NodeID: "n", ClusterID: "c"}}
	good := []string{"192.0.2.1:2377", "[2001:db8::1]:7377", "m3.example:443"}
	n.keepManagers(good)
	many := make([]string, 100_000)
	for i := range many {
		many[i] = fmt.Sprintf("manager-%d.example:2377", i)
	}
	for _, bad := range [][]string{nil, many, {"192.0.2.1"}, {"192.0.2.1:0"}, {"a b:1"}, {"192.0.2.1:2377", ""}, {"[fe80::1%\x1bc]:2377"}} {
		n.keepManagers(bad)
		m, err := n.disk.loadMember()
		if err != nil || !slices.Equal(m.Managers, good) || !slices.Equal(n.who().Managers, good) {
			t.Fatalf("after %.3q: kept %.3q, %v", bad, m.Managers, err)
		}
	}
	if err := n.disk.saveMember(&member{Managers: many}); err == nil {
		t.Error("a file was written that is not read again")
	}
	if _, err := n.disk.loadMember(); err != nil {
		t.Error(err)
	}
}
