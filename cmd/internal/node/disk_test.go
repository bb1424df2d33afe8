package node

import (
	"os"
	"reflect"
	"strings"
	"testing"
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
	for _, text := range []string{"", "{", `{"node_id": 3}`, `{"node_id": "a", "surprise": 1}`} {
		if err := os.WriteFile(d.path("member"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := d.loadMember(); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}
