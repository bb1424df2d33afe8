package fasttap

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// FuzzSuperPacket: whatever the description and the frame, what comes out are
// packets within bounds whose payloads are the frame's, or nothing.
func FuzzSuperPacket(f *testing.F) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 24 {
		h, frame := randomStream(rnd).super(1+rnd.IntN(300), 1+rnd.IntN(1000))
		b := make([]byte, vnetLen)
		h.encode(b)
		f.Add(append(b, frame...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < frontLen || len(b) > frontLen+maxPacket {
			return
		}
		h := decodeVnet(b)
		if _, err := plain(h, bytes.Clone(b[vnetLen:])); err != nil && h.flags == 0 && len(b) > frontLen {
			t.Fatalf("a frame without a checksum to finish was refused: %v", err)
		}
		var s superPacket
		if s.begin(h, bytes.Clone(b[vnetLen:])) != nil {
			return
		}
		payload, want := []byte{}, b[frontLen+s.payload:]
		dst := make([]byte, maxPacket)
		for s.pending() {
			at := s.payload
			n, err := s.packet(dst)
			if err != nil || n <= at {
				t.Fatalf("%d bytes of a packet: %v", n, err)
			}
			payload = append(payload, dst[at:n]...)
		}
		if !bytes.Equal(payload, want) {
			t.Fatal("the payload is another")
		}
	})
}

// FuzzMerge: whatever packets come, the kernel makes the same packets of what
// they were merged into. In the input each packet follows its length.
func FuzzMerge(f *testing.F) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for range 24 {
		h, frame := randomStream(rnd).super(1+rnd.IntN(100), 1+rnd.IntN(500))
		pkts, err := cut(h, frame)
		if err != nil {
			f.Fatal(err)
		}
		var b []byte
		for _, p := range pkts {
			b = append(append(b, be16(len(p))...), p...)
		}
		f.Add(b)
	}
	m := merger{vxlanPort: 4789, udp: true}
	f.Fuzz(func(t *testing.T, b []byte) {
		var pkts [][]byte
		for len(b) > 2 && len(pkts) < batchSize {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			if n > 0 {
				pkts = append(pkts, b[2:2+n])
			}
			b = b[2+n:]
		}
		frames := merged(&m, pkts)
		got, err := apart(frames)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(pkts) {
			t.Fatalf("%d packets became %d", len(pkts), len(got))
		}
		if len(frames) == 1 || len(frames) == len(pkts) {
			same(t, pkts, got) // one flow, or nothing merged: the order is the same too
		}
	})
}
