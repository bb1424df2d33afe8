package node

import (
	"strings"
	"testing"
)

func TestCheckAddress(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":         "192.0.2.1:2377",
		"192.0.2.1:99":      "192.0.2.1:99",
		"[2001:db8::1]:7":   "[2001:db8::1]:7",
		"2001:db8::1":       "[2001:db8::1]:2377",
		"manager.example":   "manager.example:2377",
		"manager.example:1": "manager.example:1",
	} {
		if got, err := CheckAddress(in); err != nil || got != want {
			t.Errorf("CheckAddress(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ":2377", "0.0.0.0", "[::]:2377", "a b", "h:0", "h:65536", "h:x", "../x", "h:1:2:z"} {
		if got, err := CheckAddress(in); err == nil {
			t.Errorf("CheckAddress(%q) = %q", in, got)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("CheckAddress(%q): more than a line", in)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":              func(*Config) {},
		"node.name":     func(c *Config) { c.Name = "a/b" },
		"node.listen":   func(c *Config) { c.Listen = "2377" },
		"node.advert":   func(c *Config) { c.Advertise = "0.0.0.0:1" },
		"bridge_subnet": func(c *Config) { c.BridgeSubnet = "172.30.0.0" },
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
