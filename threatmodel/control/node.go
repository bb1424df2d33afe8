package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Where a node is that was installed as it comes.
const (
	defaultData   = "/var/lib/redoubt"
	defaultRun    = "/run/redoubt"
	defaultConfig = "/etc/redoubt/config.yaml"
)

// Node is where the state of one node is read: its own machine.
type Node struct {
	Run  string // its run directory
	Data string // its data directory
	Proc string // the kernel's /proc

	Daemons map[string]Process // by name, as "redoubt-keyd"

	// Containers lists what runs here; nil: who judges cannot tell, and leaves out the
	// controls that ask it.
	Containers func() ([]Container, error)
	Lock       func() Lock // not nil where Containers is not
	// Own is what redoubtd says; nil: as above.
	Own *Own
}

// Process is a daemon that runs.
type Process struct {
	Name string
	PID  int
	args []string
	proc string
}

var daemonNames = []string{"redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-named", "redoubt-rund"}

// FindNode finds the daemons whose run directory that is, and by them the data
// directory.
func FindNode(run string) (*Node, error) { return findNode(run, "/proc") }

func findNode(run, proc string) (*Node, error) {
	n := &Node{Run: filepath.Clean(run), Proc: proc, Daemons: map[string]Process{}}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := Process{PID: pid, proc: filepath.Join(proc, e.Name())}
		text, err := p.read("cmdline")
		if err != nil {
			continue // it ended
		}
		p.args = strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
		if p.Name = filepath.Base(p.args[0]); !slices.Contains(daemonNames, p.Name) || !p.ours(proc) {
			continue
		}
		// rund's own helpers, as its logger, have a verb there.
		if len(p.args) > 1 && !strings.HasPrefix(p.args[1], "-") || filepath.Clean(p.flag("run-dir", defaultRun)) != n.Run {
			continue
		}
		if other, twice := n.Daemons[p.Name]; twice {
			return nil, fmt.Errorf("%s runs twice for %s, as %d and %d", p.Name, n.Run, other.PID, pid)
		}
		n.Daemons[p.Name] = p
	}
	d, ok := n.Daemons["redoubtd"]
	if !ok {
		return nil, fmt.Errorf("no redoubtd runs for %s", n.Run)
	}
	n.Data = filepath.Clean(d.flag("data-dir", defaultData))
	return n, nil
}

// ofUser is the part of a control group's path that the service manager gives to a
// user who is not root.
var ofUser = regexp.MustCompile(`/user-[1-9][0-9]*\.slice(/|$)`)

// ours tells whether a process may be one of the daemons, by what it cannot choose
// itself: it is in no namespace of processes within this one, as containers are, root
// started it, and it is of no user's session. Its command line is its own word.
func (p Process) ours(proc string) bool {
	ids, err := p.status("NSpid")
	if err != nil || strings.Contains(ids, " ") {
		return false
	}
	if group, err := p.read("cgroup"); err == nil && slices.ContainsFunc(strings.Split(group, "\n"), ofUser.MatchString) {
		return false
	}
	parent, err := p.status("PPid")
	if err != nil {
		return false
	}
	if parent == "0" { // root outside of this namespace put it here
		return true
	}
	uid, err := Process{proc: filepath.Join(proc, parent)}.uid()
	return err == nil && uid == 0
}

// flag is what a flag of the process was given, in either form.
func (p Process) flag(name, otherwise string) string {
	for i, a := range p.args {
		if v, ok := strings.CutPrefix(strings.TrimLeft(a, "-"), name+"="); ok && strings.HasPrefix(a, "-") {
			return v
		}
		if strings.HasPrefix(a, "-") && strings.TrimLeft(a, "-") == name && i+1 < len(p.args) {
			return p.args[i+1]
		}
	}
	return otherwise
}

// read is a file of the process in /proc, of what is short. One that is longer than
// any may be is an error: nobody shall pass for what was cut off.
func (p Process) read(name string) (string, error) {
	f, err := os.Open(filepath.Join(p.proc, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProcFile+1))
	if err == nil && len(b) > maxProcFile {
		err = fmt.Errorf("%s (%d): %s is longer than %d bytes", p.Name, p.PID, name, maxProcFile)
	}
	return string(b), err
}

// fields gives the words of each line of a file of the process in /proc, however many
// lines there are.
func (p Process) fields(name string, visit func([]string)) error {
	f, err := os.Open(filepath.Join(p.proc, name))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		visit(strings.Fields(lines.Text()))
	}
	return lines.Err()
}

// status is a line of the process's status.
func (p Process) status(key string) (string, error) {
	text, err := p.read("status")
	if err != nil {
		return "", err
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), key+":"); ok {
			return strings.Join(strings.Fields(rest), " "), nil
		}
	}
	return "", fmt.Errorf("%s (%d): the kernel says nothing of %s", p.Name, p.PID, key)
}

// uid is whom the process runs as.
func (p Process) uid() (int, error) {
	ids, err := p.status("Uid")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(ids, " ")
	return strconv.Atoi(first)
}

// daemons are those named, which all run.
func (n *Node) daemons(names ...string) ([]Process, error) {
	var all []Process
	for _, name := range names {
		p, ok := n.Daemons[name]
		if !ok {
			return nil, fmt.Errorf("%s does not run for %s", name, n.Run)
		}
		all = append(all, p)
	}
	return all, nil
}

// Manager tells whether keyd keeps the cluster's keys here, in whatever state.
func (n *Node) Manager() (bool, error) {
	_, err := os.Lstat(filepath.Join(n.Data, "keyd", "state"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// owner is a file's uid.
func owner(fi fs.FileInfo) int {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
