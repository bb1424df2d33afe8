package keyd

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// A manager's own secrets: data key epoch u32, then four keys of 32 bytes. Of the
// second form also when the data key was made, by which slot epoch, and the
// former data key with the former leaf sealing key, zero where there are none.
const (
	localMagic  = "RDTL\x02"
	localMagic1 = "RDTL\x01"

	localLen1 = len(localMagic1) + 4 + 4*autolock.KeyLen
	localLen  = localLen1 + 8 + 8 + 4 + 2*autolock.KeyLen
)

// local is what only this manager's keyd holds, in one buffer of locked memory.
type local struct {
	buf *memguard.LockedBuffer
	// dekEpoch is of the DEK and of the key that seals the manager leaf, which are
	// renewed together.
	dekEpoch uint32
	// madeAt and slotEpoch are of the DEK's making; 0 in the first form.
	madeAt    int64
	slotEpoch uint64
	// formerEpoch is of the keys before; 0 when there are none.
	formerEpoch uint32

	keydSeed []byte // HPKE private key that the manager leaf certifies
	leafKey  []byte // seals the manager leaf
	dek      []byte // seals the replicated store
	journal  []byte // authenticates the journal

	formerLeafKey, formerDEK []byte // nil where formerEpoch is 0

	keydKey []byte // public half of keydSeed
}

// newLocal makes a manager's own secrets around the prepared keyd key.
func newLocal(p *prepared, slotEpoch uint64) (*local, error) {
	l := &local{dekEpoch: 1, madeAt: time.Now().Unix(), slotEpoch: slotEpoch, keydSeed: p.seed.Bytes()}
	return l.lay(func(l *local) {
		rand.Read(l.leafKey)
		rand.Read(l.dek)
		rand.Read(l.journal)
	})
}

// lay writes l's secrets into a buffer of its own, where fill makes those that are
// new, and reads it back.
func (l *local) lay(fill func(*local)) (*local, error) {
	buf := memguard.NewBuffer(localLen)
	out := append(buf.Bytes()[:0], localMagic...)
	out = binary.BigEndian.AppendUint32(out, l.dekEpoch)
	key := func(from []byte) []byte { // zeros where there is none
		at := len(out)
		out = out[:at+autolock.KeyLen]
		copy(out[at:], from)
		return out[at:]
	}
	var to local
	to.keydSeed, to.leafKey, to.dek, to.journal = key(l.keydSeed), key(l.leafKey), key(l.dek), key(l.journal)
	out = binary.BigEndian.AppendUint64(out, uint64(l.madeAt))
	out = binary.BigEndian.AppendUint64(out, l.slotEpoch)
	out = binary.BigEndian.AppendUint32(out, l.formerEpoch)
	key(l.formerLeafKey)
	key(l.formerDEK)
	if fill != nil {
		fill(&to)
	}
	return openLocal(buf)
}

var errLocal = errors.New("the manager's own secrets are malformed")

// openLocal reads the secrets out of buf, which it takes over.
func openLocal(buf *memguard.LockedBuffer) (_ *local, err error) {
	buf.Freeze()
	defer func() {
		if err != nil {
			buf.Destroy()
		}
	}()
	b := buf.Bytes()
	first := bytes.HasPrefix(b, []byte(localMagic1))
	switch {
	case first && len(b) == localLen1:
	case bytes.HasPrefix(b, []byte(localMagic)) && len(b) == localLen:
	default:
		return nil, errLocal
	}
	b = b[len(localMagic):]
	l := &local{buf: buf, dekEpoch: binary.BigEndian.Uint32(b)}
	b = b[4:]
	key := func() (k []byte) {
		k, b = b[:autolock.KeyLen:autolock.KeyLen], b[autolock.KeyLen:]
		return k
	}
	l.keydSeed, l.leafKey, l.dek, l.journal = key(), key(), key(), key()
	if !first {
		l.madeAt, l.slotEpoch, l.formerEpoch = int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])
		b = b[20:]
		formerLeafKey, formerDEK := key(), key()
		if l.formerEpoch != 0 {
			l.formerLeafKey, l.formerDEK = formerLeafKey, formerDEK
		}
	}
	if l.dekEpoch == 0 || l.formerEpoch != 0 && l.formerEpoch != l.dekEpoch-1 {
		return nil, errLocal
	}
	private, err := hpke.MLKEM768X25519().NewPrivateKey(l.keydSeed)
	if err != nil {
		return nil, errLocal
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
