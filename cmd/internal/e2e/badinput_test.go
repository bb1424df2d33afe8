package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
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
	// What it left behind is removed once, and not twice.
	c.ok("manager-1", "node", "rm", "--force", id)
	c.refused("manager-1", 1, "no node", nil, "node", "rm", id)
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
	for _, name := range []string{"../x", "a/b", "UPPER", "a b", ".", "-x", "x-", "a_b", "é", "a\x1b[2Jb", ""} {
		create(2, "name", "--name="+name)
	}
	create(2, "0 or more", "--replicas=-1")
	create(2, "no number", "--replicas", "ten")
	create(2, "at most", "--replicas", "10000000")
	create(2, "replicated or global", "--mode", "weird")
	create(2, "once on every node", "--mode", "global", "--replicas", "2")
	create(2, "mode=host", "-p", "8080:80")
	create(2, "mode=host", "-p", "published=8080,target=80")
	create(2, "mode=host", "-p", "published=8080,target=80,mode=ingress")
	create(2, "1 to 65535", "-p", "published=70000,target=80,mode=host")
	create(2, "published twice", "-p", "published=80,target=80,mode=host", "-p", "published=80,target=81,mode=host")
	create(2, "absolute", "--mount", "type=bind,source=../etc,target=/x")
	create(2, "not supported", "--mount", "type=volume,source=x,target=/x")
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

func badImages(t *testing.T, c *cluster) {
	dir := t.TempDir()
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	load := func(want, path string) {
		t.Helper()
		r := run(t, nil, "lab", "load", "--name", c.name, path)
		if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("load %s: want exit 1 and a line with %q, got %v", filepath.Base(path), want, r)
		}
	}
	load("not a complete tar archive", write("broken.tar", []byte(strings.Repeat("no tar ", 4000))))
	load("not a complete tar archive", write("cut.tar", whole[:len(whole)/2]))
	load("not an image archive", write("empty.tar", nil))
	load("no such file", filepath.Join(dir, "nosuch.tar"))
	marker := filepath.Join(os.TempDir(), "redoubt-e2e-escaped")
	load("not an image archive", write("escape.tar", escapingArchive(t, marker)))
	load("made for linux/s390x", write("arch.tar", foreignArchive(t)))
	for _, p := range []string{marker, filepath.Join(c.host("worker-1").DataDir, filepath.Base(marker))} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("an archive wrote %s", p)
		}
	}
	c.refused("manager-1", 1, "nosuch:1", nil, "service", "create", "--name", "x", "registry.lab:5000/nosuch:1")
	c.refused("manager-1", 1, "not a reference", nil, "service", "create", "--name", "x", image+"@sha256:abcd")
	c.refused("manager-1", 1, "UPPER", nil, "service", "create", "--name", "x", "redoubt.lab/UPPER:1")
}

// stuck creates a service that cannot come up and says why within its time.
func (c *cluster) stuck(want string, args ...string) {
	c.t.Helper()
	r := c.onIn("manager-1", nil, append([]string{"service", "create", "--name", "stuck", "--timeout", "3s", "-q"}, args...)...)
	if r.code != 3 || !strings.Contains(r.stderr, "not converged within 3s") || !strings.Contains(r.stderr, want) {
		c.t.Errorf("create %v: want exit 3 and %q, got %v", args, want, r)
	}
	if r.code == 3 {
		if ps := c.ok("manager-1", "service", "ps", "--no-trunc", "stuck"); !strings.Contains(ps, want) {
			c.t.Errorf("service ps does not say %q:\n%s", want, ps)
		}
		c.ok("manager-1", "service", "rm", "stuck")
	}
}

func impossibleRequests(t *testing.T, c *cluster) {
	c.stuck("memory", "--reserve-memory", "60t", image)
	c.stuck("free cores", "--reserve-cpu", "4000", image)
	c.stuck("lacks label disk=ssd", "--constraint", "node.labels.disk==ssd", image)
	c.stuck("port 8099/tcp in use", "--replicas", "2", "-p", "published=8099,target=80,mode=host", image)
	c.stuck("exit code 3", image, "exit", "3")
	c.stuck("allow-list", "--mount", "type=bind,source=/etc,target=/x", image)
	c.stuck("nosuchuser", "--user", "nosuchuser", image)
	c.refused("manager-1", 1, "reserved memory", nil, "service", "create", "--name", "x", "--reserve-memory", "100t", image)
}

