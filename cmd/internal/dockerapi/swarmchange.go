package dockerapi

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// takeListen takes an address to listen on that is the one which is configured.
func takeListen(p *string) {
	if *p == "0.0.0.0:2377" || *p == "[::]:2377" {
		*p = ""
	}
}

// onlyRoot refuses everybody else at what is this machine's own.
func onlyRoot(q *request) error {
	if q.uid != 0 {
		return refuse(http.StatusForbidden, "only root of this machine makes, joins and leaves a cluster with it")
	}
	return nil
}

// swarmInit makes a cluster. The operator key is made here, in the daemon's memory, and
// handed to the same caller by the request for it that follows.
func (s *Server) swarmInit(q *request) (any, error) {
	if err := onlyRoot(q); err != nil {
		return nil, err
	}
	var in swarm.InitRequest
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	takeListen(&in.ListenAddr)
	autolocked := take(&in.AutoLockManagers)
	autolocked = take(&in.Spec.EncryptionConfig.AutoLockManagers) || autolocked
	if in.DataPathPort == 4789 {
		in.DataPathPort = 0
	}
	req := &controlpb.InitRequest{}
	var err error
	if req.Advertise, err = address(take(&in.AdvertiseAddr)); err != nil {
		return nil, err
	}
	if req.Pools, err = pools(take(&in.DefaultAddrPool), take(&in.SubnetSize)); err != nil {
		return nil, err
	}
	if in.ForceNewCluster {
		return nil, notHere("a cluster that lost its managers is begun anew by `redoubt recover`, with the operator key")
	}
	if err := untranslated("", &in); err != nil {
		return nil, err
	}
	if !autolocked {
		return nil, badRequest("managers are locked when they start, by a key that is shown now: `docker swarm init --autolock`, or `redoubt init`. `docker swarm update --autolock=false` has them open by themselves")
	}
	key := autolock.NewOperatorKey()
	defer key.Wipe()
	req.Slot = key.Slot()
	r, err := q.api.Init(q.Context(), req)
	if err != nil {
		return nil, err
	}
	s.once.keep(q.uid, onceUnlockKey, []byte(key.String()))
	// Whoever asked is shown a line by which a worker joins.
	if err := leads(q.Context(), q.api); err != nil {
		return nil, err
	}
	if err := s.mint(q, profilepb.Role_ROLE_WORKER); err != nil {
		return nil, err
	}
	return r.GetNodeId(), nil
}

// leads waits until the new cluster answers.
func leads(ctx context.Context, api *apiclient.Client) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := api.GetStatus(ctx, &controlpb.GetStatusRequest{})
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func pools(networks []netip.Prefix, bits uint32) (*meshpb.Pools, error) {
	if bits == 24 { // which is the default
		bits = 0
	}
	switch {
	case len(networks) > 1:
		return nil, notHere("DefaultAddrPool: there is one pool that networks get their subnets from")
	case len(networks) == 0 && bits == 0:
		return nil, nil
	}
	out := &meshpb.Pools{SubnetBits: bits}
	if len(networks) == 1 {
		out.Networks = networks[0].String()
	}
	return out, nil
}

// address is one that others reach this node at, with a port.
func address(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	out, err := pki.CompleteAddress(text)
	if err != nil {
		return "", badRequest("%v", err)
	}
	return out, nil
}

func (s *Server) swarmJoin(q *request) (any, error) {
	if err := onlyRoot(q); err != nil {
		return nil, err
	}
	var in swarm.JoinRequest
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	takeListen(&in.ListenAddr)
	req := &controlpb.JoinRequest{Token: take(&in.JoinToken)}
	var err error
	if req.Advertise, err = address(take(&in.AdvertiseAddr)); err != nil {
		return nil, err
	}
	for _, m := range take(&in.RemoteAddrs) {
		if m, err = address(m); err != nil {
			return nil, err
		}
		req.Managers = append(req.Managers, m)
	}
	if in.Availability == swarm.NodeAvailabilityActive {
		in.Availability = ""
	}
	if err := untranslated("", &in); err != nil {
		return nil, err
	}
	token, err := pki.ParseToken(req.Token)
	if err != nil {
		return nil, badRequest("the join token is not usable: %v", err)
	}
	if len(token.Lock()) > 0 {
		return nil, notHere("the token names a deployment lock, which root tells this node of before any manager: run `redoubt join`")
	}
	_, err = q.api.Join(q.Context(), req)
	return nil, err
}

func (s *Server) swarmLeave(q *request) (any, error) {
	if err := onlyRoot(q); err != nil {
		return nil, err
	}
	if err := onlyParameters(q.Request, "force"); err != nil {
		return nil, err
	}
	_, err := q.api.Leave(q.Context(), &controlpb.LeaveRequest{Force: isOn(q.Request, "force")})
	return nil, err
}

