package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// secrets gives keys or shares one after the other: the lines of a file or of
// stdin, or what is typed at the terminal, without echo, until an empty line.
type secretLines struct {
	lines    *bufio.Scanner // nil: a terminal
	file     io.Closer
	in       *os.File
	out      io.Writer
	prompt   string
	consumed int
}

func (a *app) secretLines(file, prompt string) (*secretLines, error) {
	s := &secretLines{out: a.Stderr, prompt: prompt}
	var r io.Reader = a.Stdin
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read operator key or share: %w", err)
		}
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
			fmt.Fprintf(a.Stderr, "redoubt: warning: %s can be read by other users (mode %04o): chmod 600 it, and replace what it holds\n", file, fi.Mode().Perm())
		}
		r, s.file = f, f
	} else if in, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		s.in = in
		return s, nil
	}
	s.lines = bufio.NewScanner(io.LimitReader(r, maxSecretLines+1))
	s.lines.Buffer(make([]byte, 0, maxSecretFile), maxSecretFile)
	return s, nil
}

// next returns the next one; "" at the end.
func (s *secretLines) next() (string, error) {
	if s.in != nil {
		fmt.Fprintf(s.out, "%s: ", s.prompt)
		b, err := term.ReadPassword(int(s.in.Fd()))
		fmt.Fprintln(s.out)
		defer clear(b)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		s.prompt = "next share (empty: no more)"
		return strings.TrimSpace(string(b)), nil
	}
	for s.lines.Scan() {
		if s.consumed += len(s.lines.Bytes()) + 1; s.consumed > maxSecretLines {
			return "", fmt.Errorf("what was given is longer than %d bytes: this is something else", maxSecretLines)
		}
		if line := strings.TrimSpace(s.lines.Text()); line != "" {
			return line, nil
		}
	}
	if err := s.lines.Err(); err != nil {
		return "", fmt.Errorf("the operator key or share is longer than %d bytes, or no text: this is something else", maxSecretFile)
	}
	return "", nil
}

func (s *secretLines) Close() {
	if s.file != nil {
		s.file.Close()
	}
}

// readCredential reads an operator key, or shares of one slot, which come together
// here: all at once, or typed one after the other until an empty line.
func (a *app) readCredential(file string) (_ *apiclient.Credential, err error) {
	with := &apiclient.Credential{}
	in, err := a.secretLines(file, "operator key or share")
	if err != nil {
		return nil, failf(ExitLocked, "%w; nothing was changed", err)
	}
	defer in.Close()
	defer func() {
		if err != nil {
			with.Wipe()
			err = failf(ExitLocked, "%w; nothing was changed", err)
		}
	}()
	text, err := in.next()
	switch {
	case err != nil:
		return nil, err
	case text == "":
		return nil, errNothingGiven
	case !isShare(text):
		key, err := in.onlyKey(text)
		if err != nil {
			return nil, err
		}
		with.Key = &key
		return with, nil
	}
	with.Shares = make([]autolock.Share, 0, autolock.MaxShares) // none is copied as it grows
	for text != "" {
		if len(with.Shares) == autolock.MaxShares {
			return nil, fmt.Errorf("more than %d shares were given: no slot has as many", autolock.MaxShares)
		}
		share, err := autolock.ParseShare(text)
		if err != nil {
			return nil, err
		}
		with.Shares = append(with.Shares, share)
		share.Wipe()
		if text, err = in.next(); err != nil {
			return nil, err
		}
	}
	return with, nil
}

var errNothingGiven = errors.New("no operator key or share was given: type it, or give it on stdin")

// onlyKey is the operator key that text, the first of the lines, is; the caller
// wipes it. More lines are refused.
func (s *secretLines) onlyKey(text string) (autolock.OperatorKey, error) {
	key, err := autolock.ParseOperatorKey(text)
	if err != nil || s.in != nil { // what is typed is one line
		return key, err
	}
	if more, err := s.next(); err != nil || more != "" {
		key.Wipe()
		return key, errors.New("there is more than one line: give the operator key alone")
	}
	return key, nil
}

func isShare(text string) bool {
	return len(text) >= len(autolock.SharePrefix) && strings.EqualFold(text[:len(autolock.SharePrefix)], autolock.SharePrefix)
}

// relay is to whom shares are also given.
type relay struct {
	api      *api
	managers []*controlpb.LockedManager
	failed   int
}

