package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// recordJSON is a record of the audit log in `audit ls --format json`.
type recordJSON struct {
	Number  uint64       `json:"number"`
	Time    time.Time    `json:"time"`
	Index   uint64       `json:"index"`
	Request string       `json:"request"`
	Outcome string       `json:"outcome"`
	Method  string       `json:"method"`
	Verbs   []string     `json:"verbs,omitempty"`
	Objects []string     `json:"objects,omitempty"`
	Caller  callerJSON   `json:"caller"`
	Changes []changeJSON `json:"changes,omitempty"`
	Omitted uint32       `json:"omitted,omitempty"`
	Reason  string       `json:"reason,omitempty"`
	// Approval is the id of the approval by which it was done.
	Approval string `json:"approval,omitempty"`
	Times    uint32 `json:"times,omitempty"`
	// Imported is set where it comes from the journal of a manager's keyd.
	Imported *importedJSON `json:"imported,omitempty"`
}

type importedJSON struct {
	First uint64    `json:"first_line"`
	Last  uint64    `json:"last_line"`
	At    time.Time `json:"written"`
	Hash  string    `json:"hash"`
	Keys  []string  `json:"keys,omitempty"`
}

type callerJSON struct {
	Name      string `json:"name"`
	Node      string `json:"node,omitempty"`
	Role      string `json:"role,omitempty"`
	Person    string `json:"person,omitempty"`
	LocalRoot bool   `json:"local_root,omitempty"`
	User      string `json:"user,omitempty"`
	Key       string `json:"key,omitempty"`
	Address   string `json:"address,omitempty"`
	Manager   string `json:"manager"`
}

type changeJSON struct {
	Table  string      `json:"table"`
	ID     string      `json:"id"`
	Name   string      `json:"name,omitempty"`
	Kind   string      `json:"kind"`
	Fields []fieldJSON `json:"fields,omitempty"`
}

type fieldJSON struct {
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
	// What the texts are the beginning of, where they are not all.
	OldCut *cutJSON `json:"old_cut,omitempty"`
	NewCut *cutJSON `json:"new_cut,omitempty"`
	// Omitted is how many values of that kind of path the record does not have.
	Omitted uint32 `json:"omitted,omitempty"`
}

