// Package apiclient is the client's end of a node's local sockets: gRPC on
// api.sock for root and on users.sock for others, keyd's wire on unlock.sock; and of the cluster's port for people, who
// reach the operator API by a certificate. The command line, the lab and the story
// tests speak to nodes through it.
//
// It owns how to connect, how errors are told, and the two flows in which a
// secret is made or used on the client's side: a join token's seed is born here
// and only its public half is sent; an operator key goes to keyd's own socket
// and nowhere else.
package apiclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/callstream"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/refusal"
)

// Names of the sockets in a node's run directory.
const (
	APISocket    = "api.sock"
	UsersSocket  = "users.sock"
	UnlockSocket = "unlock.sock"
)

const (
	// MaxSocketPath is sun_path less its final zero.
	MaxSocketPath = 107
	// maxReply bounds one answer: a listing of 100,000 tasks fits.
	maxReply = 64 << 20
	// answerWait is how long a node may take to accept a connection. The
	// supervisor keeps the socket bound while redoubtd is away, for at most ten
	// seconds between two starts; who waits longer waits for one that fails.
	answerWait = 12 * time.Second
)

// ParseHost returns the path in a unix:// address. Other schemes are refused: who
// comes from elsewhere needs a certificate, which a context has.
func ParseHost(host string) (string, error) {
	scheme, path, ok := strings.Cut(host, "://")
	switch {
	case !ok:
		return "", fmt.Errorf("%q is no address: write unix:///path/to/api.sock", host)
	case scheme != "unix":
		return "", fmt.Errorf("scheme %q is not supported: only unix:// is; from another machine use a context (redoubt context create)", scheme)
	case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
		return "", fmt.Errorf("%q: the path must be absolute, as in unix:///run/redoubt/api.sock", host)
	case len(path) > MaxSocketPath:
		return "", fmt.Errorf("%q: a socket path has at most %d characters", host, MaxSocketPath)
	}
	return filepath.Clean(path), nil
}

// Client is a connection to one node, or to the cluster.
type Client struct {
	controlpb.BootstrapClient
	controlpb.ControlClient
	controlpb.ExecsClient
	controlpb.RevocationClient
	controlpb.IdentitiesClient
	controlpb.AuthorityClient
	controlpb.SlotsClient
	controlpb.AdmissionClient
	controlpb.SharesClient
	controlpb.SecretsClient
	controlpb.AccessClient
	controlpb.ApprovalsClient
	controlpb.AuditClient
	controlpb.PeopleClient
	controlpb.ComplianceClient
	controlpb.WaiversClient
	controlpb.ImagePolicyClient
	controlpb.PlacementClient
	controlpb.VolumesClient
	conn  *callstream.Conn
	under io.Closer // what conn goes over, where that is to be closed, too; or nil
	users bool      // the socket is the one for users
}

func newClient(conn *callstream.Conn) *Client {
	return &Client{controlpb.NewBootstrapClient(conn), controlpb.NewControlClient(conn), controlpb.NewExecsClient(conn), controlpb.NewRevocationClient(conn), controlpb.NewIdentitiesClient(conn),
		controlpb.NewAuthorityClient(conn), controlpb.NewSlotsClient(conn), controlpb.NewAdmissionClient(conn), controlpb.NewSharesClient(conn), controlpb.NewSecretsClient(conn),
		controlpb.NewAccessClient(conn), controlpb.NewApprovalsClient(conn), controlpb.NewAuditClient(conn), controlpb.NewPeopleClient(conn), controlpb.NewComplianceClient(conn), controlpb.NewWaiversClient(conn), controlpb.NewImagePolicyClient(conn),
		controlpb.NewPlacementClient(conn), controlpb.NewVolumesClient(conn), conn, nil, false}
}