func portInUse(t *testing.T, c *cluster) {
	stop := c.holdPort("worker-1", "8077")
	defer stop()
	c.stuck("port 8077/tcp is in use on this node", "-p", "published=8077,target=80,mode=host", image)
}

func staleVersion(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--name", "stale", "--replicas", "0", image)
	defer c.ok("manager-1", "service", "rm", "stale")
	api, err := apiclient.Dial(t.Context(), filepath.Join(c.host("manager-1").RunDir, apiclient.APISocket))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	r, err := api.ListServices(t.Context(), &controlpb.ListServicesRequest{Services: []string{"stale"}})
	if err != nil {
		t.Fatal(err)
	}
	svc := r.Services[0].Service
	c.ok("manager-1", "service", "update", "-d", "--label-add", "by=another", "stale")
	svc.Spec.Labels = map[string]string{"by": "me"}
	_, err = api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: svc.Id, Version: svc.GetMeta().GetVersion(), Spec: svc.Spec})
	if e := apierr.Decode(err); err == nil || e.Reason != apierr.ReasonConflict {
		t.Errorf("an update from a stale version: %v", err)
	}
	if out := c.ok("manager-1", "service", "inspect", "stale"); !strings.Contains(out, "by=another") {
		t.Errorf("the stale update won:\n%s", out)
	}
}

func badRemovals(t *testing.T, c *cluster) {
	c.refused("manager-1", 1, "is up", nil, "node", "rm", "worker-1")
	c.refused("manager-1", 1, "is up", nil, "node", "rm", "manager-1")
	c.refused("manager-1", 1, "does not take itself out", nil, "node", "rm", "--force", "manager-1")
	c.refused("manager-1", 1, "no node", nil, "node", "rm", "nosuch")
	c.refused("manager-1", 1, "no node", nil, "node", "rm", "../manager-1")
	c.refused("manager-1", 1, "no node", nil, "node", "promote", "nosuch")
	c.refused("manager-1", 1, "is a manager already", nil, "node", "promote", "manager-1")
	c.refused("manager-1", 1, "does not take itself out", nil, "node", "demote", "manager-1")
	c.refused("manager-1", 1, "is a worker already", nil, "node", "demote", "worker-1")
	c.refused("manager-1", 2, "use `redoubt node promote`", nil, "node", "update", "--role", "manager", "worker-1")
	c.refused("manager-1", 1, "the cluster and all its services are lost", nil, "leave")
}

func notOnWorkers(_ *testing.T, c *cluster) {
	for _, args := range [][]string{
		{"node", "ls"}, {"node", "rm", "worker-2"}, {"join-token", "worker"}, {"join-token", "ls"}, {"unlock-key", "rotate"},
		{"unlock-key", "slot", "ls"}, {"service", "ls"}, {"service", "create", "--name", "x", image}, {"service", "logs", "x"}, {"service", "rm", "x"},
	} {
		c.refused("worker-1", 5, "run the command on a manager", nil, args...)
		c.refused("worker-2", 1, "in no cluster", nil, args...)
	}
	c.refused("worker-1", 1, "no manager", nil, "unlock")
	c.refused("worker-2", 1, "in no cluster", nil, "leave")
}

