// Package strictjson decodes JSON that Redoubt's own programs wrote, and that somebody
// may have changed since: one value, no key that is not known, none twice at any depth,
// nothing after it. encoding/json lets a key be there twice, and has the last one count:
// two readers of such a text may each take another one for the truth.
//
// It owns that form, and no meaning: what a value may be is checked by whoever decodes
// it, who also bounds how long the text is.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// ErrMore says that something follows the value.
var ErrMore = errors.New("something follows its end")

// Decode reads the one value of data into the pointer, which is not to be used where it
// returns an error. An error may quote a key of the text, and no value.
func Decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrMore
	}
	return twice(data)
}

// twice finds a key that an object of data, which is JSON, has twice.
func twice(data []byte) error {
	type level struct {
		keys map[string]bool // of an object so far; nil: an array
		key  bool            // a key, or the object's end, comes next
	}
	var open []level
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		top := len(open) - 1
		if key, ok := t.(string); ok && top >= 0 && open[top].key {
			if open[top].keys[key] {
				return fmt.Errorf("key %q is there twice", ident.Clip(key))
			}
			open[top].keys[key], open[top].key = true, false
			continue
		}
		switch t {
		case json.Delim('{'):
			open = append(open, level{map[string]bool{}, true})
			continue
		case json.Delim('['):
			open = append(open, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
			top--
		}
		if top >= 0 && open[top].keys != nil { // a value of it ended
			open[top].key = true
		}
	}
}
