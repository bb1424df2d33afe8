package port

import (
	"crypto/tls"
	"net"
	"strings"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// refused tells who is to know that somebody was refused before it could call
// anything; nil peer: whoever it says that it is was not proved.
func (p *Port) refused(peer *authz.Peer, source net.Addr, alpn string, reason error) {
	if p.cfg.Refused == nil {
		return
	}
	id := authz.Identity{Source: source}
	if peer != nil {
		id.NodeID, id.Role, id.Person, id.SPKI = peer.NodeID, peer.Role, peer.Person, peer.SPKI
	}
	name, _, _ := strings.Cut(alpn, "/")
	p.cfg.Refused(id, "port/"+name, reason.Error())
}

// serverConfig is that of a server of a protocol, which says of a certificate that
// does not verify why not.
func serverConfig(creds *pki.Credentials, alpn string, why *error) *tls.Config {
	c := creds.ServerConfig(alpn)
	verify := c.VerifyConnection
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		err := verify(cs)
		if err != nil && len(cs.PeerCertificates) > 0 {
			*why = err
		}
		return err
	}
	return c
}
