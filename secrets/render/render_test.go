package render

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func facts() (f Facts) {
	f.Cluster.ID, f.Node.ID, f.Node.Hostname = "c1", "n1", "host-1"
	f.Service.ID, f.Service.Name, f.Service.Labels = "s1", "web", map[string]string{"tier": "front", "a.b": "c"}
	f.Task.ID, f.Task.Slot = "t1", 3
	return f
}

func TestRender(t *testing.T) {
	secrets := map[string][]byte{"token": []byte("k\x00\xff"), "empty": nil}
	for in, want := range map[string]string{
		"": "", "plain": "plain",
		"{{.Service.Name}}.{{.Task.Slot}} on {{.Node.Hostname}} of {{.Cluster.ID}}": "web.3 on host-1 of c1",
		`{{secret "token"}}!`: "k\x00\xff!",
		`{{1}} {{1.5}} {{true}} {{.Node}} {{eq (secret "token") "k"}} {{index (secret "token") 0}}`: "1 1.5 true {n1 host-1} false 107",
		`{{and 1 (secret "token")}}{{index .Service.Labels (secret "empty")}}{{"t" | or "u"}}`:      "k\x00\xffu",
		`{{index .Service.Labels "a.b"}}{{.Service.Labels.tier}}`:                                   "cfront",
		`{{if eq .Service.Labels.tier "front"}}yes{{else if false}}x{{else}}no{{end}}`:              "yes",
		`{{with $t := .Task}}{{$t.ID}}{{end}}{{/* said */}}`:                                        "t1",
		`{{if and (eq 1 1) (not (ne "a" "a"))}}{{(index .Service.Labels "tier")}}{{end}}`:           "front",
	} {
		p, err := Parse([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		for range 2 { // a template is used more than once
			if got, err := p.Render(facts(), secrets); err != nil || string(got) != want {
				t.Errorf("%q: %q, %v", in, got, err)
			}
		}
	}
	p, err := Parse([]byte(`{{secret "b"}}{{if true}}{{secret "a"}}{{end}}{{secret "b"}}`))
	if err != nil || !slices.Equal(p.Secrets(), []string{"a", "b"}) {
		t.Errorf("%v, %v", p.Secrets(), err)
	}
}

func TestRefused(t *testing.T) {
	deep := strings.Repeat("{{if true}}", maxDepth+2) + strings.Repeat("{{end}}", maxDepth+2)
	for in, want := range map[string]string{
		"{{range 1000000000}}x{{end}}":                          "not part of the language",
		"{{range $i := .Service.Labels}}x{{end}}":               "not part of the language",
		`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`: "not part of the language",
		`{{block "a" .}}x{{end}}`:                               "not part of the language",
		`{{printf "%1000000000d" 1}}`:                           `no function "printf"`,
		`{{print .}}`:                                           `no function "print"`,
		`{{call .Node}}`:                                        `no function "call"`,
		`{{nothing}}`:                                           "not defined",
		`{{write "a"}}`:                                         "not defined",
		`{{secret .Node.Hostname}}`:                             "named by a text",
		`{{"a" | secret}}`:                                      "named by a text",
		`{{secret (secret "a")}}`:                               "named by a text",
		`{{secret}}`:                                            "named by a text",
		`{{eq secret "a"}}`:                                     "named by a text",
		"{{":                                                    "unclosed",
		"a\x00":                                                 "no text",
		"a\xff":                                                 "no text",
		strings.Repeat("{{1}}", maxActions+1):                   "more than 4096 actions",
		"{{" + strings.Repeat(" ", maxActionBytes+1) + "1}}": "more than 4096 bytes",
		"{{" + strings.Repeat("(", 1000) + "1":               "deep",
		deep:                                                 "deep",
		strings.Repeat("a", MaxBytes+1):                      "at most",
	} {
		if _, err := Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: %v, want %q", in, err, want)
		}
	}
}

// A template that uses a secret often costs no more than what it may become, also
// where nothing is written.
func TestUsesAreBounded(t *testing.T) {
	secrets := map[string][]byte{"big": bytes.Repeat([]byte("a"), 500<<10), "small": bytes.Repeat([]byte("a"), 240)}
	for in, good := range map[string]bool{
		strings.Repeat(`{{$a := secret "big"}}`, maxActions):                          false,
		strings.Repeat(`{{if eq (secret "big") "a"}}{{end}}`, maxActions/2):           false,
		strings.Repeat(`{{$a := secret "small"}}`, maxActions):                        true,
		strings.Repeat(`{{$a := secret "big"}}`, 2):                                   true,
		strings.Repeat(`{{$a := and (secret "small") (secret "small")}}`, maxActions): false,
	} {
		p, err := Parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = p.Render(facts(), secrets)
		runtime.ReadMemStats(&after)
		if good != (err == nil) || err != nil && !errors.Is(err, errTooMuch) {
			t.Errorf("%.50q: %v", in, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
			t.Errorf("%.50q takes %d KiB", in, used>>10)
		}
	}
}

// What fails while rendering says where, and nothing of a secret.
func TestRenderFails(t *testing.T) {
	canary := "canary-in-a-secret"
	secrets := map[string][]byte{"a": []byte(canary), "big": bytes.Repeat([]byte("a"), 500<<10)}
	for in, want := range map[string]string{
		`{{secret "missing"}}`:                `names the secret "missing"`,
		`{{.Service.Labels.none}}`:            "no entry for key",
		`{{.Nothing}}`:                        "can't evaluate field",
		`{{(secret "a").Foo}}`:                "can't evaluate field",
		`{{index (secret "a") 99}}`:           "out of range",
		`{{index .Service.Labels 1}}`:         "",
		`{{eq (secret "a") 1}}`:               "incompatible",
		`{{.Task.Slot (secret "a")}}`:         "has arguments",
		`{{secret "a" | index .Service}}`:     "",
		strings.Repeat(`{{secret "big"}}`, 3): "more than",
	} {
		p, err := Parse([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got, err := p.Render(facts(), secrets)
		if err == nil || got != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}

// TestRenderLeavesNothing: a rendered secret is in what was returned and nowhere else
// of the heap, once that and the secret are wiped.
func TestRenderLeavesNothing(t *testing.T) {
	const upper = "CANARY-OF-TEMPLATES-0123456789AB"
	lower := func(b []byte) []byte { // makes no copy of its own
		for i := range upper {
			b[len(b)-len(upper)+i] = upper[i]
			if 'A' <= upper[i] && upper[i] <= 'Z' {
				b[len(b)-len(upper)+i] += 'a' - 'A'
			}
		}
		return b
	}
	small, big := lower(make([]byte, len(upper))), lower(make([]byte, 100<<10))
	secrets := map[string][]byte{"a": small, "big": big}
	p, err := Parse([]byte(`{{$v := secret "a"}}{{$v}}` + strings.Repeat(" filler {{secret \"a\"}}", 50) +
		`{{if eq $v "no"}}x{{end}}{{with secret "big"}}{{.}}{{end}}{{and 1 (secret "a")}}{{.Service.Labels.tier}}{{secret "big"}}`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Render(facts(), secrets)
	if n := bytes.Count(out, small); err != nil || n != 54 {
		t.Fatalf("%d, %v", n, err)
	}
	clear(out)
	clear(big)
	if n := inOwnMemory(t, upper); n != 1 {
		t.Errorf("it is there %d times, want the one of the secret itself", n)
	}
	clear(small)
	if n := inOwnMemory(t, upper); n > 0 {
		t.Errorf("it is left %d times", n)
	}
}

// inOwnMemory counts in what this process may write how often a text lies there in
// lower case: as it is given it lies in the program.
func inOwnMemory(t *testing.T, text string) (n int) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	fold := func(b byte) byte {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		return b
	}
	block := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x rw", &from, &to); err != nil {
			continue
		}
		for at := from; at < to; at += int64(len(block) - len(text)) {
			clear(block)
			m, _ := mem.ReadAt(block[:min(int64(len(block)), to-at)], at)
			for i := 0; i+len(text) <= m; i++ {
				j := 0
				for j < len(text) && block[i+j] == fold(text[j]) {
					j++
				}
				if j == len(text) {
					n++
				}
			}
		}
		clear(block)
	}
	return n
}

func FuzzRender(f *testing.F) {
	f.Add(`{{.Service.Name}}{{secret "a"}}{{if eq 1 2}}{{else}}{{with .Task}}{{.Slot}}{{end}}{{end}}`)
	f.Add(`{{range 9999999999}}{{end}}`)
	f.Add(`{{$x := index .Service.Labels "tier"}}{{$x}}{{- /* c */ -}}`)
	f.Fuzz(func(t *testing.T, in string) {
		const canary = "canary-in-a-secret"
		begun := time.Now()
		p, err := Parse([]byte(in))
		if err == nil {
			secrets := map[string][]byte{}
			for _, name := range p.Secrets() {
				secrets[name] = []byte(canary)
			}
			var out []byte
			out, err = p.Render(facts(), secrets)
			if len(out) > MaxBytes || len(p.Secrets()) == 0 && bytes.Contains(out, []byte(canary)) && !strings.Contains(in, canary) {
				t.Errorf("%q becomes %d bytes", in, len(out))
			}
		}
		if err != nil && !strings.Contains(in, canary) && strings.Contains(err.Error(), canary) {
			t.Errorf("%q: the error quotes a secret: %v", in, err)
		}
		if d := time.Since(begun); d > 20*time.Second {
			t.Errorf("%q took %s", in, d)
		}
	})
}
