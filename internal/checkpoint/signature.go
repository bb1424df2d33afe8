package checkpoint

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Kinds of signatures, as the byte before a key says them.
const (
	algCluster = 0x01 // Ed25519 over the text
	algManager = 0x04 // cosignature/v1: with a time
)

const timeBytes = 8

// CosignText is what a manager signs that saw the checkpoint at that time, in Unix
// seconds.
func CosignText(text []byte, at int64) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at), text...)
}

// ClusterKey and ManagerKey write a public key as a note's verifier key: name,
// hash and key. Open takes them.
func ClusterKey(c Checkpoint, public ed25519.PublicKey) string {
	return writeKey(c.Origin(), algCluster, public)
}

// ManagerKey: see ClusterKey.
func ManagerKey(cluster, node string, public ed25519.PublicKey) string {
	return writeKey(ManagerName(cluster, node), algManager, public)
}

func writeKey(name string, alg byte, public ed25519.PublicKey) string {
	key := append([]byte{alg}, public...)
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, key), base64.StdEncoding.EncodeToString(key))
}

// keyHash is note's, which it keeps to itself.
func keyHash(name string, key []byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	return binary.BigEndian.Uint32(sum[:])
}

// ClusterLine and ManagerLine are the lines of a note with a signature by that
// key, over Text and over CosignText.
func ClusterLine(c Checkpoint, public ed25519.PublicKey, sig []byte) string {
	return line(c.Origin(), algCluster, public, sig)
}

// ManagerLine: see ClusterLine.
func ManagerLine(cluster, node string, public ed25519.PublicKey, at int64, sig []byte) string {
	return line(ManagerName(cluster, node), algManager, public, append(binary.BigEndian.AppendUint64(nil, uint64(at)), sig...))
}

func line(name string, alg byte, public ed25519.PublicKey, sig []byte) string {
	b := binary.BigEndian.AppendUint32(nil, keyHash(name, append([]byte{alg}, public...)))
	return "— " + name + " " + base64.StdEncoding.EncodeToString(append(b, sig...)) + "\n"
}

// Note is the checkpoint with these lines.
func Note(c Checkpoint, lines ...string) []byte {
	return []byte(string(c.Text()) + "\n" + strings.Join(lines, ""))
}

// key is a public key by whose owner a note may be signed.
type key struct {
	name   string
	alg    byte
	public ed25519.PublicKey
}

var errKey = errors.New("that is no key of an audit log")

// Key writes a public key of another purpose than checkpoints, of that name, for the
// same files; Open passes it by. ParseKey reads it.
func Key(name string, public ed25519.PublicKey) string { return writeKey(name, algCluster, public) }

// ParseKey returns name and public key of a written key, or an error where it is none.
func ParseKey(s string) (name string, public ed25519.PublicKey, err error) {
	k, err := parseKey(s)
	return k.name, k.public, err
}

// CheckKey returns the name of a written key, or an error where it is none.
func CheckKey(s string) (name string, err error) {
	k, err := parseKey(s)
	return k.name, err
}

func parseKey(s string) (key, error) {
	parts := strings.SplitN(s, "+", 3) // base64 may have a + as well
	if len(s) > maxKey || len(parts) != 3 {
		return key{}, errKey
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != algCluster && raw[0] != algManager {
		return key{}, errKey
	}
	k := key{parts[0], raw[0], raw[1:]}
	if k.name == "" || strings.ContainsAny(k.name, " \t\r\n") || writeKey(k.name, k.alg, k.public) != s {
		return key{}, errKey
	}
	return k, nil
}

// Name, KeyHash and Verify implement note.Verifier.
func (k key) Name() string { return k.name }

// KeyHash: see Name.
func (k key) KeyHash() uint32 { return keyHash(k.name, append([]byte{k.alg}, k.public...)) }

// Verify: see Name.
func (k key) Verify(text, sig []byte) bool {
	if k.alg == algManager {
		if len(sig) != timeBytes+ed25519.SignatureSize {
			return false
		}
		text, sig = CosignText(text, signedAt(sig)), sig[timeBytes:]
	}
	return ed25519.Verify(k.public, text, sig)
}

func signedAt(sig []byte) int64 { return int64(binary.BigEndian.Uint64(sig)) }

// Signed is a checkpoint and who signed it, of those whose keys are known.
type Signed struct {
	Checkpoint
	By []Signer
}

// Signer is one of them; At is zero where the signature says no time, as the
// cluster's.
type Signer struct {
	Name string
	At   time.Time
}

// UnsignedError: nobody whose key is known has signed it.
type UnsignedError struct{ Checkpoint Checkpoint }

func (e *UnsignedError) Error() string {
	return "nobody whose key is known has signed this checkpoint"
}

// Open reads a note that at least one of the keys has signed; a signature that is
// said to be by one of them and is not is an error. Those of others are passed by.
// An UnsignedError has the checkpoint all the same.
func Open(msg []byte, keys []string) (Signed, error) {
	if len(msg) > MaxNote || len(keys) > MaxKeys {
		return Signed{}, errText
	}
	known := map[string]key{}
	var verifiers []note.Verifier
	for _, s := range keys {
		k, err := parseKey(s)
		if err != nil {
			return Signed{}, err
		}
		id := k.name + "+" + strconv.FormatUint(uint64(k.KeyHash()), 16)
		if _, twice := known[id]; !twice {
			known[id] = k
			verifiers = append(verifiers, k)
		}
	}
	n, err := note.Open(msg, note.VerifierList(verifiers...))
	if unsigned := new(note.UnverifiedNoteError); errors.As(err, &unsigned) {
		c, err := Parse([]byte(unsigned.Note.Text))
		if err != nil {
			return Signed{}, err
		}
		return Signed{}, &UnsignedError{c}
	}
	if err != nil {
		return Signed{}, err
	}
	c, err := Parse([]byte(n.Text))
	if err != nil {
		return Signed{}, err
	}
	out := Signed{Checkpoint: c}
	for _, s := range n.Sigs {
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(raw) < 4+timeBytes || base64.StdEncoding.EncodeToString(raw) != s.Base64 {
			return Signed{}, errText // a note leaves open how the last bits are written
		}
		by := Signer{Name: s.Name}
		switch k := known[s.Name+"+"+strconv.FormatUint(uint64(s.Hash), 16)]; {
		case k.alg == algCluster && k.name == c.Origin():
		case k.alg == algManager && NodeOf(c.Cluster, k.name) != "":
			by.At = time.Unix(signedAt(raw[4:]), 0).UTC()
		default: // it vouches for another log
			continue
		}
		out.By = append(out.By, by)
	}
	if len(out.By) == 0 {
		return Signed{}, &UnsignedError{c}
	}
	return out, nil
}
