package clitest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
)

// witnessName is the one witness's that cosigns, once it is set.
const witnessName = "witness.example/w1"

var witnessKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// witnessLine is its cosignature.
func witnessLine(c checkpoint.Checkpoint, at int64) string {
	key := append([]byte{4}, witnessKey.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(witnessName+"\n"), key...))
	raw := binary.BigEndian.AppendUint64(sum[:4:4], uint64(at))
	raw = append(raw, ed25519.Sign(witnessKey, checkpoint.CosignText(c.Text(), at))...)
	return "— " + witnessName + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// SetWitness implements Audit.
func (n *Node) SetWitness(_ context.Context, r *controlpb.SetWitnessRequest) (*controlpb.SetWitnessResponse, error) {
	name, err := checkpoint.CheckWitnessKey(r.GetKey())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	v := &controlpb.WitnessView{Name: name, Url: r.GetUrl(), Key: r.GetKey()}
	for _, der := range r.GetCa() {
		sum := sha256.Sum256(der)
		v.Ca = append(v.Ca, sum[:])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.witnesses = append(n.witnesses, v)
	return &controlpb.SetWitnessResponse{Name: name}, nil
}

// RemoveWitness implements Audit.
func (n *Node) RemoveWitness(_ context.Context, r *controlpb.RemoveWitnessRequest) (*controlpb.RemoveWitnessResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, w := range n.witnesses {
		if w.GetName() == r.GetName() {
			n.witnesses = append(n.witnesses[:i], n.witnesses[i+1:]...)
			return &controlpb.RemoveWitnessResponse{}, nil
		}
	}
	return nil, apierr.NotFound("`redoubt audit witness ls` lists them", "no witness of the audit log is called %q", r.GetName())
}

// ListWitnesses implements Audit.
func (n *Node) ListWitnesses(context.Context, *controlpb.ListWitnessesRequest) (*controlpb.ListWitnessesResponse, error) {
	return &controlpb.ListWitnessesResponse{Witnesses: n.witnessViews(), Size: 3}, nil
}

// witnessViews: the first cosigns, the second does not; where a manager is away, the
// first knows another log.
func (n *Node) witnessViews() (out []*controlpb.WitnessView) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.witnesses {
		v := &controlpb.WitnessView{Name: w.GetName(), Url: w.GetUrl(), Key: w.GetKey(), Ca: w.GetCa()}
		switch at := time.Date(2125, 1, 2, 3, 5, 6, 0, time.UTC).Unix(); {
		case v.Name != witnessName:
			v.Failure, v.FailedAt = "it took\x1b too long", at
		case n.away:
			v.Size, v.At, v.Alarm, v.AlarmAt = 2, at, "it knows another log than this one", at
		default:
			v.Size, v.At, v.Newest = 2, at, true
		}
		out = append(out, v)
	}
	return out
}

// witnessed adds the lines that there are, and what witnesses say.
func (n *Node) witnessed(req *controlpb.GetCheckpointRequest, c checkpoint.Checkpoint, resp *controlpb.GetCheckpointResponse) error {
	resp.Witnesses = n.witnessViews()
	for _, w := range resp.GetWitnesses() {
		if w.GetNewest() {
			resp.Note = fmt.Append(resp.Note, witnessLine(c, w.GetAt()))
		}
		if w.GetName() == req.GetWitness() && !w.GetNewest() {
			return apierr.State("`redoubt audit witness ls` says why", "witness %s has cosigned no checkpoint yet", w.GetName())
		}
	}
	return nil
}
