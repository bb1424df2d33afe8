package boundary

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/redoubt-cluster/redoubt/"

var update = flag.Bool("update", false, "rewrite the committed dependency lists")

// forbidden maps a binary to import path prefixes it must not reach, each with
// the reason.
var forbidden = map[string]map[string]string{
	"redoubt-node": {
		"net/http":                 "the supervisor accepts no connection",
		"encoding/json":            "the supervisor parses nothing",
		"google.golang.org":        "the supervisor parses nothing",
		module + "internal/config": "the supervisor takes flags only",
		module + "pki":             "the supervisor holds nothing",
		module + "autolock":        "the supervisor holds nothing",
	},
	"redoubt-keyd": {
		"google.golang.org/grpc":    "keyd's wire is its own",
		"net/http/httptest":         "keyd serves no network",
		module + "raftstore":        "keyd never reads the store",
		module + "scheduler":        "keyd decides from signatures, not from tasks",
		module + "secrets/store":    "keyd never reads the store",
		module + "secrets/spec":     "keyd knows envelopes, not what they are for",
		module + "mesh":             "keyd has no network",
		module + "pki/authz":        "keyd admits by socket",
		module + "pki/store":        "keyd never reads the store",
		"github.com/containerd":     "keyd starts nothing",
		"github.com/vishvananda":    "keyd touches no interface",
		"github.com/google/nftable": "keyd touches no firewall",
	},
	"redoubt-netd": {
		"google.golang.org/grpc":      "netd's wire is its own",
		module + "pki":                "netd holds no identity",
		module + "autolock":           "netd holds no key of the cluster",
		module + "secrets":            "netd sees no secret",
		module + "raftstore":          "netd never reads the store",
		module + "scheduler":          "netd is told a network state, not tasks",
		"github.com/miekg/dns":        "netd parses no DNS",
		module + "mesh/named":         "netd hands sockets to named, and no more",
		"github.com/containerd":       "netd starts nothing",
		"github.com/smallstep":        "netd issues nothing",
		"github.com/hashicorp":        "netd takes part in no consensus",
		"github.com/awnumar/memguard": "netd holds no key of the cluster",
	},
	"redoubt-named": {
		"google.golang.org/grpc":   "named's wire is its own",
		module + "pki":             "named holds no identity",
		module + "autolock":        "named holds no key",
		module + "secrets":         "named sees no secret",
		module + "raftstore":       "named never reads the store",
		module + "scheduler":       "named is told names, not tasks",
		module + "mesh/netd":       "named changes no network",
		module + "mesh/named/hand": "netd alone makes sockets in sandboxes",
		"github.com/vishvananda":   "named changes no network",
		"github.com/containerd":    "named starts nothing",
		"github.com/hashicorp":     "named takes part in no consensus",
		"net/http":                 "named speaks DNS alone",
		"os/exec":                  "named starts nothing",
	},
	"redoubt-proxy": {
		"google.golang.org":              "the relay is told by its arguments alone",
		module + "internal/config":       "the relay is told by its arguments alone",
		module + "internal/wire":         "the relay is told by its arguments alone",
		module + "pki":                   "the relay holds no identity",
		module + "autolock":              "the relay holds no key",
		module + "secrets":               "the relay sees no secret",
		module + "raftstore":             "the relay knows nothing of the cluster",
		module + "scheduler":             "the relay knows nothing of the cluster",
		module + "mesh/netd":             "the relay changes no network",
		module + "mesh/named":            "the relay hands on bytes, and no more",
		"github.com/pires/go-proxyproto": "the relay writes headers, and reads none",
		"github.com/vishvananda":         "the relay changes no network",
		"github.com/containerd":          "the relay starts nothing",
		"net/http":                       "the relay hands on bytes, and no more",
		"os/exec":                        "the relay starts nothing",
	},
	"redoubt-rund": {
		module + "pki":                   "rund holds no identity",
		module + "autolock":              "rund holds no key of the cluster",
		module + "raftstore":             "rund never reads the store",
		module + "secrets/store":         "rund never reads the store",
		module + "mesh":                  "netd alone changes the network",
		module + "scheduler/schedulerpb": "rund knows tasks, not services' records",
		"github.com/hashicorp/raft":      "rund takes part in no consensus",
		"github.com/smallstep":           "rund issues nothing",
		"github.com/google/nftables":     "netd alone changes the firewall",
	},
	"redoubtd": {
		"github.com/containerd/containerd": "rund alone speaks to the runtime",
		"github.com/vishvananda/netlink":   "netd alone changes the network",
		"github.com/google/nftables":       "netd alone changes the firewall",
		"github.com/smallstep":             "keyd alone signs",
		"github.com/awnumar/memguard":      "keyd alone keeps keys",
		module + "autolock/keyd":           "redoubtd holds keyd's messages and client only",
		module + "scheduler/rund":          "redoubtd holds rund's messages only",
		module + "mesh/netd":               "redoubtd holds netd's messages only",
		module + "mesh/named":              "redoubtd holds named's messages only",
		"github.com/miekg/dns":             "named alone parses DNS",
		"os/exec":                          "redoubtd starts nothing",
		"github.com/compose-spec":          "the command alone reads compose files",
	},
}

