package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// module is one that a program links.
type module struct {
	path, version string
	sum           string // as in go.sum: "h1:" and the base64 of a SHA-256 over its files' names and digests
	licences      []string
}

func (m module) purl() string { return "pkg:golang/" + m.path + "@" + m.version }

// dirHash returns the module's digest in hex, as in-toto names it.
func (m module) dirHash() (string, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.sum, "h1:"))
	if err != nil || len(b) != 32 || !strings.HasPrefix(m.sum, "h1:") {
		return "", fmt.Errorf("module %s has the checksum %q, which is none of go.sum", m.path, m.sum)
	}
	return hex.EncodeToString(b), nil
}

// modules returns all that the programs link, by path, each with its licences.
func modules(bins []binary) ([]module, error) {
	known := map[string]module{}
	for _, b := range bins {
		for _, d := range b.info.Deps {
			if d.Replace != nil {
				return nil, fmt.Errorf("%s replaces %s: what is linked could not be told from its name", b.name, d.Path)
			}
			m := module{path: d.Path, version: d.Version, sum: d.Sum}
			if had, ok := known[d.Path]; ok && (had.version != m.version || had.sum != m.sum) {
				return nil, fmt.Errorf("%s links %s %s, another program %s", b.name, d.Path, d.Version, had.version)
			}
			known[d.Path] = m
		}
	}
	dirs, err := moduleDirs()
	if err != nil {
		return nil, err
	}
	var all []module
	for _, m := range known {
		if m.licences, err = licencesOf(m.path, dirs[m.path]); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.path, err)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return all, nil
}

// moduleDirs returns where the modules of this build are on disk.
func moduleDirs() (map[string]string, error) {
	out, err := exec.Command("go", "list", "-m", "-json=Path,Dir", "all").Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list -m all: %w", err)
	}
	dirs := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); err == io.EOF {
			return dirs, nil
		} else if err != nil {
			return nil, err
		}
		dirs[m.Path] = m.Dir
	}
}

// allowed are the licences that what is linked may have, by their SPDX names.
var allowed = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "Unlicense", "CC0-1.0"}

// choice is what a module offers, word for word as its licence file says it, and
// which of them is taken.
type choice struct{ offered, taken string }

var choices = map[string]choice{
	"kernel.org/pub/linux/libs/security/libcap/cap": {"SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only", "BSD-3-Clause"},
	"kernel.org/pub/linux/libs/security/libcap/psx": {"SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only", "BSD-3-Clause"},
}

// licencesOf returns the module's licences, or says why it may not be linked.
func licencesOf(path, dir string) ([]string, error) {
	texts, err := licenceTexts(dir)
	if err != nil {
		return nil, err
	}
	if c, ok := choices[path]; ok {
		if !slices.ContainsFunc(texts, func(t []byte) bool { return bytes.Contains(t, []byte(c.offered)) }) {
			return nil, fmt.Errorf("its files do not say %q", c.offered)
		}
		return []string{c.taken}, nil
	}
	var found []string
	for _, text := range texts {
		for _, match := range licensecheck.Scan(text).Match {
			if !match.IsURL {
				found = append(found, match.ID)
			}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no licence could be told from its files")
	}
	slices.Sort(found)
	for _, l := range found {
		if !slices.Contains(allowed, l) {
			return nil, fmt.Errorf("its licence %s is none of those that what is linked may have: %s", l, strings.Join(allowed, ", "))
		}
	}
	return slices.Compact(found), nil
}

// licenceTexts returns the licence files at the top of dir.
func licenceTexts(dir string) ([][]byte, error) {
	if dir == "" {
		return nil, errors.New("its files are not on this machine: run make build first")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if !e.Type().IsRegular() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "UNLICENSE") {
			continue
		}
		if strings.HasSuffix(name, ".DOCS") {
			continue // of the module's documents, of which nothing is linked
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}
