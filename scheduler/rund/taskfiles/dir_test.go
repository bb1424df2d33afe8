package taskfiles

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// TestPutDir: a directory is put by itself and leaves the others; what takes the
// place of a file is whose that was; all of it goes with the task.
func TestPutDir(t *testing.T) {
	s, id := open(t), ident.New()
	key := func(text string) []File {
		return []File{{Dir: Identity, Name: "tls.key", UID: 100000, GID: 100000, Mode: 0o400, Data: []byte(text)}}
	}
	if _, err := s.Read(id, Identity, "tls.key", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a task without files: %v", err)
	}
	if err := s.Own(id, Identity, 1, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a task without files: %v", err)
	}
	first := key("k1")
	if err := s.PutDir(id, Identity, first); err != nil {
		t.Fatal(err)
	}
	if string(first[0].Data) == "k1" {
		t.Error("what was put is still in the caller's memory")
	}
	if err := s.Put(id, []File{{Dir: Secrets, Name: "token", Mode: 0o400, Data: []byte("t")}}, []byte("r")); err != nil {
		t.Fatal(err)
	}
	if err := s.Own(id, Identity, 101234, 101235); err != nil {
		t.Fatal(err)
	}
	if err := s.PutDir(id, Identity, key("k2")); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(s.DirPath(id, Identity), "tls.key")
	var is unix.Stat_t
	if err := unix.Stat(at, &is); err != nil || read(t, at) != "k2" || is.Uid != 101234 || is.Gid != 101235 || is.Mode&0o7777 != 0o400 {
		t.Errorf("%q, %d:%d %o, %v", read(t, at), is.Uid, is.Gid, is.Mode, err)
	}
	if got, err := s.Read(id, Identity, "tls.key", 100); err != nil || string(got) != "k2" {
		t.Errorf("%q, %v", got, err)
	}
	if read(t, filepath.Join(s.DirPath(id, Secrets), "token")) != "t" {
		t.Error("the task's secrets are gone")
	}
	for name, files := range map[string][]File{
		"of another directory": {{Dir: Secrets, Name: "x"}},
		"with a path":          {{Dir: Identity, Name: "a/b"}},
		"twice":                {{Dir: Identity, Name: "a"}, {Dir: Identity, Name: "a"}},
	} {
		if err := s.PutDir(id, Identity, files); err == nil {
			t.Errorf("a file %s was put", name)
		}
	}
	if err := s.Put(id, key("k3"), nil); err == nil {
		t.Error("files of an identity came with a delivery")
	}
	if err := s.Remove(id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it: %v", err)
	}
}
