package e2e

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

const (
	peerImage = "redoubt.lab/spiffepeer:1"
	// inContainer is where a container has the Workload API.
	inContainer = "/run/redoubt/spiffe"
)

// TestWorkloadIdentity: two services on two hosts speak over mTLS with what the
// reference client gets for them, and go on while their certificates are replaced;
// nobody else is given anything, and what is revoked is given nothing more.
func TestWorkloadIdentity(t *testing.T) {
	t.Parallel()
	c := up(t, "workload", 1, 2)
	w := &workloadStory{cluster: c, program: filepath.Join(t.TempDir(), "spiffepeer")}
	w.loadPeer()
	const m = "manager-1"
	c.ok(m, "network", "create", "back")
	c.ok(m, "service", "create", "--name", "db", "--network", "back", "--identity-life", "1m", "--constraint", "node.hostname==worker-2", peerImage, "serve", ":443", "web", "asker", "reader")
	c.ok(m, "service", "create", "--name", "web", "--network", "back", "--identity-life", "1m", "--constraint", "node.hostname==worker-1", peerImage, "call", "db:443", "db")
	for _, story := range []struct {
		name string
		tell func(*workloadStory)
	}{
		{"tokens are for whom they are for", (*workloadStory).tokens},
		{"another process is given nothing", (*workloadStory).strangers},
		{"a service may want none", (*workloadStory).none},
		{"programs that read files have them", (*workloadStory).files},
		{"certificates are replaced under a connection", (*workloadStory).replaced},
		{"what is revoked is given nothing more", (*workloadStory).revoked},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			inner, sub := *w, *c
			sub.t = t
			inner.cluster = &sub
			story.tell(&inner)
		}) {
			return
		}
	}
}

type workloadStory struct {
	*cluster
	program string // on the host
}

func (w *workloadStory) loadPeer() {
	w.t.Helper()
	program, err := rundtest.BuildStatic(w.t.TempDir(), "github.com/redoubt-cluster/redoubt/cmd/internal/e2e/spiffepeer")
	if err == nil {
		err = os.WriteFile(w.program, program, 0o755)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	img, err := rundtest.BuildImage([]rundtest.File{{Name: "tmp/", Mode: 0o1777}, {Name: "spiffepeer", Data: program, Mode: 0o755}},
		v1.Config{Entrypoint: []string{"/spiffepeer"}, User: "1000"}, runtime.GOARCH)
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.t.TempDir(), "image.tar")
	f, err := os.Create(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if err := rundtest.SaveDocker(f, peerImage, img); err != nil {
		w.t.Fatal(err)
	}
	w.lab("load", path)
}

// said is what a service's only task has printed.
func (w *workloadStory) said(service string) string {
	w.t.Helper()
	return w.on("manager-1", "service", "logs", "--raw", service).stdout
}

// says waits until a service's task has printed something.
func (w *workloadStory) says(service, want string, within time.Duration) []string {
	w.t.Helper()
	re := regexp.MustCompile("(?m)^" + want + "$")
	var found []string
	eventually(w.t, within, func() string {
		text := w.said(service)
		if strings.Contains(text, "WRONG") {
			w.t.Fatalf("%s says:\n%s", service, text)
		}
		if found = re.FindStringSubmatch(text); found == nil {
			return fmt.Sprintf("%s does not say %q:\n%s", service, want, text)
		}
		return ""
	})
	return found
}

// only is the only task of a service.
func (w *workloadStory) only(service string) taskJSON {
	w.t.Helper()
	all := slices.DeleteFunc(w.tasks("manager-1", service), func(t taskJSON) bool { return t.State != "running" })
	if len(all) != 1 {
		w.t.Fatalf("%s has %d running tasks", service, len(all))
	}
	return all[0]
}

func (w *workloadStory) tokens() {
	w.ok("manager-1", "service", "create", "--name", "asker", "--network", "back", peerImage, "tokens", "db:443", "db")
	w.says("asker", "done", time.Minute)
	id := w.says("asker", `own (spiffe://\S+/svc/default/asker)`, time.Second)[1]
	got := strings.Split(strings.TrimSpace(w.said("asker")), "\n")
	has(w.t, got, "token for it, changed false: of "+id, "token for it, changed true: shut",
		"token for another, changed false: shut", "token for another, changed true: shut")
}

// socket is where a host has a task's Workload API, and process the task's first
// process.
func (w *workloadStory) socket(task taskJSON) string {
	return filepath.Join(w.host(task.Node).RunDir, "rund", task.ID, "spiffe", "agent.sock")
}

// enter puts a shell into the cgroup of a task.
func (w *workloadStory) enter(task taskJSON) string {
	w.t.Helper()
	own, err := os.ReadFile("/proc/" + w.firstProcess(task) + "/cgroup")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for kind, dir := range map[string]string{"pids": "/sys/fs/cgroup/pids", "": "/sys/fs/cgroup"} {
			if file := filepath.Join(dir, f[2], "cgroup.procs"); f[1] == kind && exists(file) {
				return "echo $$ > " + file + "; "
			}
		}
	}
	w.t.Fatalf("%s is in no cgroup: %s", task.Name, own)
	return ""
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// asking is a command that asks on the socket of a task.
func (w *workloadStory) asking(task taskJSON, verb string) string {
	return "exec env SPIFFE_ENDPOINT_SOCKET=unix://" + w.socket(task) + " " + w.program + " " + verb
}

// try asks on the socket of a task, after something was done in a shell.
func (w *workloadStory) try(task taskJSON, before string) string {
	w.t.Helper()
	return w.inHost(task.Node, "sh", "-c", before+w.asking(task, "try"))
}

// chain is what a task's certificate is now, with those above it.
func (w *workloadStory) chain(task taskJSON) (ders [][]byte) {
	w.t.Helper()
	rest := []byte(w.inHost(task.Node, "sh", "-c", w.enter(task)+w.asking(task, "chain")))
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return ders
		}
		ders = append(ders, block.Bytes)
	}
}

