package cli

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
)

const defaultHost = runDir + apiclient.APISocket

const runDir = "unix:///run/redoubt/"

// hostFor is the socket that a user's commands go to where none is named.
func hostFor(uid int) string {
	if uid == 0 {
		return defaultHost
	}
	return runDir + apiclient.UsersSocket
}

// api is a connection to the node.
type api = apiclient.Client

// socketPath returns the path of the node's API socket. A context is in the way of
// what only a node's own sockets answer: the command would be for another machine.
func (a *app) socketPath() (string, error) {
	name, err := a.contextInUse()
	if err != nil {
		return "", err
	}
	if name != "" {
		return "", usagef("this is answered by a node's own sockets, and context %s is in use: log in to the node, or give --host %s for this machine's", name, defaultHost)
	}
	from, host := "--host", a.host
	if host == "" {
		from, host = "REDOUBT_HOST", a.Getenv("REDOUBT_HOST")
	}
	if host == "" {
		host = hostFor(os.Geteuid())
	}
	path, err := apiclient.ParseHost(host)
	if err != nil {
		return "", usagef("%s: %v", from, err)
	}
	return path, nil
}

// dial connects to the node's API socket, or by the context in use.
func (a *app) dial(ctx context.Context) (*api, error) {
	o, err := a.openContext()
	if err != nil {
		return nil, err
	}
	if o != nil {
		return a.dialContext(ctx, o)
	}
	path, err := a.socketPath()
	if err != nil {
		return nil, err
	}
	return apiclient.Dial(ctx, path)
}

// reach dials under a bound, which is also the one of the context that it returns. The
// context in use is opened before it begins: somebody may have to type a passphrase.
// done ends connection and bound.
func (a *app) reach(ctx context.Context, bound time.Duration) (_ context.Context, _ *api, done func(), _ error) {
	if _, err := a.openContext(); err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	c, err := a.dial(ctx)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, c, func() { c.Close(); cancel() }, nil
}

// with dials, runs f under the bound of one call, and decodes its error.
func (a *app) with(ctx context.Context, f func(context.Context, *api) error) error {
	return a.within(ctx, callTimeout, f)
}

// within is with under another bound.
func (a *app) within(ctx context.Context, bound time.Duration, f func(context.Context, *api) error) error {
	ctx, c, done, err := a.reach(ctx, bound)
	if err != nil {
		return err
	}
	defer done()
	return decodeUnlessOurs(f(ctx, c))
}

// decodeUnlessOurs leaves usage and exit errors alone.
func decodeUnlessOurs(err error) error {
	var ee *exitError
	if err == nil || errors.As(err, &ee) {
		return err
	}
	return apiclient.Err(err)
}
