package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	taskplaces "github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Delivery binds the way that secrets and configs take: from the leader, by the
// connection of the session, to rund. The agent carries them sealed and keeps none.
type Delivery struct {
	ClusterID, NodeID string
	// Vouch signs the statement of this node's rund with the node's leaf. chain is
	// leaf first and ends below the root.
	Vouch func(statement []byte) (chain [][]byte, signature []byte, err error)
}

// filing is what a task lacks of its secrets and configs.
type filing struct {
	tries   int
	retryAt time.Time
	tried   []*taskpb.FileVersion // what retryAt is for: others need not wait
	why     string                // of the last failure
}

// lacksFiles reports whether rund is to be given a task's secrets and configs: it
// waits for them, or has other versions than the managers say.
func (t *task) lacksFiles() bool {
	if !wanted(t) || t.actual == nil || finished(t.actual) || t.actual.Phase == rundpb.Phase_PHASE_STOPPING {
		return false
	}
	return t.actual.WantsFiles || !sameFiles(t.assignment.Files, t.actual.Files)
}

func sameFiles(a, b []*taskpb.FileVersion) bool {
	return slices.EqualFunc(a, b, func(a, b *taskpb.FileVersion) bool { return proto.Equal(a, b) })
}

// deliveries are up to n tasks whose files are due, and when others will be.
func (m *machine) deliveries(now time.Time, n int) (ids []string, wake time.Time) {
	if !m.ready() {
		return nil, wake
	}
	for id, t := range m.tasks {
		switch {
		case !t.lacksFiles():
			t.files = filing{}
		case now.Before(t.files.retryAt) && sameFiles(t.files.tried, t.assignment.Files):
			if wake.IsZero() || t.files.retryAt.Before(wake) {
				wake = t.files.retryAt
			}
		default:
			ids = append(ids, id)
		}
	}
	// The same ones first, however often it is asked.
	slices.Sort(ids)
	return ids[:min(n, len(ids))], wake
}

// delivered takes what came of a delivery. What rund then says it has may still be
// another version, if that changed meanwhile.
func (m *machine) delivered(now time.Time, id string, tried []*taskpb.FileVersion, err error) {
	t := m.tasks[id]
	if t == nil {
		return
	}
	t.files.tried = tried
	if err == nil {
		// rund says that it has them before long; if not, it is asked again.
		t.files.tries, t.files.why, t.files.retryAt = 0, "", now.Add(fileSettle)
		m.step(t, now)
		return
	}
	t.files.tries++
	t.files.retryAt = now.Add(min(fileRetry<<min(t.files.tries-1, 10), maxFileRetry))
	t.files.why = err.Error()
	m.step(t, now)
}

// waitsForFiles says why a task that is being prepared does not go on; empty: it
// does.
func (t *task) waitsForFiles() string {
	if !t.actual.GetWantsFiles() || t.files.why == "" {
		return ""
	}
	return "waiting for its secrets and configs: " + t.files.why
}

// staleFiles says why a task that runs has not the newest; empty: it has.
func (t *task) staleFiles() string {
	if t.files.why == "" || !t.lacksFiles() {
		return ""
	}
	return "its secrets and configs are not the newest: " + t.files.why
}

// deliverFiles gives rund what tasks lack, for as long as the agent lives.
func (a *agent) deliverFiles(ctx context.Context) error {
	if a.Delivery == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		a.mu.Lock()
		now, conn := time.Now(), a.conn
		ids, wake := a.machine.deliveries(now, maxDeliver)
		tried := make(map[string][]*taskpb.FileVersion, len(ids))
		for _, id := range ids {
			tried[id] = a.machine.tasks[id].assignment.Files
		}
		a.mu.Unlock()
		if conn == nil || len(ids) == 0 {
			if err := a.fileKick.wait(ctx, until(now, wake)); err != nil {
				return err
			}
			continue
		}
		failed := a.deliver(ctx, conn, ids)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.input(func(m *machine, now time.Time) error {
			for _, id := range ids {
				m.delivered(now, id, tried[id], failed[id])
			}
			return nil
		})
	}
}

// deliver returns the tasks that got nothing, and why.
func (a *agent) deliver(ctx context.Context, conn grpc.ClientConnInterface, ids []string) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	failed := make(map[string]error, len(ids))
	for _, id := range ids {
		failed[id] = errNothing
	}
	// all is why those got nothing of which nothing was said.
	all := func(err error) map[string]error {
		for id, was := range failed {
			if errors.Is(was, errNothing) {
				failed[id] = err
			}
		}
		return failed
	}
	key, err := a.Executor.NodeKey(ctx, &rundpb.NodeKeyRequest{ClusterId: a.Delivery.ClusterID, NodeId: a.Delivery.NodeID})
	if err != nil {
		return all(err)
	}
	chain, signature, err := a.Delivery.Vouch(key.GetStatement())
	if err != nil {
		return all(err)
	}
	stream, err := schedulerpb.NewDeliveryClient(conn).Deliver(ctx, &schedulerpb.DeliverRequest{
		Statement: key.GetStatement(), Signature: signature, Leaf: &profilepb.CertificateChain{Certificates: chain}, TaskIds: ids,
	})
	if err != nil {
		return all(said(err))
	}
	statement := sha256.Sum256(key.GetStatement())
	parcel, size := &rundpb.DeliverRequest{}, 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return failed
		}
		if err != nil {
			return all(said(err))
		}
		id := m.GetTaskId()
		if _, asked := failed[id]; !asked {
			continue // what was given already, or was not asked for
		}
		if m.GetError() != "" {
			failed[id] = errors.New(oneline.Text(m.GetError(), maxText))
			continue
		}
		if parcel.TaskId != id {
			parcel, size = &rundpb.DeliverRequest{TaskId: id, Statement: statement[:]}, 0
		}
		// Managers give no more: this is no delivery of theirs.
		if parcel.Files = append(parcel.Files, m.GetFile()); len(parcel.Files) > maxFiles {
			return all(fmt.Errorf("a delivery of more than %d files", maxFiles))
		}
		if size += len(m.GetFile().GetData()); size > taskplaces.MaxBytes {
			return all(fmt.Errorf("a delivery of more than %d MiB", taskplaces.MaxBytes>>20))
		}
		if m.GetFacts() == nil {
			continue
		}
		parcel.Facts = m.GetFacts()
		if err := a.Executor.Deliver(ctx, parcel); err != nil {
			failed[id] = err
		} else {
			delete(failed, id)
		}
		parcel = &rundpb.DeliverRequest{}
	}
}

var errNothing = errors.New("the managers said nothing of it")

// said is a manager's refusal in its own words.
func said(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return errors.New(oneline.Text(st.Message(), maxText))
	}
	return err
}

// useConn takes the connection of a session that begins, or nil at its end.
func (a *agent) useConn(conn grpc.ClientConnInterface) {
	a.mu.Lock()
	a.conn = conn
	for _, t := range a.machine.tasks { // another leader may do better
		t.files.retryAt = time.Time{}
	}
	a.mu.Unlock()
	a.fileKick.now()
	if a.Session != nil {
		a.Session(conn)
	}
}
