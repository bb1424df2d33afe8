package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

func (a *app) auditCheckpointCmd() *cobra.Command {
	var keys bool
	var witness string
	c := &cobra.Command{
		Use: "checkpoint", Short: "Print the newest checkpoint of the audit log, to be kept elsewhere",
		Long: `checkpoint prints how many records the audit log has and the root of the tree
over them, as a note that the cluster has signed and each manager that had the same
root. The leader makes one each minute in which there was a record. Keep them where
nobody who runs the cluster can change them: "audit verify --checkpoint" proves
later that all those records are still what they were.

Witnesses outside of the cluster (redoubt audit witness) add their lines some seconds
later. With --witness it prints the newest one that this witness has cosigned.

With --keys it prints the keys that verify checkpoints and signed reports, one a line,
the former ones with them. Keep those, too: else the cluster's word must do for whose they are.`,
		Example: `  redoubt audit checkpoint >/mnt/worm/checkpoint.$(date +%F)
  redoubt audit checkpoint --keys >/mnt/worm/keys`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if keys && witness != "" {
				return usagef("--keys prints keys, and --witness a checkpoint: give one of them")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				resp, err := api.GetCheckpoint(ctx, &controlpb.GetCheckpointRequest{Witness: witness})
				if err != nil {
					return err
				}
				if keys {
					for _, k := range resp.GetKeys() {
						if _, err := checkpoint.CheckKey(k); err != nil {
							return failf(ExitError, "what the leader sent is no key of an audit log")
						}
						if _, err := fmt.Fprintln(a.Stdout, k); err != nil {
							return err
						}
					}
					return nil
				}
				signed, err := checkpoint.Open(resp.GetNote(), resp.GetKeys())
				if err != nil {
					return failf(ExitError, "what the leader sent is no checkpoint: %v", err)
				}
				for _, d := range resp.GetDissents() {
					fmt.Fprintf(a.Stderr, "warning: manager %s has not signed: %s\n", nodeLabel(d.GetName(), d.GetId()), oneline.Text(d.GetReason(), maxFault))
				}
				if err := a.checkCosigners(resp, witness); err != nil {
					return err
				}
				if later := resp.GetSize() - min(signed.Size, resp.GetSize()); later > 0 {
					fmt.Fprintf(a.Stderr, "%d records are newer\n", later)
				}
				_, err = a.Stdout.Write(resp.GetNote())
				return err
			})
		},
	}
	c.Flags().BoolVar(&keys, "keys", false, "print the keys that verify checkpoints in place of one")
	c.Flags().StringVar(&witness, "witness", "", "the newest one that the witness of this name cosigned, in place of the newest")
	_ = c.RegisterFlagCompletionFunc("witness", a.names(-1, witnessNames)) // fails only where a flag gets two
	return c
}

// keptCheckpoint is one that was kept outside of the cluster.
type keptCheckpoint struct {
	path, keysPath string
	note           []byte
	claims         checkpoint.Checkpoint
	keys           []string // nil: those that the cluster tells
}

// readKept reads the files; neither is believed yet.
func readKept(path, keysPath string) (*keptCheckpoint, error) {
	if path == "" {
		if keysPath != "" {
			return nil, usagef("--keys goes with --checkpoint")
		}
		return nil, nil
	}
	k := &keptCheckpoint{path: path, keysPath: keysPath}
	var err error
	if k.note, err = atomicfile.ReadBounded(path, checkpoint.MaxNote); err != nil {
		return nil, failf(ExitError, "reading the checkpoint: %v", err)
	}
	unsigned := new(checkpoint.UnsignedError)
	if _, err := checkpoint.Open(k.note, nil); !errors.As(err, &unsigned) {
		return nil, failf(ExitError, "%s is no checkpoint: it is what `redoubt audit checkpoint` prints", path)
	}
	k.claims = unsigned.Checkpoint
	if keysPath != "" {
		k.keys, err = readKeys(keysPath)
	}
	return k, err
}