// Dial connects to the API socket at path and waits until somebody answers
// there, so that a node that is not there, or whose redoubtd does not start, is
// said plainly and soon.
func Dial(ctx context.Context, path string) (*Client, error) {
	if filepath.Base(path) == UsersSocket && os.Geteuid() == 0 {
		return nil, apierr.New(apierr.ReasonDenied, "name "+APISocket+" beside it", "%s is for users who are not root", path)
	}
	var d net.Dialer
	first, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, dialError(path, err)
	}
	heard := &refusal.Conn{Conn: first}
	var once sync.Once
	cc, err := grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket; the server checks the uid
		grpc.WithContextDialer(func(ctx context.Context, _ string) (c net.Conn, err error) {
			once.Do(func() { c = heard })
			if c == nil {
				c, err = d.DialContext(ctx, "unix", path)
			}
			return c, err
		}),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
	)
	if err != nil {
		first.Close()
		return nil, err
	}
	conn := callstream.Over(cc, carried, maxReply)
	conn.Connect() // takes first over at once, so that Close closes it
	if err := awaitAnswer(ctx, cc, heard, path); err != nil {
		conn.Close()
		return nil, err
	}
	c := newClient(conn)
	c.users = filepath.Base(path) == UsersSocket
	return c, nil
}

// carried reports whether calls of method may share a stream: those of the
// operator API that are no streams themselves.
func carried(method string) bool { return controlpb.OperatorMethod(method) }

func awaitAnswer(ctx context.Context, conn *grpc.ClientConn, first *refusal.Conn, path string) error {
	wait, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	for {
		state := conn.GetState()
		if why := first.Refused(); why != "" {
			return &RefusedConfigError{why}
		}
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure:
			if os.Geteuid() != 0 { // the server closes the connection of a foreign uid
				return foreignUser()
			}
		case connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(wait, state) {
			if err := ctx.Err(); err != nil {
				return apierr.Decode(err)
			}
			return apierr.New(apierr.ReasonUnreachable, "the log of redoubt-node says why (a mistake in its configuration file, for one)", "nobody answers at %s: redoubtd does not run or does not start", path)
		}
	}
}

// RefusedConfigError says that redoubtd does not start, and why: it is tried
// again, and waiting for it helps only who corrects the file meanwhile.
type RefusedConfigError struct{ why string }

func (e *RefusedConfigError) Error() string { return "redoubtd does not start: " + e.why }

// asWhom is what helps a user who is refused at a socket.
const asWhom = "run the command as root, or as a user in group redoubt who was given a role"

func foreignUser() error {
	return apierr.New(apierr.ReasonDenied, asWhom, "the node refused this user")
}

// Close ends the connection.
func (c *Client) Close() error {
	err := c.conn.Close()
	if c.under != nil {
		c.under.Close() // closed already, as a rule
	}
	return err
}

func dialError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return apierr.New(apierr.ReasonUnreachable, "start redoubt-node, or name its socket with --host", "no node answers at %s", path)
	case errors.Is(err, fs.ErrPermission):
		return apierr.New(apierr.ReasonDenied, asWhom, "this user may not use %s", path)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierr.Decode(err)
	}
	return apierr.New(apierr.ReasonUnreachable, "see the log of redoubt-node", "%s: %v", path, err)
}

// Err makes what a call returned fit for people: an *apierr.Error, or nil.
func Err(err error) error {
	if err == nil {
		return nil
	}
	e := apierr.Decode(err)
	if e.Reason != apierr.ReasonUnreachable || e.Remedy != "" {
		return e
	}
	if os.Geteuid() != 0 { // the server closes the connection of a foreign uid
		return foreignUser()
	}
	e.Remedy = "see the log of redoubt-node"
	return e
}

// Over is a client over connections that dial makes, the first when it is first used.
func Over(dial func(context.Context) (net.Conn, error)) (*Client, error) {
	cc, err := grpc.NewClient("passthrough:///node",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // whoever dials knows what it is
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
	)
	if err != nil {
		return nil, err
	}
	return newClient(callstream.Over(cc, carried, maxReply)), nil
}
