package raftstore

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

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
