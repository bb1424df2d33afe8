package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/statepb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// keysOf are the keys of a manager as its disk and an operator key give them: what a
// scan of memory looks for. They are read from the formats as docs/formats.md has
// them, not by keyd's own code.
func keysOf(t *testing.T, h host, operator []byte) map[string][]byte {
	t.Helper()
	key, err := autolock.ParseOperatorKey(strings.TrimSpace(string(operator)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(h.DataDir, "keyd", "state"))
	if err != nil {
		t.Fatal(err)
	}
	const head, tail = 5 + 4, 2 * sha256.Size
	var st statepb.State
	if len(raw) < head+tail || proto.Unmarshal(raw[head:len(raw)-tail], &st) != nil {
		t.Fatal("keyd's state is not as docs/formats.md says")
	}
	out := map[string][]byte{"operator key": key.Seed()}
	at := autolock.SlotContext{ClusterID: st.GetClusterId(), NodeID: st.GetNodeId(), Epoch: st.GetSlots().GetEpoch()}
	for i, slot := range st.GetSlots().GetSlots() {
		if kek, err := autolock.OpenSlot(slot, at, key.Seed(), st.GetKeks()[i].GetSealed()); err == nil {
			out["KEK"] = kek
		}
	}
	if out["KEK"] == nil {
		t.Fatal("the operator key opens no slot of the state")
	}
	sealer, err := autolock.NewSealer(out["KEK"], uint32(at.Epoch))
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string, sealed []byte) []byte {
		plain, err := sealer.Open("file", autolock.FileAAD(at.ClusterID, 0, at.NodeID, name), sealed)
		if err != nil || len(plain) < 5 {
			t.Fatalf("%s: %v", name, err)
		}
		return plain[5:] // magic and format
	}
	parts := open("keyset", st.GetSealedKeyset())
	for _, name := range []string{"", "", "", "", "", "", "", "", "", "", "root key", "other root key", "issuing key", "workload key",
		"record key", "audit key", "workload token key", "", "secrets master"} {
		part, rest, ok := lp.Take(parts)
		if !ok {
			t.Fatal("the keyset is not as docs/formats.md says")
		}
		if parts = rest; name != "" && len(part) > 0 {
			out[name] = part
		}
	}
	own := open("local", st.GetSealedLocal())[4:]
	for _, name := range []string{"keyd key", "leaf sealing key", "DEK", "journal key"} {
		out[name], own = own[:autolock.KeyLen], own[autolock.KeyLen:]
	}
	for name, k := range out {
		if len(k) != autolock.KeyLen {
			t.Fatalf("%s is %d bytes", name, len(k))
		}
	}
	return out
}

// inMemory counts how often each of these keys lies in a process's memory. Raw bytes
// are looked for, so also what was freed and not overwritten is found, and the first
// half of an AES-256 key schedule.
func inMemory(pid int, keys map[string][]byte) (map[string]int, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	found := map[string]int{}
	const block, pageSize = 1 << 20, 4096
	entries := make([]byte, block/pageSize*8)
	buf := make([]byte, block+autolock.KeyLen)
	for line := range strings.Lines(string(maps)) {
		span, rest, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		// What nobody may read (guard pages, reserved heap) is read here all the same;
		// the kernel's own pages alone are not.
		if strings.Contains(rest, "[v") {
			continue
		}
		for at := start; at < end; at += block {
			// A reservation of which no page was ever touched stays one.
			n, _ := pages.ReadAt(entries[:min(end-at, block)/pageSize*8], int64(at/pageSize*8))
			if len(bytes.Trim(entries[:n], "\x00")) == 0 {
				continue
			}
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), end-at)], int64(at))
			if n == 0 && err != nil && !errors.Is(err, io.EOF) {
				continue // not there: a page that was never touched has nothing
			}
			count(buf[:n], min(n, block), keys, found)
		}
	}
	return found, nil
}

// count adds the keys that begin in the first n bytes of b.
func count(b []byte, n int, keys map[string][]byte, found map[string]int) {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return
	}
	for name, k := range keys {
		for at := 0; at < n; {
			i := bytes.Index(b[at:], k)
			if i < 0 || at+i >= n {
				break
			}
			found[name]++
			at += i + 1
		}
	}
}
