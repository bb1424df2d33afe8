package dockerapi

import (
	"reflect"
	"slices"
	"strings"
)

// take returns what p points to and leaves nothing there: it was translated.
func take[T any](p *T) T {
	v := *p
	var zero T
	*p = zero
	return v
}

// untranslated refuses a request of which something is left over, and names that.
func untranslated(of string, v any) error {
	path := leftover(reflect.ValueOf(v))
	if path == "" {
		return nil
	}
	path = strings.TrimPrefix(of+"."+path, ".")
	help := ""
	for field, words := range instead {
		if slices.Contains(strings.Split(path, "."), field) {
			help = "; " + words
		}
	}
	return notHere("%s is not supported here, and would have to be ignored: nothing was changed. Leave it out%s", path, help)
}

// instead says what helps where a field is not translated, by the field's name.
var instead = map[string]string{
	"Platforms":      "the image's own platforms are found out when a service is created",
	"LogDriver":      "tasks' output is kept by their nodes (`docker service logs`)",
	"CredentialSpec": "credentials are secrets",
	"OpenStdin":      "a service's tasks have no input",
	"ExternalCAs":    "use `redoubt ca external`",
	"ListenAddr":     "it is configured (node.listen)",
	"DataPathAddr":   "networks go between the addresses that nodes have",
	"Availability":   "use `docker node update --availability` then",
}

// leftover is the path of the first thing in v that says something; empty: nothing does.
// A pointer to nothing, and a list without elements, say nothing.
func leftover(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return ""
		}
		return leftover(v.Elem())
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return ""
		}
		return "."
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() { // as of netip: it is whole or nothing
				if v.IsZero() {
					return ""
				}
				return "."
			}
			if at := leftover(v.Field(i)); at != "" {
				if f.Anonymous {
					return at
				}
				return strings.TrimSuffix(f.Name+"."+strings.TrimPrefix(at, "."), ".")
			}
		}
		return ""
	}
	if v.IsZero() {
		return ""
	}
	return "."
}
