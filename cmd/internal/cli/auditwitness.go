package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

func (a *app) auditWitnessCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "witness", Short: "Who outside of the cluster cosigns the audit log as it grows",
		Long: `witness names servers outside of the cluster that speak C2SP's tlog-witness. The
leader shows each of them every checkpoint of the audit log, with the proof that it
goes on from the one that they cosigned last, and keeps their cosignatures with it.
A witness signs one history only: what all managers together rewrote is refused, and
is an alarm. Nothing in the cluster waits for a witness.`,
		Example: `  redoubt audit witness set https://witness.example --key witness.example/w1+a1b2c3d4+BA...
  redoubt audit witness ls`,
	}
	group(c)
	c.AddCommand(a.auditWitnessSetCmd(), a.auditWitnessRmCmd(), a.auditWitnessLsCmd())
	return c
}

func (a *app) auditWitnessSetCmd() *cobra.Command {
	var key, caFile string
	c := &cobra.Command{
		Use: "set URL --key KEY", Short: "Have a witness cosign checkpoints, or set it anew",
		Long: `set has the witness at URL, to whose add-checkpoint the managers can connect by
HTTPS, cosign checkpoints from now on. KEY is its verifier key, of its operator; its
name is what the witness is called. The witness must know this log: give its operator
the first line of "audit checkpoint" and what "audit checkpoint --keys" prints, again
after a manager was removed, which renews the cluster's key.

Again, for the same name, it changes address and certificates, and ends an alarm that
was looked into; for another key of that name, what was known of the witness too.`,
		Example: `  redoubt audit witness set https://witness.example --key witness.example/w1+a1b2c3d4+BA...
  redoubt audit witness set https://10.0.0.9:7380 --key own/w+a1b2c3d4+BA... --ca witness-ca.pem`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, given []string) error {
			if key == "" {
				return usagef("give the witness's key: --key NAME+HASH+KEY, which its operator has")
			}
			if _, err := checkpoint.CheckWitnessKey(key); err != nil {
				return usagef("--key: %v", err)
			}
			req := &controlpb.SetWitnessRequest{Url: strings.TrimRight(given[0], "/"), Key: key}
			if caFile != "" {
				ca, err := readCAs("--ca", caFile)
				if err != nil {
					return usagef("%v", err)
				}
				req.Ca = ca
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.SetWitness(ctx, req)
				if err != nil {
					return err
				}
				fmt.Fprintln(a.Stdout, printable(r.GetName()))
				return nil
			})
		},
	}
	c.Flags().StringVar(&key, "key", "", "the witness's verifier key, as notes have them: NAME+HASH+KEY")
	c.Flags().StringVar(&caFile, "ca", "", "a file with the CA of the witness's certificate, in place of the system's")
	return c
}

func (a *app) auditWitnessRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Aliases: []string{"remove"}, Short: "Show a witness no more checkpoints",
		Example: `  redoubt audit witness rm witness.example/w1`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, given []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.RemoveWitness(ctx, &controlpb.RemoveWitnessRequest{Name: given[0]})
				return err
			})
		},
	}
}

// witnessJSON is a witness in `audit witness ls --format json`.
type witnessJSON struct {
	Name     string     `json:"name"`
	URL      string     `json:"url"`
	Key      string     `json:"key"`
	CA       []string   `json:"ca,omitempty"` // SHA-256
	State    string     `json:"state"`
	Records  uint64     `json:"records"`
	Cosigned *time.Time `json:"cosigned,omitempty"`
	Since    *time.Time `json:"since,omitempty"` // of what the message says
	Message  string     `json:"message,omitempty"`
}

func unixTime(at int64) *time.Time {
	if at == 0 {
		return nil
	}
	t := time.Unix(at, 0).UTC()
	return &t
}

func witnessOf(v *controlpb.WitnessView) witnessJSON {
	w := witnessJSON{Name: v.GetName(), URL: v.GetUrl(), Key: v.GetKey(), State: "behind", Records: v.GetSize(), Cosigned: unixTime(v.GetAt())}
	for _, sum := range v.GetCa() {
		w.CA = append(w.CA, hex.EncodeToString(sum))
	}
	switch {
	case v.GetAlarm() != "":
		w.State, w.Message, w.Since = "ALARM", oneline.Text(v.GetAlarm(), maxFault), unixTime(v.GetAlarmAt())
	case v.GetFailure() != "":
		w.State, w.Message, w.Since = "failing", oneline.Text(v.GetFailure(), maxFault), unixTime(v.GetFailedAt())
	case v.GetNewest():
		w.State = "cosigns"
	case v.GetAt() == 0:
		w.State, w.Message = "new", "it was not asked yet"
	}
	return w
}