func (w *workloadStory) firstProcess(task taskJSON) string {
	w.t.Helper()
	for line := range strings.Lines(w.inHost(task.Node, "ctr", "-n", "redoubt", "tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], task.ID) {
			return f[1]
		}
	}
	w.t.Fatalf("%s does not run", task.Name)
	return ""
}

// strangers ask on the socket of web's task: from the host as root, from the
// container's own namespaces but not its cgroup, from the cgroup of another
// container on the node; and one that is put into web's cgroup, which shows that it
// was who they are that mattered.
func (w *workloadStory) strangers() {
	w.ok("manager-1", "service", "create", "--name", "neighbour", "--constraint", "node.hostname==worker-1", peerImage, "idle")
	web, neighbour := w.only("web"), w.only("neighbour")
	for _, tc := range []struct{ who, before, want string }{
		{"the host's root", "", "shut"},
		{"another container's process", w.enter(neighbour), "shut"},
		{"a process of the task", w.enter(web), "OPEN"},
	} {
		if out := w.try(web, tc.before); strings.Count(out, tc.want+" ") != 2 {
			w.t.Errorf("%s: want all %s, got:\n%s", tc.who, tc.want, out)
		}
	}
	inside := w.inHost("worker-1", "env", "SPIFFE_ENDPOINT_SOCKET=unix://"+inContainer+"/agent.sock",
		"nsenter", "-t", w.firstProcess(web), "-m", "-n", "-U", "--preserve-credentials", "/spiffepeer", "try")
	if strings.Count(inside, "shut ") != 2 {
		w.t.Errorf("a process of the host in the container's namespaces: %s", inside)
	}
	// What the directory holds, and that nobody else on the host can look into it.
	dir := filepath.Dir(w.socket(web))
	if got := strings.TrimSpace(w.inHost("worker-1", "ls", "-A", dir)); got != "agent.sock" {
		w.t.Errorf("%s holds %q", dir, got)
	}
	if out := w.inHost("worker-1", "sh", "-c", "setpriv --reuid 65534 --clear-groups ls "+dir+" || echo refused"); !strings.Contains(out, "refused") {
		w.t.Errorf("another user of the host sees %s", out)
	}
}

