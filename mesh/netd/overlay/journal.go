package overlay

// A journal has how to take changes of maps back. Of a network with ten thousand
// endpoints a declaration changes one: to copy it, lest the declaration be refused
// in the end, takes longer than all else.
type journal struct{ undo []func() }

// all takes everything back.
func (j *journal) all() {
	for i := len(j.undo) - 1; i >= 0; i-- {
		j.undo[i]()
	}
	j.undo = nil
}

// set changes the map; without a journal it need not be taken back.
func set[K comparable, V any](j *journal, m map[K]V, k K, v V) {
	note(j, m, k)
	m[k] = v
}

// unset takes the key out of the map.
func unset[K comparable, V any](j *journal, m map[K]V, k K) {
	note(j, m, k)
	delete(m, k)
}

func note[K comparable, V any](j *journal, m map[K]V, k K) {
	if j == nil {
		return
	}
	was, there := m[k]
	j.undo = append(j.undo, func() {
		if there {
			m[k] = was
		} else {
			delete(m, k)
		}
	})
}
