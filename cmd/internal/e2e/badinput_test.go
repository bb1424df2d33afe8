package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBadInput is an operator who gets everything wrong, on one cluster of a
// manager and two workers, of which worker-2 has left and is to join again.
// Every mistake ends with one line, its exit code, and nothing changed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	c := up(t, "badinput", 1, 2)
	c.load()
	id := c.nodeID("worker-2")
	c.ok("worker-2", "leave")
	// What it left behind is removed once; said again by its id, that is told, and by a
	// name there is nobody.
	c.ok("manager-1", "node", "rm", "--force", id)
	if out := c.ok("manager-1", "node", "rm", id); !strings.Contains(out, "before") {
		t.Errorf("removing a node again: %s", out)
	}
	c.refused("manager-1", 1, "no node", nil, "node", "rm", "worker-2")
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"tokens that are not good", badTokens},
		{"addresses that are no manager's", badAddresses},
		{"flags, names and numbers", badArguments},
		{"images that cannot run", badImages},
		{"requests that no node can meet", impossibleRequests},
		{"a port that another process holds", portInUse},
		{"services that changed meanwhile", staleVersion},
		{"nodes that cannot be removed", badRemovals},
		{"commands for managers, on a worker", notOnWorkers},
		{"a configuration with a mistake", badConfig},
		{"a second membership", twice},
		{"keys that are not the key", badKeys},
	} {
		t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			before := sub.standing()
			story.tell(t, &sub)
			if after := sub.standing(); after != before {
				t.Errorf("something was changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// nodeID is the id of the only node of that name.
func (c *cluster) nodeID(name string) string {
	c.t.Helper()
	for _, n := range c.nodes("manager-1") {
		if n.Hostname == name {
			return n.ID
		}
	}
	c.t.Fatalf("no node is called %s", name)
	return ""
}

// standing is what a refused request must leave as it is: nodes, services and
// what worker-2 is a member of.
func (c *cluster) standing() string {
	c.t.Helper()
	var nodes []string
	for _, n := range c.nodes("manager-1") {
		nodes = append(nodes, n.Hostname+" "+n.Availability)
	}
	slices.Sort(nodes)
	services := c.ok("manager-1", "service", "ls", "--format", "json")
	local := c.onIn("worker-2", nil, "status", "--format", "json")
	var st struct {
		Node struct {
			Phase     string `json:"phase"`
			ClusterID string `json:"cluster_id"`
		} `json:"node"`
	}
	c.decode(local.stdout, &st)
	return fmt.Sprintf("nodes: %v\nservices: %s\nworker-2: %s %s\n", nodes, strings.TrimSpace(services), st.Node.Phase, st.Node.ClusterID)
}

// token makes a join token and returns it with its id.
func (c *cluster) token(args ...string) (token, id string) {
	c.t.Helper()
	token = strings.TrimSpace(c.ok("manager-1", append([]string{"join-token"}, append(args, "-q")...)...))
	return token, strings.Split(token, ".")[1]
}

func (c *cluster) tokenState(id string) string {
	c.t.Helper()
	var all []struct {
		ID    string `json:"id"`
		State string `json:"state"`
	}
	c.decode(c.ok("manager-1", "join-token", "ls", "--format", "json"), &all)
	for _, tok := range all {
		if tok.ID == id {
			return tok.State
		}
	}
	return "not listed"
}

func badTokens(t *testing.T, c *cluster) {
	manager := c.host("manager-1").Address
	join := func(code int, want, token string) {
		t.Helper()
		c.refused("worker-2", code, want, []byte(token), "join", manager)
	}
	good, goodID := c.token("worker")
	parts := strings.Split(good, ".")
	with := func(i int, s string) string {
		p := slices.Clone(parts)
		p[i] = s
		return strings.Join(p, ".")
	}

	expired, id := c.token("worker", "--ttl", "1s")
	eventually(t, 20*time.Second, func() string {
		if s := c.tokenState(id); s != "expired" {
			return "the token is " + s
		}
		return ""
	})
	join(1, "has expired", expired)

	revoked, id := c.token("worker")
	c.ok("manager-1", "join-token", "revoke", id)
	join(1, "was revoked", revoked)
	c.refused("manager-1", 1, "no such join token", nil, "join-token", "revoke", "nosuchtoken")

	spent, id := c.token("worker")
	if r := c.onIn("worker-2", []byte(spent), "join", manager); r.code != 0 {
		t.Fatalf("a good token: %v", r)
	}
	joined := c.onIn("worker-2", nil, "status", "--format", "json").stdout
	c.ok("worker-2", "leave")
	c.ok("manager-1", "node", "rm", "--force", field(t, joined, "node_id"))
	if s := c.tokenState(id); s != "used up" {
		t.Errorf("a token of one use is %s after it", s)
	}
	join(1, "used up", spent)

	_, otherID := c.token("worker")
	join(1, "truncated", good[:100])
	join(1, "truncated", strings.Join(parts[:4], "."))
	join(1, "begins with RDT1", "hunter2hunter2")
	join(1, "begins with RDT1", "RDT9"+good[4:])
	join(1, "no join token was given", "")
	join(1, "more than one line", good+"\n"+revoked)
	join(1, "longer than", strings.Repeat("a", 5000))
	join(1, "not accepted", with(1, otherID))                        // another token's id
	join(1, "not accepted", with(2, strings.Split(revoked, ".")[2])) // another token's seed
	join(1, "not accepted", with(1, strings.Repeat("a", 26)))
	join(5, "another cluster", with(4, strings.Repeat("a", 26)))
	join(5, "root", with(3, parts[2])) // pins another root

	named, _ := c.token("worker", "--node-name", "somebody-else")
	join(1, "another name", named)
	far, _ := c.token("worker", "--cidr", "192.0.2.0/24")
	join(1, "source address", far)

	// None of that used the good one up.
	if s := c.tokenState(goodID); s != "valid" {
		t.Errorf("the good token is %s after so many bad ones", s)
	}
}

// field is a string in the JSON that status prints for the node.
func field(t *testing.T, text, name string) string {
	t.Helper()
	var v struct {
		Node map[string]any `json:"node"`
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	s, ok := v.Node[name].(string)
	if !ok {
		t.Fatalf("no %s in %s", name, text)
	}
	return s
}

func badAddresses(t *testing.T, c *cluster) {
	token, id := c.token("worker")
	other := c.host("worker-1").Address
	for _, address := range []string{
		net.JoinHostPort(c.host("manager-1").Address, "1"),
		other,       // a worker
		"127.0.0.1", // this very node
	} {
		r := c.onIn("worker-2", []byte(token), "join", address)
		if r.code != 1 && r.code != 6 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "redoubt: ") || !strings.Contains(r.stderr, strings.Split(address, ":")[0]) {
			t.Errorf("join to %s: %v", address, r)
		}
	}
	// Something else that speaks TLS there is not believed.
	c.lab("registry")
	_, gateway, _ := strings.Cut(c.host("manager-1").Address, "10.")
	gateway = "10." + gateway[:strings.LastIndexByte(gateway, '.')] + ".1"
	r := c.onIn("worker-2", []byte(token), "join", net.JoinHostPort(gateway, "5000"))
	if r.code == 0 || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("join to a registry: %v", r)
	}
	c.refused("worker-2", 2, "host:port", []byte(token), "join", "bad host")
	c.refused("worker-2", 2, "port must be", []byte(token), "join", "192.0.2.1:0")
	c.refused("worker-2", 2, "at least 1 argument", []byte(token), "join")
	c.refused("worker-2", 2, "not taken from the command line", nil, "join", token, "192.0.2.1")
	c.refused("worker-2", 2, "others cannot reach", []byte(token), "join", "--advertise", "0.0.0.0", c.host("manager-1").Address)
	if s := c.tokenState(id); s != "valid" {
		t.Errorf("the token is %s", s)
	}
}

func badArguments(t *testing.T, c *cluster) {
	on := func(code int, want string, args ...string) {
		t.Helper()
		c.refused("manager-1", code, want, nil, args...)
	}
	create := func(code int, want string, args ...string) {
		t.Helper()
		on(code, want, append(append([]string{"service", "create"}, args...), image)...)
	}
	on(2, "unknown flag", "node", "ls", "--nope")
	on(2, "unknown command", "nodes")
	on(2, "did you mean", "service", "crate")
	on(2, "use table, json or a template", "node", "ls", "--format", "yaml")
	create(2, "unknown flag", "--replica", "2")
	create(2, "at most 63", "--name", strings.Repeat("a", 64))
	for _, name := range []string{"../x", "a/b", "UPPER", "a b", ".", "-x", "x-", "_b", "a_", "é", "a\x1b[2Jb", ""} {
		create(2, "name", "--name="+name)
	}
	create(2, "0 or more", "--replicas=-1")
	create(2, "no number", "--replicas", "ten")
	create(2, "at most", "--replicas", "10000000")
	create(2, "replicated, global, replicated-job or global-job", "--mode", "weird")
	create(2, "once on every node", "--mode", "global", "--replicas", "2")
	create(2, "use ingress or host", "-p", "published=8080,target=80,mode=vip")
	create(1, "what managers listen on", "-p", "2377:80")
	create(1, "endpoint mode", "-p", "8080:80", "--endpoint-mode", "dnsrr")
	create(1, "use node.id, node.role", "-p", "8080:80", "--ingress-constraint", "node.hostname==a")
	create(2, "1 to 65535", "-p", "published=70000,target=80,mode=host")
	create(2, "published twice", "-p", "published=80,target=80,mode=host", "-p", "published=80,target=81,mode=host")
	create(2, "absolute", "--mount", "type=bind,source=../etc,target=/x")
	create(2, "not supported", "--mount", "type=image,source=x,target=/x")
	create(2, "has no name", "--mount", "type=volume,target=/x")
	create(2, "mounts something of elsewhere", "--mount", "source=x,target=/x,volume-opt=device=/dev/sda")
	create(2, "size", "--limit-memory", "lots")
	create(1, "at least", "--limit-memory", "1")
	create(1, "unknown", "--constraint", "node.nolabel==x")
	create(1, "KEY==VALUE", "--constraint", "garbage")
	on(2, "no image", "service", "create", "--name", "x", "")
	on(1, "no service", "service", "scale", "nosuch=2")
	on(1, "no service", "service", "update", "nosuch", "--env-add", "A=1")
	on(1, "no service", "service", "rm", "nosuch")
	on(1, "no service", "service", "ps", "nosuch")
	on(1, "no service", "service", "logs", "nosuch")
	on(1, "no node", "node", "update", "--availability", "drain", "nosuch")
	on(2, "active, pause, drain", "node", "update", "--availability", "off", "worker-1")
	on(2, "only unix", "--host", "tcp://192.0.2.1:2377", "node", "ls")
	on(2, "positive", "join-token", "worker", "--ttl", "-5m")
	on(1, "out of bounds", "join-token", "worker", "--ttl", "100000h")
	on(2, "1 or more", "join-token", "worker", "--uses", "-1")
	on(1, "one use", "join-token", "manager", "--uses", "2")

	c.ok("manager-1", "service", "create", "--name", "dup", "--replicas", "0", image)
	defer c.ok("manager-1", "service", "rm", "dup")
	create(1, "exists already", "--name", "dup", "--replicas", "0")
	on(2, "0 or more", "service", "scale", "dup=-1")
	on(2, "no number", "service", "scale", "dup=many")
	on(2, "at most", "service", "scale", "dup=10000000")
	on(2, "SERVICE=REPLICAS", "service", "scale", "dup")
	on(2, "nothing to change", "service", "update", "dup")
	var got []struct {
		Name   string `json:"name"`
		Wanted uint64 `json:"wanted"`
	}
	c.decode(c.ok("manager-1", "service", "ls", "--format", "json"), &got)
	if len(got) != 1 || got[0].Name != "dup" || got[0].Wanted != 0 {
		t.Errorf("services after so many refusals: %+v", got)
	}
}
