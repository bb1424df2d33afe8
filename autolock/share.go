package autolock

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/openbao/openbao/sdk/v2/helper/shamir"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// SharePrefix opens the text of every share.
const SharePrefix = "RDTSHARE-"

// A share's bytes: what it is of, then the point, then the checksum. Their
// number is a multiple of five, so base32 has no spare bits.
const (
	shareFormat  = 1
	clusterTag   = 5 // first bytes of the cluster's id
	shareKeyLen  = 6 // first bytes of the digest of the slot's public half
	pointLen     = KeyLen + shamir.ShareOverhead
	offCluster   = 1
	offSince     = offCluster + clusterTag
	offNumber    = offSince + 4
	offThreshold = offNumber + 1
	offKey       = offThreshold + 1
	offPoint     = offKey + shareKeyLen
	offCheck     = offPoint + pointLen

	// ShareLen is the length of a share in bytes.
	ShareLen = offCheck + checksumLen
)

const (
	shareChecksumLabel = "redoubt share v1\x00"
	shareKeyLabel      = "redoubt share key v1\x00"
	shareDigestLabel   = "redoubt share digest v1\x00"
)

var shareChars = keyEncoding.EncodedLen(ShareLen)

// Errors of ParseShare and ReadShare. None of them repeats any of what was typed.
var (
	ErrSharePrefix   = errors.New("this is no share: it must start with " + SharePrefix)
	ErrShareChars    = errors.New("the share has a character other than the letters A-Z and digits 2-7: check the typing")
	ErrShareChecksum = errors.New("the share is mistyped: its checksum does not match")
	ErrShareFormat   = errors.New("the share is of a newer version of Redoubt: use that version")
	ErrShareShape    = errors.New("the share contradicts itself: no version of Redoubt made it")
)

// ShareLengthError says that a share was cut short or has too much.
type ShareLengthError struct{ Got, Want int }

func (e *ShareLengthError) Error() string {
	return fmt.Sprintf("the share has %d characters after %s where %d are needed: check that it is complete", e.Got, SharePrefix, e.Want)
}

// Share is one part of a slot's seed. The zero value is no share.
type Share struct{ raw [ShareLen]byte }

// Number is the share's, from 1.
func (s *Share) Number() int { return int(s.raw[offNumber]) }

// Threshold is how many shares open the slot.
func (s *Share) Threshold() int { return int(s.raw[offThreshold]) }

// Since is the slot epoch in which the slot appeared.
func (s *Share) Since() uint64 { return uint64(binary.BigEndian.Uint32(s.raw[offSince:])) }

// OfCluster reports whether the share is of that cluster.
func (s *Share) OfCluster(clusterID string) bool {
	id, ok := ident.Bytes(clusterID)
	return ok && bytes.Equal(s.raw[offCluster:offSince], id[:clusterTag])
}

// Of reports whether the share is of that slot: of its very public half.
func (s *Share) Of(clusterID string, slot *keydpb.Slot) bool {
	return slot.GetKind() == keydpb.SlotKind_SLOT_KIND_SHAMIR && s.OfCluster(clusterID) &&
		bytes.Equal(s.raw[offKey:offPoint], shareKey(clusterID, slot))
}

// Check returns an error unless the share is one of those that the slot was split
// into. It takes no other share to say so.
func (s *Share) Check(clusterID string, slot *keydpb.Slot) error {
	if !s.Of(clusterID, slot) {
		return errors.New("the share is of another slot")
	}
	n := s.Number()
	if s.Threshold() != int(slot.GetThreshold()) || n > len(slot.GetShares()) ||
		subtle.ConstantTimeCompare(s.digest(clusterID, slot.GetId()), slot.GetShares()[n-1]) != 1 {
		return fmt.Errorf("share %d is not one that slot %s was split into", n, SlotName(slot))
	}
	return nil
}

// Bytes returns a copy of the share, for keyd. The caller wipes it.
func (s *Share) Bytes() []byte { return bytes.Clone(s.raw[:]) }

