package agent

import (
	"context"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/grpc"
)

// Executor runs containers: rund, by way of package executor.
type Executor interface {
	// Probe says what the runtime can do and which images were imported.
	Probe(context.Context) (*rundpb.ProbeResponse, error)
	// Apply declares every task this node should have, and every network.
	Apply(context.Context, *rundpb.ApplyRequest) (*rundpb.ApplyResponse, error)
	// Watch passes every task, then every change, to f, from one goroutine. It
	// returns when the connection ends, and with f's error.
	Watch(ctx context.Context, f func(*rundpb.WatchResponse) error) error
	// Logs passes a task's output to f until its end, or for ever when
	// following.
	Logs(ctx context.Context, r *rundpb.LogsRequest, f func(*rundpb.LogsResponse) error) error
	// Exec opens the stream of a command in a task's container, for as long as ctx lasts.
	Exec(ctx context.Context) (grpc.BidiStreamingClient[rundpb.ExecRequest, taskpb.ExecOutput], error)
	// NodeKey asks for the statement of the key that secrets are sealed to.
	NodeKey(context.Context, *rundpb.NodeKeyRequest) (*rundpb.NodeKeyResponse, error)
	// Deliver gives a task its secrets and configs.
	Deliver(context.Context, *rundpb.DeliverRequest) error
}

// Network connects containers: a *mesh.Local.
type Network interface {
	Probe(context.Context) ([]mesh.Feature, error)
	// Reserve, Adopt and Release only keep account and return at once.
	Reserve(taskID string) (mesh.Endpoint, error)
	Adopt(taskID string, e mesh.Endpoint) error
	Release(taskID string)
	// Sync declares every task that is to be attached and returns those which
	// could not be, and why.
	Sync(ctx context.Context, attached []mesh.Attachment) (map[string]error, error)
	// Check reports whether the last Sync is still in force.
	Check(context.Context) (bool, error)
}

// Overlay puts tasks on networks: an *overlay.Manager. Its methods return at
// once.
type Overlay interface {
	// SetView takes what managers said, whole.
	SetView(*overlay.View)
	// SetTasks takes the tasks that are on networks and have a sandbox, all.
	SetTasks([]overlay.Task)
	// Seen takes which tasks have a sandbox, and whether they are sound, before it is
	// known what managers want of them.
	Seen(sound map[string]bool)
	// States says how far each of them is, and of which others netd may not have
	// let go. Settled: of no others.
	States() (states map[string]overlay.State, settled bool)
	// Namespaces are the networks that rund should make one for; with keep others
	// that exist stay.
	Namespaces() (ids []string, keep bool)
	// Unpublished says which published ports this node should answer on and does
	// not.
	Unpublished() []string
	// SetNamespaces takes rund's answer to that.
	SetNamespaces(ids []string, errs map[string]string)
}

// stopped is what rund is told of a task that should end but stay known.
const stopped = rundpb.Phase_PHASE_STOPPING
