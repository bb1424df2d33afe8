// Command attacker is what the stories put into a container to get out of it.
// Each line it prints is an attempt and what came of it: "shut NAME: reason"
// where the attempt failed, "OPEN NAME: detail" where it did not.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	verbs := map[string]func([]string){
		"kernel": kernel, "files": files, "reach": reach, "setuid": setuid, "fork": fork,
		"flood": flood, "hoard": hoard, "serve": serve, "idle": idle, "env": environment,
	}
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fmt.Println("unknown verb")
		os.Exit(2)
	}
	verbs[os.Args[1]](os.Args[2:])
	fmt.Println("done")
	if len(os.Args) > 2 && os.Args[len(os.Args)-1] == "stay" {
		idle(nil)
	}
}

func tell(name string, err error) {
	if err == nil {
		fmt.Println("OPEN " + name)
		return
	}
	fmt.Printf("shut %s: %v\n", name, err)
}

func call(name string, nr uintptr, args ...uintptr) {
	var a [6]uintptr
	copy(a[:], args)
	_, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if e == 0 {
		tell(name, nil)
		return
	}
	tell(name, e)
}

func str(s string) uintptr {
	b := append([]byte(s), 0)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

var kept [][]byte // what system calls were given

// kernel asks for what only a host's root may do.
func kernel([]string) {
	status, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(status)) {
		if k, v, _ := strings.Cut(l, ":"); strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" || k == "Seccomp" {
			fmt.Println("is", k, strings.TrimSpace(v))
		}
	}
	tell("mount tmpfs", unix.Mount("x", "/tmp", "tmpfs", 0, ""))
	tell("mount proc", unix.Mount("proc", "/tmp", "proc", 0, ""))
	tell("bind over proc", unix.Mount("/tmp", "/proc/sys", "", unix.MS_BIND, ""))
	tell("remount rw", unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	tell("unmount masked path", unix.Unmount("/proc/kcore", unix.MNT_DETACH))
	tell("pivot_root", unix.PivotRoot("/", "/tmp"))
	tell("chroot", unix.Chroot("/tmp"))
	for name, flag := range map[string]int{"user": unix.CLONE_NEWUSER, "net": unix.CLONE_NEWNET, "mount": unix.CLONE_NEWNS, "cgroup": unix.CLONE_NEWCGROUP} {
		tell("unshare "+name, unix.Unshare(flag))
	}
	if fd, err := unix.Open("/proc/1/ns/net", unix.O_RDONLY, 0); err == nil {
		tell("setns", unix.Setns(fd, 0))
	}
	call("keyctl", unix.SYS_KEYCTL, 0)
	call("add_key", unix.SYS_ADD_KEY, str("user"), str("k"), str("v"), 1, ^uintptr(2))
	call("bpf", unix.SYS_BPF, 0, 0, 0)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0)
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, str(strings.Repeat("\x00", 120)))
	call("userfaultfd", unix.SYS_USERFAULTFD, 0)
	call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0)
	call("init_module", unix.SYS_INIT_MODULE, 0, 0, 0)
	call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0)
	call("syslog", unix.SYS_SYSLOG, 3, 0, 0)
	call("swapon", unix.SYS_SWAPON, str("/x"), 0)
	call("sethostname", unix.SYS_SETHOSTNAME, str("x"), 1)
	call("settimeofday", unix.SYS_SETTIMEOFDAY, str(strings.Repeat("\x00", 16)), 0)
	call("fsopen", unix.SYS_FSOPEN, str("tmpfs"), 0)
	call("open_tree", unix.SYS_OPEN_TREE, ^uintptr(99), str("/"), 1)
	for name, s := range map[string][3]int{
		"raw socket": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, "packet socket": {unix.AF_PACKET, unix.SOCK_RAW, 0},
		"nftables": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, "vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		"crypto socket": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
	} {
		fd, err := unix.Socket(s[0], s[1], s[2])
		if err == nil && name == "nftables" {
			// Opening is harmless; deleting every table must not be possible.
			err = deleteTables(fd)
		}
		tell(name, err)
	}
	tell("mknod device", unix.Mknod("/tmp/mem", unix.S_IFCHR|0o666, 1<<8|1))
	tell("ioctl interface address", setAddress())
}

func deleteTables(fd int) error {
	// NFNL_MSG_BATCH_BEGIN, NFT_MSG_DELTABLE for all families, end.
	msg := func(kind uint16, flags uint16, res uint16) []byte {
		b := make([]byte, 20)
		b[0] = 20
		b[4], b[5] = byte(kind), byte(kind>>8)
		b[6], b[7] = byte(flags), byte(flags>>8)
		b[18], b[19] = byte(res>>8), byte(res)
		return b
	}
	batch := append(msg(16, 1, 10), msg(10<<8|2, 5, 0)...)
	batch = append(batch, msg(17, 1, 10)...)
	if err := unix.Sendto(fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n >= 20 {
		if e := int32(buf[16]) | int32(buf[17])<<8 | int32(buf[18])<<16 | int32(buf[19])<<24; e < 0 {
			return syscall.Errno(-e)
		}
	}
	return nil
}

func setAddress() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr([]byte{169, 254, 169, 254}); err != nil {
		return err
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(ifr)))
	if e != 0 {
		return e
	}
	return nil
}

