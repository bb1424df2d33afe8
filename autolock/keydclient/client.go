package keydclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/erase"
	"github.com/redoubt-cluster/redoubt/internal/wire"
)

// Client calls keyd's verbs. It is safe for concurrent use.
type Client struct {
	path string
	wire *wire.Client
	// byTPM carries the verbs that may wait for the TPM, so that the others do not.
	byTPM *wire.Client
}

// New returns a client of the socket at path; it dials lazily and again after
// a failure.
func New(path string) *Client {
	return &Client{path: path, wire: wire.NewClient(path), byTPM: wire.NewClient(path)}
}

// Close drops the connections; a later call dials again.
func (c *Client) Close() error { return errors.Join(c.wire.Close(), c.byTPM.Close()) }

// Error is a refusal by keyd.
type Error struct {
	Code    keydpb.Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// CodeOf returns the code of the keyd refusal in err's chain, or
// CODE_UNSPECIFIED when there is none.
func CodeOf(err error) keydpb.Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return keydpb.Code_CODE_UNSPECIFIED
}

// errUnexpected is keyd's answer to another question.
var errUnexpected = errors.New("keyd gave an answer of another kind: are keyd and redoubtd of one version?")

func call(ctx context.Context, w *wire.Client, req *keydpb.Request) (*keydpb.Response, error) {
	resp := new(keydpb.Response)
	var err error
	erase.Do(func() { err = w.Call(ctx, req, resp) }) // what is read may be a key
	if err != nil {
		return nil, fmt.Errorf("calling keyd: %w", err)
	}
	if e := resp.GetError(); e != nil {
		return nil, &Error{Code: e.GetCode(), Message: e.GetMessage()}
	}
	return resp, nil
}

// mayAskTPM reports whether keyd may have to ask the TPM before it answers.
func mayAskTPM(req *keydpb.Request) bool {
	switch req.GetVerb().(type) {
	case *keydpb.Request_DescribeTpm, *keydpb.Request_Attest, *keydpb.Request_SealToTpm, *keydpb.Request_SignOwn,
		*keydpb.Request_Reseal, *keydpb.Request_ImportKeyset, *keydpb.Request_FinishRestore, *keydpb.Request_TestSlot:
		return true
	}
	return false
}

// do calls a verb and picks its answer out of the response.
func do[T any](ctx context.Context, c *Client, req *keydpb.Request, pick func(*keydpb.Response) *T) (*T, error) {
	over := c.wire
	if mayAskTPM(req) {
		over = c.byTPM
	}
	resp, err := call(ctx, over, req)
	if err != nil {
		return nil, err
	}
	if t := pick(resp); t != nil {
		return t, nil
	}
	return nil, errUnexpected
}
