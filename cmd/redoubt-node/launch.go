package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// launchVerb makes this binary the short life between fork and a daemon.
const launchVerb = "launch"

// launch sets up the calling process and becomes the daemon; it returns only
// an error. It stays on one thread: credentials are a thread's, and exec keeps
// those of the thread that calls it.
func launch(args []string) error {
	var uid, gid, parent int
	var capList, netns, sockets string
	var memlock uint64
	var niceness, refusals int
	var traceback string
	fs := flag.NewFlagSet(launchVerb, flag.ContinueOnError)
	fs.IntVar(&uid, "uid", -1, "")
	fs.IntVar(&gid, "gid", -1, "")
	fs.IntVar(&parent, "parent", 0, "")
	fs.StringVar(&capList, "caps", "", "")
	fs.StringVar(&netns, "own-mounts-but", "", "")
	fs.StringVar(&sockets, "sockets", "", "")
	fs.IntVar(&refusals, "refusals", 0, "")
	fs.Uint64Var(&memlock, "memlock", 0, "")
	fs.IntVar(&niceness, "nice", 0, "")
	fs.StringVar(&traceback, "traceback", "none", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 || uid < 0 || gid < 0 {
		return errors.New("launch is internal: start redoubt-node without it")
	}
	caps, err := capMask(capList)
	if err != nil {
		return err
	}
	if netns != "" {
		if err := ownMounts(netns); err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
	}
	if err := limits(memlock); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if err := weigh(niceness); err != nil {
		return fmt.Errorf("scheduling weight: %w", err)
	}
	if err := become(uid, gid, caps); err != nil {
		return err
	}
	// Set after the change of uid, which clears it. The parent may be gone by now.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return err
	}
	if os.Getppid() != parent {
		return errors.New("the supervisor is gone")
	}
	// A fatal signal would print registers, which in keyd may hold a key.
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOTRACEBACK=" + traceback, "LISTEN_PID=" + strconv.Itoa(os.Getpid()),
		"LISTEN_FDS=" + strconv.Itoa(strings.Count(sockets, ":")+1), "LISTEN_FDNAMES=" + sockets,
		"REDOUBT_REFUSALS_FD=" + strconv.Itoa(refusals)}
	return fmt.Errorf("%s: %w", fs.Arg(0), syscall.Exec(fs.Arg(0), fs.Args(), env))
}

// limits sets what may be set: without CAP_SYS_RESOURCE a limit is not raised
// above the inherited hard one, and the daemon that needs more says so.
func limits(memlock uint64) error {
	for res, v := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 65536, unix.RLIMIT_MEMLOCK: memlock} {
		err := unix.Setrlimit(res, &unix.Rlimit{Cur: v, Max: v})
		if errors.Is(err, unix.EPERM) {
			var have unix.Rlimit
			if err := unix.Getrlimit(res, &have); err != nil {
				return err
			}
			v = min(v, have.Max)
			err = unix.Setrlimit(res, &unix.Rlimit{Cur: v, Max: v})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// weigh sets the calling process's share of cores that are short, as a nice
// value. A kernel that shares them out between sessions first (autogroup) would
// heed it only within one: so the process gets a session of its own, and that
// session the value. Where the supervisor lacks CAP_SYS_NICE, all stays as it is.
func weigh(niceness int) error {
	if niceness == 0 {
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return nil
		}
		return err
	}
	if _, err := unix.Setsid(); err != nil {
		return err
	}
	err := os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(niceness)), 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
		return nil // a kernel without autogroup, or a /proc that is read-only
	}
	return err
}

// become drops to uid, gid, no supplementary groups and exactly caps in every
// set. For root the bounding set is what exec leaves.
func become(uid, gid int, caps uint64) error {
	for c := range 64 {
		if caps&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, call := range [][2]uintptr{{unix.SYS_SETGROUPS, 0}, {unix.SYS_SETGID, uintptr(gid)}, {unix.SYS_SETUID, uintptr(uid)}} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], 0, 0); errno != 0 {
			return fmt.Errorf("become uid %d: %w", uid, errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	lo, hi := uint32(caps), uint32(caps>>32)
	data := [2]unix.CapUserData{{Effective: lo, Permitted: lo, Inheritable: lo}, {Effective: hi, Permitted: hi, Inheritable: hi}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	for c := range 64 {
		if caps&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, err)
		}
	}
	return nil
}

func capMask(list string) (mask uint64, err error) {
	for s := range strings.SplitSeq(list, ",") {
		if s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > 63 {
			return 0, fmt.Errorf("bad capability %q", s)
		}
		mask |= 1 << n
	}
	return mask, nil
}

// ownMounts leaves the mount namespace: what is mounted outside still arrives,
// what is mounted inside stays inside, except below shared.
func ownMounts(shared string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for p := range points {
		if p == shared || strings.HasPrefix(p, shared+"/") {
			continue
		}
		// A mount hidden under another cannot be reached by its path.
		if err := unix.Mount("", p, "", unix.MS_SLAVE, ""); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountPoints reads the kernel's own list.
func mountPoints() (map[string]bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	points := map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			points[unescape.Replace(fields[4])] = true
		}
	}
	return points, lines.Err()
}
