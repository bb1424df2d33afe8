package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// readSecret reads one key or token: from a file, "-" or "" meaning stdin. On
// a terminal it asks without echo.
func (a *app) readSecret(file, prompt string) (string, error) {
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("cannot read %s: %w", prompt, err)
		}
		defer f.Close()
		a.warnReadable(f)
		return oneSecret(f, prompt)
	}
	if in, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprintf(a.Stderr, "%s: ", prompt)
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.Stderr)
		if err != nil {
			return "", err
		}
		defer clear(b)
		return oneSecret(strings.NewReader(string(b)), prompt)
	}
	return oneSecret(a.Stdin, prompt)
}

// warnReadable warns of a file with a secret that others can read.
func (a *app) warnReadable(f *os.File) {
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(a.Stderr, "redoubt: warning: %s can be read by other users (mode %04o): chmod 600 it, and replace what it holds\n", printable(f.Name()), fi.Mode().Perm())
	}
}

// readSecretFD reads from a descriptor the caller opened for us.
func readSecretFD(fd int, prompt string) (string, error) {
	if fd < 3 {
		return "", usagef("--token-fd %d: give a descriptor of 3 or more, opened by the shell as in `3<token`", fd)
	}
	f := os.NewFile(uintptr(fd), prompt)
	if f == nil {
		return "", usagef("--token-fd %d: no such descriptor", fd)
	}
	defer f.Close()
	return oneSecret(f, prompt)
}

// oneSecret returns the only non-empty line of r.
func oneSecret(r io.Reader, what string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecretFile+1))
	defer clear(b)
	if err != nil {
		return "", fmt.Errorf("cannot read the %s: %w", what, err)
	}
	if len(b) > maxSecretFile {
		return "", fmt.Errorf("the %s is longer than %d bytes: this is something else", what, maxSecretFile)
	}
	var found string
	s := bufio.NewScanner(strings.NewReader(string(b)))
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		switch {
		case line == "":
		case found != "":
			return "", fmt.Errorf("there is more than one line: give the %s alone", what)
		default:
			found = line
		}
	}
	if err := s.Err(); err != nil {
		return "", errors.New("the " + what + " is not text")
	}
	if found == "" {
		return "", fmt.Errorf("no %s was given: type it, or give it on stdin", what)
	}
	return found, nil
}
