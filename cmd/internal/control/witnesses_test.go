package control_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// outsider is a witness outside of the cluster.
type outsider struct {
	name string
	key  ed25519.PrivateKey
}

func newOutsider(t *testing.T, name string) outsider {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return outsider{name, key}
}

func (o outsider) public() []byte { return append([]byte{4}, o.key.Public().(ed25519.PublicKey)...) }

func (o outsider) hash() []byte {
	sum := sha256.Sum256(append([]byte(o.name+"\n"), o.public()...))
	return sum[:4]
}

func (o outsider) vkey() string {
	return fmt.Sprintf("%s+%x+%s", o.name, o.hash(), base64.StdEncoding.EncodeToString(o.public()))
}

func (o outsider) line(c checkpoint.Checkpoint, at int64) string {
	raw := binary.BigEndian.AppendUint64(o.hash(), uint64(at))
	raw = append(raw, ed25519.Sign(o.key, checkpoint.CosignText(c.Text(), at))...)
	return "— " + o.name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// TestWitnesses: one is set, listed with what it said, changed without losing that,
// relieved of an alarm, and removed with all of it.
func TestWitnesses(t *testing.T) {
	w, log := logWorld(t, 3)
	first, second := newOutsider(t, "witness.example/w1"), newOutsider(t, "witness.example/w2")
	ca := w.ca.Cluster().GetRoots()
	set := func(o outsider, url string, ca [][]byte) error {
		r, err := w.api.SetWitness(t.Context(), &controlpb.SetWitnessRequest{Url: url, Key: o.vkey(), Ca: ca})
		if err == nil && r.GetName() != o.name {
			t.Errorf("it is called %q", r.GetName())
		}
		return err
	}
	if err := set(first, "https://one.example", ca); err != nil {
		t.Fatal(err)
	}
	if err := set(second, "https://two.example:8443/w", nil); err != nil {
		t.Fatal(err)
	}
	root, err := log.Root(3)
	if err != nil {
		t.Fatal(err)
	}
	c := checkpoint.Checkpoint{Cluster: w.ca.ClusterID, Incarnation: 1, Size: 3, Root: root}
	at := time.Now().Unix()
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		if err := pkistore.AuditCheckpoints.Put(tx, &pkipb.AuditCheckpoint{Id: pkistore.CheckpointID, Size: 3, Note: checkpoint.Note(c)}); err != nil {
			return err
		}
		return pkistore.AuditWitnessed.Put(tx, &pkipb.AuditWitnessed{Id: first.name, Note: checkpoint.Note(c), Line: first.line(c, at), Incarnation: 1, Size: 3, At: at,
			Failure: "no route", FailedAt: at, Alarm: &pkipb.AuditWitnessAlarm{Reason: "it knows another log", At: at}})
	})
	list := func() []*controlpb.WitnessView {
		t.Helper()
		r, err := w.api.ListWitnesses(t.Context(), &controlpb.ListWitnessesRequest{})
		if err != nil || r.GetSize() != 3 {
			t.Fatal(r, err)
		}
		return r.GetWitnesses()
	}
	all := list()
	if len(all) != 2 || all[0].GetName() != first.name || !all[0].GetNewest() || all[0].GetSize() != 3 || all[0].GetAt() != at || all[0].GetAlarm() == "" || all[0].GetFailure() == "" || len(all[0].GetCa()) != len(ca) {
		t.Errorf("%v", all)
	}
	if all[1].GetNewest() || all[1].GetAt() != 0 || all[1].GetUrl() != "https://two.example:8443/w" {
		t.Errorf("%v", all[1])
	}
	get := func(name string) (*controlpb.GetCheckpointResponse, error) {
		return w.api.GetCheckpoint(t.Context(), &controlpb.GetCheckpointRequest{Witness: name})
	}
	for _, name := range []string{"", first.name} {
		r, err := get(name)
		if err != nil {
			t.Fatal(err)
		}
		if by, err := checkpoint.Witnesses(r.GetNote(), []string{first.vkey(), second.vkey()}); err != nil || len(by) != 1 || by[0].At.Unix() != at || len(r.GetWitnesses()) != 2 {
			t.Errorf("%q: %v, %v: %s", name, by, err, r.GetNote())
		}
	}
	for name, want := range map[string]string{second.name: "cosigned no checkpoint yet", "nobody": "no witness of the audit log is called"} {
		if r, err := get(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v", r, err)
		}
	}
	// A newer checkpoint has none of its word; what it cosigned is still to be had.
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		rec, _ := pkistore.AuditCheckpoints.Get(tx, pkistore.CheckpointID)
		rec = proto.CloneOf(rec)
		next := c
		next.Root[0] ^= 1
		rec.Note = checkpoint.Note(next)
		return pkistore.AuditCheckpoints.Put(tx, rec)
	})
	if r, err := get(""); err != nil || strings.Contains(string(r.GetNote()), first.name) || r.GetWitnesses()[0].GetNewest() {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := get(first.name); err != nil || !strings.HasSuffix(string(r.GetNote()), first.line(c, at)) {
		t.Errorf("%v, %v", r, err)
	}
	// Set again it has no alarm; by another key, nothing that the first one said.
	if err := set(first, "https://elsewhere.example", nil); err != nil {
		t.Fatal(err)
	}
	if v := list()[0]; v.GetAlarm() != "" || v.GetFailure() != "" || v.GetSize() != 3 || v.GetUrl() != "https://elsewhere.example" || len(v.GetCa()) != 0 {
		t.Errorf("%v", v)
	}
	if err := set(newOutsider(t, first.name), "https://elsewhere.example", nil); err != nil {
		t.Fatal(err)
	}
	if v := list()[0]; v.GetSize() != 0 || v.GetAt() != 0 {
		t.Errorf("another key's word is kept: %v", v)
	}
	for range 2 {
		_, err = w.api.RemoveWitness(t.Context(), &controlpb.RemoveWitnessRequest{Name: first.name})
	}
	if err == nil || !strings.Contains(err.Error(), "no witness of the audit log is called") || len(list()) != 1 {
		t.Errorf("%v, %v", err, list())
	}
}

func TestWitnessIsRefused(t *testing.T) {
	w, _ := logWorld(t, 1)
	good := newOutsider(t, "witness.example/w1")
	own := outsider{checkpoint.ManagerName(w.ca.ClusterID, ident.New()), good.key}
	for name, req := range map[string]*controlpb.SetWitnessRequest{
		"no key":            {Url: "https://w.example"},
		"a manager's key":   {Url: "https://w.example", Key: own.vkey()},
		"no TLS":            {Url: "http://w.example", Key: good.vkey()},
		"a password":        {Url: "https://u:p@w.example", Key: good.vkey()},
		"no address":        {Key: good.vkey()},
		"no certificate":    {Url: "https://w.example", Key: good.vkey(), Ca: [][]byte{[]byte("x")}},
		"too large":         {Url: "https://w.example", Key: good.vkey(), Ca: [][]byte{make([]byte, 1<<14)}},
		"many certificates": {Url: "https://w.example", Key: good.vkey(), Ca: make([][]byte, 9)},
	} {
		if r, err := w.api.SetWitness(t.Context(), req); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	for i := range 9 {
		o := newOutsider(t, fmt.Sprint("witness.example/", i))
		_, err := w.api.SetWitness(t.Context(), &controlpb.SetWitnessRequest{Url: "https://w.example", Key: o.vkey()})
		if full := i == 8; (err != nil) != full || full && !strings.Contains(err.Error(), "at most 8") {
			t.Errorf("witness %d: %v", i, err)
		}
	}
}
