package dockerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/cli/clitest"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// gateway is a gateway before a fake node.
type gateway struct {
	t      *testing.T
	client *http.Client
	socket string
	server *Server
}

// serve begins one whose node is in that state.
func serve(t *testing.T, state string) *gateway {
	t.Helper()
	dir := t.TempDir()
	fake, err := clitest.New(state)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := fake.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	self := Self{Phase: controlpb.NodePhase_NODE_PHASE_ACTIVE, Manager: true, NodeID: "self", ClusterID: "cluster", Address: "192.0.2.1:2377"}
	switch state {
	case "empty":
		self = Self{Phase: controlpb.NodePhase_NODE_PHASE_EMPTY}
	case "locked":
		self.Phase = controlpb.NodePhase_NODE_PHASE_LOCKED
	case "worker":
		self.Manager = false
	case "leaderless":
		self.Phase = controlpb.NodePhase_NODE_PHASE_NO_QUORUM
	case "broken":
		self.Phase, self.Message = controlpb.NodePhase_NODE_PHASE_BROKEN, "a file is damaged"
	}
	keyd := apiclient.NewKeyd(filepath.Join(dir, apiclient.UnlockSocket))
	t.Cleanup(func() { keyd.Close() })
	g := &gateway{t: t, socket: filepath.Join(dir, "docker.sock")}
	g.server = New(Config{
		Operator: func(ctx context.Context, _ uint32, _ *net.UnixConn) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, apiclient.APISocket))
		},
		Self: func() Self { return self }, Recipient: keyd.Recipient, Log: slog.New(slog.DiscardHandler),
	})
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { g.server.Serve(ctx, l) })
	g.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", g.socket)
	}}}
	t.Cleanup(func() {
		g.client.CloseIdleConnections()
		cancel()
		wg.Wait()
	})
	return g
}

