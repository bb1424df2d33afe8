package cni

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
)

func config() *Config {
	c := Defaults()
	c.Plugins = map[string]string{"bridge": strings.Repeat("0", 64), "host-local": strings.Repeat("0", 64)}
	return &c
}

func TestCheck(t *testing.T) {
	plugin := func(p string) string { return `{"cniVersion":"1.0.0","name":"n","plugins":[` + p + `]}` }
	for text, want := range map[string]string{
		plugin(`{"type":"bridge","ipam":{"type":"host-local","dataDir":"/var/lib/cni/x","ranges":[[{"subnet":"10.0.0.0/8"}]]}}`): "",
		plugin(`{"type":"bridge","ipam":{}}`):                                              "",
		plugin(`{"type":"/bin/sh"}`):                                                       "no plain name",
		plugin(`{"type":"../bridge"}`):                                                     "no plain name",
		plugin(`{"type":".."}`):                                                            "no plain name",
		plugin(`{"type":""}`):                                                              "no plain name",
		plugin(`{"type":"macvlan"}`):                                                       "not pinned",
		plugin(`{"type":7}`):                                                               "no plain name",
		plugin(`{"TYPE":"/bin/sh","type":"bridge"}`):                                       "twice",
		plugin(`{"type":"bridge","type":"bridge"}`):                                        "twice",
		plugin(`{"type":"bridge","\u0054YPE":"/bin/sh"}`):                                  "twice",
		plugin(`{"type":"bridge","ipam":{"type":"../../tmp/x"}}`):                          "no plain name",
		plugin(`{"type":"bridge","ipam":{"type":"dhcp"}}`):                                 "not pinned",
		plugin(`{"type":"bridge","ipam":["host-local"]}`):                                  "no JSON object",
		plugin(`{"type":"bridge","delegate":{"type":"evil"}}`):                             "not pinned",
		plugin(`{"type":"bridge","ipam":{"type":"host-local","dataDir":"/etc"}}`):          "none of the allowed directories",
		plugin(`{"type":"bridge","ipam":{"type":"host-local","DATADIR":" /etc"}}`):         "none of the allowed directories",
		plugin(`{"type":"bridge","x":[{"y":"/var/lib/cni/../../etc"}]}`):                   "..",
		plugin(`{"type":"bridge","x":"../etc"}`):                                           "..",
		plugin(`{"type":"bridge","x":"/var/lib/cnix"}`):                                    "none of the allowed directories",
		plugin(`{"type":"bridge","x":"a\u0000"}`):                                          "elsewhere",
		plugin(`{"type":"bridge","prevResult":{}}`):                                        "not for a conflist",
		plugin(`{"type":"bridge","runtimeConfig":{}}`):                                     "not for a conflist",
		plugin(`{"type":"bridge","ſ":1}`):                                                  "printable ASCII",
		plugin(``):                                                                         "0 plugins",
		plugin(strings.TrimSuffix(strings.Repeat(`{"type":"bridge"},`, 17), ",")):          "17 plugins",
		plugin(strings.Repeat(`[`, 20) + strings.Repeat(`]`, 20)):                          "nested",
		plugin(`{"type":"bridge"}`) + "x":                                                  "not JSON",
		plugin(`{"type":"bridge"}`) + "{}":                                                 "",
		plugin(`{"type":"bridge","x":"` + "\xff" + `"}`):                                   "UTF-8",
		`{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"bridge"}]}`:                  `"name": "n"`,
		`{"cniVersion":"9.0.0","name":"n","plugins":[{"type":"bridge"}]}`:                  "cniVersion",
		`{"name":"n","plugins":[{"type":"bridge"}]}`:                                       "cniVersion",
		`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}],"x":1}`:            "not known",
		`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}],"disableCheck":1}`: "true or false",
		`{"cniVersion":"1.0.0","name":"n","type":"bridge"}`:                                "not known",
		`[]`: "no JSON object", ``: "not JSON", `null`: "no JSON object", `{"name":`: "not JSON",
	} {
		_, err := config().check("n", []byte(text))
		if strings.HasSuffix(text, "]}{}") {
			want = "something follows"
		}
		if strings.HasSuffix(text, "]}x") {
			want = "something follows"
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	c := config()
	c.Conflists = filepath.Join(t.TempDir(), "cni.d")
	good := []byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}`)
	path := func(name string) string { return filepath.Join(c.Conflists, name) }
	for _, err := range []error{
		os.Mkdir(c.Conflists, 0o755), os.WriteFile(path("n.conflist"), good, 0o644), os.WriteFile(path("../out.conflist"), good, 0o644),
		os.WriteFile(path("w.conflist"), good, 0o644), os.Chmod(path("w.conflist"), 0o664),
		os.WriteFile(path("o.conflist"), good, 0o644), os.Chown(path("o.conflist"), 1000, 1000),
		os.Symlink("n.conflist", path("s.conflist")), os.Symlink("../out.conflist", path("t.conflist")), os.Mkdir(path("d.conflist"), 0o755),
		unix.Mkfifo(path("f.conflist"), 0o600), os.WriteFile(path("l.conflist"), bytes.Repeat([]byte(" "), maxConflist+1), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.load("n"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"../out": "no plain name", "..": "no plain name", "": "no plain name", "/etc/passwd": "no plain name", "n\x00": "no plain name",
		strings.Repeat("n", 65): "no plain name", "x": "there is no", "w": "written by others", "o": "written by others", "s": "symbolic link", "t": "symbolic link",
		"d": "no regular file", "f": "no regular file", "l": "larger than"} {
		if _, err := c.load(name); err == nil || !strings.Contains(err.Error(), want) || !Refused(err) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	// The directory itself, and one above it.
	if err := os.Chmod(c.Conflists, 0o775); err != nil {
		t.Fatal(err)
	}
	if _, err := c.load("n"); err == nil || !strings.Contains(err.Error(), "written by others") {
		t.Error(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.Conflists, link); err != nil {
		t.Fatal(err)
	}
	c.Conflists = link
	if _, err := c.load("n"); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	c := config()
	if err := c.Validate(); err != nil || !c.Enabled() {
		t.Fatal(err)
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Conflists = "cni.d" }, func(c *Config) { c.PluginDir = "/usr/../lib" }, func(c *Config) { c.Paths = []string{"/"} },
		func(c *Config) { c.Plugins["../x"] = c.Plugins["bridge"] }, func(c *Config) { c.Plugins["x"] = "abcd" }, func(c *Config) { c.Plugins["x"] = "" },
	} {
		c := config()
		change(c)
		if c.Validate() == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// FuzzCheck: whatever is accepted, every decoder of plugins sees pinned names and
// allowed paths only.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local","dataDir":"/var/lib/cni/x"}}]}`))
	f.Add([]byte(`{"cniVersion":"0.4.0","name":"n","disableCheck":true,"plugins":[{"type":"bridge","TYPE":"/x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := config()
		l, err := c.check("n", b)
		if err != nil {
			return
		}
		for _, p := range l.list.Plugins {
			var conf struct {
				Type string
				IPAM struct{ Type, DataDir, ResolvConf string }
			}
			if json.Unmarshal(p.Bytes, &conf) != nil {
				continue // the plugin refuses it as well
			}
			if c.Plugins[conf.Type] == "" || p.Network.Type != conf.Type || conf.IPAM.Type != "" && c.Plugins[conf.IPAM.Type] == "" {
				t.Fatalf("%s runs %q and %q", b, conf.Type, conf.IPAM.Type)
			}
			for _, path := range []string{conf.IPAM.DataDir, conf.IPAM.ResolvConf} {
				if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/var/lib/cni") && !strings.HasPrefix(path, "/run/cni") {
					t.Fatalf("%s writes %q", b, path)
				}
			}
		}
	})
}

// FuzzRecord: what is read back is what was written, or an error.
func FuzzRecord(f *testing.F) {
	rec := &record{Format: 1, Task: ident.New(), Network: ident.New(), Conflist: "n", Config: []byte("{}"), Interface: "cni0", Sandbox: "boot.7"}
	b, _ := json.Marshal(rec)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseRecord(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseRecord(again); err != nil || back.Task != rec.Task || !bytes.Equal(back.Config, rec.Config) {
			t.Fatalf("%s: %v", b, err)
		}
	})
}

// What rund asks is checked, too: the helper does not trust it.
func TestAsked(t *testing.T) {
	w := newWorld(t)
	w.script("good", ok)
	w.simple("good")
	w.start()
	task := w.task()
	id := networkID("good")
	for want, networks := range map[string][]*cnipb.Network{
		"no plain name":             {{Id: id, Conflist: "../good"}},
		"malformed, given twice":    {{Id: id, Conflist: "good"}, {Id: id, Conflist: "good", Index: 1}},
		"malformed, given twice, o": {{Id: id, Conflist: "good"}, {Id: ident.New(), Conflist: "good"}},
		"../x":                      {{Id: "../x", Conflist: "good"}},
		"32":                        {{Id: id, Conflist: "good", Index: 1000}},
	} {
		_, err := w.client.Attach(w.ctx(), task, networks)
		w.refused(err, want)
	}
	_, err := w.client.Attach(w.ctx(), "../"+task, on("good"))
	w.refused(err, "is no task id")
	_, err = w.client.Attach(w.ctx(), ident.New(), on("good")) // without a sandbox
	w.refused(err, "is no network namespace")
	own := ident.New() // the node's own network namespace in place of a sandbox
	w.must(os.WriteFile(w.sandbox.Path(own), nil, 0o600))
	w.must(unix.Mount("/proc/self/ns/net", w.sandbox.Path(own), "", unix.MS_BIND, ""))
	_, err = w.client.Attach(w.ctx(), own, on("good"))
	w.refused(err, "the node's own network namespace")
	w.must(w.sandbox.Remove(own))
	w.nothingLeft()
}
