package spec

import (
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Lives that certificates of a service's tasks may be asked to have.
const (
	MinIdentityLife = time.Minute
	MaxIdentityLife = 24 * time.Hour
)

func validateIdentity(i *taskpb.Identity) error {
	switch life := time.Duration(i.GetLifeNs()); {
	case i == nil:
		return nil
	case i.GetNone() && (life != 0 || i.GetFiles() != "" || i.GetSignal() != ""):
		return fmt.Errorf("the service wants no identity and says how it is to be: leave one out")
	case life != 0 && (life < MinIdentityLife || life > MaxIdentityLife):
		return fmt.Errorf("identity life is %s: use %s to %s", life, MinIdentityLife, MaxIdentityLife)
	case i.GetFiles() == "" && i.GetSignal() != "":
		return fmt.Errorf("a signal tells of new files of an identity, and there are none: name their directory, or leave it out")
	case i.GetFiles() == "":
		return nil
	}
	if err := validateMount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: i.GetFiles()}); err != nil {
		return fmt.Errorf("files of the identity: %w", err)
	}
	if _, err := signalName(i.GetSignal()); err != nil {
		return fmt.Errorf("files of the identity: %w", err)
	}
	return nil
}
