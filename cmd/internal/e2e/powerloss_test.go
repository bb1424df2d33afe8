package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

var shareText = regexp.MustCompile(`RDTSHARE(-[A-Z2-7]{1,8})+`)

// TestPowerLoss takes the power from a whole cluster and brings it back with three
// of five shares, each typed on another machine. On the way: shares that are wrong in
// every way, too few of them, and a manager to which they are not given. The
// operator key, which was removed, opens nothing any more.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	c := up(t, "power", 5, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--quiet", "--name", "edge", "--publish", "published=8080,target=80,mode=host", image)

	out := c.ok("manager-1", "unlock-key", "slot", "add", "shamir", "--name", "officers", "--shares", "5", "--threshold", "3")
	shares := shareText.FindAllString(out, -1)
	if len(shares) != 5 {
		t.Fatalf("not five shares:\n%s", out)
	}
	// A slot that is replaced: its shares are of another epoch.
	stale := shareText.FindAllString(c.ok("manager-2", "unlock-key", "slot", "add", "shamir", "--name", "former", "--shares", "3", "--threshold", "2"), -1)
	c.ok("manager-2", "unlock-key", "slot", "rm", "former")
	// Of the same name, of another cluster.
	_, foreign, err := autolock.Split(ident.New(), "officers", 2, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shares {
		if r := c.onIn("manager-3", []byte(s), "unlock-key", "slot", "test"); r.code != 0 || !strings.Contains(r.stdout, "of slot officers is good") {
			t.Errorf("slot test: %v", r)
		}
	}
	c.ok("manager-1", "unlock-key", "slot", "rm", "operator")
	c.refused("manager-1", 1, "the last that people open", nil, "unlock-key", "slot", "rm", "officers")
	c.refused("manager-1", 1, "no operator key to be rotated", nil, "unlock-key", "rotate")

	var all []string
	for _, h := range c.hosts() {
		all = append(all, h.Name)
	}
	for _, h := range all {
		c.lab("kill", "--containers", h)
	}
	for _, h := range all {
		c.lab("start", h)
	}
	lost := time.Now()
	managers := slices.DeleteFunc(slices.Clone(all), func(h string) bool { return !strings.HasPrefix(h, "manager") })
	for _, m := range managers {
		eventually(t, time.Minute, func() string {
			if r := c.on(m, "status"); r.code != 4 {
				return r.String()
			}
			return ""
		})
	}

	// What opens nothing.
	c.refused("manager-1", 4, "does not open this manager", c.key(), "unlock")
	c.refused("manager-1", 4, "checksum", []byte(shares[0][:len(shares[0])-1]+otherEnd(shares[0])), "unlock")
	c.refused("manager-1", 4, "check that it is complete", []byte(shares[0][:40]), "unlock")
	c.refused("manager-1", 4, "does not have any more", []byte(stale[0]), "unlock", "--relay", "all")
	c.refused("manager-1", 4, "of another cluster", []byte(foreign[1].String()), "unlock", "--relay", "all")
	c.refused("manager-1", 1, "knows no other manager", []byte(shares[0]), "unlock", "--relay", "192.0.2.99")

	// Three people at three machines. The first forgets manager-5, and is told.
	first := c.onIn("manager-1", []byte(shares[4]), "unlock", "--relay", "manager-2,manager-3,manager-4")
	if first.code != 3 || !strings.Contains(first.stdout, "manager-4 has 1 of 3 shares (numbers 5)") || !strings.Contains(first.stderr, "1 of 3 shares (numbers 5) are here, 2 more") {
		t.Fatalf("the first share: %v", first)
	}
	again := c.onIn("manager-2", []byte(shares[4]), "unlock")
	if again.code != 3 || !strings.Contains(again.stdout, "was here already") {
		t.Errorf("the same share again: %v", again)
	}
	second := c.onIn("manager-3", []byte(shares[1]), "unlock", "--relay", "all")
	if second.code != 3 || strings.Count(second.stdout, "has 2 of 3 shares (numbers 2, 5)") != 3 || !strings.Contains(second.stdout, "manager-5 has 1 of 3 shares (numbers 2)") {
		t.Fatalf("the second share: %v", second)
	}
	third := c.onIn("manager-5", []byte(shares[2]), "unlock", "--relay", "all")
	if third.code != 3 || strings.Count(third.stdout, "is open.") != 4 {
		t.Fatalf("the third share: %v", third)
	}
	t.Logf("four of five managers were open %v after the machines had power again", time.Since(lost).Round(100*time.Millisecond))
	// The one that lacks a share gets it, and nothing else is there to be opened.
	last := c.onIn("manager-5", []byte(shares[0]+"\n"), "unlock", "--relay", "all")
	if last.code != 0 || !strings.Contains(last.stdout, "Unlocked") {
		t.Fatalf("manager-5: %v", last)
	}
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-5", "status"); r.code != 0 {
			return r.String()
		}
		ready := 0
		for _, n := range c.nodes("manager-5") {
			if n.State == "ready" {
				ready++
			}
		}
		if ready != 6 {
			return fmt.Sprintf("%d of 6 nodes are ready", ready)
		}
		return ""
	})
	answers(t, c, "worker-1")
	t.Logf("the whole cluster was back %v after the machines had power again", time.Since(lost).Round(100*time.Millisecond))

	// A manager leaves: there is no operator key to be replaced, so none is shown, and
	// the shares that were typed on it are named.
	if out := c.ok("manager-1", "node", "demote", "manager-5"); keyText.MatchString(out) || !strings.Contains(out, "These slots stay as they are: officers") {
		t.Errorf("demote says %q", out)
	}

	// No share is left on any disk, or in a log.
	for _, h := range c.hosts() {
		for _, s := range shares {
			findNothing(t, h.DataDir, s)
		}
	}
}

