package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// writers are the forms for tools and for keeping. The table of a terminal is the
// command's own.
var writers = map[string]func(*Report, io.Writer) error{
	"html": (*Report).html, "json": (*Report).json, "junit": (*Report).junit, "oscal": (*Report).oscal,
	"prometheus": (*Report).prometheus, "sarif": (*Report).sarif, "xccdf": (*Report).xccdf,
}

// Formats are the names of the forms.
func Formats() []string { return slices.Sorted(maps.Keys(writers)) }

// Write writes the report in a form of Formats.
func (r *Report) Write(w io.Writer, format string) error {
	write, ok := writers[format]
	if !ok {
		return fmt.Errorf("no format is called %q: there are %s", format, strings.Join(Formats(), ", "))
	}
	return write(r, w)
}

// json writes the form that Read takes back.
func (r *Report) json(w io.Writer) error {
	s := newStream(w)
	s.object("")
	s.value("version", r.Version)
	s.value("id", r.ID)
	s.value("tool", r.Tool)
	if r.Cluster != "" {
		s.value("cluster", r.Cluster)
	}
	s.value("begun", r.Begun)
	s.value("ended", r.Ended)
	s.value("profile", r.Profile)
	s.value("compliant", r.Compliant)
	values(s, "requirements", slices.Values(r.Requirements))
	values(s, "results", slices.Values(r.Results))
	if len(r.Waivers) > 0 {
		values(s, "waivers", slices.Values(r.Waivers))
	}
	return s.close()
}
