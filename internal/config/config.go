// Package config reads the node's configuration file: strict YAML in which
// every daemon owns one section.
//
// An unknown section or key, a key given twice, or a value of the wrong type is
// an error that names the file, the line and the key. The types live in the
// packages they configure; this package knows only the sections' names, so that
// each daemon refuses a misspelt section without knowing what the others hold.
// The file decides what runs as root on this machine (allow-listed bind mounts,
// the runtime's socket), so a file that somebody other than root could have
// written is refused. It holds no secret and may be world-readable.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/strictyaml"
)

// DefaultPath is where the file is looked for; there alone it may be missing.
const DefaultPath = "/etc/redoubt/config.yaml"

// maxSize bounds the file in bytes.
const maxSize = 1 << 20

// Sections are all that the file may contain: one per daemon, and `log`.
var Sections = []string{"keyd", "log", "netd", "node", "rund"}

// Load reads path and decodes each named section into the pointer given for it;
// what the file leaves out keeps the pointer's present value. Sections of other
// daemons are only checked for being sections.
func Load(path string, sections map[string]any) error {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultPath {
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := Decode(data, sections); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// Decode is Load for bytes already read.
func Decode(data []byte, sections map[string]any) error {
	doc, err := document(sections)
	if err != nil {
		return err
	}
	if err := strictyaml.Decode(data, doc.Interface()); !errors.Is(err, io.EOF) {
		return err
	}
	return nil // empty
}

// document makes a pointer to a struct with a field per section: the caller's
// pointer where one was given, anything otherwise.
func document(sections map[string]any) (reflect.Value, error) {
	for name := range sections {
		if !slices.Contains(Sections, name) {
			return reflect.Value{}, fmt.Errorf("no section is called %q", name)
		}
	}
	var fields []reflect.StructField
	for _, name := range Sections {
		t := reflect.TypeFor[map[string]any]()
		if p := sections[name]; p != nil {
			t = reflect.TypeOf(p)
		}
		fields = append(fields, reflect.StructField{
			Name: strings.ToUpper(name[:1]) + name[1:], Type: t, Tag: reflect.StructTag(`yaml:"` + name + `"`),
		})
	}
	doc := reflect.New(reflect.StructOf(fields))
	for i, name := range Sections {
		if p := sections[name]; p != nil {
			doc.Elem().Field(i).Set(reflect.ValueOf(p))
		}
	}
	return doc, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := trusted(path, fi); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSize)
	}
	return data, err
}
