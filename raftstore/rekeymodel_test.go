package raftstore_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// rekeyModel is a store whose key is renewed again and again, as its owner does it:
// a former key that is kept is a renewal to finish.
type rekeyModel struct {
	t     *testing.T
	ring  *testseal.Ring
	kind  raftstore.LogStore
	dir   string
	s     *raftstore.Store
	crash string // the step at which an image of the disk is made
	image string
	wrote int // acknowledged
	dirs  int
}

func (m *rekeyModel) open(t *rapid.T) {
	var err error
	c := rekeyConfig(m.dir, m.ring, m.kind).WithRekeyed(func(at string) error {
		if at != m.crash {
			return nil
		}
		m.dirs++
		m.crash, m.image = "", filepath.Join(m.t.TempDir(), fmt.Sprint(m.dirs))
		return errors.Join(errCrash, os.CopyFS(m.image, os.DirFS(m.dir)))
	})
	if m.s, err = raftstore.Open(m.t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if len(m.s.Servers()) == 0 {
		if err := m.s.Bootstrap(); err != nil {
			t.Fatal(err)
		}
	}
	raftstoretest.WaitLeader(m.t, m.s)
	getMany(m.t, m.s, "x", m.wrote)
}

func (m *rekeyModel) close(t *rapid.T) {
	if err := errors.Join(m.s.Close(waitContext(m.t)), m.s.Err()); err != nil {
		t.Fatal(err)
	}
}

// TestRekeyModel mixes writes, snapshots, renewals, crashes in them, conversions of
// the log and restarts.
func TestRekeyModel(t *testing.T) {
	// A step costs synced writes; `-rapid.checks` asks for more.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		flag.Set("rapid.checks", "8")
		defer flag.Set("rapid.checks", f.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		kinds := rapid.SampledFrom(logKinds)
		m := &rekeyModel{t: t, ring: testseal.NewRing(1), kind: kinds.Draw(rt, "kind"), dir: t.TempDir()}
		m.open(rt)
		defer func() { m.close(rt) }()
		for range rapid.IntRange(3, 8).Draw(rt, "actions") {
			switch rapid.SampledFrom([]string{"write", "snapshot", "renew", "renew", "crash", "restart"}).Draw(rt, "action") {
			case "write":
				for range rapid.IntRange(1, 20).Draw(rt, "n") {
					put(t, m.s, &testpb.Thing{Id: fmt.Sprintf("x-%d", m.wrote), Payload: make([]byte, 300)})
					m.wrote++
				}
			case "snapshot":
				if err := m.s.Snapshot(waitContext(t)); err != nil {
					rt.Fatal(err)
				}
			case "restart":
				m.close(rt)
				m.kind = kinds.Draw(rt, "kind")
				m.open(rt)
			case "crash":
				m.crash = rapid.SampledFrom(raftstore.RekeySteps).Draw(rt, "step")
				fallthrough
			case "renew":
				m.renew(rt)
			}
		}
	})
}

func (m *rekeyModel) renew(t *rapid.T) {
	epochs := m.ring.Epochs()
	if len(epochs) == 1 {
		m.ring.Add(epochs[0] + 1)
		epochs = m.ring.Epochs()
	}
	m.image = ""
	_, err := m.s.Rekey(waitContext(m.t))
	m.crash = ""
	switch {
	case err == nil && m.image == "":
		m.ring.Drop(epochs[1])
		wantEpochs(m.t, m.dir, epochs[0])
	case !errors.Is(err, errCrash):
		t.Fatal(err)
	default:
		m.close(t)
		m.dir = m.image
		m.open(t)
	}
}
