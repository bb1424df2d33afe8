package control

import (
	"context"
	"errors"
	"fmt"
)

// eachDoor looks at what managers' ports were seen to do. Where one could not be
// looked at, and nothing speaks against the others, the control is an error.
func eachDoor(look func(c *Cluster, d Door, found *Found)) func(context.Context, *Cluster, *Found) error {
	return func(_ context.Context, c *Cluster, found *Found) error {
		if c.Doors == nil {
			return notApplicable("nobody looks at managers from outside")
		}
		all, err := c.Doors()
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return notApplicable("there is no other manager")
		}
		away := ""
		for _, d := range all {
			if d.Away != "" {
				away = fmt.Sprintf("manager %s could not be looked at: %s", d.Manager, d.Away)
				continue
			}
			found.Looked()
			look(c, d, found)
		}
		if away != "" && len(found.against) == 0 {
			return errors.New(away)
		}
		return nil
	}
}

func checkStrangers(_ *Cluster, d Door, found *Found) {
	for _, who := range d.Admitted {
		found.Against("manager %s answers %s", d.Manager, who)
	}
}

func checkGroup(_ *Cluster, d Door, found *Found) {
	if d.Group != safeGroup {
		found.Against("manager %s agreed on %s", d.Manager, d.Group)
	}
}

func checkShown(c *Cluster, d Door, found *Found) {
	switch {
	case !d.OnRecord:
		found.Against("manager %s shows a certificate whose key is not on record", d.Manager)
	case !d.NotAfter.After(c.Now):
		found.Against("manager %s shows a certificate that ended on %s", d.Manager, date(d.NotAfter))
	}
}
