package events

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// admission tells what of the demands on machines that join is another now.
func admission(old, now *profilepb.AdmissionPolicy) *controlpb.Event {
	if proto.Equal(old, now) {
		return nil
	}
	e := event("admission", "update", "", "")
	is := facts(now)
	for i, was := range facts(old) {
		switch {
		case was.text != is[i].text:
			e.Attributes[was.name] = was.text + " → " + is[i].text
		case was.all != is[i].all:
			e.Attributes[was.name] = is[i].text + " (changed)"
		}
	}
	return e
}

// fact has a text for people, and all that the text stands for.
type fact struct{ name, text, all string }

// facts are those of a policy, in one order.
func facts(p *profilepb.AdmissionPolicy) []fact {
	onOff := map[bool]string{true: "on", false: "off"}
	var pcrs []string
	var all string
	for _, r := range p.GetPcrs() {
		pcrs = append(pcrs, fmt.Sprint(r.GetIndex()))
		all += fmt.Sprintf("%d %x ", r.GetIndex(), r.GetValues())
	}
	if pcrs == nil {
		pcrs = []string{"none"}
	}
	return []fact{
		{"attest", onOff[p.GetAttest()], ""},
		{"approve-managers", onOff[p.GetApproveManagers()], ""},
		{"tpms-allowed", fmt.Sprint(len(p.GetEkAllowed())), fmt.Sprintf("%x", p.GetEkAllowed())},
		{"tpm-cas", fmt.Sprint(len(p.GetEkCas())), fmt.Sprintf("%x", p.GetEkCas())},
		{"pcrs", strings.Join(pcrs, ","), all},
	}
}

// decision tells of a machine that waited for an operator's word, and of the token that
// a denial revoked.
func decision(t *pkipb.Token) *controlpb.Event {
	d := t.GetDecision()
	action := map[bool]string{true: "approve", false: "deny"}[d.GetApproved()]
	return joiner(action, t.GetId(), d)
}

// Waits tells of a machine that begins to wait for an operator. Nothing of it is in the
// store: it asks the next leader, which tells of it again.
func (h *Hub) Waits(n pki.PendingNode) {
	e := joiner("wait", n.TokenID, &pkipb.JoinDecision{NodeId: n.ID, NodeName: n.Name, Role: n.Role, Fingerprint: n.Fingerprint, Source: n.Source})
	e.At = max(time.Now().UnixNano(), h.clock())
	h.add([]*controlpb.Event{e})
}

// joiner is about a machine that waits, or waited.
func joiner(action, tokenID string, d *pkipb.JoinDecision) *controlpb.Event {
	e := event("node", action, d.GetNodeId(), d.GetNodeName())
	set(e, "role", profile.RoleName(d.GetRole()))
	set(e, "token", tokenID)
	set(e, "fingerprint", d.GetFingerprint())
	set(e, "address", d.GetSource())
	return e
}
