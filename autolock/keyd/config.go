package keyd

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/tpm"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// Section is keyd's section of the configuration file.
type Section struct {
	// WorkerLeafLifetime is the life of a worker's certificate. Managers' always
	// live for 24 hours.
	WorkerLeafLifetime time.Duration `yaml:"worker_leaf_lifetime"`
	// TPM is this machine's TPM 2.0: a character device, as /dev/tpmrm0, or a unix
	// socket on which somebody speaks its command interface. Empty: none is used.
	TPM string `yaml:"tpm"`
}

// DefaultSection is the section of a file that leaves it out.
func DefaultSection() Section { return Section{WorkerLeafLifetime: profile.LeafLife} }

// Validate returns an error unless the section can be used.
func (s Section) Validate() error {
	if s.WorkerLeafLifetime < minWorkerLeaf || s.WorkerLeafLifetime > profile.MaxLeafLife {
		return fmt.Errorf("keyd.worker_leaf_lifetime is %s: it must be between %s and %s",
			s.WorkerLeafLifetime, minWorkerLeaf, profile.MaxLeafLife)
	}
	if s.TPM != "" && !filepath.IsAbs(s.TPM) {
		return fmt.Errorf("keyd.tpm is %q: it must be the absolute path of a device or a unix socket", s.TPM)
	}
	return nil
}

// Config is everything a Server needs.
type Config struct {
	// Dir is keyd's own directory, mode 0700.
	Dir string
	// ControlUID is the only uid admitted to the control socket.
	ControlUID uint32
	Section    Section
	// TPM is this machine's, or nil; then TPMErr says why, where one is configured.
	TPM    *tpm.TPM
	TPMErr error
	// TPMTime bounds one use of it; zero: a minute.
	TPMTime time.Duration
	// Protections in force beside locked memory, to be shown in the status.
	Protections []string
	// Logger may be nil.
	Logger *slog.Logger
}

func (c *Config) check() error {
	if c.Dir == "" {
		return errors.New("keyd: no directory is given")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.TPMTime = cmp.Or(c.TPMTime, tpmTime)
	return c.Section.Validate()
}
