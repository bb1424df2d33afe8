package spec

import (
	"fmt"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Lives that certificates of a service's tasks may be asked to have.
const (
	MinIdentityLife = time.Minute
	MaxIdentityLife = 24 * time.Hour
)

func validateIdentity(i *taskpb.Identity, mounts []*taskpb.Mount) error {
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
	for _, taken := range []string{"/run/redoubt/spiffe", "/run/secrets", "/run/configs"} {
		if within(i.GetFiles(), taken) || within(taken, i.GetFiles()) {
			return fmt.Errorf("files of the identity: %s belongs to the node, choose another directory than %s", taken, i.GetFiles())
		}
	}
	for _, m := range mounts {
		if m.GetTarget() == i.GetFiles() {
			return fmt.Errorf("mount target %s is used twice: keep one", m.GetTarget())
		}
	}
	if _, err := signalName(i.GetSignal()); err != nil {
		return fmt.Errorf("files of the identity: %w", err)
	}
	return nil
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
