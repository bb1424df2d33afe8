package control

import (
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// CreateSecret stores what its maker sealed.
func (s *Server) CreateSecret(ctx context.Context, req *controlpb.CreateSecretRequest) (*controlpb.CreateSecretResponse, error) {
	if err := secretspec.CheckSecret(req.GetSpec()); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	v, err := s.newVersion(req.GetVersion())
	if err != nil {
		return nil, err
	}
	return &controlpb.CreateSecretResponse{}, s.update(ctx, func(tx *raftstore.Tx) error {
		if err := sealedToMaster(tx, v); err != nil {
			return err
		}
		return secretstore.CreateSecret(tx, req.GetId(), req.GetSpec(), v)
	})
}

// newVersion checks a version and that there is room for it.
func (s *Server) newVersion(v *controlpb.NewVersion) (secretstore.NewVersion, error) {
	n := secretstore.NewVersion{ID: v.GetId(), Sealed: v.GetSealed()}
	if err := secretspec.CheckSealed(n.Sealed); err != nil {
		return n, apierr.Invalid("", "%v", err)
	}
	return n, s.c.Store.View(func(r *raftstore.ReadTx) error { return secretstore.RoomForSecret(r, n.Sealed) })
}

// sealedToMaster refuses what is sealed to another secrets master than the one in
// force: a former one is soon forgotten, and with it what is sealed to it.
func sealedToMaster(tx *raftstore.Tx, v secretstore.NewVersion) error {
	c, _ := pkistore.Cluster.Get(tx, pkistore.ClusterID)
	if want := pki.WholeEpoch(c); v.Sealed.GetEpoch() != want {
		return apierr.State("run the command again in a moment", "the secret is sealed to the cluster's key of epoch %d, and epoch %d is in force", v.Sealed.GetEpoch(), want)
	}
	return nil
}

// StreamSecrets lists the named ones, or all by name.
func (s *Server) StreamSecrets(req *controlpb.StreamSecretsRequest, stream controlpb.Secrets_StreamSecretsServer) error {
	p := &pages[*secretspb.Secret]{send: func(page []*secretspb.Secret) error {
		return stream.Send(&controlpb.StreamSecretsResponse{Secrets: page})
	}}
	return p.end(s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		all, err := chosen(r, req.GetSecrets(), secretstore.Secrets.All(r), secretstore.ResolveSecret, func(o *secretspb.Secret) string { return o.GetSpec().GetName() })
		if err != nil {
			return err
		}
		for _, o := range all {
			if err := p.add(o); err != nil {
				return err
			}
		}
		return nil
	}))
}

// UpdateSecret adds a version and makes it the current one.
func (s *Server) UpdateSecret(ctx context.Context, req *controlpb.UpdateSecretRequest) (*controlpb.UpdateFileResponse, error) {
	v, err := s.newVersion(req.GetVersion())
	if err != nil {
		return nil, err
	}
	var resp *controlpb.UpdateFileResponse
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		if err := sealedToMaster(tx, v); err != nil {
			return err
		}
		o, err := secretstore.AddSecretVersion(tx, req.GetId(), v, schedstore.PinnedBy(tx, req.GetId()))
		if err != nil {
			return err
		}
		resp, err = updatedFile(tx, o.GetId(), o.GetCurrent())
		return err
	})
	return resp, err
}

// UpdateConfig adds a version and makes it the current one.
func (s *Server) UpdateConfig(ctx context.Context, req *controlpb.UpdateConfigRequest) (*controlpb.UpdateFileResponse, error) {
	if err := secretspec.CheckConfigData(req.GetData()); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	var resp *controlpb.UpdateFileResponse
	accept := func(c *secretspb.Config) error {
		if !c.GetSpec().GetTemplate() {
			return nil
		}
		if err := secretspec.CheckTemplate(req.GetData()); err != nil {
			return apierr.Invalid("", "config %s: %v", c.GetSpec().GetName(), err)
		}
		return nil
	}
	_, err := secretstore.UpdateConfig(ctx, s.c.Store, req.GetConfig(), req.GetData(), accept, schedstore.PinnedBy, func(tx *raftstore.Tx, c *secretspb.Config) (err error) {
		resp, err = updatedFile(tx, c.GetId(), c.GetCurrent())
		return err
	})
	return resp, err
}

// RollbackFile makes an earlier version of a secret or config the current one.
func (s *Server) RollbackFile(ctx context.Context, req *controlpb.RollbackFileRequest) (*controlpb.UpdateFileResponse, error) {
	var resp *controlpb.UpdateFileResponse
	err := s.update(ctx, func(tx *raftstore.Tx) (err error) {
		var id string
		var before, now uint64
		if req.GetConfig() {
			old, err := secretstore.ResolveConfig(tx, req.GetName())
			if err != nil {
				return err
			}
			_, before = secretstore.VersionsOf(old)
			c, err := secretstore.RollbackConfig(tx, old.GetId(), req.GetVersion())
			if err != nil {
				return err
			}
			id = c.GetId()
			_, now = secretstore.VersionsOf(c)
		} else {
			old, err := secretstore.ResolveSecret(tx, req.GetName())
			if err != nil {
				return err
			}
			before = old.GetCurrent()
			o, err := secretstore.RollbackSecret(tx, old.GetId(), req.GetVersion())
			if err != nil {
				return err
			}
			id, now = o.GetId(), o.GetCurrent()
		}
		if before == now {
			resp = &controlpb.UpdateFileResponse{Version: now}
			return nil
		}
		resp, err = updatedFile(tx, id, now)
		return err
	})
	return resp, err
}

