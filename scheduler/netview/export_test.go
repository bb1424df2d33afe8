package netview

// Keep makes journals short.
func (ix *Index) Keep(n int) { ix.keep = n }

var Split = split

const MaxBytes = maxBytes
