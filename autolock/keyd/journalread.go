package keyd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// line is an entry of the journal and its hash.
type line struct {
	entry
	hash string
}

// mark is a line that was walked past on the way back, and where it ends in which
// file: from there on it is not far to lines that are long ago.
type mark struct {
	path string
	end  int64 // without the newline; negative: the file's
	seq  uint64
	hash string
}

// since returns what was written behind the line of that number and hash, the
// oldest first and maxRead lines at most, and whether that line is there; where it is
// not, only lines younger than after, in Unix nanoseconds. It goes back from the last
// line, whose hash is in memory and of which each says the hash of the one before, so
// that nothing it returns was changed since it was written or, in this file,
// unlocked. errJournalDamaged: this file is not what was written.
func (j *journal) since(seq uint64, hash string, after int64) (lines []line, found bool, err error) {
	old, err := filepath.Glob(j.path + ".*.old") // sorted, and names sort by time
	if err != nil {
		return nil, false, err
	}
	slices.Reverse(old)
	w := walk{files: append([]string{j.path}, old...), seq: seq, hash: hash, after: after, grown: j.size > 0}
	if from := j.near(seq); from.path != "" {
		if lines, found, err = w.back(from); err == nil && found {
			return lines, true, nil
		}
	}
	lines, found, err = w.back(mark{path: j.path, end: -1, seq: j.seq, hash: j.last})
	if len(w.marks) > 0 {
		j.marks = w.marks
	}
	return lines, found, err
}

// near is the mark next to what comes behind a line, as much as one answer has; none
// has no path.
func (j *journal) near(seq uint64) (out mark) {
	for _, m := range j.marks { // the newest first
		if m.seq < seq+maxRead {
			break
		}
		out = m
	}
	return out
}

// walk goes back through the files of a journal, the newest first, to a line.
type walk struct {
	files []string
	seq   uint64
	hash  string
	after int64
	grown bool // the newest file has lines

	marks []mark // each so many lines
}

// back is since, from a line on.
func (w *walk) back(from mark) (lines []line, found bool, err error) {
	w.marks = nil
	var all, younger oldest
	seq, want := from.seq, from.hash // of the line that comes next
	ended := func() bool { return seq == w.seq && want == w.hash || want == "" }
	for i := max(slices.Index(w.files, from.path), 0); i < len(w.files); i++ {
		path, end := w.files[i], int64(-1)
		if path == from.path {
			end = from.end
		}
		b, err := openBackward(path, end)
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 && w.grown {
				return nil, false, errJournalDamaged
			}
			continue
		}
		if err != nil {
			return nil, false, err
		}
		for !ended() {
			text, end, err := b.line()
			if err == io.EOF {
				break
			}
			var l line
			if err == nil {
				l.entry, l.hash, _, err = parseLine(text)
			}
			if err != nil || l.hash != want {
				if i == 0 {
					return nil, false, errors.Join(errJournalDamaged, b.file.Close())
				}
				break // of another chain, or changed: what is there ends here
			}
			if all.met > 0 && all.met%maxRead == 0 {
				w.marks = append(w.marks, mark{path, end, l.Seq, l.hash})
			}
			all.meet(l)
			if l.Time.UnixNano() > w.after {
				younger.meet(l)
			}
			seq, want = l.Seq-1, l.Prev
		}
		if err := b.file.Close(); err != nil {
			return nil, false, err
		}
		if ended() {
			break
		}
	}
	if seq == w.seq && want == w.hash {
		return all.inOrder(), true, nil
	}
	return younger.inOrder(), false, nil
}

// oldest keeps the maxRead lines that were met last: on the way back, the oldest.
type oldest struct {
	lines []line
	met   int
}

func (o *oldest) meet(l line) {
	if len(o.lines) < maxRead {
		o.lines = append(o.lines, l)
	} else {
		o.lines[o.met%maxRead] = l
	}
	o.met++
}

// inOrder returns them, the oldest first.
func (o *oldest) inOrder() (out []line) {
	for i := range o.lines {
		out = append(out, o.lines[(o.met-1-i)%maxRead])
	}
	return out
}

// readJournal tells what keyd wrote down behind a line that was read before.
func (s *Server) readJournal(req *keydpb.ReadJournalRequest) (*keydpb.ReadJournalResponse, error) {
	if _, err := s.opened(); err != nil {
		return nil, err
	}
	if len(req.GetHash()) > 32 {
		return nil, invalid("the hash of a line has 32 bytes")
	}
	// Where a line is lost, those that were read before are there under other numbers,
	// or are not: time tells.
	lines, found, err := s.journal.since(req.GetSeq(), hex.EncodeToString(req.GetHash()), req.GetAt())
	if errors.Is(err, errJournalDamaged) {
		s.log.Error("the journal does not verify", "err", err)
		if err := s.journal.setAside("damaged"); err != nil {
			return nil, err
		}
		s.journal.seq, s.journal.last = 0, ""
		if err := s.reportDamage(); err != nil {
			return nil, err
		}
		lines, found, err = s.journal.since(req.GetSeq(), hex.EncodeToString(req.GetHash()), req.GetAt())
	}
	if err != nil {
		return nil, fmt.Errorf("keyd: reading the journal: %w", err)
	}
	resp := &keydpb.ReadJournalResponse{Lost: !found, Seq: s.journal.seq}
	if resp.Hash, err = hex.DecodeString(s.journal.last); err != nil {
		return nil, err
	}
	for _, l := range lines {
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
