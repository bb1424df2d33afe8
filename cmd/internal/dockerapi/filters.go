package dockerapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// filters are those of one request: values by the filter's name.
type filters map[string][]string

// readFilters reads a request's filters, in the form {"label":{"a":true}} or, of old,
// {"label":["a"]}. Filters that are not among known are refused, as Docker does.
func readFilters(r *http.Request, known ...string) (filters, error) {
	text := r.URL.Query().Get("filters")
	if text == "" {
		return nil, nil
	}
	if len(text) > maxFilters {
		return nil, badRequest("invalid filter: more than %d bytes", maxFilters)
	}
	out := filters{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &sets); err == nil {
		for name, values := range sets {
			for v, on := range values {
				if !on {
					return nil, badRequest("invalid filter: %q of %q is switched off: leave it out", v, name)
				}
			}
			out[name] = slices.Sorted(maps.Keys(values))
		}
	} else if json.Unmarshal([]byte(text), (*map[string][]string)(&out)) != nil {
		return nil, badRequest("invalid filter: write {\"name\":{\"value\":true}} or {\"name\":[\"value\"]}")
	}
	for _, name := range slices.Sorted(maps.Keys(out)) {
		if !slices.Contains(known, name) {
			return nil, badRequest("invalid filter '%s'", name)
		}
	}
	return out, nil
}

// is reports whether value is one of those asked for, or none is.
func (f filters) is(name, value string) bool {
	return len(f[name]) == 0 || slices.Contains(f[name], value)
}

// begins reports whether value begins with one of those asked for, or none is.
func (f filters) begins(name, value string) bool {
	return len(f[name]) == 0 || slices.ContainsFunc(f[name], func(want string) bool { return strings.HasPrefix(value, want) })
}

// has reports whether labels meet all of that filter: "key" or "key=value".
func (f filters) has(name string, labels map[string]string) bool {
	for _, want := range f[name] {
		key, value, valued := strings.Cut(want, "=")
		got, ok := labels[key]
		if !ok || valued && got != value {
			return false
		}
	}
	return true
}

// one refuses values of a filter other than these.
func (f filters) oneOf(name string, allowed ...string) error {
	for _, v := range f[name] {
		if !slices.Contains(allowed, v) {
			return badRequest("invalid filter '%s=%s'", name, v)
		}
	}
	return nil
}
