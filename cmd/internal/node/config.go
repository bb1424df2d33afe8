package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/peer"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Config is the section `node:` of the configuration file.
type Config struct {
	// Name is what the node calls itself; the machine's host name by default.
	Name string `yaml:"name"`
	// Listen is where a manager listens, host:port.
	Listen string `yaml:"listen"`
	// Advertise is where the others reach this node when it is a manager,
	// host:port; by default Listen, or the machine's only address.
	Advertise string `yaml:"advertise"`
	// BridgeSubnet is the subnet of containers' addresses on this node, CIDR.
	BridgeSubnet string `yaml:"bridge_subnet"`
	// DNS are the servers containers ask; those of the machine by default.
	DNS []string `yaml:"dns"`
	// WorkloadLife bounds the life of certificates that this node asks for its tasks;
	// 0: services say.
	WorkloadLife time.Duration `yaml:"workload_life"`
	// FIPS asks for calls outside of Go's FIPS 140-3 module to fail. Package daemon heeds
	// it, in every daemon.
	FIPS bool `yaml:"fips"`
	// Mesh is how the tunnels to other nodes are.
	Mesh MeshConfig `yaml:"mesh"`
	// Raft is how a manager keeps its store.
	Raft RaftConfig `yaml:"raft"`
}

// MeshConfig is the part `node.mesh`.
type MeshConfig struct {
	// Port is WireGuard's, UDP; 0: any that is free, another after each start.
	Port int `yaml:"port"`
	// UnderlayMTU is what the way to the other nodes takes in one piece; 0: found
	// from this node's links and routes.
	UnderlayMTU int `yaml:"underlay_mtu"`
	// Lease is how long the node goes on with the peers it has while it hears no
	// manager.
	Lease time.Duration `yaml:"lease"`
}

// A lease shorter than minLease would end while managers are upgraded.
const minLease, maxLease = time.Minute, 90 * 24 * time.Hour

// RaftConfig is the part `node.raft`.
type RaftConfig struct {
	// LogStore is the kind of the log, bolt or wal; empty means the one that is
	// there, or the default. Another kind is converted at the next start.
	LogStore string `yaml:"log_store"`
	// KeyLifetime is how old the key that a manager's store is sealed with may be; 0:
	// it is renewed only when the unlock slots change, or an operator asks.
	KeyLifetime time.Duration `yaml:"key_lifetime"`
}

// minKeyLifetime bounds how often a store is sealed anew without need.
const minKeyLifetime = time.Hour

// DefaultConfig is what an absent section means.
func DefaultConfig() Config {
	return Config{Listen: fmt.Sprintf("0.0.0.0:%d", pki.DefaultPort), BridgeSubnet: "172.30.0.0/20",
		Mesh: MeshConfig{Port: peer.DefaultPort, Lease: 24 * time.Hour}, Raft: RaftConfig{KeyLifetime: 90 * 24 * time.Hour}}
}

// Check validates the section and fills in the name.
func (c *Config) Check() error {
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("node.name is not set and the machine has no host name: %w", err)
		}
		c.Name = name
	}
	if err := ident.CheckHostname(c.Name); err != nil {
		return fmt.Errorf("node.name: %w", err)
	}
	if _, err := netip.ParseAddrPort(c.Listen); err != nil {
		return fmt.Errorf("node.listen %q: want an address and a port, as in 0.0.0.0:%d", c.Listen, pki.DefaultPort)
	}
	if c.Advertise != "" {
		if _, err := pki.CompleteAddress(c.Advertise); err != nil {
			return fmt.Errorf("node.advertise: %w", err)
		}
	}
	if _, err := netip.ParsePrefix(c.BridgeSubnet); err != nil {
		return fmt.Errorf("node.bridge_subnet %q: want a network, as in 172.30.0.0/20", c.BridgeSubnet)
	}
	if l := c.WorkloadLife; l != 0 && (l < profile.MinSVIDLife || l > profile.MaxSVIDLife) {
		return fmt.Errorf("node.workload_life %s: want %s to %s, or 0 to leave it to services", l, profile.MinSVIDLife, profile.MaxSVIDLife)
	}
	if c.Mesh.Port < 0 || c.Mesh.Port > 65535 {
		return fmt.Errorf("node.mesh.port %d: want a UDP port, or 0 for any", c.Mesh.Port)
	}
	if m := c.Mesh.UnderlayMTU; m != 0 && (m < peer.MinUnderlayMTU || m > peer.MaxUnderlayMTU) {
		return fmt.Errorf("node.mesh.underlay_mtu %d: want %d to %d, or 0 to find it", m, peer.MinUnderlayMTU, peer.MaxUnderlayMTU)
	}
	if l := c.Mesh.Lease; l < minLease || l > maxLease {
		return fmt.Errorf("node.mesh.lease %v: want %v to %v", l, minLease, maxLease)
	}
	if _, err := raftstore.ParseLogStore(c.Raft.LogStore); err != nil {
		return fmt.Errorf("node.raft.log_store: %w", err)
	}
	if l := c.Raft.KeyLifetime; l != 0 && l < minKeyLifetime {
		return fmt.Errorf("node.raft.key_lifetime %v: want %v or more, or 0 for no end", l, minKeyLifetime)
	}
	for _, s := range c.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("node.dns %q: want an address", s)
		}
	}
	return nil
}

// advertised is the address to tell others: asked for, configured, listened on,
// or the machine's only one.
func (c *Config) advertised(asked string) (string, error) {
	for _, a := range []string{asked, c.Advertise} {
		if a != "" {
			return pki.CompleteAddress(a)
		}
	}
	listen := netip.MustParseAddrPort(c.Listen)
	if !listen.Addr().IsUnspecified() {
		return c.Listen, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	var found []netip.Addr
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().IsGlobalUnicast() && (p.Addr().Is4() || !listen.Addr().Is4()) {
			found = append(found, p.Addr())
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("this machine has %d addresses: say with --advertise which one the others reach", len(found))
	}
	return netip.AddrPortFrom(found[0], listen.Port()).String(), nil
}
