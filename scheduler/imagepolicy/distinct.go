package imagepolicy

// signature is by whom a statement was made: an identity, and the key that signed.
type signature struct{ identity, key string }

// distinct counts signers: the most signatures of which no two have the identity or the
// key in common. A person with two certificates for one key, or two keys for one
// identity, is one.
func distinct(all []signature) (n int) {
	keys := map[string][]string{} // of an identity
	for _, s := range all {
		keys[s.identity] = append(keys[s.identity], s.key)
	}
	taken := map[string]string{} // a key's identity
	var place func(identity string, seen map[string]bool) bool
	place = func(identity string, seen map[string]bool) bool {
		for _, key := range keys[identity] {
			if seen[key] {
				continue
			}
			seen[key] = true
			if other, ok := taken[key]; !ok || place(other, seen) {
				taken[key] = identity
				return true
			}
		}
		return false
	}
	for identity := range keys {
		if place(identity, map[string]bool{}) {
			n++
		}
	}
	return n
}
