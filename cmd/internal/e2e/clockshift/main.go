// Command clockshift builds daemons whose wall clock a test can set: certificates
// live for days and tests for seconds, and a lab's hosts share the machine's
// clock, which nobody may touch.
//
// The sources of Redoubt have no hook for that. The daemons are built once more
// with an overlay over two files of Go's runtime, in which time.Now adds an
// offset to the wall clock and leaves the monotonic one alone, as a machine that
// slept or whose clock was set does. The offset, nanoseconds as an int64 in the
// machine's byte order, stands in the file <data dir>.clock, which is mapped when
// a daemon starts, before it shuts itself in; one without the file tells the
// true time. Who changes the file changes the clock at once.
//
// The overlay is made from the Go tree that builds it. Where that does not look
// as expected, this fails and says so.
//
//	go run ./cmd/internal/e2e/clockshift -bin bin -o out/shifted
//
// makes a directory with all of bin's binaries, the two that read the wall clock
// for certificates among them shifted.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// shifted are the binaries that hold certificates or keys against the time.
var shifted = []string{"redoubtd", "redoubt-keyd"}

func main() {
	bin := flag.String("bin", "bin", "directory of the ordinary binaries")
	out := flag.String("o", "out/shifted", "directory to make")
	flag.Parse()
	if err := build(*bin, *out); err != nil {
		fmt.Fprintln(os.Stderr, "clockshift:", err)
		os.Exit(1)
	}
}

func build(bin, out string) error {
	work, err := os.MkdirTemp("", "clockshift-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	overlay, err := writeOverlay(work)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := copyAll(bin, out); err != nil {
		return err
	}
	args := []string{"build", "-buildvcs=false", "-trimpath", "-overlay", overlay, "-o", out + "/"}
	for _, b := range shifted {
		args = append(args, "./cmd/"+b)
	}
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// copyAll fills out with bin's binaries. A lab takes all of its binaries from
// where the one it was made with really lies, so links would not do.
func copyAll(bin, out string) error {
	files, err := os.ReadDir(bin)
	if err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(bin, f.Name()))
		if err != nil {
			return err
		}
		to := filepath.Join(out, f.Name())
		if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// patch replaces one text of a file, which must be there once.
type patch struct{ file, old, new string }

// patches turn the assembler's time.now, or the Go one, into trueNow, and put
// one in its place that shifts what it says.
func patches() ([]patch, error) {
	switch runtime.GOARCH {
	case "amd64":
		return []patch{
			{"time_linux_amd64.s", "TEXT time·now<ABIInternal>(SB)", "TEXT ·trueNow<ABIInternal>(SB)"},
			{"timeasm.go", "func time_now() (sec int64, nsec int32, mono int64)\n", "func time_now() (sec int64, nsec int32, mono int64) { return shiftedNow() }\n\n" +
				"func trueNow() (sec int64, nsec int32, mono int64)\n" + shift},
		}, nil
	case "arm64":
		return []patch{
			{"timestub.go", "\tsec, nsec = walltime()\n\treturn sec, nsec, nanotime()\n}\n", "\treturn shiftedNow()\n}\n\n" +
				"func trueNow() (sec int64, nsec int32, mono int64) {\n\tsec, nsec = walltime()\n\treturn sec, nsec, nanotime()\n}\n" + shift},
		}, nil
	}
	return nil, fmt.Errorf("there is no overlay for %s", runtime.GOARCH)
}

// shift goes into the runtime.
const shift = `
// clockOffset is what the wall clock is off by; nil: the file was not there.
var clockOffset *int64

// init runs before anything else does, so before the process is shut in.
func init() {
	const flag = "--data-dir"
	var dir string
	for i, a := range argslice {
		if a == flag && i+1 < len(argslice) {
			dir = argslice[i+1]
		} else if len(a) > len(flag) && a[:len(flag)+1] == flag+"=" {
			dir = a[len(flag)+1:]
		}
	}
	if dir == "" {
		return
	}
	name := append([]byte(dir), ".clock\x00"...)
	fd := open(&name[0], _O_RDONLY|_O_CLOEXEC, 0)
	if fd < 0 {
		return
	}
	p, errno := mmap(nil, 8, _PROT_READ, 1 /* MAP_SHARED */, fd, 0)
	if errno != 0 {
		throw("the clock's offset cannot be mapped")
	}
	closefd(fd)
	clockOffset = (*int64)(p)
}

func shiftedNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = trueNow()
	if clockOffset == nil {
		return
	}
	off := int64(atomic.Load64((*uint64)(unsafe.Pointer(clockOffset))))
	sec += off / 1e9
	nsec += int32(off % 1e9)
	switch {
	case nsec < 0:
		sec, nsec = sec-1, nsec+1e9
	case nsec >= 1e9:
		sec, nsec = sec+1, nsec-1e9
	}
	return
}
`

// writeOverlay writes the patched files and the list of them for go build.
func writeOverlay(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src", "runtime")
	all, err := patches()
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, p := range append(all, patch{all[len(all)-1].file, `import _ "unsafe"`, "import (\n\t\"internal/runtime/atomic\"\n\t\"unsafe\"\n)"}) {
		from := filepath.Join(src, p.file)
		to := filepath.Join(dir, p.file)
		if _, again := replace[from]; !again {
			replace[from] = to
		} else {
			from = to
		}
		b, err := os.ReadFile(from)
		if err != nil {
			return "", fmt.Errorf("%w: this Go's runtime is not the one the patch was made for", err)
		}
		if n := strings.Count(string(b), p.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, not once: this Go's runtime is not the one the patch was made for", from, p.old, n)
		}
		if err := os.WriteFile(to, []byte(strings.Replace(string(b), p.old, p.new, 1)), 0o600); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, b, 0o600)
}
