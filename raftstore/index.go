package raftstore

import (
	"fmt"

	memdb "github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

// idIndexer is the primary index: the id, ended by a NUL so that no id is a
// prefix of another's key.
type idIndexer struct{}

var (
	_ memdb.SingleIndexer = idIndexer{}
	_ memdb.PrefixIndexer = idIndexer{}
	_ memdb.MultiIndexer  = keyIndexer{}
	_ memdb.PrefixIndexer = keyIndexer{}
)

func (idIndexer) FromObject(raw any) (bool, []byte, error) {
	id := raw.(Object).GetId()
	return id != "", terminated(id), nil
}

func (idIndexer) FromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return terminated(s), err
}

func (idIndexer) PrefixFromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return []byte(s), err
}

// keyIndexer is one secondary index of a table.
type keyIndexer struct {
	table Registered
	index int
}

func (x keyIndexer) FromObject(raw any) (bool, [][]byte, error) {
	keys := x.table.keys(x.index, raw.(Object))
	out := make([][]byte, len(keys))
	for i, k := range keys {
		out[i] = terminated(k)
	}
	return len(out) > 0, out, nil
}

func (keyIndexer) FromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return terminated(s), err
}

func (keyIndexer) PrefixFromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return []byte(s), err
}

func oneString(args []any) (string, error) {
	if len(args) != 1 {
		return "", fmt.Errorf("one argument wanted, %d given", len(args))
	}
	s, ok := args[0].(string)
	if !ok {
		return "", fmt.Errorf("a string is wanted, not %T", args[0])
	}
	return s, nil
}

func terminated(s string) []byte { return append([]byte(s), 0) }

// unmarshalStrict decodes data into m and refuses fields this version does not
// know, at any depth: a manager that ignored them would hold another state than
// its neighbours.
func unmarshalStrict(data []byte, m proto.Message) error {
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	return refuseUnknown(m)
}

func refuseUnknown(m proto.Message) error {
	if t := strictpb.Unknown(m); t != "" {
		return fmt.Errorf("%s: it has fields that this version does not know", t)
	}
	return nil
}
