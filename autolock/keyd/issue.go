package keyd

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// requests are the certificate requests of one node, checked against its role.
type requests struct {
	role    profilepb.Role
	leaf    *ecdsa.PublicKey
	keydKey []byte
	boot    *ecdsa.PublicKey // nil when none was sent
	life    time.Duration    // of a worker's leaf; 0: as configured
	tpm     []byte           // name of the attestation key that the leaf shall have
}

// keys are what the journal names the certificates by: they are known before
// anything is signed, and on the node's record afterwards.
func (r *requests) keys() []string {
	var out []string
	for _, public := range []*ecdsa.PublicKey{r.leaf, r.boot} {
		if public == nil {
			continue
		}
		if der, err := x509.MarshalPKIXPublicKey(public); err == nil {
			sum := sha256.Sum256(der)
			out = append(out, hex.EncodeToString(sum[:]))
		}
	}
	return out
}

// live takes the life that the cluster gives workers' leaves. The bounds are
// those of any configuration.
func (r *requests) live(seconds uint32) error {
	if seconds == 0 {
		return nil
	}
	r.life = time.Duration(seconds) * time.Second
	if r.life < minWorkerLeaf || r.life > profile.MaxLeafLife {
		return denied("a worker's leaf lives between %s and %s, not %s", minWorkerLeaf, profile.MaxLeafLife, r.life)
	}
	return nil
}

// parseRequests checks what a node of that role may ask for: a manager may carry
// its keyd key and add a boot leaf under another key; a worker does neither.
func parseRequests(role profilepb.Role, csr, bootCSR []byte) (*requests, error) {
	leaf, err := profile.ParseCSR(csr)
	if err != nil {
		return nil, invalid("%v", err)
	}
	r := &requests{role: role, leaf: leaf.Request.PublicKey.(*ecdsa.PublicKey), keydKey: leaf.KeydKey}
	if role != profilepb.Role_ROLE_MANAGER {
		switch {
		case leaf.KeydKey != nil:
			return nil, denied("a worker's certificate request may not carry a keyd key")
		case len(bootCSR) != 0:
			return nil, denied("a worker has no boot leaf")
		}
		return r, nil
	}
	if len(bootCSR) == 0 {
		return r, nil
	}
	boot, err := profile.ParseCSR(bootCSR)
	if err != nil {
		return nil, invalid("boot leaf: %v", err)
	}
	r.boot = boot.Request.PublicKey.(*ecdsa.PublicKey)
	switch {
	case boot.KeydKey != nil:
		return nil, invalid("a boot leaf's certificate request may not carry a keyd key")
	case r.boot.Equal(r.leaf):
		return nil, invalid("the boot leaf must have a key of its own")
	}
	return r, nil
}

// complete returns an error unless a joiner asked for all that its role needs.
func (r *requests) complete() error {
	switch {
	case r.role != profilepb.Role_ROLE_MANAGER:
		return nil
	case r.keydKey == nil:
		return invalid("a manager's certificate request must carry its keyd key")
	case r.boot == nil:
		return invalid("a new manager needs a boot leaf: its certificate request is missing")
	}
	return nil
}

// certifyOwn puts this keyd's own key into the leaf of its own manager. The
// request need not carry it, as nobody knows it better; another is refused.
func (r *requests) certifyOwn(key []byte) error {
	if r.keydKey != nil && string(r.keydKey) != string(key) {
		return denied("the certificate request carries the key of another keyd")
	}
	r.keydKey = key
	return nil
}

// leafLife is for how long the leaf shall be good.
func (s *Server) leafLife(r *requests) time.Duration {
	if r.role == profilepb.Role_ROLE_WORKER {
		return cmp.Or(r.life, s.cfg.Section.WorkerLeafLifetime)
	}
	return profile.LeafLife
}

// issueAll signs a node's leaf and, when it was asked for, its boot leaf.
func (s *Server) issueAll(ctx context.Context, k *keyset, r *requests, nodeID string, now time.Time) (leaf, boot *profilepb.CertificateChain, err error) {
	id := profile.Identity{ClusterID: k.clusterID, NodeID: nodeID, Role: r.role, KeydKey: r.keydKey, TPM: r.tpm}
	if leaf, err = k.issue(ctx, id, r.leaf, now, s.leafLife(r)); err != nil {
		return nil, nil, err
	}
	if r.boot == nil {
		return leaf, nil, nil
	}
	id.Role, id.KeydKey, id.TPM = profilepb.Role_ROLE_BOOT, nil, nil
	boot, err = k.issue(ctx, id, r.boot, now, profile.BootLeafLife)
	return leaf, boot, err
}