// swarmUpdate changes what an update asks to be other than it is: autolock, how long
// workers' certificates live, and what is to be rotated.
func (s *Server) swarmUpdate(q *request) (any, error) {
	if err := onlyParameters(q.Request, "version", "rotateWorkerToken", "rotateManagerToken", "rotateManagerUnlockKey"); err != nil {
		return nil, err
	}
	at, err := versionOf(q.Request)
	if err != nil {
		return nil, err
	}
	var in swarm.Spec
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	is, err := clusterOf(q.Context(), q.api)
	if err != nil {
		return nil, err
	}
	if is.Version.Index != at {
		return nil, refuse(http.StatusConflict, "%s: the cluster changed since it was read", sequence)
	}
	lock, life, root := take(&in.EncryptionConfig.AutoLockManagers), take(&in.CAConfig.NodeCertExpiry), take(&in.CAConfig.ForceRotate)
	asIs(&in, is.Spec)
	if err := untranslated("Spec", &in); err != nil {
		return nil, err
	}
	if life != is.Spec.CAConfig.NodeCertExpiry {
		if life <= 0 || life%time.Second != 0 || life > 366*24*time.Hour {
			return nil, badRequest("CAConfig.NodeCertExpiry is %v: use hours", life)
		}
		if _, err := q.api.RotateCA(q.Context(), &controlpb.RotateCARequest{WorkerLeafSeconds: uint32(life / time.Second), OnlyLife: true}); err != nil {
			return nil, err
		}
	}
	if root > 0 {
		if _, err := q.api.RotateCA(q.Context(), &controlpb.RotateCARequest{Root: true}); err != nil {
			return nil, err
		}
	}
	if on := is.Spec.EncryptionConfig.AutoLockManagers; lock != on {
		stream, err := q.api.SetAutolock(q.Context(), &controlpb.SetAutolockRequest{On: lock})
		if _, err := followed(stream, err); err != nil {
			return nil, err
		}
	}
	// Whoever turns it on is to have a key that opens what is locked then.
	if isOn(q.Request, "rotateManagerUnlockKey") || lock && !is.Spec.EncryptionConfig.AutoLockManagers {
		if err := s.rotateUnlockKey(q); err != nil {
			return nil, err
		}
	}
	for _, t := range []struct {
		parameter string
		role      profilepb.Role
	}{{"rotateWorkerToken", profilepb.Role_ROLE_WORKER}, {"rotateManagerToken", profilepb.Role_ROLE_MANAGER}} {
		if isOn(q.Request, t.parameter) {
			if err := s.rotateToken(q, t.role); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// asIs takes from in what is as it was told and cannot be changed here.
func asIs(in *swarm.Spec, is swarm.Spec) {
	if in.Name == is.Name {
		in.Name = ""
	}
	if maps.Equal(in.Labels, is.Labels) {
		in.Labels = nil
	}
	if reflect.DeepEqual(in.Orchestration, is.Orchestration) {
		in.Orchestration = swarm.OrchestrationConfig{}
	}
	if in.Dispatcher == is.Dispatcher {
		in.Dispatcher = swarm.DispatcherConfig{}
	}
}

// followed waits until every manager has followed a change of the slots. in force: it was
// committed, whoever has followed.
func followed(stream grpc.ServerStreamingClient[controlpb.RotateSlotResponse], err error) (inForce bool, _ error) {
	for err == nil {
		var r *controlpb.RotateSlotResponse
		if r, err = stream.Recv(); err == nil {
			inForce = true
			if r.GetDone() {
				return true, nil
			}
		}
	}
	if errors.Is(err, io.EOF) || inForce { // managers that are away follow by themselves
		return inForce, nil
	}
	return false, err
}

// rotateUnlockKey makes an operator key here and keeps it for the request that fetches it.
func (s *Server) rotateUnlockKey(q *request) error {
	key := autolock.NewOperatorKey()
	defer key.Wipe()
	stream, err := q.api.RotateSlot(q.Context(), &controlpb.RotateSlotRequest{Slot: key.Slot()})
	inForce, err := followed(stream, err)
	if inForce {
		s.once.keep(q.uid, onceUnlockKey, []byte(key.String()))
	}
	return err
}

// rotateToken takes back all tokens of a role that are good, and makes another.
func (s *Server) rotateToken(q *request, role profilepb.Role) error {
	all, err := q.api.ListTokens(q.Context(), &controlpb.ListTokensRequest{})
	if err != nil {
		return err
	}
	for _, t := range all.GetTokens() {
		end := t.GetRecord().GetExpiresAt()
		if t.GetRecord().GetRole() != role || t.GetRevoked() || end != 0 && end <= time.Now().Unix() {
			continue
		}
		if _, err := q.api.RevokeToken(q.Context(), &controlpb.RevokeTokenRequest{Id: t.GetRecord().GetId()}); err != nil {
			return err
		}
	}
	return s.mint(q, role)
}

// mint makes a token as `redoubt join-token` does, for one machine and a short time, and
// keeps it for the requests that show it.
func (s *Server) mint(q *request, role profilepb.Role) error {
	token, _, err := apiclient.CreateToken(q.Context(), q.api, &controlpb.CreateTokenRequest{Role: role})
	if err != nil {
		return err
	}
	what := onceWorker
	if role == profilepb.Role_ROLE_MANAGER {
		what = onceManager
	}
	s.once.keep(q.uid, what, []byte(token.Text()))
	return nil
}
