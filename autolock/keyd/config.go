package keyd

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// Section is keyd's section of the configuration file.
type Section struct {
	// WorkerLeafLifetime is the life of a worker's certificate. Managers' always
	// live for 24 hours.
	WorkerLeafLifetime time.Duration `yaml:"worker_leaf_lifetime"`
}

// DefaultSection is the section of a file that leaves it out.
func DefaultSection() Section { return Section{WorkerLeafLifetime: profile.LeafLife} }

// Validate returns an error unless the section can be used.
func (s Section) Validate() error {
	if s.WorkerLeafLifetime < minWorkerLeaf || s.WorkerLeafLifetime > profile.MaxLeafLife {
		return fmt.Errorf("keyd.worker_leaf_lifetime is %s: it must be between %s and %s",
			s.WorkerLeafLifetime, minWorkerLeaf, profile.MaxLeafLife)
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
	return c.Section.Validate()
}
