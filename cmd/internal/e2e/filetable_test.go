package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// fileRow is a row of the table of every file in docs/formats.md.
type fileRow struct {
	pattern string
	path    *regexp.Regexp
	dir     bool
	mode    fs.FileMode
	owner   string
	begins  []begin // one of them; nil: nothing is said of the content
	empty   bool
	brief   bool // there for a moment, or after a crash only
}

type begin struct {
	at   int64
	text string
}

var (
	placeholder = regexp.MustCompile(`<[^>]+>`)
	beginText   = regexp.MustCompile("^(?:([0-9]+)\\+)?`(.+)`$")
)

// fileTable reads the table.
func fileTable(t *testing.T) (rows []fileRow) {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "formats.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## Every file\n")
	if !ok {
		t.Fatal("docs/formats.md has no section \"Every file\"")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `<") {
			continue
		}
		cell := strings.Split(strings.TrimSpace(line), "|")
		if len(cell) != 8 {
			t.Fatalf("a row of %d cells: %s", len(cell)-2, line)
		}
		for i := range cell {
			cell[i] = strings.TrimSpace(cell[i])
		}
		r := fileRow{pattern: strings.Trim(cell[1], "`"), owner: cell[3]}
		r.dir = strings.HasSuffix(r.pattern, "/")
		mode, err := strconv.ParseUint(cell[2], 8, 32)
		if err != nil || cell[5] == "" || cell[6] == "" {
			t.Fatalf("%s: mode, format or epoch is missing", r.pattern)
		}
		r.mode = fs.FileMode(mode)
		r.brief = strings.Contains(cell[5], "moment") || strings.Contains(cell[5], "never read") || strings.Contains(cell[5], "while")
		root, rest, _ := strings.Cut(strings.TrimSuffix(r.pattern, "/"), ">")
		expr := placeholder.ReplaceAllString(regexp.QuoteMeta(rest), `[^/]+`)
		expr = strings.Replace(expr, "/control/raft", `/control/raft(\.[0-9]+)?`, 1)
		r.path = regexp.MustCompile("^" + root + ">" + expr + "$")
		switch begins := cell[4]; begins {
		case "–", "anything":
		case "nothing":
			r.empty = true
		default:
			for _, b := range strings.Split(begins, " or ") {
				m := beginText.FindStringSubmatch(b)
				if m == nil {
					t.Fatalf("%s begins with %s?", r.pattern, b)
				}
				at, _ := strconv.ParseInt("0"+m[1], 10, 64)
				text, err := strconv.Unquote(`"` + strings.ReplaceAll(m[2], `"`, `\"`) + `"`)
				if err != nil {
					t.Fatalf("%s begins with %s: %v", r.pattern, b, err)
				}
				r.begins = append(r.begins, begin{at, text})
			}
		}
		rows = append(rows, r)
	}
	if len(rows) < 30 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	return rows
}

// fileAudit holds a node's directories against the table.
type fileAudit struct {
	rows []fileRow
	seen map[string]bool // patterns
}

// check returns what is wrong below dir, which the table calls name. owners has
// the users by the table's names. What vanishes meanwhile was brief.
func (a *fileAudit) check(name, dir string, owners map[string]uint32) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil // it is gone
		}
		as := name + strings.TrimPrefix(path, dir)
		row := a.find(as, fi.IsDir())
		if row == nil {
			say("docs/formats.md names no %s (%v)", as, fi.Mode())
			return nil
		}
		a.seen[row.pattern] = true
		if fi.Mode().Perm() != row.mode {
			say("%s is of mode %04o, want %04o", as, fi.Mode().Perm(), row.mode)
		}
		if uid := fi.Sys().(*syscall.Stat_t).Uid; uid != owners[row.owner] {
			say("%s is of user %d, want %s, which is %d", as, uid, row.owner, owners[row.owner])
		}
		if fi.Mode().IsRegular() && !row.begun(path, fi.Size()) {
			say("%s does not begin as the table says", as)
		}
		return nil
	})
	if err != nil {
		say("%s: %v", dir, err)
	}
	return wrong
}

func (a *fileAudit) find(as string, dir bool) *fileRow {
	for i, r := range a.rows {
		if r.dir == dir && r.path.MatchString(as) {
			return &a.rows[i]
		}
	}
	return nil
}

func (r *fileRow) begun(path string, size int64) bool {
	if r.empty {
		return size == 0
	}
	if r.begins == nil {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return os.IsNotExist(err)
	}
	defer f.Close()
	for _, b := range r.begins {
		got := make([]byte, len(b.text))
		if _, err := f.ReadAt(got, b.at); err == nil && string(got) == b.text {
			return true
		}
	}
	return false
}
