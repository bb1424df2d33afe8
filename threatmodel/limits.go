package threatmodel

// Bounds of what is read. The file is Redoubt's own; they keep a mistake, or a
// fuzzer, from costing more than an error.
const (
	maxFile  = 1 << 20  // bytes of threats.yaml
	maxText  = 4096     // bytes of one text
	maxItems = 1000     // entries of one list
	maxEvent = 16 << 20 // bytes of one line of `go test -json`
)
