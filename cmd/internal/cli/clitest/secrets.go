package clitest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// keptSecret is a secret with what its versions hold: the fake opens what it gets,
// so that a test sees what was sealed, as the label "holds" and its length.
type keptSecret struct{ *secretspb.Secret }

func (n *Node) secret(ref string) (int, *keptSecret) {
	for i, s := range n.secrets {
		if s.GetId() == ref || s.GetSpec().GetName() == ref {
			return i, s
		}
	}
	return 0, nil
}

func noSecret(ref string) error {
	return apierr.NotFound("list them with `redoubt secret ls`", "no secret %q", ref)
}

// take opens a version as the node that is to have it would.
func (n *Node) take(s *keptSecret, v *controlpb.NewVersion) error {
	kind := strings.ToLower(strings.TrimPrefix(s.GetSpec().GetKind().String(), "SECRET_KIND_"))
	of := seal.Subject{ClusterID: n.cluster, SecretID: s.GetId(), VersionID: v.GetId(), Kind: kind}
	key, err := n.master.OpenKey(of, v.GetSealed().GetKey())
	if err != nil {
		return apierr.Invalid("", "%v", err)
	}
	plain, err := seal.OpenData(key, of, v.GetSealed().GetData())
	if err != nil {
		return apierr.Invalid("", "%v", err)
	}
	s.Current++
	s.Versions = append(s.Versions, &secretspb.VersionFacts{Number: s.Current, Id: v.GetId(), CreatedAt: 1, Size: uint64(len(plain))})
	if s.Spec.Labels[stack.Label] != "" { // those are compared with what a file says
		return nil
	}
	if s.Spec.Labels == nil {
		s.Spec.Labels = map[string]string{}
	}
	s.Spec.Labels["holds"] = fmt.Sprintf("%x", plain[:min(len(plain), 64)])
	return nil
}

// CreateSecret implements Secrets.
func (n *Node) CreateSecret(_ context.Context, r *controlpb.CreateSecretRequest) (*controlpb.CreateSecretResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	if _, s := n.secret(r.GetSpec().GetName()); s != nil {
		return nil, apierr.Exists("choose another name", "a secret named %q exists already", r.GetSpec().GetName())
	}
	s := &keptSecret{&secretspb.Secret{Meta: &raftstorepb.Meta{Version: 1, CreatedAt: 1}, Id: r.GetId(), Spec: r.GetSpec()}}
	if err := n.take(s, r.GetVersion()); err != nil {
		return nil, err
	}
	n.secrets = append(n.secrets, s)
	return &controlpb.CreateSecretResponse{}, nil
}

// StreamSecrets implements Secrets.
func (n *Node) StreamSecrets(r *controlpb.StreamSecretsRequest, stream grpc.ServerStreamingServer[controlpb.StreamSecretsResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	page := &controlpb.StreamSecretsResponse{}
	for _, ref := range r.GetSecrets() {
		_, s := n.secret(ref)
		if s == nil {
			return noSecret(ref)
		}
		page.Secrets = append(page.Secrets, s.Secret)
	}
	if len(r.GetSecrets()) == 0 {
		for _, s := range n.secrets {
			page.Secrets = append(page.Secrets, s.Secret)
		}
	}
	return onePage(stream)(page, n.manager())
}

// UpdateSecret implements Secrets.
func (n *Node) UpdateSecret(_ context.Context, r *controlpb.UpdateSecretRequest) (*controlpb.UpdateFileResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, s := n.secret(r.GetId())
	if s == nil {
		return nil, noSecret(r.GetId())
	}
	if err := n.take(s, r.GetVersion()); err != nil {
		return nil, err
	}
	return &controlpb.UpdateFileResponse{Version: s.Current, Restarted: []string{"web"}, Services: 1, Tasks: 3}, nil
}

// RemoveSecret implements Secrets.
func (n *Node) RemoveSecret(_ context.Context, r *controlpb.RemoveSecretRequest) (*controlpb.RemoveSecretResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, s := n.secret(r.GetSecret())
	if s == nil {
		return nil, noSecret(r.GetSecret())
	}
	if len(n.users(s.GetId(), s.GetSpec().GetName())) > 0 {
		return nil, apierr.State("take it from the service first", "secret %s is in use", s.GetSpec().GetName())
	}
	n.secrets = slices.Delete(n.secrets, i, i+1)
	return &controlpb.RemoveSecretResponse{Id: s.GetId()}, nil
}

// UpdateConfig implements Secrets.
func (n *Node) UpdateConfig(_ context.Context, r *controlpb.UpdateConfigRequest) (*controlpb.UpdateFileResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, c := n.config(r.GetConfig())
	if c == nil {
		return nil, noConfig(r.GetConfig())
	}
	c.Current++
	c.Versions = append(c.Versions, &secretspb.VersionFacts{Number: c.Current, CreatedAt: 1, Size: uint64(len(r.GetData()))})
	c.Spec.Data = r.GetData()
	return &controlpb.UpdateFileResponse{Version: c.Current}, nil
}

// RollbackFile implements Secrets.
func (n *Node) RollbackFile(_ context.Context, r *controlpb.RollbackFileRequest) (*controlpb.UpdateFileResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, s := n.secret(r.GetName())
	if r.GetConfig() || s == nil {
		return nil, noSecret(r.GetName())
	}
	to := r.GetVersion()
	if to == 0 {
		to = s.Current - 1
	}
	if to == 0 || to > uint64(len(s.Versions)) {
		return nil, apierr.State("", "secret %s has no version %d", r.GetName(), to)
	}
	s.Current = to
	return &controlpb.UpdateFileResponse{Version: to}, nil
}

// users are how services use a secret.
func (n *Node) users(refs ...string) (out []*controlpb.GrantedService) {
	for _, svc := range n.services {
		for _, u := range svc.GetSpec().GetTask().GetContainer().GetSecrets() {
			if slices.Contains(refs, u.GetSource()) {
				out = append(out, &controlpb.GrantedService{Id: svc.GetId(), Name: svc.GetSpec().GetName(), Use: u})
			}
		}
	}
	return out
}

// FileGrants implements Secrets.
func (n *Node) FileGrants(_ context.Context, r *controlpb.FileGrantsRequest) (*controlpb.FileGrantsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, s := n.secret(r.GetName())
	if s == nil {
		return nil, noSecret(r.GetName())
	}
	resp := &controlpb.FileGrantsResponse{Id: s.GetId(), Name: s.GetSpec().GetName(), Current: s.GetCurrent(), Managers: []string{"manager-1"},
		Services: n.users(s.GetId(), s.GetSpec().GetName())}
	for _, g := range resp.Services {
		resp.Holders = append(resp.Holders, &controlpb.FileHolder{TaskId: g.Id, ServiceName: g.Name, Slot: 1, NodeName: "worker-1", Version: s.GetCurrent()})
	}
	if s.GetSpec().GetLabels()["held"] == "before" { // as an update goes on, and a node is lost
		g := resp.Services[0]
		resp.Services = append(resp.Services, &controlpb.GrantedService{Id: g.Id, Name: g.Name, Former: true, Use: &taskpb.FileUse{Source: s.GetId(), Target: "old", Version: 1}})
		resp.Holders = append(resp.Holders, &controlpb.FileHolder{TaskId: g.Id, ServiceName: g.Name, Slot: 2, NodeName: "worker-2", Removed: true},
			&controlpb.FileHolder{TaskId: g.Id, ServiceName: g.Name, Slot: 3, NodeName: "worker-3", Version: 1, Lost: true})
	}
	return resp, nil
}
