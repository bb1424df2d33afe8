package kernel

import "fmt"

// OneLine is errors.Join for people: what went wrong besides stands in the same line.
func OneLine(errs ...error) (out error) {
	for _, err := range errs {
		switch {
		case err == nil:
		case out == nil:
			out = err
		default:
			out = fmt.Errorf("%w; %w", out, err)
		}
	}
	return out
}
