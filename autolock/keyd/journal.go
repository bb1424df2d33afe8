package keyd

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

const (
	journalName  = "journal"
	journalLabel = "redoubt keyd journal v1\x00"
	// journalMagic is the first line of a file; those of the first release have
	// none. Another number is another format, and not read.
	journalMagic = "RDTJ1\n"
	noMAC        = "-"
)

// entry is one line of the journal: JSON, a space, the hex SHA-256 of label and
// JSON, a space, the hex HMAC of that hash or "-". Prev is the hash of the line
// before, across files.
type entry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	Outcome string    `json:"outcome"`
	Node    string    `json:"node,omitempty"`
	Role    string    `json:"role,omitempty"`
	Token   string    `json:"token,omitempty"`
	Detail  string    `json:"detail,omitempty"`
	// Keys are SHA-256 of the SubjectPublicKeyInfo of what was signed.
	Keys []string `json:"keys,omitempty"`
	Prev string   `json:"prev"`
}

// keyless reports whether an entry can be one that was written without the key,
// while locked. Whatever else lacks its MAC was not written by keyd.
func (e entry) keyless() bool {
	return e.Event == eventUnlock && e.Outcome == outcomeWrongKey || e.Event == eventJournal && e.Outcome == outcomeDamaged
}

// Entries that are written while locked.
const (
	eventUnlock, outcomeWrongKey = "unlock", "wrong key"
	eventJournal, outcomeDamaged = "journal", "damaged"
)

// eventRefused is a call that redoubtd refused, and outcomeDenied what anybody is
// refused by policy.
const eventRefused, outcomeDenied = "refused", "denied"

// journal appends entries; each is on disk before add returns.
type journal struct {
	path string
	file *os.File // nil until the first entry
	size int64
	seq  uint64
	last string // hash of the last entry
	key  []byte // nil while locked
	// issued are the keys of what was signed, as far as this file says.
	issued map[given]bool
	// marks are lines that were read, the newest first. A file that is set aside has
	// another name.
	marks []mark
}

// given is to whom a certificate was given, and for which key.
type given struct{ node, key string }

// errJournalDamaged says that a journal file was changed.
var errJournalDamaged = errors.New("the journal was changed or damaged")

// openJournal continues the journal in dir. A line cut short by a crash is
// dropped; a last line that is whole but for its end was not cut short. A journal that does not verify, or that keyd would not have let grow
// so large, is set aside, and damaged says so: the evidence stays, and the
// manager can still be unlocked. j is never nil.
func openJournal(dir string) (j *journal, damaged bool, err error) {
	j = &journal{path: filepath.Join(dir, journalName)}
	if fi, err := os.Stat(j.path); err == nil && fi.Size() > 2*maxJournal {
		return j, true, j.setAside("damaged")
	}
	raw, err := atomicfile.ReadBounded(j.path, 2*maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return j, false, nil
	}
	if err != nil {
		return j, false, fmt.Errorf("reading the journal: %w", err)
	}
	whole := raw[:bytes.LastIndexByte(raw, '\n')+1]
	if err := errors.Join(j.read(whole, nil), torn(raw[len(whole):])); err != nil {
		j.seq, j.last = 0, ""
		return j, true, j.setAside("damaged")
	}
	if len(whole) < len(raw) {
		if err := os.Truncate(j.path, int64(len(whole))); err != nil {
			return j, false, err
		}
	}
	j.size = int64(len(whole))
	return j, false, nil
}

// torn returns an error where what follows the last newline cannot be what a
// crash left of a line: all of one, and another byte.
func torn(rest []byte) error {
	if len(rest) == 0 {
		return nil
	}
	if string(rest[:len(rest)-1]) == journalMagic[:len(journalMagic)-1] {
		return errJournalDamaged
	}
	if _, _, _, err := parseLine(rest[:len(rest)-1]); err == nil {
		return errJournalDamaged
	}
	return nil
}

