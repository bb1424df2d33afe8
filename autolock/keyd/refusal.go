package keyd

import (
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// refusal is an answer that says no, with the code the caller acts on.
type refusal struct {
	code keydpb.Code
	msg  string
}

func (r *refusal) Error() string { return r.msg }

func refuse(code keydpb.Code, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// invalid says that a request is malformed.
func invalid(format string, args ...any) error {
	return refuse(keydpb.Code_CODE_INVALID, format, args...)
}

// denied says that keyd's own policy refuses.
func denied(format string, args ...any) error {
	return refuse(keydpb.Code_CODE_DENIED, format, args...)
}

var (
	errEmpty  = refuse(keydpb.Code_CODE_EMPTY, "this node is no manager: its keyd holds no keys")
	errLocked = refuse(keydpb.Code_CODE_LOCKED, "this manager is locked: run redoubt unlock")
)

func codeOf(err error) keydpb.Code {
	var r *refusal
	if errors.As(err, &r) {
		return r.code
	}
	return keydpb.Code_CODE_INTERNAL
}