// do makes a request and returns the answer's code and body.
func (g *gateway) do(method, path, body string, headers ...string) (int, string) {
	g.t.Helper()
	req, err := http.NewRequest(method, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := g.client.Do(req)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(data)
}

// ok is do of what must succeed, whose answer is decoded into v where that is not nil.
func (g *gateway) ok(method, path, body string, v any) {
	g.t.Helper()
	code, text := g.do(method, path, body)
	if code >= 300 {
		g.t.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			g.t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
}

// refused is do of what must fail, in Docker's form.
func (g *gateway) refused(code int, want, method, path, body string, headers ...string) {
	g.t.Helper()
	got, text := g.do(method, path, body, headers...)
	var e struct{ Message string }
	if got != code || json.Unmarshal([]byte(text), &e) != nil || !strings.Contains(e.Message, want) {
		g.t.Errorf("%s %s: want %d with %q, got %d %s", method, path, code, want, got, text)
	}
}

const webSpec = `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"app:1"}},"Mode":{"Replicated":{"Replicas":2}}}`

// TestVersions: each version that is spoken is, with and without its number in the path,
// and one that is not is refused as Docker does.
func TestVersions(t *testing.T) {
	g := serve(t, "active")
	g.ok("POST", "/services/create", webSpec, nil)
	paths := []string{"/_ping", "/version", "/info", "/swarm", "/nodes", "/services", "/services/web", "/services?status=true", "/tasks", "/secrets", "/configs", "/networks", "/volumes"}
	for minor := minMinor - 1; minor <= maxMinor+1; minor++ {
		for _, p := range paths {
			path := fmt.Sprintf("/v1.%d%s", minor, p)
			switch {
			case minor < minMinor:
				g.refused(400, "client version 1.39 is too old. Minimum supported API version is 1.40", "GET", path, "")
			case minor > maxMinor:
				g.refused(400, "client version 1.52 is too new. Maximum supported API version is 1.51", "GET", path, "")
			default:
				g.ok("GET", path, "", nil)
			}
		}
	}
	for _, p := range paths {
		g.ok("GET", p, "", nil)
	}
	g.refused(400, "too new", "GET", "/v2.0/nodes", "")
	g.refused(404, "page not found", "GET", "/v1.x/nodes", "")
	g.refused(404, "page not found", "GET", "/v1.9999/nodes", "")
	var with, without []struct {
		ServiceStatus *struct{ RunningTasks uint64 }
	}
	g.ok("GET", "/v1.41/services?status=1", "", &with)
	g.ok("GET", "/v1.40/services?status=1", "", &without)
	if with[0].ServiceStatus == nil || with[0].ServiceStatus.RunningTasks != 2 || without[0].ServiceStatus != nil {
		t.Error("the counts of tasks are version 1.41's")
	}
}

// TestPing: the head says what the node is, which the command goes by, and HEAD does as
// GET does.
func TestPing(t *testing.T) {
	for state, want := range map[string]string{"active": "active/manager", "worker": "active/worker", "empty": "inactive", "locked": "locked", "leaderless": "active/manager", "broken": "error"} {
		g := serve(t, state)
		for _, method := range []string{"GET", "HEAD"} {
			resp, err := g.client.Do(must(http.NewRequest(method, "http://docker/_ping", nil)))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			h := resp.Header
			if h.Get("Swarm") != want || h.Get("Api-Version") != "1.51" || h.Get("Ostype") != "linux" || h.Get("Builder-Version") != "1" || (method == "GET") != (string(body) == "OK") {
				t.Errorf("%s, %s: %v %q", state, method, h, body)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestStates: a node that does not speak for a cluster says so in Docker's words, and
// tells of itself all the same.
func TestStates(t *testing.T) {
	for state, want := range map[string]struct {
		text, local string
		controls    bool
	}{
		"empty":      {notSwarm, "inactive", false},
		"worker":     {notManager, "active", false},
		"locked":     {"needs to be unlocked", "locked", false},
		"leaderless": {leaderless, "active", true},
	} {
		g := serve(t, state)
		for _, path := range []string{"/nodes", "/services", "/services/x", "/tasks", "/secrets", "/configs", "/networks", "/swarm", "/services/x/logs?stdout=1"} {
			if state == "leaderless" && path != "/nodes" && path != "/services" {
				continue // the fake answers some of it
			}
			g.refused(503, want.text, "GET", path, "")
		}
		var info struct {
			Swarm struct {
				LocalNodeState   string
				ControlAvailable bool
			}
		}
		g.ok("GET", "/info", "", &info)
		if info.Swarm.LocalNodeState != want.local || info.Swarm.ControlAvailable != want.controls {
			t.Errorf("%s: %+v", state, info)
		}
	}
}

// TestElsewhere: what is a machine's and not the cluster's is refused with what to use,
// and what is no part of the API is not found.
func TestElsewhere(t *testing.T) {
	g := serve(t, "active")
	for _, path := range []string{"POST /containers/create", "GET /containers/json", "GET /images/json", "POST /build", "POST /v1.44/exec/x/start", "POST /auth", "GET /system/df",
		"PUT /volumes/x", "GET /plugins", "POST /networks/prune", "POST /networks/x/connect", "POST /session", "POST /commit", "GET /distribution/x"} {
		method, p, _ := strings.Cut(path, " ")
		g.refused(501, "is not answered by Redoubt. ", method, p, "")
	}
	for _, path := range []string{"GET /", "GET /nothing", "GET /v1.44/", "PUT /nodesx"} {
		method, p, _ := strings.Cut(path, " ")
		g.refused(404, "page not found", method, p, "")
	}
	for part, words := range parts {
		if strings.Count(words, "\n") > 0 || !strings.HasSuffix(words, ".") {
			t.Errorf("%s: %s", part, words)
		}
	}
}

// TestBadRequests: what is wrong with a request is said in Docker's form, and nothing is
// made.
func TestBadRequests(t *testing.T) {
	g := serve(t, "active")
	g.ok("POST", "/services/create", webSpec, nil)
	const create = "/services/create"
	g.refused(400, "must be 'application/json'", "POST", create, webSpec, "Content-Type", "text/plain")
	g.refused(400, "invalid JSON", "POST", create, `{"Name":`)
	g.refused(400, `"Nmae" is not known here`, "POST", create, `{"Nmae":"x"}`)
	g.refused(400, `key "Name" is there twice`, "POST", create, `{"Name":"a","Name":"b"}`)
	g.refused(400, "something follows", "POST", create, webSpec+webSpec)
	g.refused(400, "ContainerSpec is missing", "POST", create, `{"Name":"x"}`)
	g.refused(413, "longer than", "POST", create, `{"Name":"`+strings.Repeat("x", maxBody)+`"}`)
	g.refused(409, "exists", "POST", create, webSpec)
	g.refused(501, "credentials for a registry are secrets", "POST", create, strings.Replace(webSpec, "web", "other", 1), "X-Registry-Auth", "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==")
	g.refused(400, "no JSON in base64", "POST", create, webSpec, "X-Registry-Auth", "%%%")
	g.refused(404, "service nothing not found", "GET", "/services/nothing", "")
	g.refused(404, "service nothing not found", "DELETE", "/services/nothing", "")
	g.refused(400, "invalid version ''", "POST", "/services/web/update", webSpec)
	g.refused(409, "update out of sequence", "POST", "/services/web/update?version=999", webSpec)
	g.refused(400, "unrecognized rollback option", "POST", "/services/web/update?version=1&rollback=sideways", webSpec)
	g.refused(400, "does not have a previous spec", "POST", "/services/web/update?version=1&rollback=previous", webSpec)
	g.refused(400, "is not supported here", "POST", "/services/web/update?version=1&sideways=1", webSpec)
	g.refused(400, "invalid filter 'colour'", "GET", `/services?filters={"colour":["red"]}`, "")
	g.refused(400, "invalid filter", "GET", `/services?filters={"label":3}`, "")
	g.refused(400, "is switched off", "GET", `/services?filters={"label":{"a":false}}`, "")
	g.refused(400, "invalid filter 'mode=sideways'", "GET", `/services?filters={"mode":["sideways"]}`, "")
	g.refused(400, "you must choose at least one stream", "GET", "/services/web/logs", "")
	g.refused(400, "invalid tail", "GET", "/services/web/logs?stdout=1&tail=-4", "")
	g.refused(400, "invalid since", "GET", "/services/web/logs?stdout=1&since=noon", "")
	var all []struct{ ID string }
	g.ok("GET", "/services", "", &all)
	if len(all) != 1 {
		t.Errorf("%d services after refusals", len(all))
	}
}

// TestFilters: both forms, and each filter of services.
func TestFilters(t *testing.T) {
	g := serve(t, "active")
	g.ok("POST", "/services/create", webSpec, nil)
	g.ok("POST", "/services/create", `{"Name":"db","Labels":{"tier":"back"},"TaskTemplate":{"ContainerSpec":{"Image":"db:1"}},"Mode":{"Global":{}}}`, nil)
	for filter, want := range map[string]string{
		``: "db web", `{"name":["web"]}`: "web", `{"name":{"w":true}}`: "web", `{"label":["tier"]}`: "db", `{"label":["tier=back"]}`: "db",
		`{"label":["tier=front"]}`: "", `{"mode":["global"]}`: "db", `{"mode":["replicated-job"]}`: "", `{"name":["web","db"]}`: "db web", `{"runtime":["plugin"]}`: "",
	} {
		var all []struct{ Spec struct{ Name string } }
		g.ok("GET", "/services?filters="+filter, "", &all)
		var got []string
		for _, s := range all {
			got = append(got, s.Spec.Name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
	}
}

// TestVolumes: made once, or found where it is as it is wanted; listed, pruned and removed
// as Docker does.
func TestVolumes(t *testing.T) {
	g := serve(t, "active")
	var v struct {
		Name, Driver, Scope, CreatedAt, Mountpoint string
		Labels, Options                            map[string]string
	}
	g.ok("POST", "/volumes/create", `{"Name":"db","Driver":"local","DriverOpts":{"size":"1GiB"},"Labels":{"a":"b"}}`, &v)
	if v.Name != "db" || v.Driver != "local" || v.Scope != "local" || v.Labels["a"] != "b" || v.Options["size"] != "1GiB" || v.Mountpoint != "" || v.CreatedAt == "" {
		t.Errorf("made: %+v", v)
	}
	g.ok("POST", "/volumes/create", `{"Name":"db"}`, &v)
	g.refused(409, "its options are size=1GiB, and not size=2GiB", "POST", "/volumes/create", `{"Name":"db","DriverOpts":{"size":"2GiB"}}`)
	g.refused(400, "a volume has a name here", "POST", "/volumes/create", `{}`)
	g.refused(501, "ClusterVolumeSpec", "POST", "/volumes/create", `{"Name":"x","ClusterVolumeSpec":{"Group":"g"}}`)
	g.ok("POST", "/volumes/create", `{"Name":"spare","Driver":"local","Labels":{"keep":"yes"}}`, nil)
	g.ok("POST", "/services/create", strings.Replace(webSpec, `"Image":"app:1"`, `"Image":"app:1","Mounts":[{"Source":"db","Target":"/data"}]`, 1), nil)
	for filter, want := range map[string]string{``: "db spare", `{"dangling":["true"]}`: "spare", `{"dangling":{"0":true}}`: "db", `{"label":["a"]}`: "db", `{"name":["sp"]}`: "spare", `{"driver":["nfs"]}`: ""} {
		var all struct{ Volumes []struct{ Name string } }
		g.ok("GET", "/volumes?filters="+filter, "", &all)
		var got []string
		for _, v := range all.Volumes {
			got = append(got, v.Name)
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
	}
	g.refused(409, "volume db is in use by service web", "DELETE", "/volumes/db", "")
	g.refused(404, "get none: no such volume", "DELETE", "/volumes/none", "")
	g.refused(404, "get none: no such volume", "GET", "/volumes/none", "")
	g.ok("DELETE", "/volumes/none?force=1", "", nil)
	var pruned struct{ VolumesDeleted []string }
	for _, step := range []struct{ path, want string }{
		{"/v1.44/volumes/prune", ""}, {`/v1.44/volumes/prune?filters={"all":["true"],"label!":["keep"]}`, ""},
		{`/v1.44/volumes/prune?filters={"all":["true"],"label":["keep=yes"]}`, "spare"}, {"/v1.41/volumes/prune", ""},
	} {
		g.ok("POST", step.path, "", &pruned)
		if got := strings.Join(pruned.VolumesDeleted, " "); got != step.want {
			t.Errorf("%s: %q, want %q", step.path, got, step.want)
		}
	}
	g.ok("DELETE", "/services/web", "", nil)
	g.ok("GET", "/volumes/db", "", &v)
	g.ok("POST", "/v1.41/volumes/prune", "", &pruned)
	if !slices.Equal(pruned.VolumesDeleted, []string{"db"}) {
		t.Errorf("pruned by an old client: %v", pruned)
	}
}

// TestServiceLife: made, seen, scaled at the version that was read, and removed.
func TestServiceLife(t *testing.T) {
	g := serve(t, "active")
	var made struct{ ID string }
	g.ok("POST", "/v1.44/services/create", webSpec, &made)
	var svc struct {
		Version struct{ Index uint64 }
		Spec    json.RawMessage
	}
	g.ok("GET", "/services/"+made.ID, "", &svc)
	next := strings.Replace(string(svc.Spec), `"Replicas":2`, `"Replicas":3`, 1)
	g.ok("POST", fmt.Sprintf("/services/web/update?version=%d&registryAuthFrom=spec", svc.Version.Index), next, nil)
	g.refused(409, "update out of sequence", "POST", fmt.Sprintf("/services/web/update?version=%d", svc.Version.Index), next)
	var tasks []struct {
		ServiceID string
		Slot      int
		Status    struct{ State string }
	}
	g.ok("GET", `/tasks?filters={"service":{"web":true},"desired-state":{"running":true}}`, "", &tasks)
	if len(tasks) != 3 || tasks[0].ServiceID != made.ID || tasks[0].Status.State != "running" {
		t.Errorf("%+v", tasks)
	}
	g.ok("GET", `/tasks?filters={"service":["nothing"]}`, "", &tasks)
	if len(tasks) != 0 {
		t.Errorf("tasks of no service: %+v", tasks)
	}
	g.ok("DELETE", "/services/web", "", nil)
	g.refused(404, "not found", "GET", "/services/web", "")
}

// TestSecret: what is in a secret goes in, and does not come out.
func TestSecret(t *testing.T) {
	g := serve(t, "active")
	const plain = "correct horse battery staple"
	body, _ := json.Marshal(map[string]any{"Name": "pw", "Labels": map[string]string{"a": "b"}, "Data": []byte(plain)})
	var made struct{ ID string }
	g.ok("POST", "/secrets/create", string(body), &made)
	// The fake says what was sealed, where others say nothing.
	holds := fmt.Sprintf("%x", plain)
	var sec struct {
		Spec struct{ Labels map[string]string }
	}
	g.ok("GET", "/secrets/pw", "", &sec)
	if sec.Spec.Labels["holds"] != holds {
		t.Errorf("what was sealed is not what was given: %v", sec)
	}
	for _, path := range []string{"/secrets", "/secrets/pw", "/secrets/" + made.ID} {
		_, text := g.do("GET", path, "")
		if !strings.Contains(text, `"Name":"pw"`) || strings.Contains(text, plain) || strings.Contains(text, "Data") {
			t.Errorf("%s: %s", path, text)
		}
	}
	g.refused(400, "the secret is empty", "POST", "/secrets/create", `{"Name":"x"}`)
	g.refused(501, "Driver", "POST", "/secrets/create", `{"Name":"x","Data":"eA==","Driver":{"Name":"vault"}}`)
	g.refused(409, "update out of sequence", "POST", "/secrets/pw/update?version=9", `{"Name":"pw","Labels":{"a":"b","holds":"`+holds+`"},"Data":"eA=="}`)
	g.ok("POST", "/secrets/pw/update?version=1", `{"Name":"pw","Labels":{"a":"b","holds":"`+holds+`"},"Data":"eA=="}`, nil)
	if g.ok("GET", "/secrets/pw", "", &sec); sec.Spec.Labels["holds"] != "78" {
		t.Errorf("new data is not what it holds: %v", sec)
	}
	g.refused(501, "labels of a secret", "POST", "/secrets/pw/update?version=1", `{"Name":"pw","Labels":{"a":"c"}}`)
	g.ok("DELETE", "/secrets/pw", "", nil)
}

// TestHead: a head that is too long is refused.
func TestHead(t *testing.T) {
	g := serve(t, "active")
	conn, err := net.Dial("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go conn.Write(append([]byte("GET /_ping HTTP/1.1\r\nHost: docker\r\nX: "), bytes.Repeat([]byte("x"), 2*maxHeader)...))
	answer, _ := io.ReadAll(conn)
	if !bytes.Contains(answer, []byte("431 ")) {
		t.Errorf("%.200s", answer)
	}
}
