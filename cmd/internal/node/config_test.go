package node

import (
	"strings"
	"testing"
	"time"
)

func TestConfigCheck(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":              func(*Config) {},
		"node.name":     func(c *Config) { c.Name = "a/b" },
		"node.listen":   func(c *Config) { c.Listen = "2377" },
		"node.advert":   func(c *Config) { c.Advertise = "0.0.0.0:1" },
		"bridge_subnet": func(c *Config) { c.BridgeSubnet = "172.30.0.0" },
		"log_store":     func(c *Config) { c.Raft.LogStore = "leveldb" },
		"node.dns":      func(c *Config) { c.DNS = []string{"dns.example"} },
	} {
		c := DefaultConfig()
		change(&c)
		err := c.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestAdvertised(t *testing.T) {
	c := DefaultConfig()
	c.Listen = "192.0.2.7:2377"
	for _, tc := range []struct{ asked, configured, want string }{
		{"", "", "192.0.2.7:2377"},
		{"", "192.0.2.8", "192.0.2.8:2377"},
		{"192.0.2.9:1", "192.0.2.8", "192.0.2.9:1"},
	} {
		c.Advertise = tc.configured
		if got, err := c.advertised(tc.asked); err != nil || got != tc.want {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
}

func TestKeyLifetime(t *testing.T) {
	for life, good := range map[time.Duration]bool{0: true, time.Hour: true, 90 * 24 * time.Hour: true, time.Hour - 1: false, -time.Hour: false} {
		c := DefaultConfig()
		c.Name, c.Raft.KeyLifetime = "n", life
		if err := c.Check(); (err == nil) != good {
			t.Errorf("%v: %v", life, err)
		}
	}
}
