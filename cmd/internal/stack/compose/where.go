package compose

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// resolved is what a node stands for.
func resolved(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		switch {
		case n.Kind == yaml.AliasNode:
			n = n.Alias
		case n.Kind == yaml.DocumentNode && len(n.Content) == 1:
			n = n.Content[0]
		default:
			return n
		}
	}
	return n
}

// child finds a key of a mapping, also one that is merged into it; at is where it
// stands. nil: there is none.
func child(n *yaml.Node, key string) (value, at *yaml.Node) { return childWithin(n, key, maxDepth) }

func childWithin(n *yaml.Node, key string, depth int) (value, at *yaml.Node) {
	if n = resolved(n); n.Kind != yaml.MappingNode || depth == 0 {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1], n.Content[i]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		merged := resolved(n.Content[i+1])
		if merged.Kind != yaml.SequenceNode {
			merged = &yaml.Node{Content: []*yaml.Node{merged}}
		}
		for _, m := range merged.Content {
			if value, at = childWithin(m, key, depth-1); value != nil {
				return value, at
			}
		}
	}
	return nil, nil
}

// descend follows path as far as it goes: how many steps, and where the last ended.
func descend(n *yaml.Node, path []string) (steps int, at *yaml.Node) {
	at = n
	for _, key := range path {
		var next, where *yaml.Node
		switch n = resolved(n); n.Kind {
		case yaml.MappingNode:
			next, where = child(n, key)
		case yaml.SequenceNode:
			next = item(n, key)
			where = next
		}
		if next == nil {
			return steps, at
		}
		n, at = next, where
		steps++
	}
	return steps, at
}

// item is the one of a list by its number, or by what it is about: "NAME=value".
func item(n *yaml.Node, key string) *yaml.Node {
	if i, err := strconv.Atoi(key); err == nil {
		if i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
		return nil
	}
	for _, c := range n.Content {
		v := resolved(c)
		if v.Kind == yaml.ScalarNode && (v.Value == key || strings.HasPrefix(v.Value, key+"=") || strings.HasPrefix(v.Value, key+":")) {
			return c
		}
	}
	return nil
}

// find says where a key stands: in the last file that has it, or in what a service
// extends, or else as near to it as there is anything.
func (s *source) find(path []string) (shown string, line int) {
	best := -1
	for _, f := range s.files {
		for _, root := range f.roots {
			steps, at := descend(root, path)
			if f2, steps2, at2 := s.extended(root, f, path, maxExtends); steps2 > steps {
				f, steps, at = f2, steps2, at2
			}
			if steps >= best && (steps > 0 || best < 0) {
				best, shown, line = steps, f.shown, at.Line
			}
		}
	}
	return shown, line
}

// extended looks for a service's key in what the service extends.
func (s *source) extended(root *yaml.Node, f *file, path []string, left int) (*file, int, *yaml.Node) {
	if len(path) < 3 || path[0] != "services" || left == 0 {
		return nil, 0, nil
	}
	steps, _ := descend(root, []string{"services", path[1], "extends"})
	if steps < 3 {
		return nil, 0, nil
	}
	services, _ := child(root, "services")
	service, _ := child(services, path[1])
	ext, _ := child(service, "extends")
	name, where := resolved(ext).Value, f
	if n, _ := child(ext, "service"); n != nil {
		name = resolved(n).Value
	}
	if n, _ := child(ext, "file"); n != nil {
		where = nil
		for _, other := range s.files {
			if strings.HasSuffix(other.path, "/"+strings.TrimLeft(resolved(n).Value, "./")) {
				where = other
			}
		}
	}
	if where == nil {
		return nil, 0, nil
	}
	there := append([]string{"services", name}, path[2:]...)
	for _, r := range where.roots {
		steps, at := descend(r, there)
		if f2, steps2, at2 := s.extended(r, where, there, left-1); steps2 > steps {
			return f2, steps2, at2
		}
		if steps > 2 {
			return where, steps, at
		}
	}
	return nil, 0, nil
}

// at is a problem with the key of that path.
func (s *source) at(path []string, format string, args ...any) Problem {
	p := Problem{Key: strings.Join(path, "."), Text: fmt.Sprintf(format, args...)}
	if p.File, p.Line = s.find(path); p.File == "" && len(s.files) > 0 {
		p.File = s.files[0].shown
	}
	return p
}
