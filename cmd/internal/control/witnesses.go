package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/tlogwitness"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// SetWitness implements controlpb.AuditServer. The leader asks the witness from then on;
// nothing is asked of it here.
func (s *Server) SetWitness(ctx context.Context, req *controlpb.SetWitnessRequest) (*controlpb.SetWitnessResponse, error) {
	name, err := checkpoint.CheckWitnessKey(req.GetKey())
	if err != nil {
		return nil, apierr.Invalid("its operator has it", "%v", err)
	}
	if err := tlogwitness.CheckURL(req.GetUrl()); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if len(req.GetCa()) > tlogwitness.MaxRoots {
		return nil, apierr.Invalid("", "%d certificates: a witness's TLS ends in one of at most %d", len(req.GetCa()), tlogwitness.MaxRoots)
	}
	for _, der := range req.GetCa() {
		if len(der) > tlogwitness.MaxRoot {
			return nil, apierr.Invalid("", "a certificate of %d bytes: at most %d are allowed", len(der), tlogwitness.MaxRoot)
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			return nil, apierr.Invalid("", "a certificate of the witness's CA cannot be read")
		}
	}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		old, there := pkistore.AuditWitnesses.Get(tx, name)
		if n := pkistore.AuditWitnesses.Count(tx); !there && n >= maxWitnesses {
			return apierr.State("`redoubt audit witness rm` one", "there are %d witnesses: at most %d are allowed", n, maxWitnesses)
		}
		if last, said := pkistore.AuditWitnessed.Get(tx, name); said && old.GetKey() != req.GetKey() {
			if err := pkistore.AuditWitnessed.Delete(tx, name); err != nil {
				return err
			}
		} else if said {
			last = proto.CloneOf(last)
			last.Failure, last.FailedAt, last.Alarm = "", 0, nil
			if err := pkistore.AuditWitnessed.Put(tx, last); err != nil {
				return err
			}
		}
		return pkistore.AuditWitnesses.Put(tx, &pkipb.AuditWitness{Meta: old.GetMeta(), Id: name, Url: req.GetUrl(), Key: req.GetKey(), Ca: req.GetCa(), SetAt: tx.Now().Unix()})
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "a witness of the audit log was set", "witness", name, "url", req.GetUrl())
	return &controlpb.SetWitnessResponse{Name: name}, nil
}

// RemoveWitness implements controlpb.AuditServer.
func (s *Server) RemoveWitness(ctx context.Context, req *controlpb.RemoveWitnessRequest) (*controlpb.RemoveWitnessResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		if _, there := pkistore.AuditWitnesses.Get(tx, req.GetName()); !there {
			return noWitness(req.GetName())
		}
		if _, said := pkistore.AuditWitnessed.Get(tx, req.GetName()); said {
			if err := pkistore.AuditWitnessed.Delete(tx, req.GetName()); err != nil {
				return err
			}
		}
		return pkistore.AuditWitnesses.Delete(tx, req.GetName())
	})
	if err != nil {
		return nil, err
	}
	return &controlpb.RemoveWitnessResponse{}, nil
}

func noWitness(name string) error {
	return apierr.NotFound("`redoubt audit witness ls` lists them", "no witness of the audit log is called %q", ident.Clip(name))
}

// ListWitnesses implements controlpb.AuditServer.
func (s *Server) ListWitnesses(ctx context.Context, _ *controlpb.ListWitnessesRequest) (*controlpb.ListWitnessesResponse, error) {
	resp := &controlpb.ListWitnessesResponse{}
	if err := s.view(ctx, func(r *raftstore.ReadTx) error {
		newest, _ := pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		resp.Witnesses = witnessViews(r, newest)
		return nil
	}); err != nil {
		return nil, err
	}
	log, err := s.c.Store.Records()
	if err != nil {
		return nil, err
	}
	resp.Size = log.Log.Size()
	return resp, nil
}

