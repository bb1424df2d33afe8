// Package render makes the file of a container from a config that is a template:
//
//	listen  {{.Node.Hostname}}
//	service {{.Service.Name}}.{{.Task.Slot}}
//	token   {{secret "api-token"}}
//
// The language is text/template's, and little of it: fields of Facts, the functions
// in functions, if and with. There is nothing that repeats and nothing that is
// defined to be used again, so what a template costs is bounded by its length. Which
// secrets it names stands in the text: a name is never computed, and no error quotes
// one's data. A field that is not there is an error, not an empty text.
//
// What a template makes of secrets is in what Render returns and in nothing else: they
// are not copied to be used, are written without package fmt, which keeps its buffers,
// and a buffer that became too small is overwritten.
//
// A template without {{secret}} may be rendered by anybody. One with it becomes a
// secret itself: only who may hold those may render it.
//
// It imports nothing of the cluster: managers use it to refuse a template, rund to
// render it.
package render

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"unicode/utf8"
	"unsafe"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Facts are what a template may say of where it is.
type Facts struct {
	Cluster struct{ ID string }
	Node    struct{ ID, Hostname string }
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Task struct {
		ID, Name string
		// 0 of global services.
		Slot uint32
	}
}

// functions are all there are: those of text/template that neither format nor call,
// and secret.
var functions = []string{"and", "eq", "index", "ne", "not", "or", secretFunction}

const secretFunction = "secret"

// writeFunction ends what an action writes. No template can name it.
const writeFunction = "write"

// Template is a parsed one. It is immutable.
type Template struct {
	t       *template.Template
	secrets []string
}

// Parse refuses what is no template of this language.
func Parse(data []byte) (*Template, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("the template has %d bytes: at most %d are allowed", len(data), MaxBytes)
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, errors.New("the template is no text")
	}
	if err := measure(string(data)); err != nil {
		return nil, err
	}
	t, err := template.New("config").Option("missingkey=error").
		Funcs(template.FuncMap{secretFunction: func(string) (string, error) { return "", errNoSecret }}).Parse(string(data))
	if err != nil {
		return nil, plain(err)
	}
	if len(t.Templates()) > 1 {
		return nil, errors.New("define and block are not part of the language of templates")
	}
	c := checker{secrets: map[string]bool{}}
	if t.Tree != nil {
		if err := c.list(t.Tree.Root, 0); err != nil {
			return nil, err
		}
	}
	if len(c.secrets) > maxSecrets {
		return nil, fmt.Errorf("the template names %d secrets: at most %d are allowed", len(c.secrets), maxSecrets)
	}
	return &Template{t, slices.Sorted(maps.Keys(c.secrets))}, nil
}

// measure bounds the actions before text/template looks at them: its parser goes
// down into what lies in each other.
func measure(s string) error {
	for n := 0; ; n++ {
		i := strings.Index(s, "{{")
		if i < 0 {
			return nil
		}
		if n == maxActions {
			return fmt.Errorf("the template has more than %d actions", maxActions)
		}
		s = s[i+2:]
		end := strings.Index(s, "}}")
		if end < 0 {
			end = len(s)
		}
		if end > maxActionBytes {
			return fmt.Errorf("an action of the template has more than %d bytes", maxActionBytes)
		}
		if strings.Count(s[:end], "(") > maxDepth {
			return errTooDeep
		}
	}
}

var (
	errNoSecret = errors.New("it is not granted")
	errTooDeep  = fmt.Errorf("actions of the template lie more than %d deep in each other", maxDepth)
)

// Secrets are the names of the secrets that it names, sorted.
func (t *Template) Secrets() []string { return t.secrets }

// Render returns the file, which the caller wipes. Secrets are by name, and stay as
// they are until it returns; one that the template names and that is not there is an
// error.
func (t *Template) Render(f Facts, secrets map[string][]byte) ([]byte, error) {
	for _, name := range t.secrets {
		if _, ok := secrets[name]; !ok {
			return nil, fmt.Errorf("the template names the secret %q, which the service does not have: grant it with --secret, or correct the name", name)
		}
	}
	c, err := t.t.Clone()
	if err != nil {
		return nil, plain(err)
	}
	if f.Service.Labels == nil {
		f.Service.Labels = map[string]string{}
	}
	out, used := bounded{}, uses{of: secrets}
	err = c.Funcs(template.FuncMap{secretFunction: used.secret, writeFunction: out.value}).Execute(&out, f)
	if err != nil {
		clear(out.b)
		for _, bound := range []error{errTooLong, errTooMuch} {
			if errors.Is(err, bound) {
				return nil, bound
			}
		}
		return nil, plain(err)
	}
	return out.b, nil
}

// uses are those of secrets by one rendering. What is used is counted whether it is
// written or not.
type uses struct {
	of map[string][]byte
	n  int // bytes
}

// secret is a text that shares the secret's bytes: nobody changes those before Render
// returns, and nothing of the template is left then.
func (u *uses) secret(name string) (string, error) {
	s := u.of[name]
	if u.n += len(s); u.n > MaxBytes {
		return "", errTooMuch
	}
	return unsafe.String(unsafe.SliceData(s), len(s)), nil
}

var errTooMuch = fmt.Errorf("the template uses more than %d bytes of secrets", MaxBytes)

var errTooLong = fmt.Errorf("the template becomes more than %d bytes", MaxBytes)

// bounded takes what fits.
type bounded struct{ b []byte }

func (w *bounded) Write(p []byte) (int, error) {
	if err := w.grow(len(p)); err != nil {
		return 0, err
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

// value writes what is a text, as any secret is, and leaves everything else to
// text/template, which formats it.
func (w *bounded) value(v reflect.Value) (reflect.Value, error) {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.String {
		return v, nil
	}
	if err := w.grow(v.Len()); err != nil {
		return reflect.Value{}, err
	}
	w.b = append(w.b, v.String()...)
	return reflect.ValueOf(""), nil
}

// grow makes room for n bytes more, and leaves nothing where there was too little.
func (w *bounded) grow(n int) error {
	if n > MaxBytes-len(w.b) {
		return errTooLong
	}
	if len(w.b)+n > cap(w.b) {
		b := make([]byte, len(w.b), min(max(2*cap(w.b), len(w.b)+n, 512), MaxBytes))
		copy(b, w.b)
		clear(w.b)
		w.b = b
	}
	return nil
}

// plain makes one line of an error of text/template.
func plain(err error) error {
	const most = 300
	return errors.New("line " + strings.TrimPrefix(oneline.Text(err.Error(), most), "template: config:"))
}
