package compose

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/spec"
)

// checker finds what of a merged file is not understood, and takes it out.
type checker struct {
	source   *source
	problems []Problem
	// wrong is what is, however much is passed over.
	wrong []Problem
}

// external is what nothing more can be said of: it is there already.
func (c *checker) external(dict map[string]any) {
	for _, what := range []string{"networks", "volumes", "secrets", "configs"} {
		all, _ := dict[what].(map[string]any)
		for name, v := range all {
			m, _ := v.(map[string]any)
			if m["external"] != true {
				continue
			}
			for key := range m {
				if key != "name" && key != "external" && (!strings.HasPrefix(key, "x-") || strings.HasPrefix(key, "x-redoubt-")) {
					c.wrong = append(c.wrong, c.source.at([]string{what, name, key}, "it is external, and there already: leave this out"))
				}
			}
		}
	}
}

// healthchecks are looked at here, as the loader does not say whose is wrong.
func (c *checker) healthchecks(services map[string]any) {
	for name, v := range services {
		s, _ := v.(map[string]any)
		h, _ := s["healthcheck"].(map[string]any)
		test, ok := h["test"].([]any)
		if !ok {
			continue
		}
		path := []string{"services", name, "healthcheck", "test"}
		if len(test) == 0 || test[0] != "CMD" && test[0] != "CMD-SHELL" && test[0] != "NONE" {
			c.wrong = append(c.wrong, c.source.at(path, `a list begins with "CMD", "CMD-SHELL" or "NONE"`))
		}
		for _, word := range test {
			if _, ok := word.(string); !ok {
				c.wrong = append(c.wrong, c.source.at(path, "a list is one of texts: write numbers in quotes"))
			}
		}
	}
}

// check walks v, the value of path; what is not understood is taken out of it.
func (c *checker) check(v any, known tree, path, pattern []string) {
	if len(known) == 0 {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			next, named := known[key]
			part := key
			if !named {
				next, named = known["*"]
				part = "*"
			}
			at, as := append(path[:len(path):len(path)], key), append(pattern[:len(pattern):len(pattern)], part)
			switch {
			case part != "*" && named:
			case strings.HasPrefix(key, "x-") && !strings.HasPrefix(key, "x-redoubt-") && !(named && userNamed(pattern)):
				continue // somebody else's
			case !named:
				as[len(as)-1] = key
				if c.unsupported(v[key], at, strings.Join(as, ".")) {
					delete(v, key)
				}
				continue
			}
			if !c.value(v[key], at, strings.Join(as, ".")) {
				delete(v, key)
				continue
			}
			if list, ok := v[key].([]any); ok && next["[]"] != nil {
				v[key] = c.list(list, next["[]"], at, as)
				continue
			}
			c.check(v[key], next, at, as)
		}
	}
}

// userNamed reports whether the keys of what is at pattern are names of the file's.
func userNamed(pattern []string) bool {
	return len(pattern) == 1 || slices.Equal(pattern, []string{"services", "*", "networks"}) || slices.Equal(pattern, []string{"services", "*", "depends_on"})
}

func (c *checker) list(all []any, known tree, path, pattern []string) (out []any) {
	for i, v := range all {
		at := append(path[:len(path):len(path)], strconv.Itoa(i))
		if !c.value(v, at, strings.Join(pattern, ".")+"[]") {
			continue
		}
		c.check(v, known, at, append(pattern[:len(pattern):len(pattern)], "[]"))
		out = append(out, v)
	}
	return out
}

// unsupported notes that a key is not; false: it says what is so anyway.
func (c *checker) unsupported(v any, path []string, pattern string) bool {
	if v == nil || harmless[pattern] && v == false {
		return true // nothing is lost with it
	}
	text := why[pattern]
	switch {
	case strings.HasPrefix(path[len(path)-1], "x-redoubt-"):
		text = "there is no such extension"
	case text == "":
		text = "it is not understood here"
	}
	c.add(path, "is not supported: "+text)
	return true
}

func (c *checker) add(path []string, text string) {
	c.problems = append(c.problems, c.source.at(path, "%s", text))
}

// value looks at values of keys that are understood; false: this one is not.
func (c *checker) value(v any, path []string, pattern string) bool {
	text, _ := v.(string)
	why := ""
	switch pattern {
	case "services.*.volumes[]":
		m, _ := v.(map[string]any)
		switch kind, _ := m["type"].(string); {
		case kind == "volume" && (m["source"] == nil || m["source"] == ""):
			why = "a volume without a name is one whose data no task finds again: give it a name"
		case kind != "volume" && kind != "bind" && kind != "tmpfs":
			why = "volumes of type " + kind + " are not: use volume, bind or tmpfs"
		}
	case "services.*.command", "services.*.entrypoint":
		if list, ok := v.([]any); ok && len(list) == 0 || v == "" {
			why = "an empty one, which takes the image's away, is " + notYet
		}
	case "networks.*.driver":
		if text != "" && text != "default" && !slices.Contains(spec.Drivers(), text) {
			why = "driver " + text + " is not there: use " + strings.Join(spec.Drivers(), ", ")
		}
	case "networks.*.ipam.driver":
		if text != "" && text != "default" {
			why = "addresses are given by the cluster alone"
		}
	case "configs.*.template_driver":
		if text != "" && text != "golang" {
			why = "use golang"
		}
	}
	if why != "" {
		c.add(path, "is not supported: "+why)
	}
	return why == ""
}