func witnessViews(r raftstore.Reader, newest *pkipb.AuditCheckpoint) (out []*controlpb.WitnessView) {
	for w := range pkistore.AuditWitnesses.All(r) {
		l, _ := pkistore.AuditWitnessed.Get(r, w.GetId())
		v := &controlpb.WitnessView{Name: w.GetId(), Url: w.GetUrl(), Key: w.GetKey(), Size: l.GetSize(), At: l.GetAt(), Newest: cosignedThat(l, newest), Failure: l.GetFailure(), FailedAt: l.GetFailedAt(),
			Alarm: l.GetAlarm().GetReason(), AlarmAt: l.GetAlarm().GetAt()}
		for _, der := range w.GetCa() {
			sum := sha256.Sum256(der)
			v.Ca = append(v.Ca, sum[:])
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *controlpb.WitnessView) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// cosignedBy is what a witness cosigned last of that log, and when by its clock, as its
// key verifies it. Of how the first dropped records end within a segment an archive alone
// tells.
func cosignedBy(w *pkipb.AuditWitness, l *pkipb.AuditWitnessed, log *auditlog.Reader, dropped uint64) (c checkpoint.Checkpoint, at time.Time, err error) {
	root := log.Root
	if said, err := checkpoint.Parse(checkpoint.TextOf(l.GetNote())); err == nil && said.Size < dropped && said.Size%auditlog.SegmentEntries != 0 {
		root = func(uint64) (auditlog.Hash, error) { return said.Root, nil }
	}
	if c, err = checkpoint.OfLog(l.GetNote(), l.GetSize(), log.Log.Size(), root); err != nil {
		return c, time.Unix(l.GetAt(), 0), err
	}
	by, err := checkpoint.Cosigned(c, l.GetLine(), w.GetKey())
	if err != nil {
		return c, time.Unix(l.GetAt(), 0), err
	}
	return c, by.At, nil
}

// cosignedThat reports whether it is that checkpoint that the witness cosigned last.
func cosignedThat(l *pkipb.AuditWitnessed, c *pkipb.AuditCheckpoint) bool {
	text := checkpoint.TextOf(c.GetNote())
	return l.GetLine() != "" && text != nil && string(checkpoint.TextOf(l.GetNote())) == string(text)
}

// withWitnesses is a checkpoint with the lines of the witnesses that cosigned it.
func withWitnesses(r raftstore.Reader, c *pkipb.AuditCheckpoint) []byte {
	note := slices.Clone(c.GetNote())
	for l := range pkistore.AuditWitnessed.All(r) {
		if cosignedThat(l, c) {
			note = append(note, l.GetLine()...)
		}
	}
	return note
}

// witnesses are what controls judge of those outside of the cluster.
func (s *Server) witnesses(ctx context.Context) (out []checks.Witness, err error) {
	type row struct {
		w *pkipb.AuditWitness
		l *pkipb.AuditWitnessed
	}
	var rows []row
	var incarnation uint64
	if err := s.view(ctx, func(r *raftstore.ReadTx) error {
		newest, _ := pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		if c, err := checkpoint.Parse(checkpoint.TextOf(newest.GetNote())); err == nil {
			incarnation = c.Incarnation
		}
		for w := range pkistore.AuditWitnesses.All(r) {
			l, _ := pkistore.AuditWitnessed.Get(r, w.GetId())
			rows = append(rows, row{w, l})
		}
		return nil
	}); err != nil || len(rows) == 0 {
		return nil, err
	}
	log, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	dropped, err := s.droppedRecords()
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		w := checks.Witness{Name: row.w.GetId(), Failure: row.l.GetFailure()}
		if row.l.GetLine() != "" { // it says more than what a leader wrote beside it
			c, by, err := cosignedBy(row.w, row.l, log, dropped)
			switch {
			case err != nil && !errors.As(err, new(*checkpoint.ForeignError)) && !errors.Is(err, checkpoint.ErrNotCosigned):
				return nil, err
			case err != nil:
				w.Alarm, w.AlarmAt = "what is kept of its word is not of this log: "+err.Error(), by
			case c.Incarnation == incarnation:
				w.Size, w.At = c.Size, by
			}
		}
		if a := row.l.GetAlarm(); a != nil {
			w.Alarm, w.AlarmAt = a.GetReason(), time.Unix(a.GetAt(), 0)
		}
		if w.Size < log.Log.Size() {
			e, err := log.Entry(max(w.Size, dropped))
			if err != nil {
				return nil, err
			}
			w.Lacks = time.Unix(0, max(e.Clock, row.w.GetSetAt()*int64(time.Second)))
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b checks.Witness) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}
