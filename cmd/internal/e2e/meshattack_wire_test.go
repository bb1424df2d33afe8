package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A caught packet is one of WireGuard that came to the stranger instead of the
// host that it was for.
type caughtPacket struct {
	from, to netip.Addr
	port     uint16 // of to
	payload  []byte
}

// wireguardOf reads a frame with a packet of WireGuard: type 1 to 4 and three
// bytes of zero.
func wireguardOf(frame []byte) (p caughtPacket, ok bool) {
	if len(frame) < 14+20+8+16 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP || frame[14] != 0x45 || frame[14+9] != unix.IPPROTO_UDP {
		return p, false
	}
	ip, d := frame[14:34], frame[34:]
	if n := int(binary.BigEndian.Uint16(d[4:])); n >= 8 && n <= len(d) {
		d = d[:n]
	}
	if d[8] < 1 || d[8] > 4 || d[9]|d[10]|d[11] != 0 {
		return p, false
	}
	return caughtPacket{netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(d[2:]), bytes.Clone(d[8:])}, true
}

// inTheMiddle: the stranger says that he is worker-2 to worker-1, and the
// reverse. He gets what they send to each other, reads nothing of it, and when he
// sends it on as his own, he is not believed for long.
func (f *siege) inTheMiddle() {
	t, me, w1, w2 := f.t, f.stranger, f.w1, f.w2
	var caught []caughtPacket
	e := f.ears["stranger"]
	e.keep = func(frame []byte) {
		if p, ok := wireguardOf(frame); ok && bytes.Equal(frame[:6], me.out.mac) {
			caught = append(caught, p)
		}
	}
	says := func(to, who *meshHost, mac []byte) {
		me.out.send(ethernet(to.mac, me.out.mac, unix.ETH_P_ARP, arp(2, mac, who.under, to.mac, to.under, nil)))
	}
	there, back := f.speaks(f.web, f.db), f.speaks(f.db, f.web)
	both := func() (a, b bool) {
		for _, p := range caught {
			a, b = a || p.to == w2.under && p.payload[0] == 4, b || p.to == w1.under && p.payload[0] == 4
		}
		return a, b
	}
	eventually(t, 20*time.Second, func() string {
		says(w1, w2, me.out.mac)
		says(w2, w1, me.out.mac)
		there(mark("read in the middle"))
		back(mark("read in the middle"))
		e.hear()
		if a, b := both(); !a || !b {
			return fmt.Sprintf("the stranger has %d packets of WireGuard, not of both: he is not in the middle", len(caught))
		}
		return ""
	})
	// He goes. A neighbour's entry is changed once a second at most.
	eventually(t, 20*time.Second, func() string {
		says(w1, w2, w2.mac)
		says(w2, w1, w1.mac)
		for _, x := range [][2]*meshHost{{w1, w2}, {w2, w1}} {
			if text := f.inHost(x[0].Name, "ip", "neigh", "show", x[1].Address); !strings.Contains(text, x[1].mac.String()) {
				return text
			}
		}
		return ""
	})
	if n := e.seen["read in the middle"]; n != 0 {
		t.Errorf("the stranger read %d packets of the overlay", n)
	}
	t.Logf("%d packets were caught, none was readable", len(caught))
	f.ears["db"].hear()
	f.ears["web"].hear()
	toDB, toWeb := f.ears["db"].seen["read in the middle"], f.ears["web"].seen["read in the middle"]
	// As his own, each twice: the first is new to who gets it.
	for range 2 {
		for _, p := range caught {
			to := w1
			if p.to == w1.under {
				f.tunnelPort = p.port
			}
			if p.to == w2.under {
				to = w2
			}
			me.out.send(ipFrame(to.mac, me.out.mac, udp(me.addr, p.to, 51820, p.port, p.payload)))
		}
	}
	// Now that they came, both believe that he is the other.
	f.ears["db"].waits("read in the middle", toDB+1, nil)
	f.ears["web"].waits("read in the middle", toWeb+1, nil)
	eventually(t, 20*time.Second, func() string {
		there(mark("to the stranger"))
		back(mark("to the stranger"))
		e.hear()
		a, b := false, false
		for _, p := range caught {
			a, b = a || p.to == me.addr && p.from == w1.under, b || p.to == me.addr && p.from == w2.under
		}
		if !a || !b {
			return "no packet goes to the stranger's address: nobody believed him, and this test shows nothing"
		}
		return ""
	})
	for _, way := range []struct {
		send func([]byte)
		to   string
	}{{there, "db"}, {back, "web"}} {
		at := time.Now()
		f.ears[way.to].waits("after the middle to "+way.to, 1, func() { way.send(mark("after the middle to " + way.to)) })
		t.Logf("to %s again after %v", way.to, time.Since(at).Round(time.Millisecond))
	}
}
