// Package refusal is how a daemon that will not start says why to those who wait
// at its socket, and how they hear it.
//
// The socket is bound by whoever starts the daemon and outlives it, so a caller
// is not told that nobody is there: it waits. A daemon that refuses its
// configuration accepts whoever waits, writes one line and ends. The line
// cannot be taken for the beginning of HTTP/2, whose first byte is the highest
// of a short frame's length, 0.
//
// The supervisor, where it is redoubt-node, is told on a pipe that it passed, and
// the pipe is closed once the configuration is good.
//
// It owns that line alone. Only root is told: a configuration is for root to
// read.
package refusal

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
)

const (
	prefix = "refused: "
	// maxLine bounds the line in bytes.
	maxLine = 2 << 10
	maxText = maxLine - len(prefix) - 1
	// patience is how long is waited for callers, and for each of them.
	patience = 100 * time.Millisecond
)

// Tell tells those that wait at l now.
func Tell(l net.Listener, text string) {
	u, ok := l.(*net.UnixListener)
	if !ok || u.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	roots := peercred.Listener(u, nil, 0)
	for {
		conn, err := roots.Accept()
		if err != nil {
			return
		}
		tell(conn.(*net.UnixConn), text)
	}
}

// tell does not close before the other end did, or had its time: what it had
// sent, unread, would cut off what it is told.
func tell(conn *net.UnixConn, text string) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	if _, err := io.WriteString(conn, prefix+oneline.Text(text, maxText)+"\n"); err == nil && conn.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// Conn is a connection on which a refusal is heard. It is read by one goroutine.
type Conn struct {
	net.Conn
	begun bool
	text  atomic.Pointer[string]
}

// Refused is what was told in place of an answer; empty: nothing.
func (c *Conn) Refused() string {
	if t := c.text.Load(); t != nil {
		return *t
	}
	return ""
}

// Read implements net.Conn. A refusal is an end.
func (c *Conn) Read(p []byte) (int, error) {
	if c.begun || len(p) == 0 {
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	c.begun = true
	if p[0] == 0 {
		return n, err
	}
	rest := io.MultiReader(strings.NewReader(string(p[:n])), c.Conn)
	said, err := bufio.NewReader(io.LimitReader(rest, maxLine)).ReadString('\n')
	text, ok := strings.CutPrefix(said, prefix)
	if err != nil || !ok {
		return 0, errors.New("what answers here is no node")
	}
	text = oneline.Text(text, maxText)
	c.text.Store(&text)
	return 0, io.EOF
}
