package fabric

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// wireguard-go's configuration protocol, one key=value a line. Buffers hold
// keys: they are wiped by those who made them, and do not grow in between.

// encode writes what the configuration changes, but not the private key.
func encode(c wgtypes.Config) []byte {
	const most = 400 // of one peer: two keys in hexadecimal, an endpoint, an address and the words
	b := make([]byte, 0, 64+most*len(c.Peers))
	if c.ListenPort != nil {
		b = append(strconv.AppendInt(append(b, "listen_port="...), int64(*c.ListenPort), 10), '\n')
	}
	flag := func(name string) { b = append(append(b, name...), "=true\n"...) }
	key := func(name string, k wgtypes.Key) {
		b = append(hex.AppendEncode(append(append(b, name...), '='), k[:]), '\n')
	}
	for _, p := range c.Peers {
		key("public_key", p.PublicKey)
		if p.UpdateOnly {
			flag("update_only")
		}
		if p.Remove {
			flag("remove")
			continue
		}
		if p.PresharedKey != nil {
			key("preshared_key", *p.PresharedKey)
		}
		if p.Endpoint != nil {
			b = append(append(b, "endpoint="...), p.Endpoint.AddrPort().String()...)
			b = append(b, '\n')
		}
		if p.PersistentKeepaliveInterval != nil {
			b = append(b, "persistent_keepalive_interval="...)
			b = append(strconv.AppendInt(b, int64(*p.PersistentKeepaliveInterval/time.Second), 10), '\n')
		}
		if p.ReplaceAllowedIPs {
			flag("replace_allowed_ips")
		}
		for _, a := range p.AllowedIPs {
			b = append(append(append(b, "allowed_ip="...), a.String()...), '\n')
		}
	}
	return b
}

// decode reads what the device says of itself. Lines it does not need are left
// out; a line that cannot be read is an error that does not quote it.
func decode(text []byte) (*status, error) {
	s := &status{peers: make(map[wgtypes.Key]peerStatus, bytes.Count(text, []byte("public_key=")))}
	var key wgtypes.Key
	var p peerStatus
	var seconds int64
	flush := func() {
		if key != (wgtypes.Key{}) {
			s.peers[key] = p
		}
	}
	for line := range bytes.Lines(text) {
		name, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("="))
		if !ok {
			return nil, errors.New("wireguard-go: a line without a value")
		}
		var err error
		switch string(name) {
		case "listen_port":
			s.port, err = strconv.Atoi(string(value))
		case "public_key":
			flush()
			p = peerStatus{}
			err = unhex(key[:], value)
		case "preshared_key":
			err = unhex(p.psk[:], value)
		case "endpoint":
			p.endpoint, err = netip.ParseAddrPort(string(value))
		case "last_handshake_time_sec":
			seconds, err = strconv.ParseInt(string(value), 10, 64)
		case "last_handshake_time_nsec":
			var nanos int64
			if nanos, err = strconv.ParseInt(string(value), 10, 64); seconds != 0 || nanos != 0 {
				p.handshake = time.Unix(seconds, nanos)
			}
		case "tx_bytes":
			p.sent, err = strconv.ParseInt(string(value), 10, 64)
		case "rx_bytes":
			p.received, err = strconv.ParseInt(string(value), 10, 64)
		case "persistent_keepalive_interval":
			var n int64
			n, err = strconv.ParseInt(string(value), 10, 64)
			p.keepalive = time.Duration(n) * time.Second
		case "allowed_ip":
			var a netip.Prefix
			a, err = netip.ParsePrefix(string(value))
			p.moreAllowed = p.moreAllowed || p.addr.IsValid() || !a.Addr().Is4() || a.Bits() != 32
			p.addr = a.Addr()
		}
		if err != nil {
			return nil, fmt.Errorf("wireguard-go: %s cannot be read", name)
		}
	}
	flush()
	return s, nil
}

func unhex(to, from []byte) error {
	if len(from) != hex.EncodedLen(len(to)) {
		return errors.New("length")
	}
	_, err := hex.Decode(to, from)
	return err
}

// buffer takes one Write and keeps it.
type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// reader gives out a slice that stays its owner's.
type reader []byte

func (r *reader) Read(p []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	n := copy(p, *r)
	*r = (*r)[n:]
	return n, nil
}
