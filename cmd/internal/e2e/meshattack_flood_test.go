package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// floodOfHandshakes: the stranger knows worker-1's WireGuard key, which is no
// secret, so his handshakes are worth an answer until they are opened: each costs a
// multiplication on the curve. Once there are too many, worker-1 asks for proof of
// the sender's address instead. What goes on goes on, and new keys are made.
func (f *siege) floodOfHandshakes() {
	t, me, w1 := f.t, f.stranger, f.w1
	const each, pause = 20, 2 * time.Millisecond // 10,000 a second
	frames := make([][]byte, 256)
	key := f.wireguardKey("worker-1", "worker-2")
	for i := range frames {
		frames[i] = ipFrame(w1.mac, me.out.mac, udp(me.addr, w1.under, uint16(i)|1024, f.tunnelPort, initiation(key)))
	}
	asked := 0 // for proof
	e := f.ears["stranger"]
	e.keep = func(frame []byte) {
		if p, ok := wireguardOf(frame); ok && p.payload[0] == 3 && p.from == w1.under {
			asked++
		}
	}
	defer func() { e.keep = nil }()
	e.hear()
	out := f.speaks(f.web, f.db)
	there := func(m []byte) {
		for _, e := range f.ears { // none holds that many frames
			e.hear()
		}
		out(m)
	}
	var sent atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := 0; ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for range each {
				me.out.send(frames[i%len(frames)])
				i++
				sent.Add(1)
			}
		}
	}()
	defer func() {
		close(stop)
		<-done
		there(mark("after the flood"))
	}()
	eventually(t, 20*time.Second, func() string {
		if there(mark("amid handshakes")); asked < 100 {
			return fmt.Sprintf("of %d handshakes %d were asked for proof", sent.Load(), asked)
		}
		return ""
	})
	f.ears["db"].waits("amid handshakes", 1, nil)
	// Worker-2's is asked, too, and has proof: its second try comes 5 s later.
	at := time.Now()
	f.ok("manager-1", "node", "rotate-mesh-key", "worker-2")
	f.ears["db"].waits("after a change amid handshakes", 1, func() { there(mark("after a change amid handshakes")) })
	t.Logf("%d handshakes of a stranger, %d asked for proof; a key was changed within %v", sent.Load(), asked, time.Since(at).Round(time.Millisecond))
}

// initiation is a handshake for whoever has the key: nothing in it is true but the
// first of its checksums.
func initiation(key []byte) []byte {
	p := make([]byte, 148)
	rand.Read(p[4:116])
	p[0] = 1
	var macs device.CookieGenerator
	macs.Init(device.NoisePublicKey(key))
	macs.AddMacs(p)
	return p
}

// wireguardKey is a node's public key as a peer of it says.
func (f *siege) wireguardKey(of, says string) []byte {
	t := f.t
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(f.host(says).RunDir, "wg.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("get=1\n\n")); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	var key []byte
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		switch {
		case name == "public_key":
			if key, err = hex.DecodeString(value); err != nil {
				t.Fatal(err)
			}
		case name == "endpoint" && strings.HasPrefix(value, f.host(of).Address+":"):
			return key
		}
	}
	t.Fatalf("%s has no peer %s:\n%s", says, of, text)
	return nil
}
