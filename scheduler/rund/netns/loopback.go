package netns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Loopback sets the loopback interface of a task's sandbox up. It takes no
// capability of the host's: the thread owns the sandbox's user namespace.
func (s *Store) Loopback(id string) error {
	err := s.AsOwner(id, func() error {
		ns, err := unix.Open(s.Path(id), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		req, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	})
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
