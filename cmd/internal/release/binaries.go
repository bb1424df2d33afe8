package main

import (
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// mainModule is what is released.
const mainModule = "github.com/redoubt-cluster/redoubt"

// binary is one program of the release, with what its linker wrote into it.
type binary struct {
	name, sha256 string
	info         *debug.BuildInfo
}

// setting returns a setting of the build, "" where it was not set.
func (b binary) setting(key string) string {
	for _, s := range b.info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// binaries returns the programs of this module below tree, by name. What cannot
// say what it is made of is no part of a release.
func binaries(tree string) ([]binary, error) {
	var all []binary
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Mode()&0o111 == 0 {
			return err
		}
		built, err := buildinfo.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s says nothing of its build: %w", path, err)
		}
		if built.Main.Path != mainModule {
			return fmt.Errorf("%s is of %s: a release holds programs of %s alone", path, built.Main.Path, mainModule)
		}
		sum, err := fileDigest(path)
		if err != nil {
			return err
		}
		all = append(all, binary{e.Name(), sum, built})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no program below %s: run make install with DESTDIR first", tree)
	}
	slices.SortFunc(all, func(a, b binary) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// reproducible are the settings without which a build depends on its machine.
var reproducible = map[string]string{"-trimpath": "true", "CGO_ENABLED": "0", "vcs.modified": "false"}

// sameBuild reports an error unless all were built reproducibly, of the one
// commit, by the one Go for the one platform.
func sameBuild(bins []binary, src source) error {
	first := bins[0]
	for _, b := range bins {
		for key, want := range reproducible {
			if got := b.setting(key); got != want {
				return fmt.Errorf("%s was built with %s=%q, not %q: a release is built by make release, of a clean tree", b.name, key, got, want)
			}
		}
		if got := b.setting("vcs.revision"); got != src.commit {
			return fmt.Errorf("%s was built of commit %s, not %s", b.name, got, src.commit)
		}
		if b.info.GoVersion != first.info.GoVersion {
			return fmt.Errorf("%s was built with %s, %s with %s", b.name, b.info.GoVersion, first.name, first.info.GoVersion)
		}
		for _, key := range []string{"GOOS", "GOARCH", "GOAMD64", "GOARM64"} {
			if got, want := b.setting(key), first.setting(key); got != want {
				return fmt.Errorf("%s was built for %s=%s, %s for %s", b.name, key, got, first.name, want)
			}
		}
	}
	return nil
}