// readKeys reads what `audit checkpoint --keys` printed.
func readKeys(path string) (keys []string, _ error) {
	b, err := atomicfile.ReadBounded(path, maxCheckpointKeys)
	if err != nil {
		return nil, failf(ExitError, "reading the keys: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if _, err := checkpoint.CheckKey(line); err != nil {
			return nil, failf(ExitError, "%s has a line that is no key: it is what `redoubt audit checkpoint --keys` prints", path)
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 || len(keys) > checkpoint.MaxKeys {
		return nil, failf(ExitError, "%s has %d keys, not 1 to %d", path, len(keys), checkpoint.MaxKeys)
	}
	return keys, nil
}

// open says what the file is a checkpoint of, once a signature on it is good.
func (k *keptCheckpoint) open(ctx context.Context, api *api) (checkpoint.Signed, error) {
	resp, err := api.GetCheckpoint(ctx, &controlpb.GetCheckpointRequest{})
	keys, whose := k.keys, "in "+k.keysPath
	if k.keys == nil {
		if err != nil {
			return checkpoint.Signed{}, err
		}
		keys, whose = resp.GetKeys(), "known to the cluster"
	}
	if now, err := checkpoint.Open(resp.GetNote(), resp.GetKeys()); err == nil && now.Cluster != k.claims.Cluster {
		return checkpoint.Signed{}, failf(ExitError, "%s is of another cluster, %s", k.path, k.claims.Cluster)
	}
	return k.signedBy(keys, whose)
}

// signedBy says what the file is a checkpoint of, once one of the keys has signed it,
// which are those that whose says in words.
func (k *keptCheckpoint) signedBy(keys []string, whose string) (checkpoint.Signed, error) {
	signed, err := checkpoint.Open(k.note, keys)
	switch bad := new(note.InvalidSignatureError); {
	case errors.As(err, new(*checkpoint.UnsignedError)):
		return signed, failf(ExitError, "nobody whose key is %s has signed %s", whose, k.path)
	case errors.As(err, &bad):
		return signed, failf(ExitError, "%s was changed: the signature of %s is not for what it says", k.path, bad.Name)
	case err != nil:
		return signed, failf(ExitError, "%s: %v", k.path, err)
	}
	return signed, nil
}

// holds returns why the leader's log is not proved to begin with the records of the
// checkpoint.
func holds(c checkpoint.Checkpoint, resp *controlpb.VerifyRecordsResponse) error {
	if resp.GetSize() < c.Size {
		return failf(ExitError, "the audit log had %d records when the checkpoint was made and has %d: the rest was taken away, or a backup of before was restored", c.Size, resp.GetSize())
	}
	var root tlog.Hash
	var proof tlog.TreeProof
	if len(resp.GetManagers()) == 0 || copy(root[:], resp.GetManagers()[0].GetRoot()) != tlog.HashSize || resp.GetSize() > auditlog.MaxEntries {
		return failf(ExitError, "the leader proves nothing: it has no root of %d records", resp.GetSize())
	}
	for _, b := range resp.GetProof() {
		var h tlog.Hash
		if copy(h[:], b) != len(b) || len(b) != tlog.HashSize {
			return failf(ExitError, "the leader proves nothing: a hash of its proof has %d bytes", len(b))
		}
		proof = append(proof, h)
	}
	switch err := tlog.CheckTree(proof, int64(resp.GetSize()), root, int64(c.Size), c.Root); {
	case err == nil:
		return nil
	case resp.GetUnproved() != "":
		return failf(ExitError, "that the audit log begins with the %d records of the checkpoint cannot be proved: %s", c.Size, oneline.Text(resp.GetUnproved(), maxFault))
	}
	return failf(ExitError, "the leader's audit log does not begin with the %d records of the checkpoint: they were rewritten, or a backup of before was restored", c.Size)
}

// signers are who signed, in words.
func signers(s checkpoint.Signed) string {
	cluster, managers, last := 0, 0, time.Time{}
	for _, by := range s.By {
		if by.At.IsZero() {
			cluster++
			continue
		}
		managers++
		if by.At.After(last) {
			last = by.At
		}
	}
	var out []string
	if cluster > 0 {
		out = append(out, "the cluster")
	}
	if managers > 0 {
		out = append(out, fmt.Sprintf("%d of its managers on %s", managers, last.Format(time.RFC3339)))
	}
	return strings.Join(out, " and ")
}
