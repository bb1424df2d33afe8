package keyd

import (
	"github.com/awnumar/memguard"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// checkMemory makes sure that memory can be locked, as memguard panics where it
// can not.
func checkMemory() error {
	region, err := unix.Mmap(-1, 0, lockedMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return refuse(keydpb.Code_CODE_INTERNAL, "keyd cannot map %d KiB of memory (%v): free some, then restart redoubt-node", lockedMemory>>10, err)
	}
	defer unix.Munmap(region)
	if err := unix.Mlock(region); err != nil {
		return refuse(keydpb.Code_CODE_INTERNAL, "keyd cannot lock %d KiB of memory for its keys (%v): raise LimitMEMLOCK (ulimit -l) to 1024 KiB or more, then restart redoubt-node",
			lockedMemory>>10, err)
	}
	return unix.Munlock(region)
}

// randomKey returns a fresh key in locked memory.
func randomKey() *memguard.LockedBuffer { return memguard.NewBufferRandom(autolock.KeyLen) }

// withSealer lends a Sealer under key to fn and wipes it afterwards.
func withSealer(key []byte, epoch uint32, fn func(*autolock.Sealer) error) error {
	s, err := autolock.NewSealer(key, epoch)
	if err != nil {
		return err
	}
	defer s.Close()
	return fn(s)
}