// badConfig: the daemon says which key in which line and is tried again, ever
// less often; once the file is right it comes up without anybody's help.
func badConfig(t *testing.T, c *cluster) {
	h := c.host("worker-2")
	dir := filepath.Dir(h.DataDir)
	path := filepath.Join(dir, "config.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(good), "  dns:", "  dsn:", 1)
	line := strings.Count(bad[:strings.Index(bad, "  dsn:")], "\n") + 1
	c.lab("stop", "worker-2")
	if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "redoubt-node.log")
	old, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan result, 1)
	go func() { started <- run(t, nil, "lab", "start", "--name", c.name, "worker-2") }()
	ended := regexp.MustCompile(`"time":"([^"]+)".*redoubtd: ended \(exit code 2\)`)
	eventually(t, time.Minute, func() string {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b[len(old):])
		if want := fmt.Sprintf(`config.yaml: line %d: unknown key "dsn"`, line); !strings.Contains(text, want) {
			return "the log does not say: " + want
		}
		var at []time.Time
		for _, m := range ended.FindAllStringSubmatch(text, -1) {
			when, err := time.Parse(time.RFC3339Nano, m[1])
			if err != nil {
				t.Fatal(err)
			}
			at = append(at, when)
		}
		if len(at) < 5 {
			return fmt.Sprintf("redoubtd was started %d times", len(at))
		}
		if first, last := at[1].Sub(at[0]), at[len(at)-1].Sub(at[len(at)-2]); last < 3*first {
			t.Errorf("no back-off: pauses of %v at first and %v at last", first, last)
		}
		return ""
	})
	if err := os.WriteFile(path, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := <-started; r.code != 0 {
		t.Errorf("lab start, the file being right again: %v", r)
	}
}

// twice: who is a member founds and joins nothing else, and a directory that
// held a store is not silently used again.
func twice(t *testing.T, c *cluster) {
	token, id := c.token("worker")
	c.refused("manager-1", 1, "already in cluster", nil, "init")
	c.refused("worker-1", 1, "already in cluster", nil, "init")
	c.refused("manager-1", 1, "already in cluster", []byte(token), "join", "192.0.2.1")
	c.refused("worker-1", 1, "already in cluster", []byte(token), "join", c.host("manager-1").Address)
	used := filepath.Join(c.host("worker-2").DataDir, "control", "raft")
	if err := os.Mkdir(used, 0o700); err != nil {
		t.Fatal(err)
	}
	manager := c.host("manager-1").Address
	c.refused("worker-2", 1, "holds a store", []byte(token), "join", manager)
	r := c.onIn("worker-2", nil, "init")
	if r.code != 1 || !strings.Contains(r.stderr, "holds a store") || !strings.Contains(r.stderr, "the key above opens nothing") {
		t.Errorf("init on a used directory: %v", r)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("the store that was there: %v", err)
	}
	if err := os.Remove(used); err != nil {
		t.Fatal(err)
	}
	if s := c.tokenState(id); s != "valid" {
		t.Errorf("the token is %s", s)
	}
}

func badKeys(t *testing.T, c *cluster) {
	key := c.key()
	c.refused("manager-1", 1, "not locked", key, "unlock")
	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	defer c.unlock("manager-1")
	text := strings.TrimSpace(string(key))
	flipped := []byte(text)
	if i := len("RDTKEY-") + 3; flipped[i] == 'A' {
		flipped[i] = 'B'
	} else {
		flipped[i] = 'A'
	}
	for _, k := range []struct{ want, key string }{
		{"nothing was changed", newKey(t)},
		{"nothing was changed", string(flipped)},
		{"nothing was changed", text[:40]},
		{"nothing was changed", "hunter2hunter2"},
		{"nothing was changed", ""},
		{"nothing was changed", strings.Repeat("A", 5000)},
		{"nothing was changed", "RDTKEY-\x00\x01\xff"},
		{"more than one line", text + "\n" + text},
	} {
		c.refused("manager-1", 4, k.want, []byte(k.key), "unlock")
	}
	c.refused("manager-1", 2, "not taken from the command line", nil, "unlock", newKey(t))
	for _, args := range [][]string{{"status"}, {"node", "ls"}, {"service", "ls"}, {"join-token", "worker"}, {"unlock-key", "rotate"}} {
		c.refused("manager-1", 4, "locked", nil, args...)
	}
	c.refused("manager-1", 1, "already in cluster", nil, "init")
	c.refused("manager-1", 1, "for good", nil, "leave")
}
