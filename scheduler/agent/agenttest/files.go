package agenttest

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// awaits reports whether a task waits for its first delivery.
func (r *Rund) awaits(d *rundpb.TaskDesired) bool {
	c := d.GetSpec().GetContainer()
	if len(c.GetSecrets())+len(c.GetConfigs()) == 0 || len(r.tasks[d.GetTaskId()].GetFiles()) > 0 {
		return false
	}
	r.waiting[d.GetTaskId()] = d
	r.change(d.GetTaskId(), func(t *rundpb.TaskActual) { t.WantsFiles = true })
	return true
}

// NodeKey answers with a statement that names nothing but the node.
func (r *Rund) NodeKey(_ context.Context, req *rundpb.NodeKeyRequest) (*rundpb.NodeKeyResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errors.New("connection refused")
	}
	return &rundpb.NodeKeyResponse{Statement: []byte("statement of " + req.GetNodeId())}, nil
}

// Deliver takes what is delivered without opening it.
func (r *Rund) Deliver(_ context.Context, req *rundpb.DeliverRequest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return errors.New("connection refused")
	}
	id := req.GetTaskId()
	if r.tasks[id] == nil {
		return errors.New("there is no such task")
	}
	if sum := sha256.Sum256([]byte("statement of " + req.GetFacts().GetNodeId())); string(sum[:]) != string(req.GetStatement()) {
		r.violate("a delivery for task %s that is sealed to another key", id)
	}
	var files []*taskpb.FileVersion
	for _, f := range req.GetFiles() {
		files = append(files, f.GetVersion())
	}
	r.change(id, func(t *rundpb.TaskActual) { t.Files, t.WantsFiles = files, false })
	if d := r.waiting[id]; d != nil {
		delete(r.waiting, id)
		r.converge(d)
	}
	return nil
}
