// Package strictyaml decodes YAML that people write: one document, no key that
// is not known, none twice, and errors in one line that name the line and the
// key instead of a Go type.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decode reads the one document of data into the pointer; what the document
// leaves out keeps its present value. The error is io.EOF where there is no
// document.
func Decode(data []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	switch err := dec.Decode(into); {
	case errors.Is(err, io.EOF):
		return io.EOF
	case err != nil:
		return explain(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document: keep everything in the first")
	}
	return nil
}

// Tree reads the document as nodes, which know their lines. Anchors and aliases
// are refused: with them a short file may mean a long one. The error is io.EOF
// where there is no document.
func Tree(data []byte) (*yaml.Node, error) {
	root := &yaml.Node{}
	if err := Decode(data, root); err != nil {
		return nil, err
	}
	if n := anchored(root); n != nil {
		return nil, fmt.Errorf("line %d: anchors and aliases are not taken: write the value out", n.Line)
	}
	return root, nil
}

// anchored finds an anchor or alias.
func anchored(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return n
	}
	for _, c := range n.Content {
		if found := anchored(c); found != nil {
			return found
		}
	}
	return nil
}

var unknownKey = regexp.MustCompile(`(?s)line (\d+): field (\S+) not found in type .*`)

// Its value is quoted, in part, where it is no list and no mapping.
var wrongKind = regexp.MustCompile("(?s)^line (\\d+): cannot unmarshal !!(\\w+)(?: (`.*`))? into (.*)$")

// kinds are YAML's tags in words.
var kinds = map[string]string{"str": "a text", "int": "a number", "float": "a number", "bool": "true or false", "seq": "a list", "map": "a mapping", "null": "nothing", "timestamp": "a time"}

// belongs says in words what a Go type is written as, where something of that kind is not.
func belongs(goType, kind string) string {
	switch {
	case goType == "string":
		return "a text"
	case goType == "bool":
		return "true or false"
	case goType == "time.Duration":
		return "a duration as 10m"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case !strings.ContainsAny(goType, ".["):
		return "a number"
	case kind == "map" || kind == "seq": // into a named type that is no structure, or may be one
		return "something else"
	}
	return "a mapping"
}

// explain turns the library's words into ours and drops Go type names.
func explain(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) || len(te.Errors) == 0 {
		return line(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	first := te.Errors[0]
	if m := unknownKey.FindStringSubmatch(first); m != nil {
		return fmt.Errorf("line %s: unknown key %q: correct or remove it", m[1], m[2])
	}
	if m := wrongKind.FindStringSubmatch(first); m != nil && kinds[m[2]] != "" {
		return line(fmt.Sprintf("line %s: %s %s stands where there should be %s", m[1], kinds[m[2]], m[3], belongs(m[4], m[2])))
	}
	return line(first)
}

// line is an error on one line: the library quotes what it was given.
func line(text string) error { return errors.New(strings.Join(strings.Fields(text), " ")) }
