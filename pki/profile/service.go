package profile

import (
	"errors"
	"net/url"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// NoStack stands in the identity of a service for the stack that it has none of.
const NoStack = "default"

// ServiceURI returns spiffe://<cluster id>/svc/<stack>/<service>, the identity of
// a service's workloads; an empty stack is NoStack.
func ServiceURI(clusterID, stack, service string) *url.URL {
	if stack == "" {
		stack = NoStack
	}
	return &url.URL{Scheme: "spiffe", Host: clusterID, Path: "/svc/" + stack + "/" + service}
}

var errServiceURI = errors.New("a workload's identity is spiffe://<cluster id>/svc/<stack>/<service>")

// ParseServiceURI reads one in its only spelling.
func ParseServiceURI(s string) (clusterID, stack, service string, err error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 4 || parts[1] != "svc" || !ident.Valid(parts[0]) ||
		ident.CheckName(parts[2]) != nil || ident.CheckName(parts[3]) != nil {
		return "", "", "", errServiceURI
	}
	return parts[0], parts[2], parts[3], nil
}