// Point is the part that the seed is made from, and is the share's own.
func (s *Share) Point() []byte { return s.raw[offPoint:offCheck] }

// Wipe overwrites the share.
func (s *Share) Wipe() { clear(s.raw[:]) }

// String returns the text to give to its holder, once. It reveals the share, and
// with it %v and %s do; structured logs and %#v do not.
func (s Share) String() string {
	text := keyEncoding.EncodeToString(s.raw[:])
	groups := []string{strings.TrimSuffix(SharePrefix, "-")}
	for len(text) > keyGroup {
		groups, text = append(groups, text[:keyGroup]), text[keyGroup:]
	}
	return strings.Join(append(groups, text), "-")
}

// LogValue keeps the share out of structured logs.
func (s Share) LogValue() slog.Value { return slog.StringValue("[share]") }

// GoString keeps the share out of %#v.
func (s Share) GoString() string { return "autolock.Share{}" }

// MarshalText refuses: a share is not to be stored.
func (s Share) MarshalText() ([]byte, error) { return nil, errors.New("a share cannot be marshalled") }

// ReadShare reads a share's bytes, strictly.
func ReadShare(raw []byte) (Share, error) {
	var s Share
	if len(raw) != ShareLen {
		return s, fmt.Errorf("a share is %d bytes, not %d", ShareLen, len(raw))
	}
	copy(s.raw[:], raw)
	var err error
	switch {
	case subtle.ConstantTimeCompare(s.checksum(), s.raw[offCheck:]) != 1:
		err = ErrShareChecksum
	case s.raw[0] != shareFormat:
		err = ErrShareFormat
	case s.Number() < 1 || s.Number() > MaxShares || s.Threshold() < MinThreshold || s.Threshold() > MaxShares ||
		s.Since() == 0 || s.raw[offCheck-1] == 0: // no point lies at 0, where the seed is
		err = ErrShareShape
	}
	if err != nil {
		s.Wipe()
	}
	return s, err
}

// ParseShare reads the text of a share. Case, spaces and hyphens do not matter.
func ParseShare(text string) (Share, error) {
	body, err := keyBody(text, SharePrefix, shareChars)
	defer clear(body)
	var length *KeyLengthError
	switch {
	case errors.As(err, &length):
		return Share{}, &ShareLengthError{Got: length.Got, Want: length.Want}
	case errors.Is(err, ErrKeyPrefix):
		return Share{}, ErrSharePrefix
	case err != nil:
		return Share{}, ErrShareChars
	}
	var raw [ShareLen]byte
	defer clear(raw[:])
	if _, err := keyEncoding.Decode(raw[:], body); err != nil {
		return Share{}, ErrShareChars
	}
	return ReadShare(raw[:])
}

// Split makes a slot that threshold of n shares open, and the shares. since is
// the epoch that the set with the slot will have. Nothing of the seed is left but
// in the shares.
func Split(clusterID, name string, since uint64, n, threshold int) (*keydpb.Slot, []Share, error) {
	id, ok := ident.Bytes(clusterID)
	switch {
	case !ok:
		return nil, nil, errors.New("malformed cluster id")
	case threshold < MinThreshold || threshold > n || n > MaxShares:
		return nil, nil, fmt.Errorf("%d of %d shares: 2 to %d shares can be made, of which at least 2 and at most all open the slot", threshold, n, MaxShares)
	case since == 0 || since > 1<<32-1:
		return nil, nil, fmt.Errorf("slot epoch %d cannot be written into a share", since)
	}
	key := NewOperatorKey() // 32 random bytes that wipe themselves
	defer key.Wipe()
	recipient, err := SeedRecipient(keydpb.SlotKind_SLOT_KIND_SHAMIR, key.seed[:])
	if err != nil {
		return nil, nil, err
	}
	points, err := shamir.Split(key.seed[:], n, threshold)
	if err != nil {
		return nil, nil, err
	}
	slot := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_SHAMIR, Name: name, Recipient: recipient,
		CreatedAt: time.Now().Unix(), Threshold: uint32(threshold), Since: since}
	shares := make([]Share, n)
	for i, p := range points {
		s := &shares[i]
		s.raw[0] = shareFormat
		copy(s.raw[offCluster:], id[:clusterTag])
		binary.BigEndian.PutUint32(s.raw[offSince:], uint32(since))
		s.raw[offNumber], s.raw[offThreshold] = byte(i+1), byte(threshold)
		copy(s.raw[offKey:], shareKey(clusterID, slot))
		copy(s.raw[offPoint:], p)
		copy(s.raw[offCheck:], s.checksum())
		clear(p)
		slot.Shares = append(slot.Shares, s.digest(clusterID, slot.GetId()))
	}
	// What is given to people must open what they are told it opens.
	seed, err := Join(clusterID, slot, shares[n-threshold:])
	clear(seed)
	return slot, shares, err
}

