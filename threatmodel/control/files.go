package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/keyscan"
	"github.com/redoubt-cluster/redoubt/internal/secretforms"
)

// checkOwnFiles: what a daemon keeps is its own, and nobody else's.
func checkOwnFiles(ctx context.Context, n *Node, found *Found) error {
	for dir, name := range map[string]string{"control": "redoubtd", "keyd": "redoubt-keyd"} {
		all, err := n.daemons(name)
		if err != nil {
			return err
		}
		uid, err := all[0].uid()
		if err != nil {
			return err
		}
		err = walk(ctx, filepath.Join(n.Data, dir), func(path string, fi fs.FileInfo) error {
			found.Looked()
			if owner(fi) != uid {
				found.Against("%s is of user %d, not of %s (%d)", path, owner(fi), name, uid)
			}
			if fi.Mode().Perm()&0o077 != 0 {
				found.Against("%s may be used by others (mode %04o)", path, fi.Mode().Perm())
			}
			if !fi.IsDir() && !fi.Mode().IsRegular() {
				found.Against("%s is neither a file nor a directory", path)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// walk visits what is below dir, and dir. What goes meanwhile is left out.
func walk(ctx context.Context, dir string, visit func(string, fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(path, fi)
	})
}

func checkNothingInClear(ctx context.Context, n *Node, found *Found) error {
	return walk(ctx, n.Data, func(path string, fi fs.FileInfo) error {
		// What containers and the runtime keep is theirs.
		if rel, _ := filepath.Rel(n.Data, path); fi.IsDir() && !slices.Contains([]string{".", "control", "keyd"}, strings.Split(rel, "/")[0]) {
			return fs.SkipDir
		}
		if !fi.Mode().IsRegular() {
			return nil
		}
		found.Looked()
		kinds, err := scanFile(ctx, path)
		for _, k := range kinds {
			found.Against("%s holds %s", path, k)
		}
		return err
	})
}

// scanFile looks for forms of keys in a file, of whatever size, by pieces that
// overlap by what a form could be cut at.
func scanFile(ctx context.Context, path string) (kinds []string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 0, piece)
	for {
		if ctx.Err() != nil {
			return kinds, ctx.Err()
		}
		k, err := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+k]
		for _, what := range secretforms.Found(buf) {
			if !slices.Contains(kinds, what) {
				kinds = append(kinds, what)
			}
		}
		if errors.Is(err, io.EOF) {
			return kinds, nil
		}
		if err != nil {
			return kinds, err
		}
		keep := min(len(buf), secretforms.MaxWritten)
		buf = append(buf[:0], buf[len(buf)-keep:]...)
	}
}

// checkSealed: keyd's state has the header of a sealed one, snapshots and segments of
// the audit log too, and the store's file has sealed records. What is between records
// it does not judge.
func checkSealed(ctx context.Context, n *Node, found *Found) error {
	header := func(path, magic string, at int64) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, len(magic))
		if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		found.Looked()
		if string(b) != magic {
			found.Against("%s does not begin as a sealed file does", path)
		}
		return nil
	}
	if err := header(filepath.Join(n.Data, "keyd", "state"), "RDTK\x01", 0); err != nil {
		return err
	}
	raft := filepath.Join(n.Data, "control", "raft")
	for pattern, at := range map[string]int64{"snapshots/*/state": 4, "snapshots/*/meta": 0, "audit/" + strings.Repeat("[0-9a-f]", 16): 0} {
		paths, err := filepath.Glob(filepath.Join(raft, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := header(path, "RDTS\x01", at); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	report, err := keyscan.Dir(ctx, raft)
	if err != nil {
		return err
	}
	found.Looked()
	if !slices.ContainsFunc(report.Files, func(f keyscan.File) bool { return f.Path == "raft.db" && len(f.Records) > 0 }) {
		found.Against("%s has no sealed record", filepath.Join(raft, "raft.db"))
	}
	return nil
}

// checkAutolock: the seed that opens a manager by itself is not beside what it opens.
func checkAutolock(_ context.Context, n *Node, found *Found) error {
	entries, err := os.ReadDir(filepath.Join(n.Data, "keyd"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		found.Looked()
		if strings.HasPrefix(e.Name(), "auto-") {
			found.Against("%s opens this manager's disk, and is on it", filepath.Join(n.Data, "keyd", e.Name()))
		}
	}
	return nil
}

// checkSockets: each socket is of the one who may connect.
func checkSockets(_ context.Context, n *Node, found *Found) error {
	who := map[string]string{"api": "", "users": "", "docker": "", "metrics": "", "unlock": "", "wg": "", "keyd": "redoubtd", "netd": "redoubtd",
		"rund": "redoubtd", "identity": "redoubtd", "named": "redoubtd", "named-net": "redoubt-netd"}
	paths, err := filepath.Glob(filepath.Join(n.Run, "*.sock"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		found.Looked()
		name := strings.TrimSuffix(filepath.Base(path), ".sock")
		of, known := who[name]
		if !known {
			found.Against("%s is no socket of a daemon", path)
			continue
		}
		uid := 0
		if of != "" {
			all, err := n.daemons(of)
			if err != nil {
				return err
			}
			if uid, err = all[0].uid(); err != nil {
				return err
			}
		}
		mode := fs.FileMode(0o600)
		if name == "users" || name == "docker" {
			mode = 0o660 // the group's members are told apart at the other end
		}
		if owner(fi) != uid || fi.Mode().Perm() != mode {
			found.Against("%s has owner %d and mode %04o, and is to have %d and %04o", path, owner(fi), fi.Mode().Perm(), uid, mode)
		}
	}
	return nil
}

// checkConfig: the files that daemons were started with.
func checkConfig(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons(daemonNames...)
	if err != nil {
		return err
	}
	for _, p := range all {
		path := p.flag("config", defaultConfig)
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && path == defaultConfig {
			found.Looked() // there alone it may be missing
			continue
		}
		if err != nil {
			return fmt.Errorf("configuration of %s: %w", p.Name, err)
		}
		found.Looked()
		if owner(fi) != 0 || fi.Mode().Perm()&0o022 != 0 {
			found.Against("%s may be written by others than root (owner %d, mode %04o)", path, owner(fi), fi.Mode().Perm())
		}
	}
	return nil
}
