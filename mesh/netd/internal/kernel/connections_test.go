package kernel

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tracking runs the test in a namespace that tracks connections over lo.
func tracking(t *testing.T, tell func(n *Netfilter) error) {
	t.Parallel()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends here
		done <- func() error {
			n, err := newTracking()
			if err != nil {
				return err
			}
			defer n.Close()
			return tell(n)
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func newTracking() (*Netfilter, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return nil, err
	}
	// Connections are tracked once somebody asks for their state.
	nft, err := nftables.New()
	if err != nil {
		return nil, err
	}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "tracks"})
	chain := nft.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, &expr.Counter{}}})
	if err := nft.Flush(); err != nil {
		return nil, err
	}
	return OpenNetfilter()
}

// tracked are the clients' ports of all connections.
func tracked(n *Netfilter) (map[uint16]bool, error) {
	ports := map[uint16]bool{}
	err := n.s.Dump(trackMessage(nl.IPCTNL_MSG_CT_GET, 0, unix.AF_UNSPEC, nil), func(_ uint16, body []byte) {
		attributes(body, func(kind uint16, v []byte) {
			if kind == nl.CTA_TUPLE_ORIG {
				ports[tuplePort(v, nl.CTA_PROTO_SRC_PORT)] = true
			}
		})
	})
	return ports, err
}

// Who was answered between the walk and the end of those without an answer is
// one of them no more.
func TestAnsweredMeanwhile(t *testing.T) { tracking(t, answeredMeanwhile) }

func answeredMeanwhile(n *Netfilter) error {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer server.Close()
	clients := make([]*net.UDPConn, 3)
	for i := range clients {
		if clients[i], err = net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr)); err != nil {
			return err
		}
		defer clients[i].Close()
		if _, err := clients[i].Write([]byte("?")); err != nil {
			return err
		}
	}
	answer := func(c *net.UDPConn) error {
		if _, err := server.WriteTo([]byte("!"), c.LocalAddr()); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		return err
	}
	late, never := clients[0], clients[1]
	if err := answer(clients[2]); err != nil {
		return err
	}
	port := func(c *net.UDPConn) uint16 { return uint16(c.LocalAddr().(*net.UDPAddr).Port) }
	asked := 0
	var answered error
	err = n.End(func(c Connection) bool {
		if asked++; asked == len(clients) { // the walk is at its end
			answered = answer(late)
		}
		return !c.Answered
	})
	if err := errors.Join(err, answered); err != nil {
		return err
	}
	left, err := tracked(n)
	if err != nil {
		return err
	}
	if left[port(never)] || !left[port(late)] || !left[port(clients[2])] {
		return fmt.Errorf("left are %v, want %d and %d", left, port(late), port(clients[2]))
	}
	return nil
}

// A client takes a closed connection's port again between the walk and the end of
// what it found: the new connection is another one, though the kernel may give it the
// old one's identity.
func TestPortTakenAgainMeanwhile(t *testing.T) {
	t.Run("closed by the server", func(t *testing.T) {
		tracking(t, func(n *Netfilter) error {
			return takenAgainMeanwhile(n, func(client, served net.Conn) {
				served.Close() // the server waits, and the client's port is free
				client.Read(make([]byte, 1))
				client.Close()
			})
		})
	})
	t.Run("reset by the client", func(t *testing.T) {
		tracking(t, func(n *Netfilter) error {
			return takenAgainMeanwhile(n, func(client, served net.Conn) {
				client.(*net.TCPConn).SetLinger(0)
				client.Close()
				served.Read(make([]byte, 1))
				served.Close()
			})
		})
	})
}

func takenAgainMeanwhile(n *Netfilter, closes func(client, served net.Conn)) error {
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.Close()
	first := 20000
	dial := func(i int) (client, served net.Conn, err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first + i}, Timeout: 10 * time.Second}
		if client, err = d.Dial("tcp4", server.Addr().String()); err != nil {
			return nil, nil, err
		}
		served, err = server.Accept()
		return client, served, err
	}
	const many = 16
	for i := range many {
		client, served, err := dial(i)
		if err != nil {
			return err
		}
		closes(client, served)
	}
	asked := 0
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	var again error
	err = n.End(func(c Connection) bool {
		if asked++; asked == many { // the walk is at its end
			for i := range many {
				client, served, err := dial(i)
				if err != nil {
					again = err
					return true
				}
				conns = append(conns, client, served)
			}
		}
		return true
	})
	if err := errors.Join(err, again); err != nil {
		return err
	}
	left, err := tracked(n)
	if err != nil {
		return err
	}
	lost := 0
	for i := range many {
		if !left[uint16(first+i)] {
			lost++
		}
	}
	if lost > 0 {
		return fmt.Errorf("%d of %d new connections were ended with the old ones", lost, many)
	}
	return nil
}
