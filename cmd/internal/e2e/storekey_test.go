package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/keyscan"
)

// TestRotateStoreKey renews the keys of three managers' stores under writes: after
// the operator key, when asked, and over the death of a daemon in the midst of it.
// Who has a copy of a disk from before, and the operator key of that day, opens
// nothing of a later copy.
func TestRotateStoreKey(t *testing.T) {
	t.Parallel()
	c := up(t, "storekey", 3, 0)
	c.load()
	const victim = "manager-2"
	managers := []string{"manager-1", "manager-2", "manager-3"}
	eventually(t, time.Minute, func() string { return c.storeKeys(managers, 1) })
	before := filepath.Join(t.TempDir(), "before")
	cp(t, c.host(victim).DataDir, before)
	key := c.key()
	th := c.thief(before, key)
	th.opens(before, true)

	stop := c.writeOn()
	c.rotate("manager-1")
	eventually(t, time.Minute, func() string { return c.storeKeys(managers, 2) })
	later := filepath.Join(t.TempDir(), "later")
	cp(t, c.host(victim).DataDir, later)
	th.opens(later, false)

	if out := c.ok("manager-3", "store", "rotate-key"); strings.Count(out, "(epoch 3)") != 3 {
		t.Errorf("rotate-key says %q", out)
	}
	eventually(t, time.Minute, func() string { return c.storeKeys(managers, 3) })

	// redoubtd goes on with it where it was, without anybody.
	for epoch := uint32(4); epoch <= 5; epoch++ {
		asked := make(chan result, 1)
		go func() { asked <- c.on("manager-1", "store", "rotate-key", victim, "--timeout", "1m") }()
		keydBusy := func() string {
			raw, err := os.ReadFile(filepath.Join(c.host(victim).DataDir, "keyd", "journal"))
			if err != nil {
				return err.Error()
			}
			if n := strings.Count(string(raw), `"event":"rotate-dek"`); n < int(epoch)-1 {
				return fmt.Sprintf("keyd made %d keys", n)
			}
			return ""
		}
		eventually(t, time.Minute, keydBusy)
		if err := syscall.Kill(c.daemons(c.host(victim))["redoubtd"], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if r := <-asked; r.code != 0 && r.code != 3 && r.code != 6 {
			t.Errorf("rotate-key, while redoubtd dies: %v", r)
		}
		eventually(t, time.Minute, func() string { return c.storeKeys([]string{victim}, epoch) })
	}
	written := stop()
	if written == 0 {
		t.Error("nothing was written meanwhile")
	}
	c.lab("stop", victim)
	c.lab("start", "--unlock", victim)
	eventually(t, time.Minute, func() string { return c.serves(victim, "first", fmt.Sprintf("written-%d", written-1)) })
	eventually(t, time.Minute, func() string { return c.storeKeys([]string{victim}, 5) })
	t.Logf("%d writes were acknowledged meanwhile", written)
}

// writeOn writes through manager-1 until the function is called that it returns,
// which says how many writes were acknowledged, one after the other.
func (c *cluster) writeOn() (stop func() int) {
	c.t.Helper()
	create := func(name string) error {
		if r := c.on("manager-1", "service", "create", "--detach", "--name", name, "--replicas", "0", image); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	}
	if err := create("first"); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	n := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if create(fmt.Sprintf("written-%d", n)) == nil { // the leader may just have died
				n++
			}
		}
	})
	return func() int {
		cancel()
		wg.Wait()
		return n
	}
}

