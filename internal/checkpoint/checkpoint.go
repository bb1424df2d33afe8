// Package checkpoint is what an audit log's root is written down as, to be kept
// where the cluster's managers cannot change it.
//
// # What it owns
//
// The text of a checkpoint, which is a signed note (golang.org/x/mod/sumdb/note)
// of the form that C2SP's tlog-checkpoint has: an origin, how many records there
// were, and the root of the tree over them. And its two kinds of signatures: the
// cluster's, a note's Ed25519, and those of managers that saw the same root,
// C2SP's cosignature/v1, which also say when. So what is kept can be read and
// checked by tools that know nothing of Redoubt. Witnesses outside of the cluster
// cosign in the same form, with keys that an operator names.
//
// # What it refuses
//
// It holds no key and signs nothing: keyd does. A note is not believed because
// somebody signed it: Open says who of those whose keys its caller has, and none
// is an error.
//
// # Use
//
//	signed, err := checkpoint.Open(file, keys)
//	// signed.Size and signed.Root, by signed.By
package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// Checkpoint is the tree over the first Size records of a cluster's audit log, in
// one incarnation of the cluster.
type Checkpoint struct {
	Cluster     string // id
	Incarnation uint64
	Size        uint64
	Root        tlog.Hash
}

const (
	originPrefix = "redoubt/"
	originMiddle = "/audit/"
	managerPart  = "/manager/"
)

// Origin names the log, and the key with which the cluster signs.
func (c Checkpoint) Origin() string {
	return originPrefix + c.Cluster + originMiddle + strconv.FormatUint(c.Incarnation, 10)
}

// ManagerName names the key with which a manager cosigns.
func ManagerName(cluster, node string) string { return originPrefix + cluster + managerPart + node }

// NodeOf is the manager whose key has that name; empty where it is none of that
// cluster's.
func NodeOf(cluster, name string) string {
	node, ok := strings.CutPrefix(name, originPrefix+cluster+managerPart)
	if !ok || !ident.Valid(node) {
		return ""
	}
	return node
}

// Text is what is signed.
func (c Checkpoint) Text() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin(), c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

var errText = errors.New("that is no checkpoint of an audit log")

// ForeignError: what is kept as a checkpoint of a log is none of it.
type ForeignError struct{ why string }

func (e *ForeignError) Error() string { return e.why }

// OfLog is the checkpoint of a note that is kept as that of size records, or a
// ForeignError where it is none of a log that has so many records, and those roots:
// whoever led could have kept anything. Who signed it it does not look at.
func OfLog(msg []byte, size, records uint64, root func(size uint64) (tlog.Hash, error)) (Checkpoint, error) {
	c, err := Parse(TextOf(msg))
	switch {
	case err != nil:
		return Checkpoint{}, &ForeignError{err.Error()}
	case c.Size != size:
		return Checkpoint{}, &ForeignError{fmt.Sprintf("it is of %d records, and is kept as one of %d", c.Size, size)}
	case c.Size > records:
		return Checkpoint{}, &ForeignError{fmt.Sprintf("it is of %d records of the audit log, and there are %d", c.Size, records)}
	}
	switch is, err := root(c.Size); {
	case err != nil:
		return Checkpoint{}, err
	case is != c.Root:
		return Checkpoint{}, &ForeignError{fmt.Sprintf("it is of other records than the first %d", c.Size)}
	}
	return c, nil
}

// Parse reads a Text, and no other writing of it.
func Parse(text []byte) (Checkpoint, error) {
	lines := strings.Split(string(text), "\n")
	if len(text) > maxText || len(lines) != 4 {
		return Checkpoint{}, errText
	}
	of, ok := strings.CutPrefix(lines[0], originPrefix)
	cluster, incarnation, ok2 := strings.Cut(of, originMiddle)
	c := Checkpoint{Cluster: cluster}
	var err, err2 error
	c.Incarnation, err = strconv.ParseUint(incarnation, 10, 63)
	c.Size, err2 = strconv.ParseUint(lines[1], 10, 63)
	root, err3 := base64.StdEncoding.DecodeString(lines[2])
	if !ok || !ok2 || !ident.Valid(cluster) || errors.Join(err, err2, err3) != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, errText
	}
	copy(c.Root[:], root)
	if c.Incarnation == 0 || c.Size == 0 || string(c.Text()) != string(text) {
		return Checkpoint{}, errText
	}
	return c, nil
}
