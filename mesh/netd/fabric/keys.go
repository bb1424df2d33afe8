package fabric

import (
	"crypto/ecdh"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A secret is one of the node's private keys: in a page of its own that is
// locked in memory, left out of dumps and wiped at the end. It is printed by no
// verb. The driver holds another copy: the kernel's, or wireguard-go's on the
// heap of this process, which is why that process is not dumpable.
type secret struct {
	page   []byte
	public wgtypes.Key
}

// errFIPS is why no key is made or held in FIPS mode.
var errFIPS = errors.New("this node is in FIPS mode, and WireGuard is no part of Go's FIPS 140-3 module: a mesh needs the IPsec driver, which this version has not")

func newSecret() (*secret, error) {
	return holdSecret(func(key []byte) error {
		_, err := rand.Read(key)
		key[0] &= 248
		key[31] = key[31]&127 | 64
		return err
	})
}

// holdSecret keeps what fill writes.
func holdSecret(fill func(key []byte) error) (*secret, error) {
	if fips140.Enforced() {
		return nil, errFIPS
	}
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("memory for the WireGuard key: %w", err)
	}
	s := &secret{page: page}
	if err := kernel.OneLine(unix.Mlock(page), unix.Madvise(page, unix.MADV_DONTDUMP)); err != nil {
		s.wipe()
		return nil, fmt.Errorf("lock the WireGuard key in memory: %w: raise the limit of locked memory (LimitMEMLOCK=)", err)
	}
	if err := fill(s.key()[:]); err != nil {
		s.wipe()
		return nil, err
	}
	private, err := ecdh.X25519().NewPrivateKey(s.key()[:])
	if err != nil {
		s.wipe()
		return nil, errors.New("the WireGuard key is none of Curve25519")
	}
	s.public = wgtypes.Key(private.PublicKey().Bytes())
	return s, nil
}

// key points into the page.
func (s *secret) key() *wgtypes.Key { return (*wgtypes.Key)(s.page) }

// wipe may be called again.
func (s *secret) wipe() {
	if s == nil || s.page == nil {
		return
	}
	clear(s.page)
	unix.Munmap(s.page)
	s.page = nil
}

// A psk is the pre-shared key of a pair. It is printed by no verb, and neither
// is what holds one: a formatter does not ask fields that are not exported.
type psk [wgtypes.KeyLen]byte

func (psk) Format(f fmt.State, _ rune)     { hide(f) }
func (peer) Format(f fmt.State, _ rune)    { hide(f) }
func (nextKey) Format(f fmt.State, _ rune) { hide(f) }
func (entry) Format(f fmt.State, _ rune)   { hide(f) }
func (secret) Format(f fmt.State, _ rune)  { hide(f) }

func hide(f fmt.State) { f.Write([]byte("(hidden)")) }