// askRelay finds the locked managers that are meant, and says who they are.
func (a *app) askRelay(ctx context.Context, c *api, to []string) (*relay, error) {
	req := &controlpb.AskSessionsRequest{}
	if !(len(to) == 1 && to[0] == "all") {
		req.Addresses = to
	}
	r := &relay{api: c}
	resp, err := c.AskSessions(ctx, req)
	if err != nil {
		return nil, apiclient.Err(err)
	}
	for _, m := range resp.Managers {
		label := nodeLabel(m.Name, m.NodeId) + " at " + printable(m.Address)
		switch {
		case m.Statement != nil:
			r.managers = append(r.managers, m)
			fmt.Fprintf(a.Stdout, "%s is locked and gets what you give.\n", label)
		case m.Unlocked:
			fmt.Fprintf(a.Stdout, "%s is open.\n", label)
		default:
			r.failed++
			fmt.Fprintf(a.Stderr, "redoubt: warning: %s gets nothing: %s\n", label, printable(m.Message))
		}
	}
	return r, nil
}

func (r *relay) statements() (out []*keydpb.SessionStatement) {
	if r == nil {
		return nil
	}
	for _, m := range r.managers {
		out = append(out, m.Statement)
	}
	return out
}

// send brings what keyd sealed to each of the others.
func (a *app) send(ctx context.Context, r *relay, sealed []*keydpb.SealedShare) {
	for i, s := range sealed {
		m := r.managers[i]
		label := nodeLabel(m.Name, m.NodeId)
		err := errors.New(s.Refused)
		var resp *controlpb.SendShareResponse
		if s.Refused == "" {
			resp, err = r.api.SendShare(ctx, &controlpb.SendShareRequest{Address: m.Address, Share: s})
		}
		switch {
		case err != nil:
			r.failed++
			fmt.Fprintf(a.Stderr, "redoubt: warning: %s did not get the share: %s\n", label, printable(apiclient.Err(err).Error()))
		case resp.Unlocked:
			fmt.Fprintf(a.Stdout, "%s is open.\n", label)
		default:
			fmt.Fprintf(a.Stdout, "%s has %s.\n", label, progressText(resp.Progress))
		}
	}
}

func progressText(p *keydpb.ShareProgress) string {
	var numbers []string
	for _, n := range p.GetNumbers() {
		numbers = append(numbers, fmt.Sprint(n))
	}
	return fmt.Sprintf("%d of %d shares (numbers %s)", len(p.GetNumbers()), p.GetThreshold(), strings.Join(numbers, ", "))
}

// giveShares gives keyd one share after the other, first having been read, until it
// is open or there are no more. It reports whether this manager is open.
func (a *app) giveShares(ctx context.Context, keyd *apiclient.Keyd, in *secretLines, first string, r *relay) (bool, error) {
	var last *keydpb.GiveShareResponse
	wasOpen := bounded(ctx, keyd.Locked) != nil
	for text := first; text != ""; {
		share, err := autolock.ParseShare(text)
		if err != nil {
			return false, failf(ExitLocked, "%w; it was not taken", err)
		}
		err = bounded(ctx, func(ctx context.Context) (err error) {
			last, err = keyd.GiveShare(ctx, &share, r.statements())
			return err
		})
		share.Wipe()
		var wrong *apiclient.ShareError
		switch {
		case errors.As(err, &wrong):
			return false, failf(ExitLocked, "%w", err)
		case err != nil:
			return false, err
		case last.Had:
			fmt.Fprintf(a.Stdout, "Share %d was here already: %s.\n", last.Number, progressText(last.Progress))
		case !wasOpen && !last.Unlocked:
			fmt.Fprintf(a.Stdout, "Share %d is here: %s; forgotten at %s unless another one comes.\n", last.Number, progressText(last.Progress),
				time.Unix(last.Progress.ForgottenAt, 0).Format("15:04:05"))
		}
		if len(last.Sealed) > 0 {
			if err := bounded(ctx, func(ctx context.Context) error { a.send(ctx, r, last.Sealed); return nil }); err != nil {
				return false, err
			}
		}
		if last.Unlocked && !wasOpen {
			return true, nil
		}
		if text, err = in.next(); err != nil {
			return false, err
		}
	}
	if r != nil && r.failed > 0 {
		return wasOpen, failf(ExitNotConverged, "%d managers did not get what you gave: go to them, or give it again", r.failed)
	}
	if wasOpen {
		return true, nil
	}
	p := last.GetProgress()
	return false, failf(ExitNotConverged, "still locked: %s are here, %d more are needed, by `redoubt unlock` on this machine or `redoubt unlock --relay` on another",
		progressText(p), int(p.GetThreshold())-len(p.GetNumbers()))
}
