package ingress

// A memory has what was made of services last, and what it was made of. Of a
// thousand services a change changes one: the others' parts are the same ones
// again, which is all that a comparison looks at.
type memory[T any] struct {
	frame string
	parts map[string]remembered[T]
}

type remembered[T any] struct {
	of    *service // never changed, as the part is not
	given any
	part  *T
}

// recall returns a way to make parts of services. It makes those anew that were
// made of something else last time; given is what a part depends on besides its
// service and the frame, which is of all parts.
func (m *memory[T]) recall(frame string) func(s *service, given any, fresh func() *T) *T {
	old := m.parts
	if m.frame != frame {
		old = nil
	}
	m.frame, m.parts = frame, make(map[string]remembered[T], len(old))
	return func(s *service, given any, fresh func() *T) *T {
		r := old[s.id]
		if r.of != s || r.given != given {
			r = remembered[T]{s, given, fresh()}
		}
		m.parts[s.id] = r
		return r.part
	}
}