// none is a service that wants no identity: neither socket nor variable nor mount.
func (w *workloadStory) none() {
	w.ok("manager-1", "service", "create", "--name", "bare", "--no-identity", "--constraint", "node.hostname==worker-1", peerImage, "idle")
	bare := w.only("bare")
	pid := w.firstProcess(bare)
	if out := w.inHost("worker-1", "sh", "-c", "cat /proc/"+pid+"/environ /proc/"+pid+"/mountinfo; ls "+filepath.Dir(filepath.Dir(w.socket(bare)))); strings.Contains(out, "SPIFFE") || strings.Contains(out, "spiffe") {
		w.t.Errorf("a task without an identity has: %q", out)
	}
	if out := w.ok("manager-1", "identity", "ls"); strings.Contains(out, "/bare") || !strings.Contains(out, "/web") {
		w.t.Errorf("identity ls: %s", out)
	}
}

// files are for a program that only reads them, and openssl is one: with them it
// speaks to db, and to itself from both sides. They are in memory alone, the key is
// the container's user's, and new ones are told by a signal.
func (w *workloadStory) files() {
	w.ok("manager-1", "service", "create", "--name", "reader", "--network", "back", "--identity-life", "1m", "--identity-files", "--identity-signal", "USR1",
		"--constraint", "node.hostname==worker-1", peerImage, "reads", "/run/redoubt/identity")
	first := w.says("reader", `read (\S+) spiffe://\S+/svc/default/reader`, 20*time.Second)[1]
	reader := w.only("reader")
	pid := w.firstProcess(reader)
	dir := "/proc/" + pid + "/root/run/redoubt/identity"
	if got := w.inHost("worker-1", "sh", "-c", "stat -L -c '%a %n' "+dir+"/*; stat -L -f -c %T "+dir+"/tls.key; [ $(stat -L -c %u "+dir+"/tls.key) = $(stat -c %u /proc/"+pid+") ] && echo its own"); !strings.HasPrefix(got,
		"444 "+dir+"/ca.crt\n444 "+dir+"/tls.crt\n400 "+dir+"/tls.key\n") || !strings.Contains(got, "its own") || !strings.Contains(got, "tmpfs") && !strings.Contains(got, "ramfs") {
		w.t.Errorf("the files: %s", got)
	}
	w.openssl(reader, dir)
	w.says("reader", "read (?:[^"+first[:1]+"]|"+first[:1]+"[^"+first[1:2]+"])\\S+ spiffe://\\S+", 90*time.Second)
	if out := w.ok("manager-1", "identity", "ls", "reader", "--format", "{{.Files}}"); strings.TrimSpace(out) != "true" {
		w.t.Errorf("identity ls says of files: %s", out)
	}
	key, err := os.ReadFile(dir + "/tls.key")
	if err != nil {
		w.t.Fatal(err)
	}
	line := strings.Split(string(key), "\n")[1]
	for _, h := range w.hosts() {
		if found := w.filesWith([][]byte{[]byte(line)}, h.DataDir); len(found) > 0 {
			w.t.Errorf("the key stands in %v", found)
		}
	}
	w.ok("manager-1", "service", "rm", "reader")
	eventually(w.t, time.Minute, func() string {
		if out := w.inHost("worker-1", "cat", "/proc/mounts"); strings.Contains(out, "files-"+reader.ID) {
			return "its files are still mounted"
		}
		return ""
	})
}

