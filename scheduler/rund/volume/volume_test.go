package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// world is a store over a directory of a test.
type world struct {
	t     *testing.T
	dir   string
	local *Local
	store *Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "volumes")}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.local, err = OpenLocal(w.dir, w.dir+"-store", os.Getuid(), os.Getgid()); err != nil {
		w.t.Fatal(err)
	}
	w.store = New(map[string]Driver{volumes.Local: w.local})
}

func named(name string) *taskpb.Volume {
	return &taskpb.Volume{Id: ident.New(), Spec: &taskpb.VolumeSpec{Name: name, Driver: volumes.Local}}
}

func (w *world) use(task string, v *taskpb.Volume, change func(*taskpb.VolumeUse), fill Fill) (*os.File, error) {
	u := &taskpb.VolumeUse{Name: v.GetSpec().GetName()}
	if change != nil {
		change(u)
	}
	return w.store.Use(w.t.Context(), task, v, u, fill)
}

func (w *world) mustUse(task string, v *taskpb.Volume, fill Fill) string {
	w.t.Helper()
	f, err := w.use(task, v, nil, fill)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	return f.Name()
}

// image is a directory with what an image has, and a Fill from below it.
func image(t *testing.T, path string) (root string, fill Fill) {
	t.Helper()
	root = t.TempDir()
	for _, d := range []string{"data/sub/deep", "outside"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(root, "data/one"), []byte("first"), 0o640),
		os.WriteFile(filepath.Join(root, "data/sub/deep/two"), []byte("second"), 0o4755),
		os.Chmod(filepath.Join(root, "data/sub/deep/two"), 0o755|os.ModeSetuid),
		os.Symlink("/etc/passwd", filepath.Join(root, "data/leads")),
		os.Symlink("/data", filepath.Join(root, "link")),
		os.Symlink("../../../../../etc", filepath.Join(root, "out")),
		unix.Mkfifo(filepath.Join(root, "data/pipe"), 0o600),
		os.Chtimes(filepath.Join(root, "data/one"), time.Unix(1e9, 0), time.Unix(1e9, 0)),
		os.Chmod(filepath.Join(root, "data"), 0o770|os.ModeSticky))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return root, CopyFrom(f, path, 1<<20)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFirstUseHasWhatTheImageHas(t *testing.T) {
	for _, path := range []string{"data", "link", "../../data"} {
		w := newWorld(t)
		_, fill := image(t, path)
		v := named("db")
		at := w.mustUse("a", v, fill)
		if read(t, filepath.Join(at, "one")) != "first" || read(t, filepath.Join(at, "sub/deep/two")) != "second" {
			t.Error("other contents")
		}
		if to, err := os.Readlink(filepath.Join(at, "leads")); err != nil || to != "/etc/passwd" {
			t.Error(to, err)
		}
		if _, err := os.Lstat(filepath.Join(at, "pipe")); err == nil {
			t.Error("a pipe was copied")
		}
		one, err := os.Stat(filepath.Join(at, "one"))
		if err != nil || one.Mode() != 0o640 || !one.ModTime().Equal(time.Unix(1e9, 0)) {
			t.Error(one, err)
		}
		two, err := os.Stat(filepath.Join(at, "sub/deep/two"))
		if err != nil || two.Mode() != 0o755|os.ModeSetuid {
			t.Error(two.Mode(), err)
		}
		if all, err := os.Stat(at); err != nil || all.Mode() != os.ModeDir|os.ModeSticky|0o770 {
			t.Error(all.Mode(), err)
		}
		// It is not copied again, neither into what has something nor beside another task.
		if err := os.WriteFile(filepath.Join(at, "one"), []byte("written"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.store.Release("a")
		if at := w.mustUse("b", v, fill); read(t, filepath.Join(at, "one")) != "written" {
			t.Error("written over")
		}
	}
}

func TestWhatIsNotCopied(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"nowhere", "data/one", "out"} {
		_, fill := image(t, path)
		if names, err := os.ReadDir(w.mustUse("a", named("v-"+strings.ReplaceAll(path, "/", "-")), fill)); err != nil || len(names) > 0 {
			t.Errorf("%s: %v, %v", path, names, err)
		}
	}
	_, fill := image(t, "data")
	v := named("bare")
	f, err := w.use("a", v, func(u *taskpb.VolumeUse) { u.NoCopy = true }, fill)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !empty(f) {
		t.Error("copied")
	}
	// Another beside: what a task has open is not taken from under it.
	if at := w.mustUse("b", v, fill); !isEmpty(t, at) {
		t.Error("copied beside a task that has it")
	}
	w.store.Release("a")
	w.store.Release("b")
	if at := w.mustUse("c", v, fill); isEmpty(t, at) {
		t.Error("not copied into an empty volume that nobody has")
	}
}

// bare reports whether nothing of any volume is there.
func (w *world) bare() bool {
	w.t.Helper()
	names, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(names) == 1 && names[0].Name() == markerName
}

func isEmpty(t *testing.T, dir string) bool {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(names) == 0
}

func TestHalfACopyIsNone(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	full := func(_ context.Context, dir *os.File) error {
		return errors.Join(os.WriteFile(filepath.Join(dir.Name(), "half"), nil, 0o600), unix.ENOSPC)
	}
	if _, err := w.use("a", v, nil, full); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, v.GetId(), fillingName)); err == nil {
		t.Error("half a copy stays")
	}
	// A crash leaves it.
	if err := os.MkdirAll(filepath.Join(w.dir, v.GetId(), fillingName, "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.open()
	_, fill := image(t, "data")
	at := w.mustUse("a", v, fill)
	if _, err := os.Stat(filepath.Join(at, "half")); err == nil || read(t, filepath.Join(at, "one")) != "first" {
		t.Error("half a copy was taken for a whole one")
	}
	root, _ := image(t, "data")
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tooMuch := CopyFrom(f, "data", 8)
	if _, err := w.use("a", named("large"), nil, tooMuch); !refused(err) {
		t.Error(err)
	}
}

// TestDiskFull: what does not fit is not there at all, and what is removed makes room.
func TestDiskFull(t *testing.T) {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "volumes")}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("volumes", w.dir, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
		t.Fatal("a file system of its own cannot be mounted here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(w.dir, unix.MNT_DETACH) })
	w.open()
	root, fill := image(t, "data")
	large := filepath.Join(root, "data", "large")
	if err := os.WriteFile(large, make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	v := named("db")
	if _, err := w.use("a", v, nil, fill); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 64<<10); err != nil {
		t.Fatal(err)
	}
	at := w.mustUse("a", v, fill)
	if read(t, filepath.Join(at, "one")) != "first" {
		t.Error("it is not whole")
	}
	// Containers fill what is left: nothing new is made, what is there stays, and can go.
	if err := os.WriteFile(filepath.Join(at, "more"), make([]byte, 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	other := named("other")
	if _, err := w.use("b", other, nil, fill); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	w.open()
	if read(t, filepath.Join(at, "one")) != "first" {
		t.Error("it went")
	}
	if err := w.store.Remove(t.Context(), v.GetId()); err != nil {
		t.Fatal(err)
	}
	if err := w.local.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mustUse("b", other, fill)
}

func refused(err error) bool { return errors.As(err, new(*Refused)) }

func TestRemove(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	at := w.mustUse("a", v, nil)
	if err := os.WriteFile(filepath.Join(at, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Remove(t.Context(), v.GetId()); err == nil || !strings.Contains(err.Error(), "task a uses it") {
		t.Error(err)
	}
	// A rund after this one knows it from the containers.
	w.open()
	w.store.Recall("a", []*taskpb.Volume{v})
	if err := w.store.Remove(t.Context(), v.GetId()); err == nil {
		t.Error("removed in use")
	}
	w.store.Release("a")
	for range 2 {
		if err := w.store.Remove(t.Context(), v.GetId()); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := w.store.List(); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
	if w.bare() {
		t.Error("a removal waits for the disk")
	}
	if err := w.store.Sweep(t.Context()); err != nil || !w.bare() {
		t.Error("leftovers", err)
	}
	for _, id := range []string{"", "..", "../x", "removed-x", v.GetId() + "/.."} {
		if err := w.store.Remove(t.Context(), id); err == nil {
			t.Errorf("%q was removed", id)
		}
	}
}

// TestHostileVolumes: a redoubtd that was taken over says what volumes are called.
func TestHostileVolumes(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	w.mustUse("a", v, nil)
	for want, change := range map[string]func(*taskpb.Volume){
		"another of that id":       func(v *taskpb.Volume) { v.Spec.Name = "mine" },
		"id is malformed":          func(v *taskpb.Volume) { v.Id = "../../etc" },
		"id is malformed ":         func(v *taskpb.Volume) { v.Id = "" },
		"no volume driver":         func(v *taskpb.Volume) { v.Spec.Driver = "nfs" },
		"mounts something of else": func(v *taskpb.Volume) { v.Spec.Options = map[string]string{"device": "/"} },
		"other options":            func(v *taskpb.Volume) { v.Spec.Options = map[string]string{volumes.Size: "1g"} },
	} {
		bad := &taskpb.Volume{Id: v.Id, Spec: &taskpb.VolumeSpec{Name: v.Spec.Name, Driver: v.Spec.Driver}}
		change(bad)
		_, err := w.store.Use(t.Context(), "b", bad, &taskpb.VolumeUse{Name: "db"}, nil)
		if !refused(err) || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// The data of one under the name of another.
	if _, err := w.store.Use(t.Context(), "b", &taskpb.Volume{Id: v.Id, Spec: &taskpb.VolumeSpec{Name: "mine", Driver: volumes.Local}}, &taskpb.VolumeUse{Name: "mine"}, nil); !refused(err) {
		t.Error(err)
	}
	if _, err := w.store.Use(t.Context(), "b", nil, &taskpb.VolumeUse{Name: "mine"}, nil); !refused(err) {
		t.Error(err)
	}
}

// TestSubpathStaysInside: what is in a volume is its containers'.
func TestSubpathStaysInside(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	at := w.mustUse("a", v, nil)
	err := errors.Join(os.MkdirAll(filepath.Join(at, "sub/etc"), 0o755), os.WriteFile(filepath.Join(at, "sub/etc/passwd"), []byte("own"), 0o600),
		os.Symlink("/sub", filepath.Join(at, "absolute")), os.Symlink("../../../../../../..", filepath.Join(at, "up")),
		os.Symlink("/proc/self/root", filepath.Join(at, "magic")), os.Symlink("loop", filepath.Join(at, "loop")))
	if err != nil {
		t.Fatal(err)
	}
	open := func(subpath string) (string, error) {
		f, err := w.use("a", v, func(u *taskpb.VolumeUse) { u.Subpath = subpath }, nil)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return os.Readlink("/proc/self/fd/" + itoa(f.Fd()))
	}
	for subpath, want := range map[string]string{"sub": at + "/sub", "absolute/etc": at + "/sub/etc", "up/sub": at + "/sub", "up": at, "sub/etc/passwd": at + "/sub/etc/passwd"} {
		if got, err := open(subpath); err != nil || got != want {
			t.Errorf("%s: %s, %v", subpath, got, err)
		}
	}
	for _, subpath := range []string{"magic/etc", "up/etc/passwd", "loop", "nowhere", "../..", "/etc", "sub/../../x"} {
		if got, err := open(subpath); !refused(err) {
			t.Errorf("%s: %s, %v", subpath, got, err)
		}
	}
}

func itoa(n uintptr) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestRecordsAreKept(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	w.mustUse("a", v, nil)
	w.open()
	list, err := w.store.List()
	if err != nil || len(list) != 1 || list[0].GetName() != "db" || list[0].GetId() != v.GetId() || list[0].GetCreatedAt() == 0 {
		t.Fatal(list, err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, v.GetId(), recordName), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.use("a", v, nil, nil); !refused(err) || !strings.Contains(err.Error(), "is damaged") {
		t.Error(err)
	}
	if list, err := w.store.List(); err != nil || len(list) != 1 || list[0].GetId() != v.GetId() {
		t.Error("a damaged record hides the data", list, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	v := named("db")
	_, fill := image(t, "data")
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			task := ident.New()
			f, err := w.use(task, v, nil, fill)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if read(t, filepath.Join(f.Name(), "one")) != "first" {
				t.Error("seen half filled")
			}
			w.store.Release(task)
			_ = w.store.Remove(t.Context(), v.GetId())
		})
	}
	all.Wait()
}

func TestDirectoryIsRootsAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLocal(dir, filepath.Join(t.TempDir(), "store"), 0, 0); err == nil {
		t.Error("anybody may look into the volumes")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLocal(link, filepath.Join(t.TempDir(), "store"), 0, 0); err == nil {
		t.Error("a link is followed")
	}
}

func TestSizeNeedsQuotas(t *testing.T) {
	w := newWorld(t)
	w.local.quota.missing = "no project quotas" // whatever the file system of the test has
	v := named("small")
	v.Spec.Options = map[string]string{volumes.Size: "1m"}
	if _, err := w.use("a", v, nil, nil); !refused(err) || !strings.Contains(err.Error(), "cannot bound it: ") {
		t.Error(err)
	}
	if f := w.store.Features(); len(f) != 1 || f[0].GetPresent() || f[0].GetDetail() == "" {
		t.Error(f)
	}
	if !w.bare() {
		t.Error("something is left of it")
	}
}

// TestAnotherDirectoryIsNotTaken: without its mount, and with another's, the node does not
// begin with no volumes.
func TestAnotherDirectoryIsNotTaken(t *testing.T) {
	w := newWorld(t)
	at := w.mustUse("a", named("db"), nil)
	open := func() error {
		_, err := OpenLocal(w.dir, w.dir+"-store", os.Getuid(), os.Getgid())
		return err
	}
	want := func(text string) {
		t.Helper()
		if err := open(); text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
			t.Errorf("%v, want %q", err, text)
		}
	}
	want("")
	if err := os.Rename(w.dir, w.dir+"-mounted"); err != nil {
		t.Fatal(err)
	}
	want("mount their file system")
	if _, err := os.Stat(w.dir); err == nil {
		t.Error("made where it was missing")
	}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	want("mount their file system")
	other := newWorld(t)
	if err := errors.Join(os.Remove(w.dir), os.Rename(other.dir, w.dir)); err != nil {
		t.Fatal(err)
	}
	want("has other volumes than this node's")
	// Who says so begins with these, whose id is noted again.
	if err := os.Remove(w.dir + "-store"); err != nil {
		t.Fatal(err)
	}
	want("")
	if err := os.WriteFile(filepath.Join(w.dir, markerName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want("is damaged")
	if err := errors.Join(os.RemoveAll(w.dir), os.Rename(w.dir+"-mounted", w.dir), os.Remove(w.dir+"-store")); err != nil {
		t.Fatal(err)
	}
	want("")
	if _, err := os.Stat(at); err != nil {
		t.Error(err)
	}
}

// TestACopyEnds: also in the middle of one file.
func TestACopyEnds(t *testing.T) {
	root, fill := image(t, "data")
	if err := os.Truncate(filepath.Join(root, "data/one"), 1<<20-100); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(root, "data/leads")), os.RemoveAll(filepath.Join(root, "data/sub")), os.Remove(filepath.Join(root, "data/pipe"))); err != nil {
		t.Fatal(err)
	}
	to, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := fill(&until{Context: t.Context(), calls: 3}, to); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLimitsOfSize(t *testing.T) {
	if b := limits(1<<30 + 1); b.hard != 1<<20+1 || b.soft != b.hard || b.inodesHard != 1<<16+1<<10 || b.inodesSoft != b.inodesHard || b.valid != 5 {
		t.Errorf("%+v", b)
	}
	if b := limits(volumes.MinSize); b.inodesHard < 1000 {
		t.Errorf("%+v", b)
	}
}
