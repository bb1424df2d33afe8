// Package listenfd receives listening sockets from the process that started
// this one, by the protocol of sd_listen_fds(3): descriptors from 3 on,
// LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES. Both redoubt-node and systemd
// speak it.
package listenfd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const first = 3

// Listeners returns the passed sockets by name and removes the variables from
// the environment, so that no child takes them for its own. None passed is an
// empty map.
func Listeners() (map[string]net.Listener, error) {
	defer func() {
		for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			os.Unsetenv(v)
		}
	}()
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > 64 {
		return nil, fmt.Errorf("LISTEN_FDS=%q is not a small number", os.Getenv("LISTEN_FDS"))
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if n != len(names) && n != 0 {
		return nil, fmt.Errorf("%d sockets passed under %d names", n, len(names))
	}
	ls := make(map[string]net.Listener, n)
	for i := range n {
		syscall.CloseOnExec(first + i)
		f := os.NewFile(uintptr(first+i), names[i])
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("passed descriptor %d (%s) is no listening socket: %w", first+i, names[i], err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the path belongs to the supervisor
		}
		if ls[names[i]] != nil {
			return nil, fmt.Errorf("two sockets passed under the name %q", names[i])
		}
		ls[names[i]] = l
	}
	return ls, nil
}
