package rund

import (
	"regexp"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// What containerd and runc put around what went wrong. A person wants the last
// of it: "exec: \"/nope\": stat /nope: no such file or directory".
var runtimeNoise = []*regexp.Regexp{
	regexp.MustCompile(`^(create container|start): `),
	regexp.MustCompile(`^(failed to create (shim task|shim|task|containerd task)|failed to start (shim|task)|cannot start a stopped process): `),
	regexp.MustCompile(`^OCI runtime (create|start|exec|restore) failed: `),
	regexp.MustCompile(`^(runc|crun|runsc) (create|start|run|exec) failed: `),
	regexp.MustCompile(`^(unable to|cannot) start container process: `),
	regexp.MustCompile(`^error during container init: `),
	regexp.MustCompile(`^container_linux\.go:\d+: [a-z ]+ caused: `),
	regexp.MustCompile(`^process_linux\.go:\d+: [a-z ]+ caused: `),
	regexp.MustCompile(`^exec failed: `),
}

var runtimeTail = regexp.MustCompile(`(: unknown|: exit status \d+: unknown|: <nil>)+$`)

// known words of the runtime, and ours: what is wrong and what to do.
var runtimeWords = []struct {
	match *regexp.Regexp
	say   string
}{
	{regexp.MustCompile(`^exec: "([^"]*)": (?:stat [^:]*: )?no such file or directory$`), `the image has no program $1: correct the command or the image`},
	{regexp.MustCompile(`^exec: "([^"]*)": executable file not found in \$PATH$`), `the image has no program $1 on its PATH: correct the command or the image`},
	{regexp.MustCompile(`^exec: "([^"]*)": (?:stat [^:]*: )?permission denied$`), `$1 is no program that may be executed: correct the command, or make it executable in the image`},
	{regexp.MustCompile(`^exec: "([^"]*)": is a directory$`), `$1 is a directory and no program: correct the command`},
	{regexp.MustCompile(`^exec ([^ :]+): exec format error$`), `the program $1 is made for another machine, or is a script without #!`},
	{regexp.MustCompile(`^exec ([^ :]+): no such file or directory$`), `the program $1 needs an interpreter or a loader that the image lacks`},
	{regexp.MustCompile(`^chdir to cwd \("([^"]*)"\)[^:]*: (.*)$`), `the working directory $1 cannot be entered: $2`},
	{regexp.MustCompile(`^mkdir ([^:]*): read-only file system$`), `the mount target $1 does not exist and the root file system is read-only: make it in the image`},
}

// plainRuntimeError makes one plain line of an error of containerd or runc.
func plainRuntimeError(err error) string {
	s := oneline.Text(err.Error(), maxSaid)
	for trimmed := true; trimmed; {
		trimmed = false
		for _, n := range runtimeNoise {
			if t := n.ReplaceAllString(s, ""); t != s && t != "" {
				s, trimmed = t, true
			}
		}
	}
	if t := runtimeTail.ReplaceAllString(s, ""); t != "" {
		s = t
	}
	// runc's own quoting of the whole.
	if len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`)
	}
	for _, w := range runtimeWords {
		if w.match.MatchString(s) {
			return w.match.ReplaceAllString(s, w.say)
		}
	}
	return s
}
