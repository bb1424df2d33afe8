package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// maxWords bounds in bytes what is read of a refusal.
const maxWords = 2 << 10

// words is the end of a pipe on which a daemon that refuses its flags or
// configuration says why (package refusal), before it ends with refusedCode. A
// crash of Go's own ends with that code, too, but says nothing here. What is read
// is shown, and nothing else is made of it.
type words struct{ fd int }

// newWords returns both ends; the second is the daemon's.
func newWords() (words, *os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return words{}, nil, err
	}
	return words{p[0]}, os.NewFile(uintptr(p[1]), "refusals"), nil
}

// read returns what is there, on one line, without waiting for more.
func (w words) read() string {
	buf := make([]byte, maxWords)
	n, err := syscall.Read(w.fd, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return oneline.Text(string(buf[:n]), maxWords)
}

func (w words) close() { syscall.Close(w.fd) }

// refusedError is a daemon's refusal of what this process was started with.
type refusedError struct{ daemon, why string }

func (e *refusedError) Error() string {
	return e.daemon + ": " + e.why + " (all daemons are stopped; containers go on)"
}