func (a *app) auditWitnessLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the witnesses, and what each said last",
		Long: `ls lists the witnesses outside of the cluster, how many records each has cosigned,
and when by its own clock. One that "cosigns" has cosigned the newest checkpoint; one
that is "behind" is asked just now; "failing" says why it cosigns nothing. "ALARM" is
a witness that knows another log than this one: somebody rewrote records or took some
away. Keep what the witness has, hold the log against it, then set the witness again.`,
		Example: `  redoubt audit witness ls
  redoubt audit witness ls --format json`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				resp, err := api.ListWitnesses(ctx, &controlpb.ListWitnessesRequest{})
				if err != nil {
					return err
				}
				var ids []string
				objects := []witnessJSON{}
				var rows [][]string
				for _, v := range resp.GetWitnesses() {
					w := witnessOf(v)
					cosigned := "never"
					if w.Cosigned != nil {
						cosigned = w.Cosigned.Format(time.RFC3339)
					}
					ids, objects = append(ids, w.Name), append(objects, w)
					rows = append(rows, []string{w.Name, strconv.FormatUint(w.Records, 10), cosigned, w.State, w.URL, out.text(w.Message)})
				}
				return out.list(a.Stdout, ids, objects, []string{"NAME", "RECORDS", "COSIGNED", "STATE", "URL", "MESSAGE"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	return c
}

// checkCosigners holds the lines of witnesses that the leader sent against their keys,
// and warns of witnesses that cosigned nothing, where it is the newest checkpoint.
func (a *app) checkCosigners(resp *controlpb.GetCheckpointResponse, asked string) error {
	var keys []string
	for _, v := range resp.GetWitnesses() {
		keys = append(keys, v.GetKey())
	}
	by, err := checkpoint.Witnesses(resp.GetNote(), keys)
	if err != nil {
		return failf(ExitError, "what the leader sent has no cosignatures of the witnesses: %v", err)
	}
	if strings.ContainsFunc(string(resp.GetNote()), func(r rune) bool { return r != '\n' && unshown(r) }) { // a signer whom nobody knows may be called so
		return failf(ExitError, "what the leader sent is no checkpoint: it has control characters")
	}
	said := map[string]bool{}
	for _, w := range by {
		said[w.Name] = true
	}
	for _, v := range resp.GetWitnesses() {
		w := witnessOf(v)
		switch {
		case asked != "" && asked != w.Name:
		case w.State == "ALARM":
			fmt.Fprintf(a.Stderr, "warning: ALARM of witness %s since %s: %s\n", printable(w.Name), unixUTC(v.GetAlarmAt()).Format(time.RFC3339), w.Message)
		case said[v.GetName()]:
		case asked != "":
			return failf(ExitError, "what the leader sent is no checkpoint that witness %s cosigned", printable(asked))
		case w.Message != "":
			fmt.Fprintf(a.Stderr, "warning: witness %s has not cosigned it: %s\n", printable(w.Name), w.Message)
		default:
			fmt.Fprintf(a.Stderr, "warning: witness %s has not cosigned it yet\n", printable(w.Name))
		}
	}
	return nil
}

// witnesses are who of those with these keys cosigned what was kept; every one must have.
func (k *keptCheckpoint) witnesses(keys []string) ([]checkpoint.Cosigner, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	if k == nil {
		return nil, usagef("--witness-key goes with --checkpoint")
	}
	var out []checkpoint.Cosigner
	for _, key := range keys {
		name, err := checkpoint.CheckWitnessKey(key)
		if err != nil {
			return nil, usagef("--witness-key: %v", err)
		}
		by, err := checkpoint.Witnesses(k.note, []string{key})
		switch {
		case err != nil:
			return nil, failf(ExitError, "%s was changed: the cosignature of witness %s is not for what it says", k.path, name)
		case len(by) == 0:
			return nil, failf(ExitError, "witness %s, by that key, has not cosigned %s", name, k.path)
		}
		out = append(out, by...)
	}
	return out, nil
}

func witnessNames(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListWitnesses(ctx, &controlpb.ListWitnessesRequest{})
	for _, w := range r.GetWitnesses() {
		out = append(out, w.GetName())
	}
	return out, err
}
