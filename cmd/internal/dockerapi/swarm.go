package dockerapi

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// clusterView is the cluster in Docker's words.
type clusterView struct {
	swarm.Swarm
	status *controlpb.GetStatusResponse
	ca     *controlpb.InspectCAResponse // nil: the caller may not see it
}

// heartbeat is how often nodes are heard: no setting.
const heartbeat = 5 * time.Second

// clusterOf asks for the cluster, as far as the caller may see it.
func clusterOf(ctx context.Context, api *apiclient.Client) (*clusterView, error) {
	out := &clusterView{}
	var err error
	if out.status, err = api.GetStatus(ctx, &controlpb.GetStatusRequest{}); err != nil {
		return nil, err
	}
	if out.ca, err = api.InspectCA(ctx, &controlpb.InspectCARequest{}); err != nil && !isDenied(err) {
		return nil, err
	}
	history := int64(1)
	out.ClusterInfo = swarm.ClusterInfo{
		// Both only grow, so this does when either of what an update changes did.
		ID: out.status.GetClusterId(), Meta: swarm.Meta{Version: swarm.Version{Index: out.status.GetSlotEpoch() + out.status.GetKeysetEpoch()}},
		Spec: swarm.Spec{Annotations: swarm.Annotations{Name: "default", Labels: map[string]string{}},
			Orchestration:    swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &history},
			Dispatcher:       swarm.DispatcherConfig{HeartbeatPeriod: heartbeat},
			CAConfig:         swarm.CAConfig{NodeCertExpiry: time.Duration(out.ca.GetWorkerLeafSeconds()) * time.Second},
			EncryptionConfig: swarm.EncryptionConfig{AutoLockManagers: out.status.GetAutolock()}},
		RootRotationInProgress: out.ca.GetRotation() != nil,
		TLSInfo:                out.tls(),
		DataPathPort:           4789,
	}
	return out, nil
}

// tls is what nodes are to trust and have: while the root is replaced, of the next one.
func (c *clusterView) tls() swarm.TLSInfo {
	var out swarm.TLSInfo
	for _, a := range c.ca.GetAuthorities() {
		switch a.GetKind() {
		case controlpb.CAView_KIND_ROOT:
			if out.TrustRoot != "" {
				continue
			}
			fallthrough
		case controlpb.CAView_KIND_NEXT_ROOT:
			out.TrustRoot = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.GetCertificate()}))
		case controlpb.CAView_KIND_ISSUER:
			if cert, err := x509.ParseCertificate(a.GetCertificate()); err == nil {
				out.CertIssuerSubject, out.CertIssuerPublicKey = cert.RawSubject, cert.RawSubjectPublicKeyInfo
			}
		}
	}
	return out
}

// nodeTLS is what a node has of that, as the CA's own records say.
func (c *clusterView) nodeTLS(id string) swarm.TLSInfo {
	out := c.TLSInfo
	for _, n := range c.ca.GetNodes() {
		if n.GetId() != id {
			continue
		}
		if !n.GetTrusts() {
			out.TrustRoot = ""
		}
		if !n.GetCurrent() {
			out.CertIssuerSubject, out.CertIssuerPublicKey = nil, nil
		}
		return out
	}
	return swarm.TLSInfo{}
}

// Names of what is made for a caller and shown to it in the requests that follow.
const (
	onceUnlockKey = "unlock key"
	onceWorker    = "worker token"
	onceManager   = "manager token"
)

func (s *Server) swarm(q *request) (any, error) {
	c, err := clusterOf(q.Context(), q.api)
	if err != nil {
		return nil, err
	}
	c.JoinTokens = swarm.JoinTokens{Worker: s.token(q, onceWorker, "worker"), Manager: s.token(q, onceManager, "manager")}
	return c.Swarm, nil
}

// token is the join token that was just made for this caller. In the place of any other,
// which nobody can show any more, it is said how to make one; no shell takes that for a
// word.
func (s *Server) token(q *request, what, role string) string {
	if t := s.once.look(q.uid, what); t != nil {
		defer clear(t)
		return string(t)
	}
	return "<a token is shown once: make one by `docker swarm join-token --rotate " + role + "`>"
}

// unlockKey hands out the key that was just made for this caller, once.
func (s *Server) unlockKey(q *request) (any, error) {
	key := s.once.take(q.uid, onceUnlockKey)
	if key == nil {
		return nil, refuse(409, "an unlock key is shown once, when it is made, and several people may have shares of one in place of it: see `redoubt unlock-key slot ls`, or make a new key by `docker swarm unlock-key --rotate` or `redoubt unlock-key rotate`")
	}
	defer clear(key)
	q.w.Header().Set("Cache-Control", "no-store")
	return swarm.UnlockKeyResponse{UnlockKey: string(key)}, nil
}

// unlock does not read what it is sent: a key that opens managers is for keyd, and no
// process that listens on the network sees it.
func (s *Server) unlock(q *request) (any, error) {
	q.w.Header().Set("Connection", "close")
	if s.c.Self().state() != swarm.LocalNodeStateLocked {
		return nil, refuse(409, "swarm is not locked")
	}
	return nil, notHere("the unlock key is for this machine's redoubt-keyd alone, and was not read: run `redoubt unlock` on this machine")
}