// updatedFile has tasks replaced that want that, and counts who gets it without.
func updatedFile(tx *raftstore.Tx, id string, version uint64) (*controlpb.UpdateFileResponse, error) {
	names, err := schedstore.RestartUsers(tx, id)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.UpdateFileResponse{Version: version, Restarted: names}
	for _, u := range schedstore.UsersOfFile(tx, id) {
		current := func(use *taskpb.FileUse) bool { return use.GetVersion() == 0 }
		if !slices.ContainsFunc(slices.Concat(u.Uses, u.Former), current) || slices.Contains(names, u.Service.GetSpec().GetName()) {
			continue
		}
		resp.Services++
		resp.Tasks += uint32(len(u.Tasks))
	}
	return resp, nil
}

// RemoveSecret removes one secret.
func (s *Server) RemoveSecret(ctx context.Context, req *controlpb.RemoveSecretRequest) (*controlpb.RemoveSecretResponse, error) {
	resp := &controlpb.RemoveSecretResponse{}
	return resp, s.update(ctx, func(tx *raftstore.Tx) (err error) {
		resp.Id, err = schedstore.RemoveSecret(tx, req.GetSecret())
		return err
	})
}

// FileGrants tells who may read a secret or config, and where it is now.
func (s *Server) FileGrants(ctx context.Context, req *controlpb.FileGrantsRequest) (*controlpb.FileGrantsResponse, error) {
	resp := &controlpb.FileGrantsResponse{}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		var versions []*secretspb.VersionFacts
		if req.GetConfig() {
			c, err := secretstore.ResolveConfig(r, req.GetName())
			if err != nil {
				return err
			}
			resp.Id, resp.Name = c.GetId(), c.GetSpec().GetName()
			versions, resp.Current = secretstore.VersionsOf(c)
		} else {
			o, err := secretstore.ResolveSecret(r, req.GetName())
			if err != nil {
				return err
			}
			resp.Id, resp.Name, resp.Current, versions = o.GetId(), o.GetSpec().GetName(), o.GetCurrent(), o.GetVersions()
		}
		for _, u := range schedstore.UsersOfFile(r, resp.Id) {
			grantsOf(r, resp, u, versions)
		}
		for _, t := range schedstore.LostWith(r, resp.Id) {
			svc, _ := schedstore.Services.Get(r, t.GetServiceId())
			h := holder(r, resp.Id, t, svc.GetSpec().GetName(), versions)
			h.Lost = true
			resp.Holders = append(resp.Holders, h)
		}
		for n := range pkistore.Nodes.All(r) {
			if n.GetRole() == profilepb.Role_ROLE_MANAGER && !n.GetDenied() {
				resp.Managers = append(resp.Managers, n.GetName())
			}
		}
		slices.Sort(resp.Managers)
		return nil
	})
}

func grantsOf(r *raftstore.ReadTx, resp *controlpb.FileGrantsResponse, u *schedstore.FileUser, versions []*secretspb.VersionFacts) {
	name := u.Service.GetSpec().GetName()
	for _, use := range u.Uses {
		resp.Services = append(resp.Services, &controlpb.GrantedService{Id: u.ServiceID, Name: name, Use: use})
	}
	for _, use := range u.Former {
		resp.Services = append(resp.Services, &controlpb.GrantedService{Id: u.ServiceID, Name: name, Use: use, Former: true})
	}
	for _, t := range u.Tasks {
		resp.Holders = append(resp.Holders, holder(r, resp.Id, t, name, versions))
	}
}

// holder is a task with the version of a secret or config that its node says it has.
func holder(r *raftstore.ReadTx, id string, t *schedulerpb.Task, service string, versions []*secretspb.VersionFacts) *controlpb.FileHolder {
	h := &controlpb.FileHolder{TaskId: t.GetId(), ServiceId: t.GetServiceId(), ServiceName: service, Slot: t.GetSlot(), NodeId: t.GetNodeId()}
	if n, ok := pkistore.Nodes.Get(r, t.GetNodeId()); ok {
		h.NodeName = n.GetName()
	}
	for _, f := range t.GetStatus().GetFiles() {
		if f.GetObjectId() != id {
			continue
		}
		h.Removed = true
		for _, v := range versions {
			if f.GetVersionId() == v.GetId() {
				h.Version, h.Removed = v.GetNumber(), false
			}
		}
	}
	return h
}
