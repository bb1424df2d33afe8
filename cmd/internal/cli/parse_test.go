package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func ingress(published, target uint32, ip string) *taskpb.Port {
	return &taskpb.Port{Published: published, Target: target, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS, HostIp: ip}
}

func TestParsePort(t *testing.T) {
	host := &taskpb.Port{Published: 8080, Target: 80, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_HOST}
	for in, want := range map[string]*taskpb.Port{
		"published=8080,target=80,mode=host":              host,
		"mode=host,src=8080,dst=80,protocol=tcp":          host,
		"published=53,target=53,protocol=udp,mode=host":   {Published: 53, Target: 53, Protocol: taskpb.Port_PROTOCOL_UDP, Mode: taskpb.Port_MODE_HOST},
		"published=1,target=2,mode=host,host_ip=10.0.0.1": {Published: 1, Target: 2, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_HOST, HostIp: "10.0.0.1"},
		"published=8080,target=80":                        ingress(8080, 80, ""),
		"published=8080,target=80,mode=ingress":           ingress(8080, 80, ""),
		"target=80":                                       ingress(0, 80, ""),
		"8080:80":                                         ingress(8080, 80, ""),
		"80":                                              ingress(0, 80, ""),
		"8080:80/udp":                                     {Published: 8080, Target: 80, Protocol: taskpb.Port_PROTOCOL_UDP, Mode: taskpb.Port_MODE_INGRESS},
		"127.0.0.1:8080:80":                               ingress(8080, 80, "127.0.0.1"),
		"[2001:DB8::1]:8080:80":                           ingress(8080, 80, "2001:db8::1"),
		"published=1,target=2,prefer-local":               {Published: 1, Target: 2, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS, PreferLocal: true},
		"published=1,target=2,proxy-protocol=v2,prefer-local=false": {Published: 1, Target: 2, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS, ProxyProtocol: true},
	} {
		if got, err := parsePort(in); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for in, say := range map[string]string{
		"target=80,mode=host": "published", "published=1,mode=host": "target", "published=1": "target",
		"published=1,target=2,mode=host,prefer-local": "mode=ingress", "published=1,target=2,prefer-local=maybe": "true or false",
		"published=1,target=2,proxy-protocol=v1": "use v2", "published=1,target=2,mode=host,proxy-protocol=v2": "mode=ingress",
		"published=1,target=2,protocol=udp,proxy-protocol": "protocol=tcp", "published=1,target=2,prefer-local,prefer-local": "once",
		"x:8080:80": "no address", ":8080:80": "no address", "8080:": "no port", ":80": "no port", "1:2:3:4": "no address",
		"published=1,target=2,mode=host,mode=host": "once", "published=65536,target=1,mode=host": "65536",
		"published=1,target=2,mode=vip": "use ingress or host", "published=1,target=2,mode=host,x=y": "unknown key",
		"published=1,target=2,mode=host,host_ip=x": "no address", "8080:80/sctp": "tcp or udp", "": "no port",
	} {
		if _, err := parsePort(in); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v, want it to say %q", in, err, say)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	f.Add("published=8080,target=80,mode=host")
	f.Add("8080:80/tcp")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePort(s)
		if err == nil && (p.Published < 1 && p.Mode == taskpb.Port_MODE_HOST || p.Published > maxPort || p.Target < 1 || p.Target > maxPort) {
			t.Fatalf("%q became %v", s, p)
		}
	})
}

func FuzzParseMount(f *testing.F) {
	f.Add("type=bind,source=/a,target=/b,readonly")
	f.Add("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMount(s)
		if err != nil {
			return
		}
		if strings.Contains("/"+m.Target+"/", "/../") || strings.Contains("/"+m.Source+"/", "/../") || m.Target == "/" || m.Target == "" || m.Type == 0 {
			t.Fatalf("%q became %v", s, m)
		}
	})
}

