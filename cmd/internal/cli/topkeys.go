package cli

import (
	"context"
	"io"
)

// topKey is what a key means to top.
type topKey int

const (
	keyNone topKey = iota
	keyQuit
	keyUp
	keyDown
	keyPageUp
	keyPageDown
	keyAll
	keyNodes
	keyServices
	keyTasks
)

const (
	// maxKeyBytes bounds what one read takes: a key's sequence comes in one piece.
	maxKeyBytes = 64
	maxSequence = 4 // of keysOf
)

// keysOf are the meanings of what terminals send.
var keysOf = map[string]topKey{
	"q": keyQuit, "\x03": keyQuit, "\x04": keyQuit,
	"k": keyUp, "\x1b[A": keyUp, "\x1bOA": keyUp, "j": keyDown, "\x1b[B": keyDown, "\x1bOB": keyDown,
	"b": keyPageUp, "\x1b[5~": keyPageUp, " ": keyPageDown, "\x1b[6~": keyPageDown,
	"a": keyAll, "n": keyNodes, "s": keyServices, "t": keyTasks,
}

// hearKeys hands on keys until the terminal or the context ends, and closes keys.
func hearKeys(ctx context.Context, tty io.Reader, keys chan<- topKey) {
	defer close(keys)
	buf := make([]byte, maxKeyBytes)
	for {
		n, err := tty.Read(buf)
		if err != nil {
			return
		}
		for rest := string(buf[:n]); rest != ""; {
			var k topKey
			if k, rest = firstKey(rest); k == keyNone {
				continue
			}
			select {
			case keys <- k:
			case <-ctx.Done():
				return
			}
		}
	}
}

// firstKey is the key that s begins with, and what comes after it.
func firstKey(s string) (topKey, string) {
	for n := min(len(s), maxSequence); n > 0; n-- {
		if k, ok := keysOf[s[:n]]; ok {
			return k, s[n:]
		}
	}
	return keyNone, s[1:]
}

// topPage is what is shown.
type topPage int

const (
	topAll topPage = iota
	topNodes
	topServices
	topTasks
)

// topView is what somebody looks at: a page, from a line on.
type topView struct {
	page topPage
	top  int
}

// press does what a key means, on a terminal of so many rows.
func (v *topView) press(k topKey, rows int) bool {
	page := max(rows-1, 1)
	switch k {
	case keyUp:
		v.top--
	case keyDown:
		v.top++
	case keyPageUp:
		v.top -= page
	case keyPageDown:
		v.top += page
	case keyAll, keyNodes, keyServices, keyTasks:
		*v = topView{page: map[topKey]topPage{keyAll: topAll, keyNodes: topNodes, keyServices: topServices, keyTasks: topTasks}[k]}
	default:
		return false
	}
	v.top = max(v.top, 0)
	return true
}