type cutJSON struct {
	Bytes  uint64 `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func cutOf(c *auditpb.Cut) *cutJSON {
	if c == nil {
		return nil
	}
	return &cutJSON{c.GetBytes(), hex.EncodeToString(c.GetSha256())}
}

// exportedJSON has what is hashed, too.
type exportedJSON struct {
	recordJSON
	Clock  int64  `json:"clock"`
	Record []byte `json:"record"`
	Leaf   string `json:"leaf"`
}

func entryOf(v *controlpb.RecordView) auditlog.Entry {
	return auditlog.Entry{Index: v.GetIndex(), Clock: v.GetClock(), Record: v.GetRecord()}
}

func leafOf(v *controlpb.RecordView) string {
	h := entryOf(v).Hash()
	return hex.EncodeToString(h[:])
}

// recordOf decodes a record; fields of later versions are not shown.
func recordOf(v *controlpb.RecordView) (recordJSON, error) {
	r := &auditpb.Record{}
	if err := proto.Unmarshal(v.GetRecord(), r); err != nil {
		return recordJSON{}, failf(ExitError, "record %d of the audit log cannot be read: %v", v.GetNumber(), err)
	}
	c := r.GetCaller()
	out := recordJSON{Number: v.GetNumber(), Time: time.Unix(0, v.GetClock()).UTC(), Index: v.GetIndex(), Request: r.GetRequest(),
		Outcome: enumName(r.GetOutcome(), "OUTCOME_"), Method: r.GetMethod(), Verbs: r.GetVerbs(), Objects: r.GetObjects(),
		Caller:  callerJSON{c.GetName(), c.GetNode(), c.GetRole(), c.GetPerson(), c.GetLocalRoot(), c.GetUser(), c.GetKey(), c.GetAddress(), c.GetManager()},
		Omitted: r.GetOmitted(), Reason: r.GetReason(), Times: r.GetTimes(), Approval: r.GetApproval()}
	if i := r.GetImported(); i != nil {
		out.Imported = &importedJSON{i.GetFirst(), i.GetLast(), time.Unix(0, i.GetAt()).UTC(), hex.EncodeToString(i.GetHash()), i.GetKeys()}
	}
	for _, ch := range r.GetChanges() {
		change := changeJSON{Table: ch.GetTable(), ID: ch.GetId(), Name: ch.GetName(), Kind: enumName(ch.GetKind(), "KIND_")}
		for _, f := range ch.GetFields() {
			change.Fields = append(change.Fields, fieldJSON{f.GetPath(), f.GetOld(), f.GetNew(), cutOf(f.GetOldCut()), cutOf(f.GetNewCut()), f.GetOmitted()})
		}
		out.Changes = append(out.Changes, change)
	}
	return out, nil
}

// does is what a listing says that was done: the verbs, or the method's name.
func (r recordJSON) does() string {
	if len(r.Verbs) > 0 {
		return strings.Join(r.Verbs, " ")
	}
	return r.Method[strings.LastIndexByte(r.Method, '/')+1:]
}

// what is what a listing says that it was done to.
func (r recordJSON) what() string {
	var out []string
	for _, c := range r.Changes {
		if name := nodeLabel(c.Name, c.ID); name != "" {
			out = append(out, c.Table+" "+name)
		}
	}
	if len(out) == 0 {
		out = r.Objects
	}
	if r.Approval != "" {
		out = append(out, "by approval "+r.Approval)
	}
	if r.Reason != "" {
		out = append(out, r.Reason)
	}
	return strings.Join(out, ", ")
}

func (r recordJSON) matches(f *filterFlag) bool {
	any := func(key string, of func(changeJSON) string) bool {
		for _, c := range r.Changes {
			if f.is(key, of(c)) {
				return true
			}
		}
		return f.is(key, "")
	}
	verbs := f.is("verb", "")
	for _, v := range r.Verbs {
		verbs = verbs || f.is("verb", v)
	}
	return verbs && f.is("outcome", r.Outcome) && f.is("who", r.Caller.Name) && f.is("node", r.Caller.Node) && f.is("person", r.Caller.Person) && f.is("request", r.Request) &&
		any("table", func(c changeJSON) string { return c.Table }) && any("id", func(c changeJSON) string { return c.ID }) &&
		any("name", func(c changeJSON) string { return c.Name })
}

// verifiedJSON is what one manager has, in `audit verify --format json`.
type verifiedJSON struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Records uint64 `json:"records"`
	State   string `json:"state"`
	Root    string `json:"root,omitempty"`
	Missing uint64 `json:"missing_segments,omitempty"`
	Message string `json:"message,omitempty"`
}

func verifiedOf(resp *controlpb.VerifyRecordsResponse, m *controlpb.ManagerRecords) verifiedJSON {
	v := verifiedJSON{ID: m.GetId(), Name: m.GetName(), Records: resp.GetSize(), State: "same", Root: hex.EncodeToString(m.GetRoot()), Missing: m.GetMissing()}
	switch {
	case m.GetAbsent() != "":
		v.State, v.Message = "absent", "it did not answer: "+m.GetAbsent()
	case m.GetRewritten():
		v.State, v.Message = "rewritten", "its first records are not those of the checkpoint"
		if m.FirstRewritten != nil {
			v.Message = fmt.Sprintf("record %d is another than when the checkpoint was made", m.GetFirstRewritten())
		}
		if m.GetFault() != "" {
			v.Message += "; " + m.GetFault()
		}
	case m.GetForked():
		v.State, v.Message = "forked", fmt.Sprintf("record %d is another than most managers have", m.GetFirstForked())
		if m.GetFault() != "" {
			v.Message += "; " + m.GetFault()
		}
	case m.GetFault() != "":
		v.State, v.Message = "damaged", m.GetFault()
	case len(m.GetRoot()) == 0:
		v.State, v.Message = "behind", "it has fewer records than the leader"
	case m.GetMissing() > 0:
		v.State, v.Message = "lacks some", fmt.Sprintf("%d older records are not there yet", m.GetMissing()*auditlog.SegmentEntries)
	}
	return v
}

// provedJSON is `audit prove`.
type provedJSON struct {
	Number uint64     `json:"number"`
	Clock  int64      `json:"clock"`
	Record []byte     `json:"record"`
	Leaf   string     `json:"leaf"`
	Size   uint64     `json:"size"`
	Root   string     `json:"root"`
	Proof  []string   `json:"proof"`
	Shown  recordJSON `json:"shows"`
}

func (a *app) auditProveCmd() *cobra.Command {
	var file, keysFile, dir string
	c := &cobra.Command{
		Use: "prove NUMBER", Short: "Prove that a record is in the audit log",
		Long: `prove prints a record with the root of the log and the hashes that lead from one
to the other (RFC 6962, section 2.1.1), as JSON, once it has followed them itself.
A leaf is SHA-256 of a zero byte, index and clock of eight bytes each, and record.

The root is the leader's word. With --checkpoint it is that of a checkpoint which was
kept outside of the cluster, once a signature on that is good. With --archive record
and proof are read from an archive, and no cluster is asked.`,
		Example: `  redoubt audit prove 1042
  redoubt audit prove 1042 --checkpoint /mnt/worm/checkpoint.2026-11-01 --keys /mnt/worm/keys
  redoubt audit prove 1042 --archive /mnt/worm/audit --keys /mnt/worm/keys`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, given []string) error {
			n, err := recordNumber(given[0])
			if err != nil {
				return err
			}
			if dir != "" {
				if file != "" {
					return usagef("--checkpoint does not go with --archive, whose files have a checkpoint each")
				}
				v, err := archived(dir, keysFile, n)
				if err != nil {
					return err
				}
				return printJSON(a.Stdout, v)
			}
			kept, err := readKept(file, keysFile)
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				req := &controlpb.ProveRecordRequest{Number: n}
				var signed checkpoint.Signed
				if kept != nil {
					if signed, err = kept.open(ctx, api); err != nil {
						return err
					}
					if req.Size = signed.Size; n >= signed.Size {
						return failf(ExitError, "the checkpoint is of %d records: record %d is newer", signed.Size, n)
					}
				}
				resp, err := api.ProveRecord(ctx, req)
				if err != nil {
					return err
				}
				v, err := proved(resp, n)
				if err != nil {
					return err
				}
				if kept != nil && (resp.GetSize() != signed.Size || !bytes.Equal(resp.GetRoot(), signed.Root[:])) {
					return failf(ExitError, "record %d is not proved to be one of the checkpoint's: the audit log was rewritten, see `redoubt audit verify --checkpoint`", n)
				}
				return printJSON(a.Stdout, v)
			})
		},
	}
	c.Flags().StringVar(&file, "checkpoint", "", "a file with a checkpoint that was kept")
	c.Flags().StringVar(&keysFile, "keys", "", "a file with the keys that verify it, in place of those that the cluster tells")
	c.Flags().StringVar(&dir, "archive", "", "a directory that redoubt audit archive wrote, in place of the cluster")
	return c
}

// proofOf is the proof as it was sent.
func proofOf(resp *controlpb.ProveRecordResponse) (proof tlog.RecordProof, _ error) {
	for _, b := range resp.GetProof() {
		if len(b) != tlog.HashSize {
			return nil, fmt.Errorf("a hash of the proof has %d bytes", len(b))
		}
		proof = append(proof, tlog.Hash(b))
	}
	return proof, nil
}

// proved follows a proof.
func proved(resp *controlpb.ProveRecordResponse, n uint64) (provedJSON, error) {
	rec := resp.GetRecord()
	v := provedJSON{Number: rec.GetNumber(), Clock: rec.GetClock(), Record: rec.GetRecord(), Leaf: leafOf(rec), Size: resp.GetSize(), Root: hex.EncodeToString(resp.GetRoot())}
	proof, err := proofOf(resp)
	if err != nil {
		return v, failf(ExitError, "what the leader sent does not prove record %d: %v", n, err)
	}
	var root tlog.Hash
	copy(root[:], resp.GetRoot())
	for _, h := range proof {
		v.Proof = append(v.Proof, hex.EncodeToString(h[:]))
	}
	if rec.GetNumber() != n || n >= resp.GetSize() || resp.GetSize() > auditlog.MaxEntries ||
		tlog.CheckRecord(proof, int64(resp.GetSize()), root, int64(n), entryOf(rec).Hash()) != nil {
		return v, failf(ExitError, "what the leader sent does not prove record %d: see `redoubt audit verify`", n)
	}
	v.Shown, err = recordOf(rec)
	return v, err
}
