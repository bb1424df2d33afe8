package sandbox

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// minLandlock is the oldest ABI accepted: Linux 5.19; the floor, 6.1, has it.
const minLandlock = 2

func restrictFiles(f Files) (string, error) {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil || abi < minLandlock {
		return "", fmt.Errorf("this kernel lacks Landlock (ABI %d, need %d): enable it with lsm=landlock,… on the kernel command line", max(abi, 0), minLandlock)
	}
	rules := []landlock.Rule{
		landlock.RODirs(f.ReadOnly...).IgnoreIfMissing(),
		landlock.RWDirs(f.ReadWrite...).IgnoreIfMissing(),
	}
	config := landlock.V6
	if f.Connect {
		// A peer may listen on any port, so only listening is restricted.
		config = landlock.MustConfig(landlock.V6.HandledAccessFS, landlock.AccessNetSet(llsys.AccessNetBindTCP))
	}
	for _, port := range f.BindTCP {
		rules = append(rules, landlock.BindTCP(port))
	}
	if err := config.BestEffort().Restrict(rules...); err != nil {
		return "", fmt.Errorf("landlock: %w", err)
	}
	return fmt.Sprintf("landlock: ABI %d", abi), nil
}
