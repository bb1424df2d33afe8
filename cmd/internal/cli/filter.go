package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// filterFlag is --filter KEY=VALUE, any number of times. Values of one key are
// alternatives; all keys must hold.
type filterFlag struct {
	given []string
	want  map[string][]string
}

// add declares the flag for the keys that the command knows, each alone or with
// the only values that it takes, as "mode=global|replicated", and has what was
// given checked before the command runs.
func (f *filterFlag) add(c *cobra.Command, specs ...string) {
	var keys, offer []string
	values := map[string][]string{}
	for _, s := range specs {
		k, v, few := strings.Cut(s, "=")
		keys = append(keys, k)
		if !few {
			offer = append(offer, k+"=")
			continue
		}
		values[k] = strings.Split(v, "|")
		for _, one := range values[k] {
			offer = append(offer, k+"="+one)
		}
	}
	c.Flags().StringArrayVarP(&f.given, "filter", "f", nil, "KEY=VALUE; keys: "+strings.Join(keys, ", "))
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		f.want = map[string][]string{}
		for _, g := range f.given {
			k, v, ok := strings.Cut(g, "=")
			if !ok || v == "" || !slices.Contains(keys, k) {
				return usagef("--filter %q: write KEY=VALUE with one of the keys %s", g, strings.Join(keys, ", "))
			}
			if few := values[k]; few != nil && !slices.Contains(few, v) {
				return usagef("--filter %q: %s is one of %s", g, k, strings.Join(few, ", "))
			}
			f.want[k] = append(f.want[k], v)
		}
		return run(c, args)
	}
	_ = c.RegisterFlagCompletionFunc("filter", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return offer, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}) // fails only where a flag gets two
}

// is reports whether value is one of those asked for, or none was.
func (f *filterFlag) is(key, value string) bool {
	want := f.want[key]
	return len(want) == 0 || slices.Contains(want, value)
}

// any reports whether one of values is one of those asked for, or none was.
func (f *filterFlag) any(key string, values []string) bool {
	return len(f.want[key]) == 0 || slices.ContainsFunc(values, func(v string) bool { return f.is(key, v) })
}

// begins is is for beginnings of names and ids.
func (f *filterFlag) begins(key, value string) bool {
	want := f.want[key]
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(value, w) })
}

// label matches KEY or KEY=VALUE against labels.
func (f *filterFlag) label(labels map[string]string) bool {
	want := f.want["label"]
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool {
		k, v, valued := strings.Cut(w, "=")
		have, ok := labels[k]
		return ok && (!valued || have == v)
	})
}
