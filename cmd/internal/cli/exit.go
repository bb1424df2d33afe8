package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/secretforms"
)

// Exit codes. Scripts depend on them.
const (
	ExitOK           = 0
	ExitError        = 1
	ExitUsage        = 2 // unknown flag, argument or command
	ExitNotConverged = 3 // accepted, but not there within --timeout
	ExitLocked       = 4 // this manager is locked, or the key does not open it
	ExitDenied       = 5
	ExitUnreachable  = 6 // no node at the socket, or no leader
	ExitApproval     = 7 // others must approve it first: the error names the approval
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, args...)}
}

func failf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// childExit carries the exit code of a command that `lab exec` ran; it prints
// nothing, as that command has spoken for itself.
type childExit int

func (c childExit) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func exitCode(err error) int {
	var (
		ee *exitError
		ce childExit
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &ce):
		return int(ce)
	case errors.As(err, &ee):
		return ee.code
	}
	switch apierr.ReasonOf(err) {
	case apierr.ReasonLocked:
		return ExitLocked
	case apierr.ReasonDenied:
		return ExitDenied
	case apierr.ReasonApproval:
		return ExitApproval
	case apierr.ReasonUnreachable, apierr.ReasonNoLeader, apierr.ReasonTimeout:
		return ExitUnreachable
	}
	return ExitError
}

func (a *app) printError(err error) {
	var ce childExit
	if errors.As(err, &ce) {
		return
	}
	msg := err.Error()
	if errors.Is(err, context.Canceled) {
		msg = "interrupted"
	}
	fmt.Fprintf(a.Stderr, "redoubt: %s\n", printable(secretforms.Redact(msg)))
}

// printableText is printable for a text of several lines, each ended.
func printableText(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\r\n")
		b.WriteString(strings.Map(func(r rune) rune {
			if r != '\t' && unshown(r) {
				return -1
			}
			return r
		}, line))
		b.WriteByte('\n')
	}
	return b.String()
}

// unshown are control characters, and those that change the order or the lines of
// what is shown.
func unshown(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// printable is s in one line without control characters.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\r' {
			return ' '
		}
		if unshown(r) {
			return -1
		}
		return r
	}, s))
}
