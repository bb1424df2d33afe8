package rund

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// withPlugins is set where the supervisor would be started with --cni.
const withPlugins = "RUND_TEST_PLUGINS"

// launch becomes the program args[0] as the supervisor would start it: with
// exactly the capabilities of the profile, and its sockets from descriptor 3 on.
func launch(args []string) error {
	keep := cap.NewSet()
	given := Profile().Capabilities
	if os.Getenv(withPlugins) != "" {
		given = append(given, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW)
	}
	for _, c := range given {
		for _, f := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := keep.SetFlag(f, true, cap.Value(c)); err != nil {
				return err
			}
		}
	}
	for v := range cap.MaxBits() {
		if has, _ := keep.GetFlag(cap.Permitted, v); !has {
			if err := cap.DropBound(v); err != nil {
				return err
			}
		}
	}
	if err := keep.SetProc(); err != nil {
		return err
	}
	env := append(os.Environ(), fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), "LISTEN_FDS=2", "LISTEN_FDNAMES=rund:identity")
	return syscall.Exec(args[0], args, env)
}
