package raftstore

// TailEntries is how many entries s has sent and not written.
func TailEntries(s *Store) int {
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	return len(s.tail.tail)
}
