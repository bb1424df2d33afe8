// Command release packs what make built into the files of a release: one
// archive, its software bill of materials (CycloneDX), how it was built (in-toto
// with SLSA's provenance) and the digests of all of them.
//
// What it writes depends on the binaries, the sources' commit and the modules
// alone, never on the machine, the time or the user, so that anybody who builds
// the same commit with the same Go gets the same bytes.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

func main() {
	tree := flag.String("tree", "", "directory that holds what make install wrote")
	out := flag.String("out", "", "directory of the release, made anew")
	version := flag.String("version", "", "version of the release")
	commit := flag.String("commit", "", "the sources' commit")
	at := flag.Int64("time", 0, "time of that commit in Unix seconds: what all files are dated")
	flag.Parse()
	if err := run(*tree, *out, source{version: *version, commit: *commit, at: time.Unix(*at, 0).UTC()}); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// source says what was built.
type source struct {
	version, commit string
	at              time.Time
}

func (s source) check() error {
	switch {
	case s.version == "" || strings.ContainsAny(s.version, "/ \t\n"):
		return fmt.Errorf("-version %q: give the version of the release, like 0.7.0", s.version)
	case len(s.commit) != 40 || strings.Trim(s.commit, "0123456789abcdef") != "":
		return fmt.Errorf("-commit %q: give the commit's 40 hex digits", s.commit)
	case s.at.Unix() <= 0:
		return fmt.Errorf("-time: give the time of the commit (git log -1 --format=%%ct)")
	}
	return nil
}

func run(tree, out string, src source) error {
	if err := src.check(); err != nil {
		return err
	}
	bins, err := binaries(tree)
	if err != nil {
		return err
	}
	if err := sameBuild(bins, src); err != nil {
		return err
	}
	mods, err := modules(bins)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("redoubt-%s-%s-%s", src.version, bins[0].setting("GOOS"), bins[0].setting("GOARCH"))
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	archive := filepath.Join(out, name+".tar.gz")
	if err := pack(archive, tree, name, src.at); err != nil {
		return err
	}
	sbom, err := billOfMaterials(src, bins, mods)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(out, name+".cdx.json"), sbom); err != nil {
		return err
	}
	artefacts, err := digests(out)
	if err != nil {
		return err
	}
	made, err := provenance(src, bins, mods, artefacts)
	if err != nil {
		return err
	}
	statement, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return err
	}
	if err := write(filepath.Join(out, name+".provenance.json"), append(statement, '\n')); err != nil {
		return err
	}
	if artefacts, err = digests(out); err != nil {
		return err
	}
	var sums strings.Builder
	for _, a := range artefacts {
		fmt.Fprintf(&sums, "%s  %s\n", a.sha256, a.name)
	}
	if err := write(filepath.Join(out, "SHA256SUMS"), []byte(sums.String())); err != nil {
		return err
	}
	fmt.Print(sums.String())
	return nil
}

// artefact is a file of the release.
type artefact struct{ name, sha256 string }

// digests returns the files in dir by name.
func digests(dir string) ([]artefact, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []artefact
	for _, e := range entries {
		sum, err := fileDigest(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, artefact{e.Name(), sum})
	}
	return all, nil
}

func fileDigest(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// write writes a file that everybody may read, as all of a release may.
func write(path string, b []byte) error { return atomicfile.WriteMode(path, b, 0o644) }
