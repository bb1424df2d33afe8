package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
)

// sizes: whatever bytes there are arrive as they were given, up to the bound, and what
// is no data, too much of it or of a name that is taken is refused.
func (s *secretStory) sizes() {
	noise := func(n int, head string) []byte {
		b := append(make([]byte, 0, n), head...)
		rnd := rand.New(rand.NewPCG(uint64(n), 1))
		for len(b) < n {
			b = append(b, byte(rnd.Uint32()))
		}
		return b
	}
	secret, config := noise(seal.MaxSecret, s.canary), noise(spec.MaxConfigBytes, "")
	give := func(data []byte, line ...string) result {
		s.t.Helper()
		return s.onIn(secretsManager, data, append(line, "-")...)
	}
	for _, bad := range []struct {
		data []byte
		want string
		line []string
	}{
		{nil, "empty", []string{"secret", "create", "full"}},
		{append(bytes.Clone(secret), 0), "longer than 512000 bytes", []string{"secret", "create", "full"}},
		{[]byte("x"), "exists already", []string{"secret", "create", "token"}},
		{append(bytes.Clone(secret), 0), "longer than 512000 bytes", []string{"secret", "update", "token"}},
		{nil, "empty", []string{"secret", "update", "token"}},
		{append(bytes.Clone(config), 0), "1024000", []string{"config", "create", "whole"}},
		{[]byte("x"), "exists already", []string{"config", "create", "motd"}},
	} {
		if r := give(bad.data, bad.line...); r.code == 0 || !strings.Contains(r.stderr, bad.want) || strings.Count(r.stderr, "\n") > 1 {
			s.t.Errorf("%v of %d bytes: %v", bad.line, len(bad.data), r)
		}
	}
	for _, line := range [][]string{{"secret", "create", "full"}, {"config", "create", "whole"}} {
		data := secret
		if line[0] == "config" {
			data = config
		}
		if r := give(data, line...); r.code != 0 {
			s.t.Fatal(r)
		}
	}
	s.ok(secretsManager, "service", "create", "--name", "large", "--constraint", "node.hostname==worker-2", "--secret", "full", "--config", "whole", image)
	p := s.process(s.only("large"))
	same := func(path string, want []byte) {
		s.t.Helper()
		eventually(s.t, 20*time.Second, func() string {
			if b, err := os.ReadFile("/proc/" + p + "/root" + path); err != nil || !bytes.Equal(b, want) {
				return path + " has other data than was given"
			}
			return ""
		})
	}
	same("/run/secrets/full", secret)
	same("/run/configs/whole", config)
	config = noise(spec.MaxConfigBytes-1, "")
	if r := give(config, "config", "update", "whole"); r.code != 0 {
		s.t.Fatal(r)
	}
	same("/run/configs/whole", config)
	s.ok(secretsManager, "service", "rm", "large")
}
