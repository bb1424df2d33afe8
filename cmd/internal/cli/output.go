package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// output is how a listing is printed: --format, -q and --no-trunc.
type output struct {
	format  formatFlag
	quiet   bool
	noTrunc bool
}

func (o *output) flags(c *cobra.Command, quiet bool) {
	c.Flags().Var(&o.format, "format", "table, json, or a Go template as '{{.ID}} {{.Name}}'; see redoubt help formats")
	fixed(c, "format", "table", "json")
	if quiet {
		c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print ids only")
	}
}

// noTruncFlag is for listings that cut long cells.
func (o *output) noTruncFlag(c *cobra.Command) {
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "whole ids and messages")
}

func (o *output) json() bool { return o.format.text == "json" }

// structured reports whether objects are printed instead of a text for people.
func (o *output) structured() bool { return o.json() || o.format.tmpl != nil }

// id is an id as the table shows it.
func (o *output) id(id string) string {
	if o.noTrunc {
		return id
	}
	return shortID(id)
}

// text is a message as the table shows it.
func (o *output) text(s string) string {
	if r := []rune(s); !o.noTrunc && len(r) > 60 {
		return string(r[:59]) + "…"
	}
	return s
}

// objects prints v as JSON or through the template.
func (o *output) objects(w io.Writer, v any) error {
	if o.format.tmpl != nil {
		return o.format.print(w, v)
	}
	return printJSON(w, v)
}

// table prints rows under head, aligned. Cells come from the network: control
// characters in them never reach the terminal. Every row has all its cells, as
// the writer ends a column where a row has none; the padding is cut off after.
func table(w io.Writer, head []string, rows [][]string) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 4, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = printable(c)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, escaped(b.String()))
	return err
}

// printLine prints v as JSON in one line.
func printLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = io.WriteString(w, escaped(string(b))+"\n")
	}
	return err
}

// escaped is JSON with what encoding/json leaves as it is of control characters, and of
// those that change the order of what is shown, in \u form: they stand in texts alone.
func escaped(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && unshown(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r != '\n' && unshown(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// protoJSON is m as JSON whose bytes do not change from run to run (protojson
// alone varies its spaces on purpose).
func protoJSON(m proto.Message) json.RawMessage {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		b, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	var v any
	if json.Unmarshal(b, &v) == nil {
		b, _ = json.Marshal(v)
	}
	return b
}

// list prints a listing in the form asked for, nothing of which is a control character.
// ids are used by -q, objects by
// --format with json or a template, rows otherwise.
func (o *output) list(w io.Writer, ids []string, objects any, head []string, rows [][]string) error {
	switch {
	case o.quiet:
		for _, id := range ids {
			fmt.Fprintln(w, printable(id))
		}
		return nil
	case o.structured():
		return o.objects(w, objects)
	}
	return table(w, head, rows)
}

// enumName turns TASK_STATE_RUNNING into "running".
func enumName(e fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(e.String(), prefix), "_", " "))
}

// shortID is enough of an id to tell it from the others by eye.
func shortID(id string) string { return id[:min(len(id), 12)] }

// ago says how long before now t was.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return plural(int(d.Seconds()), "second") + " ago"
	case d < time.Hour:
		return plural(int(d.Minutes()), "minute") + " ago"
	case d < 48*time.Hour:
		return plural(int(d.Hours()), "hour") + " ago"
	}
	return plural(int(d.Hours()/24), "day") + " ago"
}

// in says how long after now t is.
func in(t, now time.Time) string {
	if !t.After(now) {
		return "expired"
	}
	return "in " + strings.TrimSuffix(ago(now.Add(-t.Sub(now)), now), " ago")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printProtos prints messages as objects.
func printProtos[M proto.Message](w io.Writer, o *output, ms []M) error {
	out := make([]json.RawMessage, 0, len(ms))
	for _, m := range ms {
		out = append(out, protoJSON(m))
	}
	return o.objects(w, out)
}
