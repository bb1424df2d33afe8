package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
	"github.com/redoubt-cluster/redoubt/internal/trustedfile"
)

// record is what is written before ADD and goes when DEL succeeded: enough to
// repeat DEL with what ADD was given, whatever became of the conflist, the
// sandbox and this process.
type record struct {
	Format    int    `json:"format"` // 1
	Task      string `json:"task"`
	Network   string `json:"network"`
	Conflist  string `json:"conflist"`
	Config    []byte `json:"config"` // of the conflist, as it was
	Interface string `json:"interface"`
	// Sandbox is the network namespace, see sandboxOf: a task that is made once
	// more has another.
	Sandbox string `json:"sandbox"`
	// Added: ADD succeeded, with these addresses.
	Added     bool     `json:"added"`
	Addresses []string `json:"addresses,omitempty"`
	MAC       string   `json:"mac,omitempty"`
}

// records is the directory of them.
type records struct{ dir string }

const recordSuffix = ".json"

func (r records) path(task, network string) string {
	return filepath.Join(r.dir, task+"."+network+recordSuffix)
}

// openRecords makes the directory and what is above it that is missing; it must
// be root's alone, since what is in it is given to plugins.
func openRecords(dir string) (records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return records{}, err
	}
	// By way of a file in it, which need not be there.
	f, err := trustedfile.Open(filepath.Join(dir, "none"))
	if err == nil {
		f.Close()
	} else if !strings.HasPrefix(err.Error(), "there is no ") {
		return records{}, err
	}
	return records{dir}, nil
}

func (r records) put(rec *record) error {
	rec.Format = 1
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return atomicfile.Write(r.path(rec.Task, rec.Network), b)
}

func (r records) remove(rec *record) error { return atomicfile.Remove(r.path(rec.Task, rec.Network)) }

// all reads every record; those that cannot be read are named in the error and
// left.
func (r records) all() (list []*record, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue // of a write that was cut off
		}
		rec, err := r.read(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("record %s: %w", filepath.Join(r.dir, e.Name()), err))
			continue
		}
		list = append(list, rec)
	}
	return list, errors.Join(errs...)
}

// of returns a task's records, the last attached first.
func (r records) of(task string) ([]*record, error) {
	names, err := filepath.Glob(filepath.Join(r.dir, task+".*"+recordSuffix))
	if err != nil {
		return nil, err
	}
	var list []*record
	var errs []error
	for _, n := range names {
		rec, err := r.read(filepath.Base(n))
		if err != nil {
			errs = append(errs, fmt.Errorf("record %s: %w", n, err))
			continue
		}
		list = append(list, rec)
	}
	slices.SortFunc(list, func(a, b *record) int { return strings.Compare(b.Interface, a.Interface) })
	return list, errors.Join(errs...)
}

func (r records) read(name string) (*record, error) {
	b, err := atomicfile.ReadBounded(filepath.Join(r.dir, name), maxRecord)
	if err != nil {
		return nil, err
	}
	rec, err := parseRecord(b)
	if err == nil && name != filepath.Base(r.path(rec.Task, rec.Network)) {
		err = errors.New("it is another's")
	}
	return rec, err
}

func parseRecord(b []byte) (*record, error) {
	rec := &record{}
	if _, err := parse(b); err != nil { // no key twice, be it in another case
		return nil, err
	}
	if err := strictjson.Decode(b, rec); err != nil {
		return nil, err
	}
	if rec.Format != 1 || !ident.Valid(rec.Task) || !ident.Valid(rec.Network) || !validName(rec.Conflist) || !validInterface(rec.Interface) {
		return nil, errors.New("it is malformed, or of a newer version")
	}
	return rec, nil
}
