package control

import (
	"context"
	"slices"
)

// RunOwn judges the node of a run directory by those of its controls that ids name,
// for a daemon of it that is asked to. Where the data is, the daemon says: what
// others' command lines say of that is their word.
func RunOwn(ctx context.Context, run, data string, ids []string) []Result {
	asked := some(All(), func(c Control) bool { return c.Check != nil && slices.Contains(ids, c.ID) })
	n, err := FindNode(run)
	if err != nil {
		results := make([]Result, len(asked))
		for i, c := range asked {
			results[i] = failed(err)
			results[i].Control = c
		}
		return results
	}
	n.Data = data
	return Run(ctx, asked, n)
}