// otherEnd is another last character.
func otherEnd(s string) string {
	if strings.HasSuffix(s, "A") {
		return "B"
	}
	return "A"
}

// findNothing fails where a file below dir holds text, with or without hyphens.
func findNothing(t *testing.T, dir, text string) {
	t.Helper()
	bare := strings.ReplaceAll(strings.TrimPrefix(text, "RDTSHARE-"), "-", "")
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), text) || strings.Contains(string(b), bare) {
			t.Errorf("%s holds a share", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAutolockOff has managers open by themselves, is told so everywhere, and ends
// that again.
func TestAutolockOff(t *testing.T) {
	t.Parallel()
	c := up(t, "alo", 3, 0)
	c.refused("manager-1", 1, "autolock is on already", nil, "autolock", "on")
	c.ok("manager-1", "autolock", "off")
	kept := filepath.Join(c.host("manager-3").DataDir, "keyd", "auto-*")
	if found, _ := filepath.Glob(kept); len(found) != 1 {
		t.Errorf("%s: %v", kept, found)
	}
	c.refused("manager-2", 1, "autolock is off already", nil, "autolock", "off")
	c.refused("manager-2", 1, "autolock on", nil, "unlock-key", "slot", "rm", "autolock-off")
	if out := c.ok("manager-2", "status"); !strings.Contains(out, "autolock is off") {
		t.Errorf("status does not tell:\n%s", out)
	}
	if out := c.ok("manager-2", "node", "ls"); !strings.Contains(out, "autolock off") {
		t.Errorf("node ls does not tell:\n%s", out)
	}
	if out := c.ok("manager-2", "events", "--since", "10m", "--until", "0s"); !strings.Contains(out, "unlock-key autolock-off") {
		t.Errorf("events do not tell:\n%s", out)
	}
	c.lab("kill", "--containers", "manager-3")
	c.lab("start", "manager-3")
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-3", "status"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "autolock", "on"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	if found, _ := filepath.Glob(kept); len(found) != 0 {
		t.Errorf("the key on the disk is still there: %v", found)
	}
	// off and on were two epochs of slots, and on took something away: no record is left
	// on a disk of a key that lay beside it.
	eventually(t, time.Minute, func() string {
		var list struct {
			Managers []struct {
				Name string `json:"name"`
				Key  struct {
					Epoch  uint32 `json:"epoch"`
					Former uint32 `json:"former_epoch"`
				} `json:"key"`
			} `json:"managers"`
		}
		text := c.ok("manager-1", "store", "ls", "--format", "json")
		c.decode(text, &list)
		for _, m := range list.Managers {
			if m.Key.Epoch < 2 || m.Key.Former != 0 {
				return text
			}
			if left := c.storeKeys([]string{m.Name}, m.Key.Epoch); left != "" {
				return left
			}
		}
		return ""
	})
	if out := c.ok("manager-2", "node", "ls"); strings.Contains(out, "autolock off") {
		t.Errorf("node ls still tells:\n%s", out)
	}
	c.lab("kill", "--containers", "manager-3")
	c.lab("start", "manager-3")
	c.refused("manager-3", 4, "locked", nil, "node", "ls")
	c.unlock("manager-3")
}

// TestSealedShares has each share sealed to an officer, who opens it with age alone,
// and unlocks a manager with what two of them have.
func TestSealedShares(t *testing.T) {
	t.Parallel()
	c := up(t, "sealed", 1, 0)
	dir := t.TempDir()
	args := []string{"unlock-key", "slot", "add", "shamir", "--threshold", "2", "--out", dir}
	var officers []string // files of their identities
	for i := range 3 {
		key := filepath.Join(dir, fmt.Sprintf("officer-%d.txt", i+1))
		if out, err := exec.Command("age-keygen", "-o", key).CombinedOutput(); err != nil {
			t.Fatalf("age-keygen (Debian package age): %v: %s", err, out)
		}
		recipient, err := exec.Command("age-keygen", "-y", key).Output()
		if err != nil {
			t.Fatal(err)
		}
		officers, args = append(officers, key), append(args, "--age", strings.TrimSpace(string(recipient)))
	}
	if out := c.ok("manager-1", args...); shareText.MatchString(out) {
		t.Errorf("a sealed share was shown:\n%s", out)
	}
	var texts []string
	for i, key := range officers {
		path := filepath.Join(dir, fmt.Sprintf("shamir-share-%d.age", i+1))
		for j, other := range officers {
			text, err := exec.Command("age", "-d", "-i", other, path).Output() // as docs/operations.md has it
			switch {
			case i != j && (err == nil || len(text) > 0):
				t.Errorf("officer %d opens share %d", j+1, i+1)
			case i == j && err != nil:
				t.Fatalf("share %d: %v", i+1, err)
			case i == j:
				texts = append(texts, string(text))
			}
		}
		if r := c.onIn("manager-1", []byte(texts[i]), "unlock-key", "slot", "test"); r.code != 0 || !strings.Contains(r.stdout, fmt.Sprintf("Share %d of 3", i+1)) {
			t.Errorf("slot test of %s: %v", key, r)
		}
	}
	c.refused("manager-1", 1, "exists already", nil, args...)
	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "status"); r.code != 4 {
			return r.String()
		}
		return ""
	})
	if r := c.onIn("manager-1", []byte(texts[2]+texts[0]), "unlock"); r.code != 0 {
		t.Fatalf("unlock: %v", r)
	}
}
