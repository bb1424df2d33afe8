package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// TestAuditEditedOnDisk has somebody with a manager's disk and all keys edit its
// database, so that all of it opens and the manager starts: a record says what
// never was done. Every manager's `audit verify` names the manager and the record.
func TestAuditEditedOnDisk(t *testing.T) {
	t.Parallel()
	c := up(t, "edited", 3, 0)
	const victim = "manager-3"
	c.lab("stop", victim)
	c.logStore(c.host(victim), "bolt")
	c.lab("start", "--unlock", victim)
	const was, is = "zone-of-truth", "zone-of-dream"
	c.ok("manager-1", "node", "update", "manager-2", "--label-add", "place="+was)
	c.ok("manager-1", "node", "update", "manager-2", "--label-add", "later=1")
	record := c.recordWith("manager-1", was)
	eventually(t, time.Minute, func() string {
		if out := c.ok("manager-1", "audit", "verify"); strings.Count(out, " same ") != 3 {
			return "before anything was edited: " + out
		}
		return ""
	})
	c.lab("stop", victim)
	if n := c.editLog(victim, []byte(was), []byte(is)); n == 0 {
		t.Fatal("no log entry was edited")
	}
	c.lab("start", "--unlock", victim)
	want := fmt.Sprintf("record %d is another than most managers have", record)
	for _, from := range []string{"manager-1", victim} {
		eventually(t, time.Minute, func() string {
			r := c.on(from, "audit", "verify")
			for line := range strings.Lines(r.stdout) {
				if strings.Contains(line, want) && strings.HasPrefix(line, victim) && r.code == 1 && strings.Count(r.stdout, " same ") == 2 {
					return ""
				}
			}
			return fmt.Sprintf("verify on %s does not say that %s is forked at record %d: %v", from, victim, record, r)
		})
	}
}

// recordWith is the number of the first record that has the text.
func (c *cluster) recordWith(host, text string) int {
	c.t.Helper()
	var all []json.RawMessage
	c.decode(c.ok(host, "audit", "ls", "--last", "4000", "--format", "json"), &all)
	for _, raw := range all {
		if bytes.Contains(raw, []byte(text)) {
			var r struct{ Number int }
			c.decode(string(raw), &r)
			return r.Number
		}
	}
	c.t.Fatalf("no record has %q", text)
	return 0
}

// editLog exchanges a text for one of the same length in each entry of a stopped
// manager's log that has it, with the keys that its disk and the operator key give,
// and returns in how many.
func (c *cluster) editLog(host string, was, is []byte) (edited int) {
	t := c.t
	t.Helper()
	data := c.host(host).DataDir
	opened := c.thief(data, c.key()).opened
	sealer, err := autolock.NewSealer(opened.GetDek(), opened.GetDekEpoch())
	if err != nil {
		t.Fatal(err)
	}
	defer sealer.Close()
	db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(data, "control", "raft", "raft.db"),
		BoltOptions: &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	first, err := db.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	last, err := db.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	u64 := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := db.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		var aad []byte // as docs/formats.md has it
		for _, part := range [][]byte{[]byte(opened.GetClusterId()), u64(opened.GetIncarnation()), []byte(opened.GetNodeId()), []byte("log"), u64(l.Index), u64(l.Term), {byte(l.Type)}} {
			aad = lp.Append(aad, part)
		}
		plain, err := sealer.Open("log", aad, l.Data)
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		forged := bytes.ReplaceAll(plain, was, is)
		if bytes.Equal(forged, plain) {
			continue
		}
		edited++
		if l.Data, err = sealer.Seal("log", aad, forged); err == nil {
			err = db.StoreLog(&l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return edited
}
