package spec

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var (
	digestRule  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	envNameRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	userRule    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
)

func validateContainer(c *taskpb.ContainerSpec) error {
	if err := checkImage(c.GetImage(), c.GetDigest()); err != nil {
		return err
	}
	if err := checkArgs(c.GetCommand(), c.GetArgs()); err != nil {
		return err
	}
	if err := checkEnv(c.GetEnv()); err != nil {
		return err
	}
	if w := c.GetWorkdir(); w != "" {
		if err := checkPath("workdir", w); err != nil {
			return err
		}
	}
	if u := c.GetUser(); u != "" && (len(u) > MaxUser || !userRule.MatchString(u)) {
		return fmt.Errorf("user %q: use NAME, UID, NAME:GROUP or UID:GID", clip(u))
	}
	if h := c.GetHostname(); h != "" {
		if len(h) > MaxHostname {
			return fmt.Errorf("hostname is %d characters long: at most %d are allowed", len(h), MaxHostname)
		}
		if err := ident.CheckHostname(h); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	if err := ident.CheckLabels("container label", c.GetLabels()); err != nil {
		return err
	}
	if _, err := signalName(c.GetStopSignal()); err != nil {
		return err
	}
	if err := checkDuration("stop grace period", c.GetStopGraceNs(), MaxStopGrace); err != nil {
		return err
	}
	if err := validateHealthcheck(c.GetHealthcheck()); err != nil {
		return err
	}
	if err := confine.Check(c); err != nil {
		return err
	}
	if err := validateMounts(c.GetMounts()); err != nil {
		return err
	}
	return validateFiles(c)
}

// checkImage takes a reference as people write it, and the digest it was
// resolved to where that is known.
func checkImage(image, digest string) error {
	if image == "" {
		return fmt.Errorf("the image is empty: give a reference such as registry.example/app:1.2")
	}
	if len(image) > MaxImage {
		return fmt.Errorf("the image reference is %d characters long: at most %d are allowed", len(image), MaxImage)
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		// The parser quotes what it was given as it is.
		return fmt.Errorf("image %q is not a reference: %s", clip(image), strings.Map(printable, err.Error()))
	}
	if digest != "" && !digestRule.MatchString(digest) {
		return fmt.Errorf("image digest %q: use sha256: and 64 hexadecimal digits", clip(digest))
	}
	if d, ok := named.(reference.Digested); ok {
		if !digestRule.MatchString(d.Digest().String()) {
			return fmt.Errorf("image %q: only sha256 digests are accepted", clip(image))
		}
		if digest != "" && d.Digest().String() != digest {
			return fmt.Errorf("image %q was resolved to another digest than it names: %s", clip(image), digest)
		}
	}
	return nil
}

func checkArgs(command, args []string) error {
	if n := len(command) + len(args); n > MaxArgs {
		return fmt.Errorf("command and arguments are %d words: at most %d are allowed", n, MaxArgs)
	}
	for _, list := range [][]string{command, args} {
		for _, a := range list {
			if len(a) > MaxArg {
				return fmt.Errorf("an argument is %d bytes long: at most %d are allowed", len(a), MaxArg)
			}
			if strings.IndexByte(a, 0) >= 0 || !utf8.ValidString(a) {
				return fmt.Errorf("an argument has a NUL byte or is not UTF-8: remove it")
			}
		}
	}
	if len(command) > 0 && command[0] == "" {
		return fmt.Errorf("the command is empty: name a program or leave the command out")
	}
	return nil
}

// checkEnv never puts a value into an error: people keep worse things there
// than they should.
func checkEnv(env []string) error {
	if len(env) > MaxEnv {
		return fmt.Errorf("there are %d environment variables: at most %d are allowed", len(env), MaxEnv)
	}
	seen := make(map[string]bool, len(env))
	for i, e := range env {
		name, value, ok := strings.Cut(e, "=")
		switch {
		case !ok:
			return fmt.Errorf("environment variable %d has no value: write NAME=value", i+1)
		case len(name) > MaxEnvName || !envNameRule.MatchString(name):
			return fmt.Errorf("environment variable %d: the name must be letters, digits and _ . - and start with a letter or _", i+1)
		case len(value) > MaxEnvValue:
			return fmt.Errorf("environment variable %s is %d bytes long: at most %d are allowed", name, len(value), MaxEnvValue)
		case strings.IndexByte(value, 0) >= 0:
			return fmt.Errorf("environment variable %s has a NUL byte: remove it", name)
		case seen[name]:
			return fmt.Errorf("environment variable %s is given twice: keep one", name)
		}
		seen[name] = true
	}
	return nil
}

func checkDuration(what string, ns int64, most time.Duration) error {
	if ns < 0 || ns > int64(most) {
		return fmt.Errorf("%s is %v: use 0s to %v", what, time.Duration(ns), most)
	}
	return nil
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

func clip(s string) string { return ident.Clip(s) }
