// Package portname reads and writes how a published port is called where its
// number alone says too little: "tcp/80", "udp/53". Managers tell nodes of ports in
// this form, redoubtd tells netd, and operators write it into configurations, so
// all of them refuse the same things: there is one spelling of each port, and
// what is equal as text is the same port.
//
// It owns the form, and knows nothing of who publishes what.
package portname

import (
	"fmt"
	"strconv"
	"strings"
)

// Max is how many ports there are.
const Max = 2 * 65535

// Port is one of TCP or UDP.
type Port struct {
	UDP    bool
	Number uint16 // not 0
}

// Parse reads what String writes, and nothing else.
func Parse(s string) (Port, error) {
	proto, number, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	p := Port{UDP: proto == "udp", Number: uint16(n)}
	if err != nil || n == 0 || p.String() != s {
		return Port{}, fmt.Errorf("%.40q is no port: write tcp/ or udp/ and a number from 1 to 65535, such as tcp/80", s)
	}
	return p, nil
}

// Compare puts ports in order: by number, TCP first.
func (p Port) Compare(q Port) int {
	switch {
	case p.Number != q.Number:
		return int(p.Number) - int(q.Number)
	case p.UDP == q.UDP:
		return 0
	case q.UDP:
		return -1
	}
	return 1
}

func (p Port) String() string {
	if p.UDP {
		return fmt.Sprintf("udp/%d", p.Number)
	}
	return fmt.Sprintf("tcp/%d", p.Number)
}

// UnmarshalText and MarshalText have JSON name ports.
func (p *Port) UnmarshalText(text []byte) (err error) {
	*p, err = Parse(string(text))
	return err
}

func (p Port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