// read checks the chain of whole lines, and with a key their MACs, and leaves
// seq and last at the end.
func (j *journal) read(lines, key []byte) error {
	first := true
	lines = bytes.TrimPrefix(lines, []byte(journalMagic))
	for line := range bytes.Lines(lines) {
		e, hash, mac, err := parseLine(bytes.TrimSuffix(line, []byte("\n")))
		switch {
		case err != nil:
			return err
		case !first && (e.Prev != j.last || e.Seq != j.seq+1):
			return errJournalDamaged
		case key == nil || mac == noMAC && e.keyless():
		case !hmac.Equal([]byte(mac), []byte(journalMAC(key, hash))):
			return errJournalDamaged
		}
		first, j.seq, j.last = false, e.Seq, hash
		j.remember(e)
	}
	return nil
}

func (j *journal) remember(e entry) {
	if len(e.Keys) > 0 && j.issued == nil {
		j.issued = map[given]bool{}
	}
	for _, k := range e.Keys {
		j.issued[given{e.Node, k}] = true
	}
}

func parseLine(line []byte) (e entry, hash, mac string, err error) {
	head, m, ok1 := cutLast(line)
	body, h, ok2 := cutLast(head)
	if !ok1 || !ok2 || journalHash(body) != string(h) || json.Unmarshal(body, &e) != nil {
		return e, "", "", errJournalDamaged
	}
	return e, string(h), string(m), nil
}

func cutLast(b []byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, ' ')
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

func journalHash(body []byte) string {
	sum := sha256.Sum256(lp.Append([]byte(journalLabel), body))
	return hex.EncodeToString(sum[:])
}

func journalMAC(key []byte, hash string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(hash))
	return hex.EncodeToString(h.Sum(nil))
}

// unlock gives the journal its key and checks every MAC so far.
func (j *journal) unlock(key []byte) error {
	j.key = key
	raw, err := atomicfile.ReadBounded(j.path, 2*maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	again := journal{}
	if err := again.read(raw, key); err != nil {
		return errors.Join(err, j.setAside("damaged"))
	}
	return nil
}

// begin starts a new file for a new state, whose key is another.
func (j *journal) begin(key []byte) error {
	if err := j.setAside("old"); err != nil {
		return err
	}
	j.key = key
	return nil
}

func (j *journal) add(e entry) error {
	if j.size >= maxJournal {
		if err := j.setAside("old"); err != nil {
			return err
		}
	}
	if j.file == nil {
		f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("keyd: opening the journal: %w", err)
		}
		if err := atomicfile.SyncDir(filepath.Dir(j.path)); err != nil {
			return errors.Join(err, f.Close())
		}
		j.file = f
	}
	e.Seq, e.Prev = j.seq+1, j.last
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	hash, mac := journalHash(body), noMAC
	if j.key != nil {
		mac = journalMAC(j.key, hash)
	}
	line := fmt.Appendf(body, " %s %s\n", hash, mac)
	if j.size == 0 {
		line = append([]byte(journalMagic), line...)
	}
	if _, err := j.file.Write(line); err != nil {
		// Half a line would spoil the chain for the next one.
		return errors.Join(fmt.Errorf("keyd: writing the journal: %w", err), j.file.Truncate(j.size))
	}
	if err := j.file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("keyd: writing the journal: %w", err), j.file.Truncate(j.size))
	}
	j.size += int64(len(line))
	j.seq, j.last = e.Seq, hash
	j.remember(e)
	return nil
}

// setAside renames the journal file, if there is one, and keeps the newest
// keepJournals. The chain goes on in the next file.
func (j *journal) setAside(why string) error {
	if err := j.close(); err != nil {
		return err
	}
	j.size, j.issued, j.marks = 0, nil, nil
	name := fmt.Sprintf("%s.%020d.%s", j.path, time.Now().UnixNano(), why)
	if err := os.Rename(j.path, name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	old, err := filepath.Glob(j.path + ".*.*") // sorted, and names sort by time
	if err != nil {
		return err
	}
	for len(old) > keepJournals {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return atomicfile.SyncDir(filepath.Dir(j.path))
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
