package control_test

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
)

// TestExplainPolicy: each network that both are on has its verdict with its
// reason, one that allows is enough, and what would help is a command.
func TestExplainPolicy(t *testing.T) {
	w := newWorld(t)
	for _, n := range []*meshpb.NetworkSpec{{Name: "open"}, {Name: "shut", DefaultDeny: true}, {Name: "strict", DefaultDeny: true}, {Name: "lone"}} {
		w.network(n)
	}
	w.create(w.on("web", "open", "shut", "strict"))
	w.create(w.on("db", "shut", "strict"))
	w.create(w.on("log", "open", "lone"))
	w.create(w.on("far", "lone"))
	w.create(w.spec("none"))
	for policy, rules := range map[string][]string{
		"b-web-db": {"service:web->service:db:tcp/5432-5439", "service:web->service:db:icmp"},
		"a-other":  {"service:log->service:db"},
	} {
		sp := &meshpb.PolicySpec{Name: policy, Network: "shut"}
		for _, text := range rules {
			r, err := meshspec.ParseRule(text)
			if err != nil {
				t.Fatal(err)
			}
			sp.Rules = append(sp.Rules, r)
		}
		if _, err := w.api.CreatePolicy(t.Context(), &controlpb.CreatePolicyRequest{Spec: sp}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		from, to, traffic string
		allowed           bool
		says              []string // network: reason
		helps             string
	}{
		{"web", "db", "5432", true, []string{"shut: policy b-web-db allows service:web->service:db:tcp/5432-5439", "strict: the network denies"}, ""},
		{"web", "db", "tcp/5440", false, []string{"shut: the network denies", "strict: the network denies"}, "redoubt policy create --network shut --allow 'service:web->service:db:tcp/5440' web-to-db"},
		{"web", "db", "udp/5432", false, []string{"shut: the network denies", "strict: the network denies"}, "udp/5432"},
		{"web", "db", "icmp", true, []string{"shut: policy b-web-db allows", "strict: the network denies"}, ""},
		{"web", "db", "", false, []string{"shut: only a part of it is allowed: service:web->service:db:tcp/5432-5439 by policy b-web-db, service:web->service:db:icmp", "strict: the"}, "--network shut"},
		{"web", "db", "tcp", false, []string{"shut: only a part", "strict: the"}, "--network shut"},
		{"db", "web", "5432", false, []string{"shut: the network denies", "strict: the network denies"}, "service:db->service:web"},
		{"web", "log", "80", true, []string{"open: the network was not made with --default-deny"}, ""},
		{"web", "web", "80", true, []string{"open: tasks of one service", "shut: tasks of one service", "strict: tasks of one service"}, ""},
		{"web", "far", "80", false, nil, "redoubt service update --network-add lone web"},
		{"web", "none", "80", false, nil, ""},
	} {
		req := &controlpb.ExplainPolicyRequest{FromService: tc.from, ToService: tc.to}
		var err error
		if req.Protocol, req.Port, err = meshspec.ParseTraffic(tc.traffic); err != nil {
			t.Fatal(err)
		}
		r, err := w.api.ExplainPolicy(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if r.Allowed != tc.allowed || len(r.Networks) != len(tc.says) || (len(tc.says) == 0) != (r.Reason != "") ||
			(tc.helps != "") != (len(r.Remedies) > 0) || !strings.Contains(strings.Join(r.Remedies, "\n"), tc.helps) {
			t.Errorf("%s to %s of %q: %v", tc.from, tc.to, tc.traffic, r)
			continue
		}
		for i, v := range r.Networks {
			if !strings.HasPrefix(v.NetworkName+": "+v.Reason, tc.says[i]) {
				t.Errorf("%s to %s of %q: %s: %s, wanted %s", tc.from, tc.to, tc.traffic, v.NetworkName, v.Reason, tc.says[i])
			}
		}
	}
	if r, err := w.api.ExplainPolicy(t.Context(), &controlpb.ExplainPolicyRequest{FromService: "web", ToService: "far"}); err != nil ||
		r.Reason != "they share no network: web is on open, shut, strict, far on lone" {
		t.Errorf("%v, %v", r, err)
	}
	for _, bad := range []*controlpb.ExplainPolicyRequest{
		{FromService: "web", ToService: "nobody"}, {FromService: "web", ToService: "db", Port: 80},
		{FromService: "web", ToService: "db", Protocol: meshpb.Protocol_PROTOCOL_TCP, Port: 65536}, {FromService: "web", ToService: "db", Protocol: 9},
	} {
		if r, err := w.api.ExplainPolicy(t.Context(), bad); err == nil {
			t.Errorf("%v gives %v", bad, r)
		}
	}
}
