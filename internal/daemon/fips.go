package daemon

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/redoubt-cluster/redoubt/internal/config"
)

// fipsOnly makes Go refuse what is outside of its FIPS 140-3 module. It is read once,
// before main.
const fipsOnly = "fips140=only"

// fipsMode is what a daemon in FIPS mode has among its protections.
const fipsMode = "FIPS 140-3 mode"

// enterFIPS executes the program again in FIPS mode where flag or configuration ask
// for it, with the same arguments, environment and descriptors: nothing else was done
// yet. It returns where the process is as it is to be, or an error where it cannot
// become so.
func enterFIPS(path string, wanted bool) error {
	if fips140.Enforced() {
		return fit(fips140.Version())
	}
	if !wanted {
		var err error
		if wanted, err = fipsConfigured(path); err != nil || !wanted {
			return err
		}
	}
	set := os.Getenv("GODEBUG")
	if set == fipsOnly || strings.HasSuffix(set, ","+fipsOnly) {
		return errors.New("this binary has no FIPS mode (node.fips, --fips): build it with a Go whose FIPS 140-3 module runs on this machine")
	}
	if set != "" {
		set += ","
	}
	if err := os.Setenv("GODEBUG", set+fipsOnly); err != nil {
		return err
	}
	self, err := os.Executable() // /proc/self/exe would become the process's name
	if err != nil {
		return err
	}
	return fmt.Errorf("execute itself again in FIPS mode: %w", syscall.Exec(self, os.Args, os.Environ()))
}

// fit refuses a module with which a node could not keep its keys: the first frozen one
// has no AES-GCM for HPKE.
func fit(module string) error {
	if module == "v1.0.0" || strings.HasPrefix(module, "v1.0.0-") {
		return fmt.Errorf("this binary was built with Go's FIPS 140-3 module %s, which has no HPKE: build it with GOFIPS140=v1.26.0 or newer, or leave FIPS mode (node.fips, --fips)", module)
	}
	return nil
}

// fipsConfigured is node.fips, which is every daemon's to heed.
func fipsConfigured(path string) (bool, error) {
	var node struct {
		FIPS   bool           `yaml:"fips"`
		Others map[string]any `yaml:",inline"`
	}
	err := config.Load(path, map[string]any{"node": &node})
	return node.FIPS, err
}

// FIPSModule says in words which module a daemon in FIPS mode has. One that is not
// frozen is no module that anybody validated.
func FIPSModule() string {
	if v := fips140.Version(); v != "latest" {
		return "Go's FIPS 140-3 module " + v
	}
	return "Go's FIPS 140-3 module as in its source tree, which is not a validated one (build with GOFIPS140=v1.26.0)"
}

// InFIPS reports whether these are the protections of a daemon in FIPS mode.
func InFIPS(protections []string) bool {
	return slices.Contains(protections, fipsMode)
}