func TestNanoCPUs(t *testing.T) {
	for in, want := range map[string]nanoCPUs{"1": 1e9, "0.5": 5e8, ".25": 25e7, "0.000000001": 1, "64": 64e9, "0": 0} {
		var n nanoCPUs
		if err := n.Set(in); err != nil || n != want {
			t.Errorf("%s: %d, %v", in, n, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "1/3", "1e3", "0.0000000001", "99999999999", "1_0", "0x1", "NaN", "Inf"} {
		if err := new(nanoCPUs).Set(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                    nil,
		"a b":                 {"a", "b"},
		`a 'b c' "d \"e\""`:   {"a", "b c", `d "e"`},
		`'' x`:                {"", "x"},
		`a\ b`:                {"a b"},
		`"$HOME" *`:           {"$HOME", "*"},
		`"a\b"`:               {`a\b`},
		"  lead and trail\t ": {"lead", "and", "trail"},
	} {
		if got, err := words(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`"a`, `'a`, `a\`} {
		if _, err := words(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

func TestWordsQuotedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.String()).Draw(t, "words")
		var quoted []string
		for _, s := range in {
			quoted = append(quoted, "'"+strings.ReplaceAll(s, "'", `'\''`)+"'")
		}
		got, err := words(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(got, in) {
			t.Fatalf("%q became %q, %v", in, got, err)
		}
	})
}

func TestEnvironment(t *testing.T) {
	got, err := environment(nil, []string{"A=1", "B", "C", "A=2", "D="}, func(n string) string {
		return map[string]string{"B": "here"}[n]
	})
	if want := []string{"A=2", "B=here", "D="}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := environment(nil, []string{"sec ret=hunter2"}, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestNameFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if s := nameFrom(rapid.String().Draw(t, "image")); ident.CheckName(s) != nil {
			t.Fatalf("%q", s)
		}
	})
	if s := nameFrom("registry.example:5000/team/Web@sha256:00"); !strings.HasPrefix(s, "web-") {
		t.Error(s)
	}
}

func TestWithPort(t *testing.T) {
	for in, want := range map[string]string{"": "", "h": "h:2377", "h:1": "h:1", "10.0.0.1": "10.0.0.1:2377", "::1": "[::1]:2377", "[::1]": "[::1]:2377", "[::1]:5": "[::1]:5"} {
		if got, err := withPort(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"a b", "h:0", "h:99999", "h:x", "a:b:c", "/etc", "h:1:2"} {
		if got, err := withPort(in); err == nil {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add("unix:///run/redoubt/api.sock")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := apiclient.ParseHost(s); err == nil && (p[0] != '/' || len(p) > apiclient.MaxSocketPath) {
			t.Fatalf("%q became %q", s, p)
		}
	})
}

func TestSecretsAreNotEchoed(t *testing.T) {
	var b strings.Builder
	a := &app{Env: Env{Stderr: &b}}
	a.printError(usagef("unknown shorthand flag: 't' in -tRDT1.aaaa.bbbb and RDTKEY-ABCD-EFGH\x1b[2J\nmore"))
	if s := b.String(); strings.Contains(s, "bbbb") || strings.Contains(s, "ABCD") || strings.Contains(s, "\x1b") || strings.Count(s, "\n") != 1 {
		t.Errorf("%q", s)
	}
}

func TestCaret(t *testing.T) {
	if got := caret("a\x1b[2J\tb\r\x7f\u009bc"); got != "a^[[2J\tb^M^?<9b>c" {
		t.Errorf("%q", got)
	}
}

func allCommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, s := range c.Commands() {
		all = append(all, allCommands(s)...)
	}
	return all
}

func TestEveryCommandHasHelpAndExample(t *testing.T) {
	for _, c := range allCommands(Root(System())) {
		if c.IsAdditionalHelpTopicCommand() {
			if c.Long == "" {
				t.Errorf("%s: no help", c.CommandPath())
			}
			continue
		}
		if c.Short == "" || c.Args == nil {
			t.Errorf("%s: no help, or takes any argument", c.CommandPath())
		}
		if c.Example == "" && !c.HasSubCommands() && !c.Hidden && !strings.Contains(c.Short, "not there yet") {
			t.Errorf("%s: no example", c.CommandPath())
		}
	}
}
