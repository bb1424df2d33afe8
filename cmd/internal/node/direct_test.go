package node

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// Streams end with the connection to the leader, so none may be answered in
// place; and every other method can be.
func TestDirectIsForUnaryMethods(t *testing.T) {
	for _, s := range controlpb.Control_ServiceDesc.Streams {
		if unaryMethods["/"+controlpb.Control_ServiceDesc.ServiceName+"/"+s.StreamName] != nil {
			t.Errorf("%s is a stream", s.StreamName)
		}
	}
	for _, m := range controlpb.Control_ServiceDesc.Methods {
		if d := unaryMethods["/"+controlpb.Control_ServiceDesc.ServiceName+"/"+m.MethodName]; d == nil || d.MethodName != m.MethodName {
			t.Errorf("%s is not found", m.MethodName)
		}
	}
}
