package spec

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// validateFiles checks what can be told without the secrets and configs themselves.
func validateFiles(c *taskpb.ContainerSpec) error {
	if n := len(c.GetSecrets()) + len(c.GetConfigs()); n > places.MaxFiles {
		return fmt.Errorf("there are %d secrets and configs: at most %d are allowed", n, places.MaxFiles)
	}
	if r := c.GetRegistryAuth(); r != "" {
		if err := ident.CheckName(r); err != nil {
			return fmt.Errorf("the secret for the registry: %w", err)
		}
	}
	for _, u := range c.GetSecrets() {
		if err := validateFile("secret", u); err != nil {
			return err
		}
	}
	for _, u := range c.GetConfigs() {
		if err := validateFile("config", u); err != nil {
			return err
		}
	}
	return nil
}

func validateFile(what string, u *taskpb.FileUse) error {
	if err := ident.CheckName(u.GetSource()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	what += " " + u.GetSource()
	if err := checkFileTarget(what+": target", u.GetTarget()); err != nil {
		return err
	}
	if u.GetMode() > 0o777 {
		return fmt.Errorf("%s: the mode %o has more than permissions: use 0 to 777", what, u.GetMode())
	}
	if u.GetUid() > MaxFileOwner || u.GetGid() > MaxFileOwner {
		return fmt.Errorf("%s: the owner %d:%d does not exist in a container: use 0 to %d", what, u.GetUid(), u.GetGid(), MaxFileOwner)
	}
	name, err := signalName(u.GetSignal())
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch o := u.GetOnUpdate(); {
	case o > taskpb.OnUpdate_ON_UPDATE_RESTART || o < 0:
		return fmt.Errorf("%s: what an update is to do is unknown: use none, signal or restart", what)
	case (o == taskpb.OnUpdate_ON_UPDATE_SIGNAL) != (name != ""):
		return fmt.Errorf("%s: a signal belongs to an update that sends one, and the other way round", what)
	case o > taskpb.OnUpdate_ON_UPDATE_NONE && u.GetVersion() != 0:
		return fmt.Errorf("%s: it is version %d for ever, so no update comes: leave out what one is to do", what, u.GetVersion())
	}
	return nil
}

// checkFileTarget takes a file name, or a path of its own.
func checkFileTarget(what, t string) error {
	switch {
	case t == "":
		return nil
	case path.IsAbs(t):
		return checkPath(what, t)
	case len(t) > 255 || !utf8.ValidString(t) || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("%s %q: a name has up to 255 bytes and no control characters", what, clip(t))
	case strings.Contains(t, "/"):
		return fmt.Errorf("%s %q: give a name, or an absolute path", what, clip(t))
	case strings.HasPrefix(t, ".."):
		return fmt.Errorf("%s %q: names that begin with .. are the node's own", what, clip(t))
	case t == ".":
		return fmt.Errorf("%s is the directory itself: give a name", what)
	}
	return nil
}

// CheckPlaces returns an error where secrets, configs, mounts and the files of an
// identity clash, or one is in a place that is not to be had.
func CheckPlaces(t *taskpb.TaskSpec) error {
	if err := places.Check(t); err != nil {
		return err
	}
	for _, u := range t.GetContainer().GetSecrets() {
		if err := checkTarget("file target", places.Of(u, false)); err != nil {
			return err
		}
	}
	for _, u := range t.GetContainer().GetConfigs() {
		if err := checkTarget("file target", places.Of(u, true)); err != nil {
			return err
		}
	}
	return nil
}
