package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
)

// List reads the node's conflists as an Attach would, by name. Beyond
// maxConflists they are left out, and the last says so.
func (e *Engine) List() ([]*cnipb.Conflist, error) {
	entries, err := os.ReadDir(e.o.Config.Conflists)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*cnipb.Conflist
	for _, entry := range entries { // sorted
		name, is := strings.CutSuffix(entry.Name(), ".conflist")
		if !is || !validName(name) {
			continue // nobody can ask for it
		}
		c := &cnipb.Conflist{Name: name}
		if len(out) == maxConflists {
			out[len(out)-1].Error = fmt.Sprintf("%s has more than %d conflists: those from here on are not made known", e.o.Config.Conflists, maxConflists-1)
			break
		}
		out = append(out, c)
		l, err := e.o.Config.load(name)
		if err == nil {
			c.Plugins = l.plugins
			for _, p := range l.plugins {
				if _, ferr := e.run.FindInPath(p, nil); ferr != nil {
					err = ferr
				}
			}
		}
		if err != nil {
			c.Error = oneline.Text(err.Error(), maxSaid)
		}
	}
	return out, nil
}