func (w *workloadStory) openssl(task taskJSON, files string) {
	w.t.Helper()
	dir := w.t.TempDir()
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		b, err := os.ReadFile(filepath.Join(files, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	in := &overlayStory{cluster: w.cluster}
	own := "-cert tls.crt -cert_chain tls.crt -key tls.key -CAfile ca.crt -verify_return_error "
	r := in.in(task, "cd "+dir+" && (echo hello; sleep 9) | timeout 3 openssl s_client -quiet -verify 3 "+own+"-connect db:443")
	if !strings.Contains(r.stdout, "hello") || strings.Contains(r.stderr, "verify error") { // it waits for more until its time is over
		w.t.Errorf("openssl to db: %v", r)
	}
	r = in.in(task, "cd "+dir+" && openssl s_client -showcerts "+own+"-connect db:443 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName,basicConstraints,extendedKeyUsage")
	if !regexp.MustCompile(`URI:spiffe://\S+/svc/default/db\s`).MatchString(r.stdout) || !strings.Contains(r.stdout, "CA:FALSE") {
		w.t.Errorf("openssl says of db's certificate: %v", r)
	}
	r = in.in(task, "cd "+dir+" && { openssl s_server -accept 4433 -naccept 1 -quiet -rev -Verify 3 "+own+">server.log 2>&1 & } && for i in 1 2 3 4 5; do sleep 0.3; (echo olleh; sleep 9) | timeout 2 openssl s_client -quiet "+own+"-connect 127.0.0.1:4433 2>client.log | grep hello && break; done; kill $!; cat client.log server.log >&2")
	if !strings.Contains(r.stdout, "hello") {
		w.t.Errorf("openssl to itself: %v", r)
	}
	// Without a certificate db does not speak.
	r = in.in(task, "cd "+dir+" && (echo hello; sleep 9) | timeout 2 openssl s_client -quiet -CAfile ca.crt -connect db:443")
	if strings.Contains(r.stdout, "hello") {
		w.t.Error("db answers without a certificate")
	}
}

func (w *workloadStory) replaced() {
	w.says("web", `replaced own [1-9]\d* peer [1-9]\d*`, 3*time.Minute)
	if !strings.Contains(w.said("db"), "refused") {
		w.t.Error("web asked for nobody's identity, and hung up on no server")
	}
}

// revoked: the stream of a process of web's task ends, and nothing is answered until
// the identity is allowed again, which names another certificate.
func (w *workloadStory) revoked() {
	web := w.only("web")
	watched := make(chan string, 1)
	go func() {
		watched <- run(w.t, nil, "lab", "exec", "--name", w.name, "worker-1", "--", "sh", "-c", w.enter(web)+w.asking(web, "watch")).stdout
	}()
	held := func() uint32 {
		var all []struct {
			Streams uint32 `json:"streams"`
		}
		w.decode(w.ok("manager-1", "identity", "ls", "web", "--format", "json"), &all)
		return all[0].Streams
	}
	eventually(w.t, time.Minute, func() string {
		if held() < 2 {
			return "nobody watches beside the task itself"
		}
		return ""
	})
	mine, other := w.chain(web), w.chain(w.only("db"))
	w.verified(mine, "before its identity is revoked", false)
	w.ok("manager-1", "identity", "revoke", "web")
	done := time.Now()
	out := <-watched
	m := regexp.MustCompile(`(?m)^ended (\d+) (.*)$`).FindStringSubmatch(out)
	if m == nil || !strings.Contains(m[2], "PermissionDenied") {
		w.t.Fatalf("what was watched: %s", out)
	}
	at, _ := strconv.ParseInt(m[1], 10, 64)
	w.t.Logf("the stream ended %v after the revocation was acknowledged", time.UnixMilli(at).Sub(done))
	if out := w.try(web, w.enter(web)); strings.Count(out, "shut ") != 2 {
		w.t.Errorf("a revoked identity: %s", out)
	}
	// Who fetches lists believes no more what the task has in its memory, or a thief.
	w.verified(mine, "after its identity was revoked", true)
	w.verified(other, "of another identity", false)
	// For others it ends by itself.
	eventually(w.t, 2*time.Minute, func() string {
		if out := w.said("web"); !strings.Contains(out, "WRONG") {
			return "web still gets through"
		}
		return ""
	})
	w.ok("manager-1", "identity", "allow", "web")
	w.ok("manager-1", "service", "update", "--force", "web")
	w.says("asker", "done", time.Second) // others went on
	eventually(w.t, time.Minute, func() string {
		if out := w.try(w.only("web"), w.enter(w.only("web"))); strings.Count(out, "OPEN ") != 2 {
			return out
		}
		return ""
	})
}
