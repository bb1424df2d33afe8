package keyd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
)

// tree is a log of records, whose hashes are all in memory.
type tree struct{ hashes []tlog.Hash }

func (t *tree) ReadHashes(at []int64) (out []tlog.Hash, _ error) {
	for _, i := range at {
		out = append(out, t.hashes[i])
	}
	return out, nil
}

func logOf(t *testing.T, records ...string) *tree {
	t.Helper()
	l := &tree{}
	for n, r := range records {
		h, err := tlog.StoredHashes(int64(n), []byte(r), l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes = append(l.hashes, h...)
	}
	return l
}

func records(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint("record ", i))
	}
	return out
}

// request is for the first size records, where before were signed.
func (l *tree) request(t *testing.T, before, size int64) *keydpb.SignCheckpointRequest {
	t.Helper()
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		t.Fatal(err)
	}
	req := &keydpb.SignCheckpointRequest{Size: uint64(size), Root: root[:], Before: uint64(before)}
	if before > 0 && before <= size {
		p, err := tlog.ProveTree(size, before, l)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range p {
			req.Proof = append(req.Proof, bytes.Clone(h[:]))
		}
	}
	return req
}

// signed asks for a signature, and checks both.
func (c *cluster) signed(t *testing.T, req *keydpb.SignCheckpointRequest) *keydpb.SignCheckpointResponse {
	t.Helper()
	resp, err := c.SignCheckpoint(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	cp := checkpoint.Checkpoint{Cluster: c.init.ClusterId, Incarnation: resp.GetIncarnation(), Size: req.GetSize(), Root: tlog.Hash(req.GetRoot())}
	note := checkpoint.Note(cp, checkpoint.ClusterLine(cp, resp.GetKey(), resp.GetSignature()),
		checkpoint.ManagerLine(cp.Cluster, c.nodeID, resp.GetOwnKey(), resp.GetAt(), resp.GetCosignature()))
	got, err := checkpoint.Open(note, []string{checkpoint.ClusterKey(cp, resp.GetKey()), checkpoint.ManagerKey(cp.Cluster, c.nodeID, resp.GetOwnKey())})
	if err != nil || got.Checkpoint != cp || len(got.By) != 2 || got.By[1].At.Unix() != resp.GetAt() {
		t.Fatalf("%+v, %v", got, err)
	}
	if bytes.Equal(resp.GetKey(), resp.GetOwnKey()) {
		t.Error("the cluster signs with the manager's key")
	}
	return resp
}

func TestSignCheckpoint(t *testing.T) {
	c := newCluster(t)
	l := logOf(t, records(40)...)
	first := c.signed(t, l.request(t, 0, 7))
	again := c.signed(t, l.request(t, 7, 7))
	if !bytes.Equal(first.GetSignature(), again.GetSignature()) {
		t.Error("the same checkpoint has another signature")
	}
	c.restart(t)
	_, err := c.SignCheckpoint(t.Context(), l.request(t, 7, 20))
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	c.unlock(t)
	if resp, err := c.SignCheckpoint(t.Context(), l.request(t, 0, 20)); err != nil || resp.GetLast() != 7 || len(resp.GetSignature())+len(resp.GetCosignature()) > 0 {
		t.Fatalf("without a proof: %v, %v", resp, err)
	}
	after := c.signed(t, l.request(t, 7, 20))
	if !bytes.Equal(first.GetKey(), after.GetKey()) || !bytes.Equal(first.GetOwnKey(), after.GetOwnKey()) {
		t.Error("a restart makes other keys")
	}

	changed := records(40)
	changed[3] = "nothing happened"
	forged := logOf(t, changed...)
	short := l.request(t, 20, 30)
	short.Proof = short.Proof[1:]
	swapped := l.request(t, 20, 30)
	slices.Reverse(swapped.Proof)
	flipped := l.request(t, 20, 30)
	flipped.Proof[0][0] ^= 1
	other := l.request(t, 20, 20)
	other.Root = forged.request(t, 0, 20).Root
	for name, tc := range map[string]struct {
		req  *keydpb.SignCheckpointRequest
		code keydpb.Code
	}{
		"a record was changed":     {forged.request(t, 20, 30), keydpb.Code_CODE_DENIED},
		"another of as many":       {other, keydpb.Code_CODE_DENIED},
		"a proof cut short":        {short, keydpb.Code_CODE_DENIED},
		"a proof in another order": {swapped, keydpb.Code_CODE_DENIED},
		"a flipped bit":            {flipped, keydpb.Code_CODE_DENIED},
		"fewer records":            {&keydpb.SignCheckpointRequest{Size: 19, Root: other.Root, Before: 20}, keydpb.Code_CODE_STALE_EPOCH},
		"no records":               {&keydpb.SignCheckpointRequest{Root: other.Root, Before: 20}, keydpb.Code_CODE_INVALID},
		"more than can be":         {&keydpb.SignCheckpointRequest{Size: 1 << 63, Root: other.Root, Before: 20}, keydpb.Code_CODE_INVALID},
		"no root":                  {&keydpb.SignCheckpointRequest{Size: 30, Before: 20}, keydpb.Code_CODE_INVALID},
		"a hash that is none":      {&keydpb.SignCheckpointRequest{Size: 30, Root: other.Root, Before: 20, Proof: [][]byte{{1}}}, keydpb.Code_CODE_INVALID},
		"a proof too long":         {&keydpb.SignCheckpointRequest{Size: 30, Root: other.Root, Before: 20, Proof: make([][]byte, maxLogProof+1)}, keydpb.Code_CODE_INVALID},
	} {
		resp, err := c.SignCheckpoint(t.Context(), tc.req)
		if codeName(err) != tc.code || resp != nil {
			t.Errorf("%s: %v, %v, want %v", name, resp, err, tc.code)
		}
	}
	c.signed(t, l.request(t, 20, 40)) // nothing of that was kept
	journal, err := os.ReadFile(filepath.Join(c.dir, journalName))
	if err != nil || strings.Count(string(journal), `"event":"sign-checkpoint","outcome":"first"`) != 1 || !strings.Contains(string(journal), `"event":"sign-checkpoint","outcome":"denied"`) {
		t.Errorf("the journal says %s, %v", journal, err)
	}
}

// TestCheckpointOnDisk changes what keyd keeps of what it signed.
func TestCheckpointOnDisk(t *testing.T) {
	c := newCluster(t)
	l := logOf(t, records(9)...)
	c.signed(t, l.request(t, 0, 5))
	path := filepath.Join(c.dir, checkpointName)
	good, err := os.ReadFile(path)
	if err != nil || len(good) != checkpointLen {
		t.Fatal(len(good), err)
	}
	bad := [][]byte{{}, good[:len(good)-1], append(slices.Clone(good), 0)}
	for i := range good {
		b := slices.Clone(good)
		b[i] ^= 1
		bad = append(bad, b)
	}
	for i, b := range bad {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c.server.mu.Lock()
		c.server.checkpoints = bucket{}
		c.server.mu.Unlock()
		if _, err := c.SignCheckpoint(t.Context(), l.request(t, 5, 9)); codeName(err) != keydpb.Code_CODE_DAMAGED {
			t.Fatalf("change %d: %v", i, err)
		}
	}
	// A file of another manager's, of another cluster's.
	other := newCluster(t)
	other.signed(t, l.request(t, 0, 5))
	theirs, err := os.ReadFile(filepath.Join(other.dir, checkpointName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, theirs, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.SignCheckpoint(t.Context(), l.request(t, 5, 9))
	wantCode(t, err, keydpb.Code_CODE_DAMAGED)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	// Nothing is given away that was not kept.
	c.server.mu.Lock()
	write := c.server.write
	c.server.write = func(string, []byte) error { return os.ErrPermission }
	c.server.mu.Unlock()
	if resp, err := c.SignCheckpoint(t.Context(), l.request(t, 5, 9)); err == nil {
		t.Errorf("signed, and not kept: %v", resp)
	}
	c.server.mu.Lock()
	c.server.write = write
	c.server.mu.Unlock()
	c.signed(t, l.request(t, 5, 9))
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it outlived the keys: %v", err)
	}
}

// TestCheckpointOfAnotherIncarnation begins anew, and not of one before.
func TestCheckpointOfAnotherIncarnation(t *testing.T) {
	c := newCluster(t)
	l := logOf(t, records(9)...)
	was := c.signed(t, l.request(t, 0, 5))
	if _, err := c.asRoot(authorize(c.key.Seed())); err != nil {
		t.Fatal(err)
	}
	if err := c.RaiseIncarnation(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	resp := c.signed(t, logOf(t, "another", "log").request(t, 0, 2))
	if resp.GetIncarnation() != 2 || was.GetIncarnation() != 1 {
		t.Errorf("incarnations %d and %d", was.GetIncarnation(), resp.GetIncarnation())
	}
	_, err := c.SignCheckpoint(t.Context(), l.request(t, 2, 9))
	wantCode(t, err, keydpb.Code_CODE_DENIED)
}