// files looks for the host in what can be read and written.
func files([]string) {
	for _, p := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
		"/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/pids.max",
		"/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/proc/1/oom_score_adj_", "/proc/kcore", "/proc/kmsg", "/dev/kmsg",
	} {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("1")
			f.Close()
		}
		tell("write "+p, err)
	}
	for _, p := range []string{"/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/net/tun", "/dev/kvm",
		"/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware/acpi/tables/DSDT", "/sys/kernel/debug/x",
		"/devices/mem", "/devices/zero", "/devices/disk", "/devices/watchdog", "/pipe"} {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			var b [64]byte
			var n int
			if n, err = unix.Read(fd, b[:]); err == nil && n == 0 {
				err = io.EOF
			}
			unix.Close(fd)
		}
		tell("read "+p, err)
	}
	// Who else is there, and what of the host do mounts tell?
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range pids {
		if comm, _ := os.ReadFile(p + "/comm"); strings.TrimSpace(string(comm)) != "attacker" {
			fmt.Printf("OPEN process %s %s\n", p, comm)
		}
	}
	links, _ := filepath.Glob("/sys/class/net/*")
	for _, l := range links {
		fmt.Println("is link", filepath.Base(l))
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		fmt.Println("is mount", fields[4], fields[5], fields[3])
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, d := range fds {
		to, _ := os.Readlink("/proc/self/fd/" + d.Name())
		if n, _ := strconv.Atoi(d.Name()); n > 2 && strings.HasPrefix(to, "/") && to != "/proc/self/mountinfo" && !strings.HasPrefix(to, "/proc/") {
			fmt.Println("OPEN inherited descriptor", d.Name(), to)
		}
	}
}

// reach tries to connect to each argument: tcp://HOST:PORT or udp://HOST:PORT.
func reach(targets []string) {
	for _, t := range targets {
		network, addr, ok := strings.Cut(t, "://")
		if !ok {
			continue
		}
		c, err := net.DialTimeout(network, addr, 700*time.Millisecond)
		if err == nil && network != "tcp" && network != "tcp6" {
			_ = c.SetDeadline(time.Now().Add(700 * time.Millisecond))
			if _, err = c.Write([]byte("x")); err == nil {
				_, err = c.Read(make([]byte, 1))
			}
		}
		if c != nil {
			c.Close()
		}
		tell("reach "+t, err)
	}
}

// setuid becomes nobody and runs a copy of itself that is setuid root.
func setuid(args []string) {
	if len(args) > 0 && args[0] == "inner" {
		fmt.Println("is euid", os.Geteuid(), "uid", os.Getuid())
		return
	}
	cmd := exec.Command("/suid/attacker", "setuid", "inner")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	fmt.Print(string(out))
	if err != nil {
		fmt.Println("shut setuid:", err)
	}
}

// fork starts processes until it may not.
func fork([]string) {
	n := 0
	for ; n < 4096; n++ {
		cmd := exec.Command("/attacker", "idle")
		if err := cmd.Start(); err != nil {
			fmt.Println("is processes", n, err)
			return
		}
	}
	fmt.Println("OPEN fork", n)
}

// flood writes MiB of log.
func flood(args []string) {
	mib, _ := strconv.Atoi(args[0])
	line := strings.Repeat("f", 1023) + "\n"
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	for range mib << 10 {
		w.WriteString(line)
	}
	w.Flush()
}

// hoard takes what the kernel counts per user.
func hoard([]string) {
	n := 0
	for ; n < 2000; n++ {
		if _, err := unix.InotifyInit1(0); err != nil {
			fmt.Println("is inotify", n, err)
			break
		}
	}
	fmt.Println("is hoarded", n)
}

func serve(args []string) {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		fmt.Println("shut serve:", err)
		return
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		fmt.Println("is address", a)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _ := os.Hostname()
			fmt.Fprintln(c, host)
			c.Close()
		}
	}()
	fmt.Println("serving")
	idle(nil)
}

func environment([]string) {
	wd, err := os.Getwd()
	fmt.Println("is cwd", wd, err)
	fmt.Println("is uid", os.Getuid(), os.Getgid())
	entries, err := os.ReadDir(".")
	for _, e := range entries {
		fmt.Println("is entry", e.Name())
	}
	fmt.Println("is entries", len(entries), err)
	for _, p := range []string{"/etc/hosts", "/etc/hostname"} {
		b, err := os.ReadFile(p)
		fmt.Printf("is %s %q %v\n", p, b, err)
	}
}

func idle([]string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
	os.Exit(0)
}
