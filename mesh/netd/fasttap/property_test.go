package fasttap

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// verify looks at a packet that was cut off as a receiver does, and returns its
// payload.
func verify(t *testing.T, f stream, pkt []byte) (payload []byte) {
	t.Helper()
	if f.tunnel {
		if got := int(binary.BigEndian.Uint16(pkt[2:])); got != len(pkt) || slowSum(pkt[:20]) != 0xffff {
			t.Fatalf("the outer header says %d bytes of %d, or its checksum is wrong", got, len(pkt))
		}
		if got := int(binary.BigEndian.Uint16(pkt[24:])); got != len(pkt)-20 {
			t.Fatalf("the outer UDP header says %d bytes, not %d", got, len(pkt)-20)
		}
		check := slowSum(pseudoHeader(false, pkt[12:20], 17, len(pkt)-20), pkt[20:])
		if has := pkt[26] != 0 || pkt[27] != 0; has != f.outerChecksum || has && check != 0xffff {
			t.Fatalf("outer checksum: is there %v, should be %v; sums up to %#x", has, f.outerChecksum, check)
		}
		pkt = pkt[50:]
	}
	var addrs, l4 []byte
	if f.v6 {
		addrs, l4 = pkt[8:40], pkt[40:]
		if got := int(binary.BigEndian.Uint16(pkt[4:])); got != len(l4) {
			t.Fatalf("IPv6 says %d bytes, not %d", got, len(l4))
		}
	} else {
		addrs, l4 = pkt[12:20], pkt[20:]
		if got := int(binary.BigEndian.Uint16(pkt[2:])); got != len(pkt) || slowSum(pkt[:20]) != 0xffff {
			t.Fatalf("IPv4 says %d bytes of %d, or its checksum is wrong", got, len(pkt))
		}
	}
	proto, header := byte(17), 8
	if f.tcp {
		proto, header = 6, 20+f.options
	} else if got := int(binary.BigEndian.Uint16(l4[4:])); got != len(l4) {
		t.Fatalf("UDP says %d bytes, not %d", got, len(l4))
	}
	if got := slowSum(pseudoHeader(f.v6, addrs, proto, len(l4)), l4); got != 0xffff {
		t.Fatalf("the transport checksum is wrong: %#x", got)
	}
	return l4[header:]
}

// TestCutAndMerge: what is cut is right in every header, and merged again it is
// what it was.
func TestCutAndMerge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	rounds := 50
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		f := randomStream(rnd)
		gso := 1 + rnd.IntN(1600)
		size := 1 + rnd.IntN(min(maxPayload, gso*maxDatagrams))
		h, frame := f.super(gso, size)
		pkts, err := cut(h, bytes.Clone(frame))
		if err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		var payload []byte
		for i, p := range pkts {
			part := verify(t, f, p)
			if i < len(pkts)-1 && len(part) != gso {
				t.Fatalf("packet %d has %d bytes, not %d", i, len(part), gso)
			}
			payload = append(payload, part...)
		}
		if want := frame[h.headerLen:]; !bytes.Equal(payload, want) {
			t.Fatalf("%+v: %d bytes of payload differ from the %d cut", f, len(payload), len(want))
		}
		if len(pkts) == 1 || len(pkts) > batchSize {
			continue
		}
		m := merger{vxlanPort: 4789, udp: true}
		frames := merged(&m, pkts)
		back, err := apart(frames)
		if err != nil {
			t.Fatal(err)
		}
		same(t, pkts, back)
		flags := frame[int(h.csumStart)+13]
		if f.tcp && flags&flagCWR != 0 { // is not merged
			continue
		}
		if len(frames) != 1 {
			t.Fatalf("%+v: %d packets became %d frames", f, len(pkts), len(frames))
		}
		copy(frames[0][vnetLen:], frame[:ethernetLen])
		if got := decodeVnet(frames[0]); got != h || !bytes.Equal(frames[0][vnetLen:], frame) {
			t.Fatalf("merged again it is another frame:\n%+v\n%+v\n%x\n%x", got, h, frames[0][vnetLen:vnetLen+120], frame[:120])
		}
	}
}

func same(t *testing.T, want, got [][]byte) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d packets became %d", len(want), len(got))
	}
	for i := range want {
		if !bytes.Equal(want[i], got[i]) {
			t.Fatalf("packet %d became another:\n%x\n%x", i, want[i][:min(len(want[i]), 120)], got[i][:min(len(got[i]), 120)])
		}
	}
}

// TestManyFlows mixes flows, loses, repeats, reorders and damages packets: what
// comes out is the same packets, and within each flow in the same order.
func TestManyFlows(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	m := merger{vxlanPort: 4789, udp: true}
	for range 40 {
		queues := make([][][]byte, 1+rnd.IntN(24))
		for i := range queues {
			f := randomStream(rnd)
			h, frame := f.super(1+rnd.IntN(200), 1+rnd.IntN(2000))
			queues[i], _ = cut(h, frame)
		}
		var batch [][]byte
		owner := map[*byte]int{}
		for len(batch) < batchSize {
			i := rnd.IntN(len(queues))
			if len(queues[i]) == 0 {
				break
			}
			p := queues[i][0]
			queues[i] = queues[i][1:]
			switch rnd.IntN(12) {
			case 0:
				continue
			case 1:
				p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
				i = len(queues) + len(batch) // it may be of another flow now
			case 2:
				p = p[:1+rnd.IntN(len(p))]
				i = len(queues) + len(batch)
			}
			owner[&p[0]] = i
			batch = append(batch, p)
		}
		got, err := apart(merged(&m, batch))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(batch) {
			t.Fatalf("%d packets became %d", len(batch), len(got))
		}
		// Take each packet that came out from the first flow where it is next.
		order := make([][][]byte, len(queues)+batchSize)
		for _, p := range batch {
			order[owner[&p[0]]] = append(order[owner[&p[0]]], p)
		}
	next:
		for _, p := range got {
			for i := range order {
				if len(order[i]) > 0 && bytes.Equal(order[i][0], p) {
					order[i] = order[i][1:]
					continue next
				}
			}
			t.Fatalf("a packet is not the next of any flow: %x", p[:min(len(p), 100)])
		}
	}
}

func TestSum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 5000 {
		b := make([]byte, rnd.IntN(300))
		for i := range b {
			b[i] = []byte{0, 0xff, byte(rnd.Uint32())}[rnd.IntN(3)]
		}
		start := uint16(rnd.Uint32())
		want := slowSum(be16(int(start)), b)
		if got := sum(b, start); got != want {
			t.Fatalf("sum of %x from %#x: %#x, want %#x", b, start, got, want)
		}
	}
}
