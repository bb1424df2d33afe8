package cni

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const bridgeList = `{"cniVersion":"0.4.0","name":"br","plugins":[
  {"type":"bridge","bridge":"cbr0","isGateway":false,"hairpinMode":true,
   "ipam":{"type":"host-local","dataDir":"LIB","ranges":[[{"subnet":"10.77.0.0/29"}],[{"subnet":"fd77::/64"}]]}},
  {"type":"portmap","capabilities":{"portMappings":true}}]}`

// Two containers talk over Debian's bridge with addresses of its host-local, in
// both families; what they had is given back.
func TestBridge(t *testing.T) {
	w := newWorld(t)
	w.pin(debian...)
	w.conflist("br", bridgeList)
	w.start()
	a, b := w.task(), w.task()
	at, bt := w.attach(a, "br"), w.attach(b, "br")
	if at[0].GetInterface() != "cni0" || at[0].GetMac() == "" || len(at[0].GetAddresses()) != 2 || at[0].GetNetworkId() != networkID("br") {
		t.Fatalf("%v", at)
	}
	for i, want := range []string{"10.77.0.", "fd77::"} {
		if !strings.HasPrefix(bt[0].GetAddresses()[i], want) {
			t.Fatalf("%v", bt)
		}
	}
	w.talk(a, b, bt[0].GetAddresses()[0])
	// Once more changes nothing.
	if again := w.attach(a, "br"); again[0].GetAddresses()[0] != at[0].GetAddresses()[0] {
		t.Errorf("%v, was %v", again, at)
	}
	kept, err := w.client.Keep(w.ctx(), []string{a, b})
	if err != nil || len(kept) != 2 {
		t.Errorf("%v %v", kept, err)
	}
	// All of it is root's alone, and as docs/formats.md says.
	w.must(filepath.WalkDir(w.o.State, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm() != map[bool]os.FileMode{true: 0o700, false: 0o600}[d.IsDir()] {
			t.Errorf("%s has mode %s", p, fi.Mode())
		}
		if b, _ := os.ReadFile(p); filepath.Ext(p) == ".json" && !strings.HasPrefix(string(b), `{"format":1`) || strings.Contains(p, "/results/") && !strings.HasPrefix(string(b), `{"kind":`) {
			t.Errorf("%s begins with %.20q", p, b)
		}
		return err
	}))
	w.must(w.client.Detach(w.ctx(), a))
	w.must(w.client.Detach(w.ctx(), a)) // a second time
	w.must(w.client.Detach(w.ctx(), b))
	w.nothingLeft()
	// The pool is of five: none leaked, even without a sandbox at the end.
	for range 12 {
		id := w.task()
		w.attach(id, "br")
		w.must(w.sandbox.Remove(id))
		w.must(w.client.Detach(w.ctx(), id))
	}
	w.nothingLeft()
}

// Several drivers side by side, on the node and on one task: a bridge, macvlan on
// a dummy link, and addresses that the conflist gives.
func TestSideBySide(t *testing.T) {
	w := newWorld(t)
	w.pin(debian...)
	w.run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1")
	w.run("ip", "link", "set", "uplink0", "up")
	w.run("ip", "link", "set", "uplink1", "up")
	defer w.run("ip", "link", "del", "uplink0")
	w.conflist("br", strings.ReplaceAll(bridgeList, "10.77.0.0/29", "10.78.0.0/24"))
	w.conflist("mv", `{"cniVersion":"1.0.0","name":"mv","plugins":[{"type":"macvlan","master":"uplink0","mode":"bridge",
	  "ipam":{"type":"host-local","dataDir":"LIB","ranges":[[{"subnet":"10.79.0.0/24"}]]}}]}`)
	w.conflist("fixed", `{"cniVersion":"0.3.1","name":"fixed","plugins":[{"type":"macvlan","master":"uplink0","mode":"bridge",
	  "ipam":{"type":"static","addresses":[{"address":"10.80.0.9/24"}]}}]}`)
	w.start()
	a, b := w.task(), w.task()
	w.attach(a, "br")
	at, bt := w.attach(a, "br", "mv", "fixed"), w.attach(b, "br", "mv")
	if len(at) != 3 || at[2].GetAddresses()[0] != "10.80.0.9/24" || at[2].GetInterface() != "cni2" {
		t.Fatalf("%v", at)
	}
	w.talk(a, b, bt[0].GetAddresses()[0])
	w.talk(b, a, at[1].GetAddresses()[0])
	// Off one of them.
	if at = w.attach(a, "br"); len(at) != 1 {
		t.Errorf("%v", at)
	}
	if kept, err := w.client.Keep(w.ctx(), []string{a, b}); err != nil || len(kept) != 3 {
		t.Errorf("%v %v", kept, err)
	}
	w.must(w.client.Detach(w.ctx(), a))
	w.must(w.client.Detach(w.ctx(), b))
	w.nothingLeft()
}

// The conflist that was in force at ADD is that of DEL, also after a crash.
func TestConflistChanges(t *testing.T) {
	w := newWorld(t)
	w.pin(debian...)
	w.conflist("br", bridgeList)
	w.start()
	a := w.task()
	w.attach(a, "br")
	w.conflist("bad", `{"cniVersion":"0.4.0","name":"other","plugins":[]}`)
	w.simple("evil")
	w.conflist("not plain", bridgeList)
	list, err := w.client.List(w.ctx())
	w.must(err)
	if len(list) != 3 || list[0].GetName() != "bad" || !strings.Contains(list[0].GetError(), `must say "name"`) ||
		list[1].GetError() != "" || strings.Join(list[1].GetPlugins(), " ") != "bridge host-local portmap" || !strings.Contains(list[2].GetError(), "evil is not pinned") {
		t.Errorf("the node's conflists are %v", list)
	}
	w.must(os.Remove(w.o.Config.Conflists + "/br.conflist"))
	_, err = w.client.Attach(w.ctx(), w.task(), on("br"))
	w.refused(err, "there is no ")
	w.kill()
	w.start()
	w.must(w.client.Detach(w.ctx(), a))
	w.nothingLeft()
}

// A pool that is exhausted is one line on the task, and leaves nothing.
func TestExhausted(t *testing.T) {
	w := newWorld(t)
	w.pin(debian...)
	w.conflist("br", strings.Replace(bridgeList, `,[{"subnet":"fd77::/64"}]`, "", 1))
	w.start()
	var ids []string
	for range 6 {
		ids = append(ids, w.task())
	}
	var err error
	for _, id := range ids {
		if _, err = w.client.Attach(w.ctx(), id, on("br")); err != nil {
			break
		}
	}
	w.refused(err, "no IP addresses available in range set")
	for _, id := range ids {
		w.must(w.client.Detach(w.ctx(), id))
	}
	w.nothingLeft()
}

// A sandbox that is made once more under the same task is attached once more,
// though the kernel gives its namespace the inode of the former.
func TestSandboxMadeAgain(t *testing.T) {
	w := newWorld(t)
	w.pin(debian...)
	w.conflist("br", strings.Replace(bridgeList, `,[{"subnet":"fd77::/64"}]`, "", 1))
	w.start()
	a := w.task()
	for range 3 {
		w.attach(a, "br")
		w.in(a, func() error { _, err := net.InterfaceByName("cni0"); return err })
		w.must(w.sandbox.Remove(a))
		w.must(w.sandbox.Create(a))
	}
	w.must(w.client.Detach(w.ctx(), a))
	w.nothingLeft()
}
