package dockerapi

import (
	"bufio"
	"encoding/json"
	"io"
	"iter"
	"net/http"
)

// list answers with an array whose elements come one after the other, so that there may
// be any number of them. A refusal before the first is told as one; after that the
// answer breaks off, which no reader takes for whole.
func (q *request) list(all iter.Seq2[any, error]) (any, error) {
	out := bufio.NewWriterSize(q.w, 32<<10)
	begun := false
	begin := func() {
		begun = true
		q.w.Header().Set("Content-Type", "application/json")
		io.WriteString(out, "[") // a bufio.Writer keeps its first error
	}
	for v, err := range all {
		if err != nil && !begun {
			return nil, err
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		data, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if !begun {
			begin()
		} else {
			io.WriteString(out, ",")
		}
		if _, err := out.Write(data); err != nil {
			return answered{}, nil // nobody reads on
		}
	}
	if !begun {
		begin()
	}
	io.WriteString(out, "]\n")
	out.Flush()
	return answered{}, nil
}

// each makes a sequence of what visit is called with, in which an error comes last.
func each(visit func(yield func(any) bool) error) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		goes := true
		err := visit(func(v any) bool {
			goes = goes && yield(v, nil)
			return goes
		})
		if err != nil && goes {
			yield(nil, err)
		}
	}
}
