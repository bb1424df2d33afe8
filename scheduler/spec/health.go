package spec

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func validateHealthcheck(h *taskpb.Healthcheck) error {
	if h == nil {
		return nil
	}
	if err := checkTest(h.GetTest()); err != nil {
		return err
	}
	for _, d := range []struct {
		what        string
		ns          int64
		least, most time.Duration
	}{
		{"health interval", h.GetIntervalNs(), MinHealthInterval, MaxHealthDuration},
		{"health timeout", h.GetTimeoutNs(), MinHealthTimeout, MaxHealthDuration},
		{"health start period", h.GetStartPeriodNs(), 0, MaxHealthStart},
		{"health start interval", h.GetStartIntervalNs(), MinHealthInterval, MaxHealthDuration},
	} {
		if d.ns != 0 && (d.ns < int64(d.least) || d.ns > int64(d.most)) {
			return fmt.Errorf("%s is %v: use %v to %v", d.what, time.Duration(d.ns), d.least, d.most)
		}
	}
	if n := h.GetRetries(); n > MaxHealthRetries {
		return fmt.Errorf("health retries is %d: use 1 to %d", n, MaxHealthRetries)
	}
	if len(h.GetTest()) > 0 && h.GetTest()[0] == "NONE" &&
		(h.GetIntervalNs() != 0 || h.GetTimeoutNs() != 0 || h.GetStartPeriodNs() != 0 || h.GetStartIntervalNs() != 0 || h.GetRetries() != 0) {
		return fmt.Errorf("the healthcheck is switched off and has an interval, timeout, period or retries: leave one out")
	}
	return nil
}

// checkTest wants Docker's forms; empty is the image's.
func checkTest(test []string) error {
	if len(test) == 0 {
		return nil
	}
	if len(test) > MaxArgs {
		return fmt.Errorf("the healthcheck has %d words: at most %d are allowed", len(test), MaxArgs)
	}
	for _, w := range test {
		if len(w) > MaxArg || !utf8.ValidString(w) || strings.ContainsRune(w, 0) {
			return fmt.Errorf("a word of the healthcheck is too long, not UTF-8 or has a NUL: use at most %d characters", MaxArg)
		}
	}
	words := test[1:]
	switch test[0] {
	case "NONE":
		if len(words) > 0 {
			return fmt.Errorf("the healthcheck is switched off and has a command: leave one out")
		}
		return nil
	case "CMD":
		if len(words) == 0 || words[0] == "" {
			return fmt.Errorf("the healthcheck has no command: give one")
		}
		return nil
	case "CMD-SHELL":
		if len(words) != 1 || strings.TrimSpace(words[0]) == "" {
			return fmt.Errorf("the healthcheck has no single text for the shell: give one")
		}
		return nil
	}
	return fmt.Errorf("healthcheck %q: begin with CMD, CMD-SHELL or NONE", clip(test[0]))
}
