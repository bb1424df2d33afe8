package node

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/headed"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// disk is what redoubtd keeps in its directory besides the store:
//
//	member      who this node is; its presence makes it a member
//	leaf        the certificate in use with its key; a manager's key is sealed
//	boot        a manager's boot leaf with its key
//	roots       the roots that this node trusts beside that of its own chain
//	failure     why a manager's store last stopped by itself, in one line
//	probe       for a moment, whether the disk takes writes
//	removed     that the cluster took this node out, and which one it was
//	promotion   what a worker becomes a manager with, until it is one
//	raft/       the sealed store; raft.<n>/ in the n-th incarnation of the cluster
//
// Each file is whole or absent, and member is written last and removed first,
// so that a crash in the middle of a join leaves a node that is in no cluster.
// All but probe have the header of internal/headed (diskfile.go).
type disk struct{ dir string }

// member is the file of that name. It holds no secret.
type member struct {
	NodeID    string   `json:"node_id"`
	ClusterID string   `json:"cluster_id"`
	Manager   bool     `json:"manager"`
	Name      string   `json:"name"`
	Advertise string   `json:"advertise,omitempty"`
	Managers  []string `json:"managers"`
	// Peers are the ids of the managers at the time of joining, for the store's
	// transport until it knows its own configuration.
	Peers []string `json:"peers,omitempty"`
	// Founding is set on the first manager until the store holds the cluster.
	Founding bool `json:"founding,omitempty"`
	// Pools are those that the operator chose, on the first manager until then.
	Pools *meshpb.Pools `json:"pools,omitempty"`
	// Renewed is when the store was found to be an old copy and thrown away, in
	// Unix seconds.
	Renewed int64 `json:"renewed,omitempty"`
}

// leafFile is a certificate chain in DER with its key: in PKCS #8, sealed by keyd, or
// sealed by the TPM.
type leafFile struct {
	Chain  [][]byte `json:"chain"`
	Key    []byte   `json:"key,omitempty"`
	Sealed []byte   `json:"sealed,omitempty"`
	// TPM is the key's scalar as this machine's TPM sealed it, of a node that proved
	// one when it joined.
	TPM []byte `json:"tpm,omitempty"`
}

func (d disk) path(name string) string { return filepath.Join(d.dir, name) }

// raftDir is the store's directory in an incarnation of the cluster.
func (d disk) raftDir(incarnation uint64) string {
	if incarnation <= 1 {
		return d.path("raft")
	}
	return d.path("raft." + strconv.FormatUint(incarnation, 10))
}

// stores are the directories of all incarnations, whole or not.
func (d disk) stores() []string {
	one, _ := filepath.Glob(d.path("raft"))
	more, _ := filepath.Glob(d.path("raft.*"))
	return append(one, more...)
}

// used reports whether a store was ever here.
func (d disk) used() bool { return len(d.stores()) > 0 }

// keepStore removes every store but that of an incarnation: those before it, and
// one after it that a recovery was making when it was cut short.
func (d disk) keepStore(incarnation uint64) error {
	for _, dir := range d.stores() {
		if dir != d.raftDir(incarnation) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropStore removes the store of an incarnation. It is gone at once: what is cut
// short is removed by keepStore.
func (d disk) dropStore(incarnation uint64) error {
	old := d.raftDir(incarnation) + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(d.raftDir(incarnation), old); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(d.dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// loadMember returns nil where this node is in no cluster.
func (d disk) loadMember() (*member, error) {
	var m member
	if err := d.load("member", &m); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &m, nil
}

func (d disk) saveMember(m *member) error { return d.save("member", m) }

func (d disk) loadLeaf(name string) (*leafFile, error) {
	var l leafFile
	if err := d.load(name, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// rootsFile is the file of that name, all of it in DER. It holds no secret.
type rootsFile struct {
	Roots [][]byte `json:"roots"`
	Cross [][]byte `json:"cross,omitempty"`
}

// loadRoots returns nil where none were kept: the node trusts its own chain's.
func (d disk) loadRoots() (*pkipb.Roots, error) {
	var f rootsFile
	if err := d.load("roots", &f); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &pkipb.Roots{Roots: f.Roots, Cross: f.Cross}, nil
}

func (d disk) saveRoots(r *pkipb.Roots) error {
	return d.save("roots", &rootsFile{Roots: r.GetRoots(), Cross: r.GetCross()})
}

func (d disk) saveLeaf(name string, l *leafFile) error { return d.save(name, l) }

// noteFailure keeps why this manager could not go on, for `status` to show
// after the restart that follows; "" forgets it.
func (d disk) noteFailure(cause string) error {
	if cause == "" {
		return atomicfile.Remove(d.path("failure"))
	}
	return headed.Write(d.path("failure"), "failure", []byte(oneline.Text(cause, maxFailure)))
}

// failure returns what noteFailure kept. It is a note to people: one that is
// damaged, or of the first release, says nothing.
func (d disk) failure() string {
	raw, err := atomicfile.ReadBounded(d.path("failure"), maxFile)
	if err != nil {
		return ""
	}
	b, err := headed.Decode("failure", raw)
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

// takesWrites says why nothing can be written here. A full disk is not seen by
// what happens next: appends to the log need no new block for a while, and then
// the store stops again, with a failure that cannot be noted.
func (d disk) takesWrites() error {
	err := d.hasRoom()
	if err == nil {
		err = atomicfile.Write(d.path("probe"), make([]byte, probeSize))
	}
	if err == nil {
		err = atomicfile.Remove(d.path("probe"))
	}
	if err == nil {
		return nil
	}
	// The temporary file's name is another each time, and tells nothing.
	if cause := syscall.Errno(0); errors.As(err, &cause) {
		err = cause
	}
	return fmt.Errorf("the disk takes no writes (%s: %w): free %d MiB on it or repair it, and this manager goes on by itself", d.dir, err, minFree>>20)
}

// hasRoom is ENOSPC where the next segment of the log would not fit. A file
// system that does not say what is free has its say when it is written to.
func (d disk) hasRoom() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil || fs.Blocks == 0 {
		return nil
	}
	if fs.Bavail < minFree/uint64(max(fs.Bsize, 1)) {
		return syscall.ENOSPC
	}
	return nil
}

const (
	// probeSize is what is written to try the disk, in bytes: more than the small
	// files take.
	probeSize = 64 << 10
	// minFree is what must be free: a segment of the log, which is allocated in
	// full, and something for the rest.
	minFree = raftstore.SegmentBytes + 1<<20
)

// maxFailure bounds the kept cause in bytes.
const maxFailure = 1024

// wipe makes this node a member of nothing.
func (d disk) wipe() error {
	for _, name := range []string{"member", "leaf", "boot", "roots", "failure", "promotion"} {
		if err := atomicfile.Remove(d.path(name)); err != nil {
			return err
		}
	}
	for _, dir := range d.stores() {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// wipeManager removes what only a manager has.
func (d disk) wipeManager() error {
	for _, name := range []string{"boot", "failure", "promotion"} {
		if err := atomicfile.Remove(d.path(name)); err != nil {
			return err
		}
	}
	for _, dir := range d.stores() {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func (d disk) has(name string) bool {
	_, err := os.Stat(d.path(name))
	return err == nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the key is damaged: leave and join again")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, not ECDSA: leave and join again", key)
	}
	return ec, nil
}