// storeKeys says which of the managers has not got its store under that epoch
// alone, by its own word and by what lies on its disk.
func (c *cluster) storeKeys(managers []string, epoch uint32) string {
	c.t.Helper()
	r := c.on("manager-1", "store", "ls", "--format", "json")
	if r.code != 0 {
		return r.String()
	}
	var list struct {
		Managers []struct {
			Name string `json:"name"`
			Key  struct {
				Epoch  uint32 `json:"epoch"`
				Former uint32 `json:"former_epoch"`
			} `json:"key"`
		} `json:"managers"`
	}
	c.decode(r.stdout, &list)
	for _, m := range list.Managers {
		if slices.Contains(managers, m.Name) && (m.Key.Epoch != epoch || m.Key.Former != 0) {
			return fmt.Sprintf("%s has key epoch %d, former %d: %s", m.Name, m.Key.Epoch, m.Key.Former, r.stdout)
		}
	}
	for _, m := range managers {
		dir := filepath.Join(c.host(m).DataDir, "control", "raft")
		r := run(c.t, nil, "store", "scan", dir, "--format", "json")
		var scanned struct {
			Epochs map[uint32]uint64 `json:"epochs"`
		}
		c.decode(r.stdout, &scanned)
		if got := slices.Collect(maps.Keys(scanned.Epochs)); !slices.Equal(got, []uint32{epoch}) {
			return fmt.Sprintf("%s: records of key epochs %v on the disk: %v", m, got, r)
		}
	}
	return ""
}

// diskThief has the keys that an old copy of a manager's disk gives to whoever
// has the operator key of its time.
type diskThief struct {
	*robber
	key    []byte
	opened *keydpb.OpenStoreResponse
}

func (c *cluster) thief(copied string, key []byte) *diskThief {
	c.t.Helper()
	dir := c.t.TempDir()
	cp(c.t, filepath.Join(copied, "keyd", "state"), filepath.Join(dir, "state"))
	th := &diskThief{robber: &robber{t: c.t}}
	th.serve(dir)
	parsed, err := autolock.ParseOperatorKey(string(key))
	if err != nil {
		c.t.Fatal(err)
	}
	th.key = parsed.Seed()
	if _, err := th.unlocker(dir).Unlock(c.t.Context(), slices.Clone(th.key)); err != nil {
		c.t.Fatal(err)
	}
	if th.opened, err = th.keyd.OpenStore(c.t.Context(), &keydpb.OpenStoreRequest{}); err != nil {
		c.t.Fatal(err)
	}
	return th
}

// opens tries the thief's keys on all that is sealed in a copy of the disk, and
// tells where they open less or more than they should.
func (th *diskThief) opens(copied string, all bool) {
	t := th.t
	t.Helper()
	var leaf struct {
		Sealed []byte `json:"sealed"`
		Chain  json.RawMessage
	}
	readFile(t, filepath.Join(copied, "control", "leaf"), &leaf)
	if _, err := th.keyd.OpenStore(t.Context(), &keydpb.OpenStoreRequest{SealedLeaf: leaf.Sealed}); (err == nil) != all {
		t.Errorf("the sealed leaf: %v", err)
	}
	// The mark is a record whose place is known: by it the key is tried itself.
	sealer, err := autolock.NewSealer(th.opened.GetDek(), th.opened.GetDekEpoch())
	if err != nil {
		t.Fatal(err)
	}
	defer sealer.Close()
	mark, err := os.ReadFile(filepath.Join(copied, "control", "raft", "mark"))
	if err != nil {
		t.Fatal(err)
	}
	for slot := range 2 {
		at := mark[512*slot:]
		record := at[4 : 4+binary.BigEndian.Uint32(at)]
		_, err := sealer.Open("file", autolock.FileAAD(th.opened.GetClusterId(), th.opened.GetIncarnation(), th.opened.GetNodeId(), fmt.Sprintf("mark/%d", slot)), record)
		if (err == nil) != all {
			t.Errorf("slot %d of the mark: %v", slot, err)
		}
	}
	r, err := keyscan.Dir(t.Context(), filepath.Join(copied, "control", "raft"))
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Epochs()[th.opened.GetDekEpoch()]; (n > 0) != all {
		t.Errorf("%d records are under the thief's key: %v", n, r.Under(th.opened.GetDekEpoch()))
	}
	if all {
		return
	}
	dir := t.TempDir()
	cp(t, filepath.Join(copied, "keyd", "state"), filepath.Join(dir, "state"))
	again := &robber{t: t}
	again.serve(dir)
	if _, err := again.unlocker(dir).Unlock(t.Context(), slices.Clone(th.key)); keydclient.CodeOf(err) != keydpb.Code_CODE_WRONG_KEY {
		t.Errorf("keyd's later state with the old operator key: %v", err)
	}
}
