package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

var commit = strings.Repeat("ab", 20)

func someSource() source {
	return source{version: "1.2.3", commit: commit, at: time.Unix(1700000000, 0)}
}

func someBinary(name string, changes ...debug.BuildSetting) binary {
	settings := map[string]string{"-trimpath": "true", "CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": "amd64",
		"vcs.revision": commit, "vcs.modified": "false"}
	for _, c := range changes {
		settings[c.Key] = c.Value
	}
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Path: mainModule},
		Deps: []*debug.Module{{Path: "example.com/a", Version: "v1.0.0", Sum: "h1:" + strings.Repeat("A", 43) + "="}}}
	for k, v := range settings {
		info.Settings = append(info.Settings, debug.BuildSetting{Key: k, Value: v})
	}
	return binary{name: name, sha256: strings.Repeat("0", 64), info: info}
}

// TestOnlyReproducible has what was built otherwise refused, with what is wrong.
func TestOnlyReproducible(t *testing.T) {
	if err := sameBuild([]binary{someBinary("a"), someBinary("b")}, someSource()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []debug.BuildSetting{{Key: "-trimpath", Value: ""}, {Key: "CGO_ENABLED", Value: "1"}, {Key: "vcs.modified", Value: "true"},
		{Key: "vcs.revision", Value: strings.Repeat("cd", 20)}, {Key: "GOARCH", Value: "arm64"}} {
		err := sameBuild([]binary{someBinary("a"), someBinary("b", c)}, someSource())
		if err == nil || !strings.Contains(err.Error(), "b was built") {
			t.Errorf("%s=%q: %v", c.Key, c.Value, err)
		}
	}
}

// TestSourceIsChecked refuses what does not say which sources were built.
func TestSourceIsChecked(t *testing.T) {
	for name, change := range map[string]func(*source){
		"no version":   func(s *source) { s.version = "" },
		"a path":       func(s *source) { s.version = "../1" },
		"short commit": func(s *source) { s.commit = "abcdef" },
		"no time":      func(s *source) { s.at = time.Unix(0, 0) },
	} {
		s := someSource()
		change(&s)
		if s.check() == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestArchiveIsTheSame packs one tree twice, dated and allowed differently.
func TestArchiveIsTheSame(t *testing.T) {
	var packed [2][]byte
	for i := range packed {
		tree := t.TempDir()
		path := filepath.Join(tree, "usr/bin/redoubt")
		if err := os.MkdirAll(filepath.Dir(path), os.FileMode([]int{0o700, 0o755}[i])); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("program"), os.FileMode([]int{0o700, 0o755}[i])); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1600000000+i), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "a.tar.gz")
		if err := pack(out, tree, "redoubt-1.2.3", someSource().at); err != nil {
			t.Fatal(err)
		}
		var err error
		if packed[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("the same files made two archives")
	}
	z, err := gzip.NewReader(bytes.NewReader(packed[0]))
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int64{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		modes[h.Name] = h.Mode
	}
	if modes["redoubt-1.2.3/usr/bin/redoubt"] != 0o755 || len(modes) != 4 {
		t.Errorf("packed: %v", modes)
	}
}

// TestArchiveTakesFilesAlone refuses a link, which would point elsewhere where it is unpacked.
func TestArchiveTakesFilesAlone(t *testing.T) {
	tree := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	if err := pack(filepath.Join(t.TempDir(), "a.tar.gz"), tree, "x", someSource().at); err == nil {
		t.Error("a symbolic link was packed")
	}
}

// TestLicences tells the licences of texts, and refuses what may not be linked.
func TestLicences(t *testing.T) {
	apache, err := os.ReadFile("../../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	const cap = "kernel.org/pub/linux/libs/security/libcap/cap"
	for _, c := range []struct {
		name, path, file, text, want, refused string
	}{
		{name: "known", path: "m", file: "LICENSE", text: string(apache), want: "Apache-2.0"},
		{name: "none", path: "m", file: "README", text: string(apache), refused: "no licence"},
		{name: "unknown", path: "m", file: "LICENSE", text: "All rights reserved.", refused: "no licence"},
		{name: "documents", path: "m", file: "LICENSE.docs", text: string(apache), refused: "no licence"},
		{name: "choice", path: cap, file: "License", text: "/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */", want: "BSD-3-Clause"},
		{name: "choice withdrawn", path: cap, file: "License", text: "/* SPDX-License-Identifier: GPL-2.0-only */", refused: "do not say"},
		{name: "not allowed", path: "m", file: "COPYING", text: agpl, refused: "AGPL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := licencesOf(c.path, dir)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("%v, %v; want an error that says %q", got, err, c.refused)
				}
				return
			}
			if err != nil || strings.Join(got, " ") != c.want {
				t.Fatalf("%v, %v; want %s", got, err, c.want)
			}
		})
	}
}

const agpl = `This program is free software: you can redistribute it and/or modify
it under the terms of the GNU Affero General Public License as published by
the Free Software Foundation, either version 3 of the License, or
(at your option) any later version.

This program is distributed in the hope that it will be useful,
but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the
GNU Affero General Public License for more details.

You should have received a copy of the GNU Affero General Public License
along with this program.  If not, see <https://www.gnu.org/licenses/>.`

// TestBillNamesWhatIsLinked reads the bill back: each program with its digest and what it links.
func TestBillNamesWhatIsLinked(t *testing.T) {
	bins := []binary{someBinary("redoubtd")}
	mods := []module{{path: "example.com/a", version: "v1.0.0", sum: bins[0].info.Deps[0].Sum, licences: []string{"MIT"}}}
	out, err := billOfMaterials(someSource(), bins, mods)
	if err != nil {
		t.Fatal(err)
	}
	again, err := billOfMaterials(someSource(), bins, mods)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("a second bill of the same is another one (%v)", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(out), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	refs := map[string]bool{}
	for _, c := range *bom.Components {
		refs[c.BOMRef] = true
	}
	for _, d := range *bom.Dependencies {
		if d.Ref != "program:redoubtd" {
			continue
		}
		for _, on := range *d.Dependencies {
			if !refs[on] {
				t.Errorf("redoubtd links %s, which is no component", on)
			}
		}
		if len(*d.Dependencies) != 2 {
			t.Errorf("redoubtd links %v, want Go's library and one module", *d.Dependencies)
		}
	}
	s, err := provenance(someSource(), bins, mods, []artefact{{"x.tar.gz", strings.Repeat("1", 64)}})
	if err != nil || len(s.Subject) != 2 || len(s.Predicate.BuildDefinition.ResolvedDependencies) != 3 {
		t.Errorf("provenance %+v, %v", s, err)
	}
	mods[0].sum = "h1:short"
	if _, err := provenance(someSource(), bins, mods, nil); err == nil {
		t.Error("a module without a checksum was named as a source")
	}
}
