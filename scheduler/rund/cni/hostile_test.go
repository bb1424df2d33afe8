package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ok is what a plugin says that has nothing to say.
const ok = `/bin/cat >/dev/null; echo '{"cniVersion":"1.0.0"}'`

// Plugins that misbehave at ADD: one line each, soon, and the record is gone
// since DEL is well-behaved.
func TestBadAtAdd(t *testing.T) {
	w := newWorld(t)
	w.o.CallTime = 700 * time.Millisecond
	add := func(name, text string) {
		w.script(name, `[ $CNI_COMMAND = ADD ] || { `+ok+`; exit 0; }`+"\n"+text)
		w.simple(name)
	}
	cases := map[string]string{
		"fails":   "7 no more addresses; ask for more",
		"silent":  "plugin silent: exit status 3",
		"noisy":   "plugin noisy: first second",
		"hangs":   "plugin hangs did not end in time and was killed: it had 700ms",
		"garbage": "invalid character",
		"empty":   "unexpected end of JSON input",
		"null":    "no result",
		"flood":   "plugin flood wrote more than 1048576 bytes and was ended",
		"errors":  "plugin errors wrote more than 1048576 bytes and was ended",
		"many":    "at most 16 are taken",
		"future":  "unsupported CNI result version",
	}
	add("fails", `echo '{"cniVersion":"1.0.0","code":7,"msg":"7 no more addresses","details":"ask for more"}'; exit 1`)
	add("silent", "exit 3")
	add("noisy", "echo 'first\n\n second' >&2; exit 1")
	add("hangs", "exec /bin/sleep 1000")
	add("garbage", "echo garbage")
	add("empty", "exit 0")
	add("null", "echo null")
	add("flood", "exec /usr/bin/head -c 100000000 /dev/zero")
	add("errors", "exec /usr/bin/head -c 100000000 /dev/zero >&2")
	add("many", `echo '{"cniVersion":"1.0.0","ips":['; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo '{"address":"10.0.0.1/24"},'; done; echo '{"address":"10.0.0.1/24"}]}'`)
	add("future", `echo '{"cniVersion":"99.0.0"}'`)
	w.start()
	task := w.task()
	for name, want := range cases {
		_, err := w.client.Attach(w.ctx(), task, on(name))
		if name == "null" && err == nil {
			continue // libcni takes it for an empty result
		}
		t.Run(name, func(t *testing.T) { (&world{t: t}).refused(err, want) })
	}
	w.must(w.client.Detach(w.ctx(), task))
	w.nothingLeft()
}

// What a plugin started and left, outside of its process group, ends with the
// call; what holds its output does not hold the call up.
func TestStrays(t *testing.T) {
	w := newWorld(t)
	w.script("leaves", ok+"\n/usr/bin/setsid /bin/sleep 31415926 </dev/null >/dev/null 2>&1 &")
	w.simple("leaves")
	w.start()
	task := w.task()
	w.attach(task, "leaves")
	w.must(w.client.Detach(w.ctx(), task))
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "31415926") {
			t.Errorf("%s runs: %q", f, b)
		}
	}
}

// A DEL that fails is repeated until it succeeds, by a later helper too.
func TestDelFails(t *testing.T) {
	w := newWorld(t)
	flag := w.path("lib", "may")
	w.script("stubborn", fmt.Sprintf("/bin/cat >/dev/null\nif [ $CNI_COMMAND = DEL ]; then [ -e %s ] || { echo '{\"code\":11,\"msg\":\"not now\"}'; exit 1; }; echo deleted >%s; fi\necho '{\"cniVersion\":\"1.0.0\"}'", flag, w.path("deleted")))
	w.simple("stubborn")
	w.fifo("deleted")
	w.start()
	task := w.task()
	w.attach(task, "stubborn")
	w.refused(w.client.Detach(w.ctx(), task), "not now")
	if len(w.left()) == 0 {
		t.Fatal("it was forgotten")
	}
	w.kill()
	w.start()
	if _, err := w.client.Keep(w.ctx(), nil); err != nil {
		t.Fatal(err)
	}
	w.must(os.WriteFile(flag, nil, 0o600))
	if got := w.line("deleted"); got != "deleted" {
		t.Fatalf("%q", got)
	}
	w.must(w.client.Detach(w.ctx(), task)) // in its turn: when the record is gone
	w.must(os.Remove(flag))
	w.nothingLeft()
}

