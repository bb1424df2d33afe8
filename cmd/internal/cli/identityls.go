package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// heldJSON is what one task holds, in `identity ls --format json`.
type heldJSON struct {
	ID      string     `json:"id"`
	Service string     `json:"service"`
	Task    string     `json:"task"`
	Slot    uint32     `json:"slot"`
	Node    string     `json:"node"`
	State   string     `json:"state"`
	Serial  string     `json:"serial,omitempty"`
	Issued  *time.Time `json:"issued_at,omitempty"`
	Expires *time.Time `json:"expires_at,omitempty"`
	Streams uint32     `json:"streams"`
	Tokens  uint32     `json:"tokens"`
	Files   bool       `json:"files"`
	Error   string     `json:"error,omitempty"`
}

func heldView(v *controlpb.WorkloadIdentityInfo) heldJSON {
	h := heldJSON{ID: v.GetIdentity(), Service: v.GetServiceName(), Task: v.GetTaskId(), Slot: v.GetSlot(), Node: v.GetNodeName(), State: "none",
		Serial: v.GetSerial(), Streams: v.GetStreams(), Tokens: v.GetTokens(), Files: v.GetFiles(), Error: v.GetError()}
	if v.GetExpiresAt() != 0 {
		issued, expires := time.Unix(v.GetIssuedAt(), 0).UTC(), time.Unix(v.GetExpiresAt(), 0).UTC()
		h.State, h.Issued, h.Expires = "held", &issued, &expires
	}
	if v.GetDenied() {
		h.State = "revoked"
	}
	return h
}

func (a *app) identityLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls [SERVICE]", Short: "List what tasks hold of identities, as their nodes say",
		Long: `ls lists the tasks that are to have an identity, with the certificate that each
holds by its node's word: until when it is good, how many connections follow its
renewals, how many tokens were asked for, and why there is none where there is none.`,
		Example: `  redoubt identity ls
  redoubt identity ls web --format '{{.Task}} {{.Expires}}'`,
		Args: args(0, 1),
		RunE: func(c *cobra.Command, names []string) error {
			req := &controlpb.ListIdentitiesRequest{}
			if len(names) > 0 {
				req.Service = names[0]
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListIdentities(ctx, req)
				if err != nil {
					return err
				}
				var ids []string
				objects := []heldJSON{}
				var rows [][]string
				for _, v := range r.GetIdentities() {
					h := heldView(v)
					ends := ""
					if h.Expires != nil {
						ends = in(*h.Expires, time.Now())
					}
					ids, objects = append(ids, h.Task), append(objects, h)
					rows = append(rows, []string{h.ID, h.Service + "." + strconv.Itoa(int(h.Slot)), h.Node, h.State, ends,
						strconv.Itoa(int(h.Streams)), strconv.Itoa(int(h.Tokens)), out.text(h.Error)})
				}
				return out.list(a.Stdout, ids, objects, []string{"IDENTITY", "TASK", "NODE", "STATE", "EXPIRES", "STREAMS", "TOKENS", "ERROR"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	return c
}
