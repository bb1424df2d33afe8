package compose

import (
	"fmt"
	"strings"

	"github.com/compose-spec/compose-go/v2/template"
)

// expander puts variables into texts, and no more of them than there is room for: a
// short file can name a long variable very often, and nest what it says of it.
type expander struct{ left int }

func (e *expander) substitute(text string, lookup template.Mapping) (string, error) {
	n := strings.Count(text, "$")
	if n == 0 {
		return text, nil
	}
	if n*len(text) > maxSearch {
		return "", fmt.Errorf("a text of %d bytes has %d variables: that is too many for so long a text", len(text), n)
	}
	full := false
	out, err := template.Substitute(text, func(name string) (string, bool) {
		v, ok := lookup(name)
		if e.left -= len(v); e.left < 0 {
			full = true
			return "", true
		}
		return v, ok
	})
	if full {
		return "", fmt.Errorf("variables add more than %d bytes to the files", maxExpanded)
	}
	return out, err
}