// The helper is killed in the middle of ADD, before anything of it is known: the
// plugin ends with it, and the next helper deletes what it did. So it is after a
// reboot, when sandboxes are gone as well.
func TestKilledInAdd(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		w := newWorld(t)
		w.script("slow", fmt.Sprintf(`/bin/cat >%[1]s/stdin.$CNI_COMMAND
if [ $CNI_COMMAND = DEL ]; then echo "deleted $CNI_CONTAINERID $CNI_NETNS" >%[1]s/del; echo '{}'; exit 0; fi
echo "$$" >%[1]s/add; exec /bin/sleep 27182818`, w.dir))
		w.conflist("slow", `{"cniVersion":"1.0.0","name":"slow","plugins":[{"type":"slow","mark":"as it was"}]}`)
		w.fifo("add")
		w.fifo("del")
		w.start()
		task := w.task()
		done := make(chan error, 1)
		go func() { _, err := w.client.Attach(w.ctx(), task, on("slow")); done <- err }()
		w.line("add")
		w.kill()
		w.refused(<-done, "the process that runs CNI plugins ended")
		netns := w.sandbox.Path(task)
		if reboot {
			w.must(w.sandbox.Remove(task))
			netns = ""
		}
		w.conflist("slow", "{}") // DEL is given what ADD was
		w.start()
		if _, err := w.client.Keep(w.ctx(), nil); err != nil {
			t.Fatal(err)
		}
		if got, want := w.line("del"), strings.TrimSpace("deleted "+task+" "+netns); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.Contains(string(b), "27182818") {
				t.Errorf("the plugin outlived the helper: %s", f)
			}
		}
		if b, _ := os.ReadFile(w.path("stdin.DEL")); !strings.Contains(string(b), "as it was") {
			t.Errorf("DEL was given %s", b)
		}
		w.must(w.client.Detach(w.ctx(), task)) // in its turn: when the record is gone
		w.nothingLeft()
		w.client.Close()
		w.client = nil
	}
}

// What a plugin is given, and what it may do.
func TestConfined(t *testing.T) {
	w := newWorld(t)
	w.script("looks", fmt.Sprintf(`/usr/bin/env >%[1]s/env; /bin/cat /proc/self/status >%[1]s/status; /bin/pwd >%[1]s/cwd
/bin/mount -t tmpfs x %[1]s/lib 2>>%[1]s/denied; /usr/bin/unshare -U /bin/true 2>>%[1]s/denied; echo x 2>>%[1]s/denied >made
/bin/ls -a $CNI_PATH >%[1]s/ls; `, w.dir)+ok)
	w.simple("looks")
	w.start()
	task := w.task()
	w.attach(task, "looks")
	read := func(name string) string {
		b, err := os.ReadFile(w.path(name))
		w.must(err)
		return string(b)
	}
	env := map[string]bool{"PATH": true, "CNI_PATH": true, "CNI_COMMAND": true, "CNI_CONTAINERID": true, "CNI_NETNS": true, "CNI_IFNAME": true, "CNI_ARGS": true,
		"PWD": true, "_": true, "OLDPWD": true, "SHLVL": true} // the shell's own
	for line := range strings.Lines(read("env")) {
		if name, _, _ := strings.Cut(line, "="); !env[name] {
			t.Errorf("environment has %q", line)
		}
	}
	status := read("status")
	for _, want := range []string{"CapEff:\t0000000000203000", "CapPrm:\t0000000000203000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	denied := read("denied")
	for _, want := range []string{"mount:", "unshare:", "made"} {
		if !strings.Contains(denied, want) {
			t.Errorf("%s was not denied: %s", want, denied)
		}
	}
	if got := read("cwd"); strings.TrimSpace(got) != w.o.Bin {
		t.Errorf("works in %q", got)
	}
	if got := strings.Fields(read("ls")); len(got) != 3 || got[2] != "looks" {
		t.Errorf("finds %q", got)
	}
	if _, err := os.Stat(filepath.Join(w.o.Bin, "looks")); err == nil {
		t.Error("the copy is there for others, too")
	}
}

// Plugins that are not what was pinned do not run; those that were replaced since
// the start run as they were.
func TestPins(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"good", "changed", "gone", "open", "link"} {
		w.script(n, ok)
		w.simple(n)
	}
	write := func(name, text string) {
		w.must(os.WriteFile(w.path("plugins", name), []byte(text), 0o755))
	}
	write("changed", "#!/bin/sh\nexec /bin/sh -c 'echo evil'\n")
	w.must(os.Remove(w.path("plugins", "gone")))
	w.must(os.Chmod(w.path("plugins", "open"), 0o777))
	w.must(os.Rename(w.path("plugins", "link"), w.path("plugins", "real")))
	w.must(os.Symlink("real", w.path("plugins", "link")))
	w.simple("unpinned")
	w.start()
	task := w.task()
	w.attach(task, "good")
	write("good", "#!/bin/sh\nexit 9\n")
	other := w.task()
	w.attach(other, "good")
	for name, want := range map[string]string{"changed": "is not the pinned one: its SHA-256 is ", "gone": "there is no ", "open": "may be written by others",
		"link": "symbolic link", "unpinned": "plugin unpinned is not pinned: add"} {
		_, err := w.client.Attach(w.ctx(), w.task(), on(name))
		w.refused(err, want)
		if !Refused(err) {
			t.Errorf("%s: trying again would not help", name)
		}
	}
	for _, id := range []string{task, other} {
		w.must(w.client.Detach(w.ctx(), id))
	}
	w.nothingLeft()
}
