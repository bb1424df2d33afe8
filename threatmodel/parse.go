package threatmodel

import (
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/redoubt-cluster/redoubt/internal/strictyaml"
)

// Parse reads threats.yaml. A key that is not known or given twice, a value of
// another type, an anchor, or more than fits the bounds is an error of one line
// that says in which line of the file it is.
func Parse(data []byte) (*Model, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	root, err := strictyaml.Tree(data)
	if errors.Is(err, io.EOF) {
		return nil, errors.New("empty")
	}
	if err != nil {
		return nil, err
	}
	m := &Model{}
	if err := strictyaml.Decode(data, m); err != nil {
		return nil, err
	}
	m.lines = lines(root)
	if m.Version != 1 {
		return nil, fmt.Errorf("version %d: this is read as version 1 alone", m.Version)
	}
	return m, nil
}

// lines notes where each entry of each list begins.
func lines(root *yaml.Node) map[string]int {
	at := map[string]int{}
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return at
	}
	pairs := root.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		at[pairs[i].Value] = pairs[i].Line
		for j, item := range pairs[i+1].Content {
			at[fmt.Sprintf("%s[%d]", pairs[i].Value, j)] = item.Line
		}
	}
	return at
}
