package kernel

import (
	"errors"
	"io"
	"testing"
)

func TestOneLine(t *testing.T) {
	if err := OneLine(nil, nil); err != nil {
		t.Errorf("nothing is %v", err)
	}
	a, b := errors.New("a"), io.EOF
	if err := OneLine(nil, a, nil); err != a {
		t.Errorf("one is %v", err)
	}
	if err := OneLine(a, nil, b); err.Error() != "a; EOF" || !errors.Is(err, a) || !errors.Is(err, b) {
		t.Errorf("two are %q", err)
	}
}
