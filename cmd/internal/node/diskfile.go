package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/headed"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
)

// maxFile bounds each of the small files in bytes, and maxHead what the header
// takes of that.
const (
	maxFile = 1 << 20
	maxHead = 256
)

// load reads one of the small files: JSON behind the header of internal/headed,
// or JSON alone, as the first release wrote it.
func (d disk) load(name string, v any) error {
	_, err := d.read(name, v)
	return err
}

// read is load that says whether the file is of the first release.
func (d disk) read(name string, v any) (first bool, err error) {
	raw, err := atomicfile.ReadBounded(d.path(name), maxFile)
	if err != nil {
		return false, err
	}
	defer clear(raw)
	body, err := headed.Decode(name, raw)
	switch {
	case errors.Is(err, headed.ErrNoHeader) && bytes.HasPrefix(raw, []byte("{")):
		body, first = raw, true
	case errors.Is(err, headed.ErrNewer):
		return false, fmt.Errorf("%s was written by a newer version of Redoubt: install that version again", d.path(name))
	case err != nil:
		return false, d.damaged(name, err)
	}
	if err := strictjson.Decode(body, v); err != nil {
		return false, d.damaged(name, err)
	}
	return first, nil
}

func (d disk) damaged(name string, why error) error {
	return fmt.Errorf("%s is damaged (%v): restore it, or leave and join again", d.path(name), why)
}

func (d disk) save(name string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	defer clear(body)
	if len(body) > maxFile-maxHead {
		return fmt.Errorf("%s would be %d bytes long: at most %d are read", d.path(name), len(body), maxFile-maxHead)
	}
	return headed.Write(d.path(name), name, body)
}

// migrate gives the files of the first release their header. One that cannot be
// read is left as it is: who needs it says so.
func (d disk) migrate() error {
	for name, v := range map[string]any{"member": &member{}, "leaf": &leafFile{}, "boot": &leafFile{}, "removed": &removal{}, "promotion": &promotion{}} {
		if first, err := d.read(name, v); err != nil || !first {
			continue
		}
		if err := d.save(name, v); err != nil {
			return err
		}
	}
	return nil
}