// Join makes a slot's seed of as many of its shares as are needed. A seed that is
// not the slot's is an error. The caller wipes it.
func Join(clusterID string, slot *keydpb.Slot, shares []Share) ([]byte, error) {
	var points [][]byte
	seen := map[int]bool{}
	for i := range shares {
		if err := shares[i].Check(clusterID, slot); err != nil {
			return nil, err
		}
		if n := shares[i].Number(); !seen[n] && len(points) < int(slot.GetThreshold()) {
			seen[n] = true
			points = append(points, shares[i].Point())
		}
	}
	if len(points) < int(slot.GetThreshold()) || len(points) == 0 {
		return nil, fmt.Errorf("%d of %d shares are here: %d more are needed", len(points), slot.GetThreshold(), int(slot.GetThreshold())-len(points))
	}
	seed, err := shamir.Combine(points)
	if err != nil {
		return nil, fmt.Errorf("slot %s: %w", SlotName(slot), err)
	}
	recipient, err := SeedRecipient(slot.GetKind(), seed)
	if err != nil || !bytes.Equal(recipient, slot.GetRecipient()) { // public halves
		clear(seed)
		return nil, fmt.Errorf("slot %s: its shares do not make its key: the slot is damaged", SlotName(slot))
	}
	return seed, nil
}

// checkShares returns an error unless what a slot says of shares fits its kind.
func checkShares(slot *keydpb.Slot) error {
	n, threshold := len(slot.GetShares()), int(slot.GetThreshold())
	if slot.GetKind() != keydpb.SlotKind_SLOT_KIND_SHAMIR {
		if n != 0 || threshold != 0 {
			return errors.New("it has shares, and is of another kind")
		}
		return nil
	}
	if threshold < MinThreshold || threshold > n || n > MaxShares || slot.GetSince() == 0 || slot.GetSince() > 1<<32-1 {
		return errors.New("its shares are malformed")
	}
	for _, d := range slot.GetShares() {
		if len(d) != sha256.Size {
			return errors.New("its shares are malformed")
		}
	}
	return nil
}

// shareKey is the key-check value: what a share says of the slot it is of.
func shareKey(clusterID string, slot *keydpb.Slot) []byte {
	b := lp.Append([]byte(shareKeyLabel), []byte(clusterID))
	b = lp.Append(b, []byte(slot.GetId()))
	sum := sha256.Sum256(lp.Append(b, slot.GetRecipient()))
	return sum[:shareKeyLen]
}

// digest is what the slot keeps of the share. The point has 256 random bits, so
// nothing is found by trying.
func (s *Share) digest(clusterID, slotID string) []byte {
	b := lp.Append([]byte(shareDigestLabel), []byte(clusterID))
	b = lp.Append(b, []byte(slotID))
	b = lp.Append(b, s.raw[:offCheck])
	defer clear(b)
	sum := sha256.Sum256(b)
	return sum[:]
}

func (s *Share) checksum() []byte {
	h := sha256.New()
	h.Write([]byte(shareChecksumLabel))
	h.Write(s.raw[:offCheck])
	return h.Sum(nil)[:checksumLen]
}