// messages are the packages below a forbidden prefix that hold generated code
// alone, and the leaf packages that are meant to be shared.
var messages = []string{
	module + "autolock/keyd/keydpb", module + "scheduler/rund/rundpb", module + "mesh/netd/netdpb", module + "mesh/named/namedpb",
	module + "pki/profile", module + "pki/profile/profilepb",
	// The interface to CAs outside of the cluster; it signs nothing.
	"github.com/smallstep/certificates/cas/apiv1",
}

func TestBinariesReachOnlyWhatTheyMay(t *testing.T) {
	for binary, rules := range forbidden {
		t.Run(binary, func(t *testing.T) {
			t.Parallel()
			deps := goList(t, "-deps", "-f", "{{.ImportPath}}", module+"cmd/"+binary)
			for _, dep := range deps {
				for prefix, why := range rules {
					if (dep == prefix || strings.HasPrefix(dep, prefix+"/")) && !allowed(binary, dep) {
						t.Errorf("%s reaches %s: %s", binary, dep, why)
					}
				}
			}
			checkList(t, binary)
		})
	}
}

// allowed are shared leaf packages; of pki only keyd needs the profile.
func allowed(binary, dep string) bool {
	if strings.HasPrefix(dep, module+"pki/") && binary != "redoubt-keyd" && binary != "redoubtd" {
		return false
	}
	if dep == module+"mesh/named/hand" {
		return binary == "redoubt-netd"
	}
	return slices.Contains(messages, dep)
}

// checkList compares the modules and own packages a binary links with the
// committed list.
func checkList(t *testing.T, binary string) {
	got := goList(t, "-deps", "-f", `{{if .Module}}{{if .Module.Main}}{{.ImportPath}}{{else}}{{.Module.Path}}{{end}}{{end}}`, module+"cmd/"+binary)
	slices.Sort(got)
	got = slices.Compact(got)
	text := strings.TrimLeft(strings.Join(got, "\n"), "\n") + "\n"
	path := filepath.Join("..", "..", binary, "deps.txt")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != text {
		t.Errorf("%s links something else than %s says (%v): look at the difference, then go test ./cmd/internal/boundary -update", binary, path, err)
	}
}

// rooms orders the domain packages; a room may import only rooms before it.
var rooms = map[string][]string{
	"internal":  {},
	"raftstore": {"internal"},
	"autolock":  {"internal", "raftstore", "pki/profile", "secrets/seal"},
	"secrets":   {"internal", "raftstore"},
	"pki":       {"internal", "raftstore"},
	"mesh":      {"internal", "raftstore"},
	"scheduler": {"internal", "raftstore", "pki", "secrets", "mesh"},
	// What could go wrong is data, and reads none of what it is about.
	"threatmodel": {"internal"},
}

func TestArrowsGoDown(t *testing.T) {
	for _, line := range goList(t, "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...") {
		paths := strings.Fields(line)
		from := strings.TrimPrefix(paths[0], module)
		room, _, _ := strings.Cut(from, "/")
		may, isRoom := rooms[room]
		if !isRoom {
			continue
		}
		for _, p := range paths[1:] {
			to, ours := strings.CutPrefix(p, module)
			if !ours || to == room || strings.HasPrefix(to, room+"/") {
				continue
			}
			if !slices.ContainsFunc(may, func(m string) bool { return to == m || strings.HasPrefix(to, m+"/") }) {
				t.Errorf("%s imports %s: %s may import %v only", from, to, room, may)
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, line := range goList(t, "-f", `{{.ImportPath}}|{{len .Doc}}`, module+"...") {
		path, n, _ := strings.Cut(line, "|")
		if n == "0" && !strings.HasSuffix(path, "pb") {
			t.Errorf("%s has no package comment", path)
		}
	}
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

var testName = regexp.MustCompile("`(Test[A-Za-z0-9]+)`")

// TestPagesNameTests holds what names tests against the code. The threat model's
// own names are held against packages, too (package threatmodel).
func TestPagesNameTests(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	pages := map[string]int{filepath.Join(root, "docs", "threat-model.md"): 200} // how many it names at least
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, page := range found {
			pages[page] = max(pages[page], 0)
		}
	}
	defined := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
			defined[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for page, least := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		named := testName.FindAllSubmatch(b, -1)
		if len(named) < least {
			t.Errorf("%s names only %d tests", page, len(named))
		}
		for _, m := range named {
			if !defined[string(m[1])] {
				t.Errorf("%s: no test is called %s", page, m[1])
			}
		}
	}
}

// TestDecisionsAreListed holds the list of decisions against the pages: each once,
// under its number and its title.
func TestDecisionsAreListed(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "docs", "decisions")
	pages, err := filepath.Glob(filepath.Join(dir, "0*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	var want strings.Builder
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), "\n")
		number, title, ok := strings.Cut(strings.TrimPrefix(first, "# "), ". ")
		file := filepath.Base(page)
		if !ok || number != strings.TrimLeft(file[:4], "0") {
			t.Errorf("%s begins with %q: give it the number of its file", file, first)
		}
		fmt.Fprintf(&want, "| %s | [%s](%s) |\n", number, title, file)
	}
	list, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(list), "|---|---|\n")
	if rows != want.String() {
		t.Errorf("docs/decisions/README.md does not list what is there, which is\n%s", want.String())
	}
}
