// Package contexts keeps what an administrator's machine needs to speak to a cluster
// from elsewhere: for each context a person's certificate, its key, what is trusted and
// where managers are, in one file that is encrypted by age.
//
// It owns the files, their form and their locks, and which context is in use. It
// refuses to write a key in clear, and to use a file whose first line, which anybody
// can read and change, does not say what is inside. It asks nobody for anything: how a
// file is opened is told to it, and it makes no connection.
//
//	s := contexts.Store{Dir: dir}
//	o, err := s.Open("prod", func(h contexts.Header) (contexts.Key, error) { … })
//	… o.Person …
package contexts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
)

// Local is the name that stands for this machine's own node, and is no context.
const Local = "default"

const (
	suffix     = ".context"
	lockSuffix = ".lock"
	currentIn  = "current"
)

// Bounds of a context's file and of the contexts listed.
const (
	maxFile     = 256 << 10
	maxContexts = 256
)

var (
	// ErrNone says that there is no context of that name.
	ErrNone = errors.New("no such context: see redoubt context ls")
	// ErrExists says that there is one.
	ErrExists = errors.New("there is a context of that name already")
)

// Store is a directory of contexts.
type Store struct{ Dir string }

// CheckName returns an error unless a context can have that name.
func CheckName(name string) error {
	if err := ident.CheckName(name); err != nil {
		return fmt.Errorf("context: %w", err)
	}
	if name == Local {
		return fmt.Errorf("context: %q stands for this machine's own node", Local)
	}
	return nil
}

func (s Store) path(name string) string { return filepath.Join(s.Dir, name+suffix) }

// List returns the headers of all contexts, by name. What cannot be read has its error
// in Damaged.
func (s Store) List() (out []Header, _ error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || CheckName(name) != nil {
			continue
		}
		if len(out) == maxContexts {
			return nil, fmt.Errorf("%s has more than %d contexts", s.Dir, maxContexts)
		}
		h, _, err := s.read(name)
		if err != nil {
			h = Header{Name: name, Damaged: err}
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Header returns what a context's file says in clear.
func (s Store) Header(name string) (Header, error) {
	h, _, err := s.read(name)
	return h, err
}

func (s Store) read(name string) (Header, []byte, error) {
	if err := CheckName(name); err != nil {
		return Header{}, nil, err
	}
	raw, err := atomicfile.ReadBounded(s.path(name), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Header{}, nil, fmt.Errorf("%q: %w", name, ErrNone)
	}
	if err != nil {
		return Header{}, nil, err
	}
	h, _, err := split(raw)
	if err == nil && h.Name != name {
		err = errors.New("it is of a context of another name")
	}
	if err != nil {
		return Header{}, nil, fmt.Errorf("context %q: %w", name, err)
	}
	return h, raw, nil
}

// Open decrypts a context.
func (s Store) Open(name string, key func(Header) (Key, error)) (*Opened, error) {
	h, raw, err := s.read(name)
	if err != nil {
		return nil, err
	}
	k, err := key(h)
	if err != nil {
		return nil, err
	}
	o := &Opened{Header: h, store: s, key: k}
	if o.Person, err = k.open(raw); err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	o.raw = raw
	return o, nil
}

// Prepare makes the directory, and returns an error where no context of that name could
// be written there, or one is there that is not to be replaced.
func (s Store) Prepare(ctx context.Context, name string, replace bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	return s.locked(ctx, name, func() error {
		if _, err := os.Lstat(s.path(name)); err == nil && !replace {
			return fmt.Errorf("%q: %w", name, ErrExists)
		}
		return writable(s.Dir)
	})
}

// Create writes a context, in the place of one that is there.
func (s Store) Create(ctx context.Context, name string, p *pki.Person, k Key) error {
	return s.locked(ctx, name, func() error {
		raw, err := k.seal(name, p)
		if err != nil {
			return err
		}
		return atomicfile.Write(s.path(name), raw)
	})
}

// Remove deletes a context, and has none in use where it was.
func (s Store) Remove(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(s.path(name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q: %w", name, ErrNone)
	}
	return s.locked(ctx, name, func() error {
		if current, err := s.Current(); err == nil && current == name {
			if err := s.Use(Local); err != nil {
				return err
			}
		}
		return atomicfile.Remove(s.path(name))
	})
}

// Current is the context in use; empty: none.
func (s Store) Current() (string, error) {
	raw, err := atomicfile.ReadBounded(filepath.Join(s.Dir, currentIn), 2*ident.MaxName)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(raw))
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("%s is damaged: redoubt context use sets it anew", filepath.Join(s.Dir, currentIn))
	}
	return name, nil
}

// Use has a context be in use; Local: none.
func (s Store) Use(name string) error {
	if name == Local {
		if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return atomicfile.Remove(filepath.Join(s.Dir, currentIn))
	}
	if _, _, err := s.read(name); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.Dir, currentIn), []byte(name+"\n"))
}
