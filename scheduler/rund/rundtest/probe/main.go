// Command probe is the program of the tests' images: it does one thing to look
// at from inside a container.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func zombies() (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if _, after, ok := strings.Cut(string(b), ") "); ok && strings.HasPrefix(after, "Z") {
			n++
		}
	}
	return n
}

func run(verb string, args []string) error {
	switch verb {
	case "wait": // until SIGTERM or SIGUSR1, naming it
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println("got", <-c)
		return nil
	case "deaf": // until killed
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		for {
			time.Sleep(time.Hour)
		}
	case "echo": // each argument on a line, the second half on stderr
		for i, a := range args {
			if i < (len(args)+1)/2 {
				fmt.Println(a)
			} else {
				fmt.Fprintln(os.Stderr, a)
			}
		}
		return nil
	case "flood": // N lines
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		w := bufio.NewWriter(os.Stdout)
		for i := range n {
			fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", 80))
		}
		return w.Flush()
	case "sleep": // for so long
		d, err := time.ParseDuration(args[0])
		time.Sleep(d)
		return err
	case "test": // whether a file is there
		_, err := os.Stat(args[0])
		return err
	case "touch":
		return os.WriteFile(args[0], nil, 0o600)
	case "whoami": // user, capabilities, seccomp and core limit, and fails to tell them
		b, err := os.ReadFile("/proc/self/status")
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 1 && strings.Contains("Uid: CapEff: CapBnd: NoNewPrivs: Seccomp:", f[0]) {
				fmt.Print(f[0], f[1], " ")
			}
		}
		if len(args) > 0 {
			return errors.New("told")
		}
		return err
	case "exit":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		os.Exit(n)
	case "cat":
		for _, f := range args {
			b, err := os.ReadFile(f)
			if err != nil {
				fmt.Printf("%s: %v\n", f, err)
				continue
			}
			fmt.Printf("%s: %s\n", f, strings.TrimSpace(string(b)))
		}
		return nil
	case "write":
		for _, f := range args {
			fmt.Printf("%s: %v\n", f, os.WriteFile(f, []byte("x"), 0o600))
		}
		return nil
	case "env":
		for _, a := range args {
			fmt.Printf("%s=%s\n", a, os.Getenv(a))
		}
		wd, _ := os.Getwd()
		h, _ := os.Hostname()
		fmt.Printf("cwd=%s host=%s uid=%d gid=%d\n", wd, h, os.Getuid(), os.Getgid())
		return nil
	case "eat": // memory, N MiB
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		var keep [][]byte
		for range n {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		fmt.Println("ate", len(keep))
		return nil
	case "threads": // start N processes
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		for i := range n {
			p, err := os.StartProcess("/probe", []string{"/probe", "deaf"}, &os.ProcAttr{})
			if err != nil {
				fmt.Println("process", i, err)
				return nil
			}
			defer p.Kill()
		}
		fmt.Println("all started")
		return nil
	case "syscalls": // what seccomp and capabilities leave
		fmt.Println("mount:", syscall.Mount("x", "/tmp", "tmpfs", 0, ""))
		fmt.Println("unshare:", syscall.Unshare(syscall.CLONE_NEWUSER))
		_, _, e := syscall.RawSyscall(syscall.SYS_PTRACE, 0, 0, 0)
		_ = e
		_, _, e = syscall.RawSyscall(250 /* keyctl */, 0, 0, 0)
		fmt.Println("keyctl:", e)
		_, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP)
		fmt.Println("raw socket:", err)
		fmt.Println("mknod:", syscall.Mknod("/dev/shm/n", syscall.S_IFCHR|0o600, 1<<8|3))
		fmt.Println("chown:", os.Chown("/dev/shm", 1000, 1000))
		_, err = os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
		fmt.Println("stdout:", err)
		return nil
	case "orphan": // leave a process to the first one, and count those that stay dead
		p, err := os.StartProcess("/probe", []string{"/probe", "leave"}, &os.ProcAttr{})
		if err != nil {
			return err
		}
		if _, err := p.Wait(); err != nil {
			return err
		}
		n := 0
		for range 20 { // until they are gone, or 2 s
			time.Sleep(100 * time.Millisecond)
			if n = zombies(); n == 0 {
				break
			}
		}
		fmt.Println("zombies:", n, "pid:", os.Getpid())
		return nil
	case "leave":
		_, err := os.StartProcess("/probe", []string{"/probe", "exit", "0"}, &os.ProcAttr{})
		return err
	case "open": // devices
		for _, f := range args {
			d, err := os.OpenFile(f, os.O_RDWR, 0)
			if err == nil {
				_, err = d.Write([]byte("x"))
			}
			fmt.Printf("%s: %v\n", f, err)
		}
		return nil
	case "mirror": // what it reads
		_, err := io.Copy(os.Stdout, os.Stdin)
		fmt.Println("end")
		return err
	case "window": // its terminal's size, now and when it changes, until SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGWINCH)
		for {
			var size [4]uint16
			if _, _, err := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size))); err != 0 {
				return err
			}
			fmt.Printf("%dx%d\n", size[1], size[0])
			if <-c == syscall.SIGTERM {
				os.Exit(7)
			}
		}
	case "behind": // leave a process that holds the output open
		p := &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}}
		_, err := os.StartProcess("/probe", []string{"/probe", "sleep", "1h"}, p)
		fmt.Println("left one")
		return err
	case "listen": // on a port, any address
		l, err := net.Listen("tcp", ":"+args[0])
		if err != nil {
			return err
		}
		fmt.Println("listening")
		return l.Close()
	}
	return fmt.Errorf("unknown verb %q", verb)
}
