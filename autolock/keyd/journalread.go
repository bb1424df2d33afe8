package keyd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// line is an entry of the journal and its hash.
type line struct {
	entry
	hash string
}

// since returns what was written behind the line of that number and hash, the
// oldest first, and whether that line is there. It goes back from the last line,
// whose hash is in memory and of which each says the hash of the one before, so
// that nothing it returns was changed since it was written or, in this file,
// unlocked. errJournalDamaged: this file is not what was written.
func (j *journal) since(seq uint64, hash string) (lines []line, found bool, err error) {
	want := j.last
	at := func() bool {
		return want == hash && (len(lines) == 0 && j.seq == seq || len(lines) > 0 && lines[len(lines)-1].Seq == seq+1)
	}
	old, err := filepath.Glob(j.path + ".*.old") // sorted, and names sort by time
	if err != nil {
		return nil, false, err
	}
	slices.Reverse(old)
	for i, path := range append([]string{j.path}, old...) {
		raw, err := atomicfile.ReadBounded(path, 2*maxJournal)
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 && j.size > 0 {
				return nil, false, errJournalDamaged
			}
			continue
		}
		if err != nil {
			return nil, false, err
		}
		raw = bytes.TrimSuffix(bytes.TrimPrefix(raw, []byte(journalMagic)), []byte("\n"))
		for len(raw) > 0 && len(lines) < maxBehind && !at() {
			start := bytes.LastIndexByte(raw, '\n') + 1
			e, h, _, err := parseLine(raw[start:])
			if err != nil || h != want {
				if i == 0 {
					return nil, false, errJournalDamaged
				}
				raw = nil // of another chain, or changed: what is there ends here
				break
			}
			lines, want = append(lines, line{e, h}), e.Prev
			raw = raw[:max(start-1, 0)]
		}
		if at() || len(lines) >= maxBehind || want == "" {
			break
		}
	}
	found = at()
	slices.Reverse(lines)
	return lines, found, nil
}

// readJournal tells what keyd wrote down behind a line that was read before.
func (s *Server) readJournal(req *keydpb.ReadJournalRequest) (*keydpb.ReadJournalResponse, error) {
	if _, err := s.opened(); err != nil {
		return nil, err
	}
	if len(req.GetHash()) > 32 {
		return nil, invalid("the hash of a line has 32 bytes")
	}
	lines, found, err := s.journal.since(req.GetSeq(), hex.EncodeToString(req.GetHash()))
	if errors.Is(err, errJournalDamaged) {
		s.log.Error("the journal does not verify", "err", err)
		if err := s.journal.setAside("damaged"); err != nil {
			return nil, err
		}
		s.journal.seq, s.journal.last = 0, ""
		if err := s.reportDamage(); err != nil {
			return nil, err
		}
		lines, found, err = s.journal.since(req.GetSeq(), hex.EncodeToString(req.GetHash()))
	}
	if err != nil {
		return nil, fmt.Errorf("keyd: reading the journal: %w", err)
	}
	resp := &keydpb.ReadJournalResponse{Lost: !found && req.GetSeq() > 0, Seq: s.journal.seq}
	if resp.Hash, err = hex.DecodeString(s.journal.last); err != nil {
		return nil, err
	}
	if resp.Lost { // what was read before is there under other numbers, or is not
		lines = slices.DeleteFunc(lines, func(l line) bool { return l.Time.UnixNano() <= req.GetAt() })
	}
	for _, l := range lines[:min(len(lines), maxRead)] {
		told, err := l.told()
		if err != nil {
			return nil, err
		}
		resp.Lines = append(resp.Lines, told)
	}
	return resp, nil
}

func (l line) told() (*keydpb.JournalLine, error) {
	hash, err := hex.DecodeString(l.hash)
	if err != nil {
		return nil, err
	}
	prev, err := hex.DecodeString(l.Prev)
	if err != nil {
		return nil, err
	}
	return &keydpb.JournalLine{Seq: l.Seq, At: l.Time.UnixNano(), Event: l.Event, Outcome: l.Outcome, Node: l.Node, Role: l.Role, Token: l.Token,
		Detail: l.Detail, Keys: l.Keys, Hash: hash, Prev: prev}, nil
}

// noteRefused writes down calls that redoubtd refused while nobody leads. What is
// above the rate is counted in the last line.
func (s *Server) noteRefused(req *keydpb.NoteRefusedRequest) (*keydpb.NoteRefusedResponse, error) {
	if _, err := s.opened(); err != nil {
		return nil, err
	}
	if len(req.GetCalls()) > maxRefused {
		return nil, invalid("more than %d calls", maxRefused)
	}
	now := time.Now()
	for i, c := range req.GetCalls() {
		if !s.refusals.take(refusalRate, now) {
			return nil, refuse(keydpb.Code_CODE_RATE_LIMITED, "%d of %d calls were not written down: there were too many", len(req.GetCalls())-i, len(req.GetCalls()))
		}
		detail := fmt.Sprintf("%s, %d times: %s from %s: %s", c.GetMethod(), max(c.GetTimes(), 1), c.GetCaller(), c.GetAddress(), c.GetReason())
		if err := s.note(entry{Event: eventRefused, Outcome: outcomeDenied, Detail: oneline.Text(detail, maxSaid)}); err != nil {
			return nil, err
		}
	}
	return &keydpb.NoteRefusedResponse{}, nil
}
