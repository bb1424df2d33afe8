// Package keyscan counts the sealed records in a directory by the epoch of the key
// that sealed them, and by the suite. It needs no key: a record says both in its header
// (docs/formats.md, "Sealed records").
//
// It reads files as bytes and knows nothing of databases, segments or snapshots:
// whatever looks like the header of a record is counted, wherever it stands. So it
// also finds what was deleted and lies in a free page, what a crash left, and what
// a bug forgot. That bytes of something else look like a header of a given epoch by
// chance happens once in 2^79 places.
//
// It changes nothing, and may be run on a store in use: what is written meanwhile
// may be missed, so a store is not to be sealing under the key that is looked for.
package keyscan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// magic and format of a sealed record; the suite u8 and the key epoch u32 follow.
const (
	head    = "RDTS\x01"
	headLen = len(head) + 1 + 4
	// suites are numbered from 1 to this.
	suites = 2
)

// blockBytes is how much is read at a time.
const blockBytes = 1 << 20

// maxEpochs bounds the epochs that are told apart in a file.
const maxEpochs = 64

// File is what was found in one file.
type File struct {
	// Path is relative to the directory.
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	// Records by key epoch.
	Records map[uint32]uint64 `json:"records"`
	// Suites are the same records by suite.
	Suites map[uint8]uint64 `json:"suites"`
}

// Report is what was found in a directory, by path.
type Report struct{ Files []File }

// Epochs are the records of all files, by epoch.
func (r Report) Epochs() map[uint32]uint64 {
	out := map[uint32]uint64{}
	for _, f := range r.Files {
		for e, n := range f.Records {
			out[e] += n
		}
	}
	return out
}

// Suites are the records of all files, by suite.
func (r Report) Suites() map[uint8]uint64 {
	out := map[uint8]uint64{}
	for _, f := range r.Files {
		for s, n := range f.Suites {
			out[s] += n
		}
	}
	return out
}

// Under names the files that have a record of that epoch.
func (r Report) Under(epoch uint32) (paths []string) {
	for _, f := range r.Files {
		if f.Records[epoch] > 0 {
			paths = append(paths, f.Path)
		}
	}
	return paths
}

// Dir looks at every file below dir. One that is removed meanwhile is left out.
// Anything that is neither a file nor a directory is an error.
func Dir(ctx context.Context, dir string) (Report, error) {
	var out Report
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != dir:
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return ctx.Err()
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory", path)
		}
		f, err := scanFile(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if f.Path, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		out.Files = append(out.Files, f)
		return nil
	})
	slices.SortFunc(out.Files, func(a, b File) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	return out, err
}

func scanFile(ctx context.Context, path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	return scan(ctx, f)
}

// scan counts in one stream.
func scan(ctx context.Context, r io.Reader) (File, error) {
	out := File{Records: map[uint32]uint64{}, Suites: map[uint8]uint64{}}
	buf := make([]byte, 0, blockBytes+headLen)
	for {
		n, err := io.ReadFull(r, buf[len(buf):len(buf)+blockBytes])
		buf, out.Bytes = buf[:len(buf)+n], out.Bytes+int64(n)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return out, err
		}
		rest := buf
		for {
			at := bytes.Index(rest, []byte(head))
			if at < 0 {
				rest = rest[max(0, len(rest)-headLen+1):]
				break
			}
			rest = rest[at:]
			if len(rest) < headLen {
				break
			}
			suite, epoch := rest[len(head)], binary.BigEndian.Uint32(rest[len(head)+1:])
			rest = rest[len(head):]
			if suite < 1 || suite > suites {
				continue
			}
			if _, known := out.Records[epoch]; !known && len(out.Records) == maxEpochs {
				return out, fmt.Errorf("records of more than %d key epochs: these are no files of a store", maxEpochs)
			}
			out.Records[epoch]++
			out.Suites[suite]++
		}
		if end {
			return out, ctx.Err()
		}
		buf = append(buf[:0], rest...)
		if err := ctx.Err(); err != nil {
			return out, err
		}
	}
}
