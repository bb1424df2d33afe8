package portname

import "testing"

func TestParse(t *testing.T) {
	for _, s := range []string{"tcp/1", "tcp/80", "udp/65535"} {
		if p, err := Parse(s); err != nil || p.String() != s {
			t.Errorf("%q: %v %v", s, p, err)
		}
	}
	for _, s := range []string{"", "80", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/080", "tcp/+80", "tcp/-1", "TCP/80", "sctp/80", "/80", "tcp/80/", "tcp/80 ", "tcp//80", "udp/0x35"} {
		if p, err := Parse(s); err == nil {
			t.Errorf("%q: %v", s, p)
		}
	}
}

// There is one spelling of each port.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"tcp/80", "udp/53", "tcp/00", "udp/99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := Parse(s); err == nil && (p.String() != s || p.Number == 0) {
			t.Fatalf("%q is %v", s, p)
		}
	})
}
