package keyd

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// localMagic opens the secrets of one manager: data key epoch u32, then four
// keys of 32 bytes.
const localMagic = "RDTL\x01"

const localLen = len(localMagic) + 4 + 4*autolock.KeyLen

// leafEpoch is the key epoch of the key that seals the manager leaf; that key is
// made once and lives as long as the state.
const leafEpoch = 1

// local is what only this manager's keyd holds, in one buffer of locked memory.
type local struct {
	buf      *memguard.LockedBuffer
	dekEpoch uint32

	keydSeed []byte // HPKE private key that the manager leaf certifies
	leafKey  []byte // seals the manager leaf
	dek      []byte // seals the replicated store
	journal  []byte // authenticates the journal

	keydKey []byte // public half of keydSeed
}

// newLocal makes a manager's own secrets around the prepared keyd key.
func newLocal(p *prepared) (*local, error) {
	buf := memguard.NewBuffer(localLen)
	out := append(buf.Bytes()[:0], localMagic...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = append(out, p.seed.Bytes()...)
	rand.Read(out[len(out):localLen])
	return openLocal(buf)
}

// openLocal reads the secrets out of buf, which it takes over.
func openLocal(buf *memguard.LockedBuffer) (*local, error) {
	buf.Freeze()
	b, ok := bytes.CutPrefix(buf.Bytes(), []byte(localMagic))
	if !ok || buf.Size() != localLen {
		buf.Destroy()
		return nil, errors.New("the manager's own secrets are malformed")
	}
	l := &local{buf: buf, dekEpoch: binary.BigEndian.Uint32(b)}
	b = b[4:]
	l.keydSeed, l.leafKey, l.dek, l.journal = b[:32:32], b[32:64:64], b[64:96:96], b[96:128:128]
	private, err := hpke.MLKEM768X25519().NewPrivateKey(l.keydSeed)
	if err != nil {
		buf.Destroy()
		return nil, errors.New("the manager's own secrets are malformed")
	}
	l.keydKey = private.PublicKey().Bytes()
	return l, nil
}

func (l *local) destroy() {
	if l != nil {
		l.buf.Destroy()
	}
}

// prepared is the keyd key of a node that is about to become a manager.
type prepared struct {
	seed   *memguard.LockedBuffer
	public []byte
}

func newPrepared() (*prepared, error) {
	seed := randomKey()
	private, err := hpke.MLKEM768X25519().NewPrivateKey(seed.Bytes())
	if err != nil {
		seed.Destroy()
		return nil, err
	}
	return &prepared{seed, private.PublicKey().Bytes()}, nil
}

func (p *prepared) destroy() {
	if p != nil {
		p.seed.Destroy()
	}
}

const keysetLabel = "redoubt keyset v1\x00"

func keysetInfo(clusterID, nodeID string) []byte {
	return lp.Append(lp.Append([]byte(keysetLabel), []byte(clusterID)), []byte(nodeID))
}

// sealKeyset seals a keyset to another manager's keyd.
func sealKeyset(k *keyset, keydKey []byte, nodeID string) ([]byte, error) {
	public, err := hpke.MLKEM768X25519().NewPublicKey(keydKey)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), keysetInfo(k.clusterID, nodeID), k.buf.Bytes())
}

// receiveKeyset opens what sealKeyset made.
func receiveKeyset(p *prepared, clusterID, nodeID string, sealed []byte) (*keyset, error) {
	private, err := hpke.MLKEM768X25519().NewPrivateKey(p.seed.Bytes())
	if err != nil {
		return nil, err
	}
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), keysetInfo(clusterID, nodeID), sealed)
	if err != nil || len(plain) == 0 {
		return nil, denied("the keyset is not sealed to this keyd, or is damaged: join again")
	}
	return openKeyset(memguard.NewBufferFromBytes(plain)) // wipes plain
}
