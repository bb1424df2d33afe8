package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"text/template/parse"
	"unicode"
)

// formatFlag is --format: "table", "json", a Go template that is run for each
// object, or "table TEMPLATE", which also aligns columns and gives them heads.
//
// Templates see an object as --format json shows it. Its names may be written
// as there or as Docker writes them: .node_id or .NodeID.
type formatFlag struct {
	text string
	tmpl *template.Template // nil: table or json
	head bool
}

func (f *formatFlag) String() string {
	if f.text == "" {
		return "table"
	}
	return f.text
}

func (f *formatFlag) Type() string { return "table|json|TEMPLATE" }

func (f *formatFlag) Set(s string) error {
	if s == "table" || s == "json" {
		*f = formatFlag{text: s}
		return nil
	}
	text, head := strings.CutPrefix(s, "table ")
	if !strings.Contains(text, "{{") {
		return fmt.Errorf("%q: use table, json or a template as '{{.Name}}'", s)
	}
	// The shell hands on \t as two characters.
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	tmpl, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": compactJSON, "join": joinAny, "lower": strings.ToLower, "upper": strings.ToUpper,
	}).Parse(text)
	if err != nil {
		return fmt.Errorf("%q: %s", s, strings.TrimPrefix(err.Error(), "template: format:"))
	}
	snakeNames(tmpl.Root)
	*f = formatFlag{text: s, tmpl: tmpl, head: head}
	return nil
}

func compactJSON(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // it goes to a terminal
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func joinAny(list []any, sep string) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, sep)
}

// print runs the template for each of objects. Values come from the network,
// so that control characters in them never reach the terminal.
func (f *formatFlag) print(w io.Writer, objects any) error {
	list, err := generic(objects)
	if err != nil {
		return err
	}
	var b strings.Builder
	out := io.Writer(&b)
	var aligned *tabwriter.Writer
	if f.head {
		aligned = tabwriter.NewWriter(&b, 0, 4, 3, ' ', 0)
		out = aligned
		if len(list) > 0 {
			f.printHead(out, list[0])
		}
	}
	for _, o := range list {
		var line strings.Builder
		if err := f.tmpl.Execute(&line, o); err != nil {
			return usagef("--format: %s", templateError(err, o))
		}
		for i, l := range strings.Split(line.String(), "\n") {
			if i > 0 {
				fmt.Fprintln(out)
			}
			cells := strings.Split(l, "\t")
			for j, c := range cells {
				cells[j] = printable(c)
			}
			fmt.Fprint(out, strings.Join(cells, "\t"))
		}
		fmt.Fprintln(out)
	}
	if aligned != nil {
		if err := aligned.Flush(); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// printHead runs the template over the names of an object's fields. One that
// does more with them than to print them gets no head.
func (f *formatFlag) printHead(w io.Writer, o any) {
	fields, ok := o.(map[string]any)
	if !ok {
		return
	}
	names := map[string]any{}
	for k := range fields {
		names[k] = strings.ToUpper(strings.ReplaceAll(k, "_", " "))
	}
	var line strings.Builder
	if f.tmpl.Execute(&line, names) == nil {
		fmt.Fprintln(w, line.String())
	}
}

func templateError(err error, o any) string {
	msg := err.Error()
	if i := strings.Index(msg, "map has no entry for key"); i >= 0 {
		fields, _ := o.(map[string]any)
		return strings.TrimPrefix(msg[i:], "map ") + ": there are " + strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
	}
	return strings.TrimPrefix(msg, "template: format:")
}

// generic is objects as JSON has them: maps, lists, strings and numbers.
func generic(objects any) ([]any, error) {
	b, err := json.Marshal(objects)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // 64-bit numbers stay what they are
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if l, ok := v.([]any); ok {
		return l, nil
	}
	return []any{v}, nil
}

// snakeNames rewrites the fields a template names from .NodeID to .node_id.
func snakeNames(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, c := range n.Nodes {
				snakeNames(c)
			}
		}
	case *parse.ActionNode:
		snakeNames(n.Pipe)
	case *parse.PipeNode:
		if n != nil {
			for _, c := range n.Cmds {
				snakeNames(c)
			}
		}
	case *parse.CommandNode:
		for _, a := range n.Args {
			snakeNames(a)
		}
	case *parse.FieldNode:
		snakeAll(n.Ident)
	case *parse.VariableNode:
		snakeAll(n.Ident[1:])
	case *parse.ChainNode:
		snakeNames(n.Node)
		snakeAll(n.Field)
	case *parse.IfNode:
		snakeBranch(&n.BranchNode)
	case *parse.RangeNode:
		snakeBranch(&n.BranchNode)
	case *parse.WithNode:
		snakeBranch(&n.BranchNode)
	}
}

func snakeBranch(n *parse.BranchNode) {
	snakeNames(n.Pipe)
	snakeNames(n.List)
	snakeNames(n.ElseList)
}

func snakeAll(names []string) {
	for i, n := range names {
		names[i] = snake(n)
	}
}

// snake turns NodeID into node_id, and leaves node_id as it is.
func snake(name string) string {
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		if unicode.IsUpper(r) {
			starts := i > 0 && (!unicode.IsUpper(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1]))
			if starts && rs[i-1] != '_' {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

const formatsHelp = `Listings and inspections take --format:

  table              for people; the default
  json               for programs; the names in it are stable
  '{{.Name}}'        a Go template, run for each object. Names are those of the
                     JSON form, written as there or as Docker does: .node_id or
                     .NodeID. Functions: json, join, lower, upper.
  'table {{.ID}}\t{{.Name}}'
                     a template with aligned columns and heads

and some take --filter KEY=VALUE. Values of one key are alternatives, different
keys must all hold; ids and names match by their beginning, and label takes
KEY or KEY=VALUE.

  redoubt node ls --filter role=worker --filter state=down --filter state=unknown
  redoubt service ps --filter desired-state=running --format '{{.Name}} {{.Node}}' web`
