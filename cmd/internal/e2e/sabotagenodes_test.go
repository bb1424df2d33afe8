package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/headed"
)

var sabotagedNodes = []sabotage{{
	name: "a foreign CA among the roots that a worker keeps",
	do: func(s *sabotaged) []said {
		der, path := s.foreignCA(), s.data("worker-1", "control", "roots")
		body, err := json.Marshal(map[string][][]byte{"roots": {der}})
		s.none(err)
		uid, err := ownerOf(filepath.Dir(path))
		s.none(err)
		s.none(os.WriteFile(path, headed.Encode("roots", body), 0o600))
		s.none(os.Chown(path, int(uid), int(uid)))
		return []said{{control: "roots-kept", target: "node/worker-1", evidence: fmt.Sprintf("%s has the root %x", path, sha256.Sum256(der))[:len(path)+14+16]}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "roots-kept", "remove the file, and restart redoubtd")
		s.none(os.Remove(s.data("worker-1", "control", "roots")))
		s.restart("worker-1", "redoubtd")
	},
}, {
	name: "a key for all to read",
	do: func(s *sabotaged) []said {
		path := s.data("worker-2", "control", "leaf")
		s.none(os.Chmod(path, 0o644))
		return []said{{control: "files-own", target: "node/worker-2", evidence: path + " may be used by others (mode 0644)"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "files-own", "chmod go= what is named")
		s.none(os.Chmod(s.data("worker-2", "control", "leaf"), 0o600))
	},
}, {
	name: "a socket for all",
	do: func(s *sabotaged) []said {
		path := filepath.Join(s.host("worker-1").RunDir, "named.sock")
		s.none(os.Chmod(path, 0o666))
		return []said{{control: "sockets-own", target: "node/worker-1", evidence: path + " has owner"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "sockets-own", "restart the supervisor")
		s.lab("stop", "worker-1")
		s.lab("start", "worker-1")
	},
}, {
	name: "a configuration for all to write",
	do: func(s *sabotaged) []said {
		path := s.config(reporter)
		s.none(os.Chmod(path, 0o666))
		return []said{{control: "config-trusted", target: "node/" + reporter, evidence: path + " may be written by others than root"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.runs(p, "config-trusted", "chown root FILE && chmod 0644 FILE", "FILE", s.config(reporter))
	},
}, {
	name: "an operator key on a manager's disk",
	do: func(s *sabotaged) []said {
		path := s.data("manager-3", "keyd", "note")
		uid, err := ownerOf(filepath.Dir(path))
		s.none(err)
		s.none(os.WriteFile(path, []byte("RDTKEY-"+"SECRETSECRET"), 0o600))
		s.none(os.Chown(path, int(uid), int(uid)))
		return []said{{control: "nothing-in-clear", target: "node/manager-3", evidence: path + " holds"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "nothing-in-clear", "remove the file")
		s.none(os.Remove(s.data("manager-3", "keyd", "note")))
	},
}, {
	name: "a daemon without its sandbox",
	do: func(s *sabotaged) []said {
		s.posing("manager-3", "redoubt-named", "#!/bin/bash\nexec -a \"$0\" /bin/bash -c 'while :; do read -r -t 3600 <> <(:); done' \"$@\"\n")
		s.restart("manager-3", "redoubt-named")
		return []said{{control: "daemon-no-new-privs", target: "node/manager-3", evidence: "redoubt-named may gain privileges"}, {control: "daemon-seccomp", target: "node/manager-3", evidence: "redoubt-named has no filter of system calls"},
			{control: "daemon-undumpable", target: "node/manager-3", evidence: "redoubt-named can be read and traced"}}
	},
	mend: func(s *sabotaged, p printed) {
		for _, id := range []string{"daemon-no-new-privs", "daemon-seccomp", "daemon-undumpable"} {
			s.says(p, id, "start the daemons as they were installed")
		}
		s.installed("manager-3", "redoubt-named")
		s.restart("manager-3", "redoubt-named")
	},
}, {
	name: "a program that is not what was started",
	do: func(s *sabotaged) []said {
		program, err := os.ReadFile(s.program("redoubt-keyd"))
		s.none(err)
		s.posing("worker-2", "redoubt-keyd", string(program)+"and more")
		return []said{{control: "programs-trusted", target: "node/worker-2", evidence: "was changed after it was started"}}
	},
	mend: func(s *sabotaged, p printed) {
		s.says(p, "programs-trusted", "install the programs again, and restart the daemons")
		s.installed("worker-2", "redoubt-keyd")
		s.restart("worker-2", "redoubt-keyd")
	},
}}

func (s *sabotaged) none(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *sabotaged) data(host string, parts ...string) string {
	s.t.Helper()
	return filepath.Join(append([]string{s.host(host).DataDir}, parts...)...)
}

// config is the file that a host's daemons were started with.
func (s *sabotaged) config(host string) string {
	s.t.Helper()
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.daemons(s.host(host))["redoubtd"]))
	s.none(err)
	flags := strings.Split(string(args), "\x00")
	return flags[slices.Index(flags, "--config")+1]
}

// restart ends a daemon, and waits until the supervisor has started it again.
func (s *sabotaged) restart(host, daemon string) {
	s.t.Helper()
	h := s.host(host)
	pid := s.daemons(h)[daemon]
	if pid <= 1 {
		s.t.Fatalf("%s does not run on %s", daemon, host)
	}
	s.none(syscall.Kill(pid, syscall.SIGKILL))
	eventually(s.t, 30*time.Second, func() string {
		if now := s.daemons(h)[daemon]; now <= 1 || now == pid {
			return daemon + " is not started again"
		}
		return ""
	})
}

// posing has a host see other contents at a program's path: in the namespaces of who
// starts daemons, and of who judges them.
func (s *sabotaged) posing(host, program, contents string) {
	s.t.Helper()
	file := filepath.Join(s.dir, host+"-"+program)
	s.none(os.WriteFile(file, []byte(contents), 0o755))
	s.everywhere(host, fmt.Sprintf("mount --bind %s %s", file, s.program(program)))
}

// program is where the lab's hosts have one.
func (s *sabotaged) program(name string) string {
	return filepath.Join("/var/lib/redoubt-lab", s.name, "bin", name)
}

// installed ends that.
func (s *sabotaged) installed(host, program string) {
	s.t.Helper()
	s.everywhere(host, "umount "+s.program(program))
}

func (s *sabotaged) everywhere(host, line string) {
	s.t.Helper()
	rund := s.daemons(s.host(host))["redoubt-rund"]
	s.inHost(host, "sh", "-ec", line)
	s.inHost(host, "nsenter", "--mount=/proc/"+strconv.Itoa(rund)+"/ns/mnt", "sh", "-ec", line)
}

// foreignCA is a certificate of a CA that nobody here knows.
func (s *sabotaged) foreignCA() []byte {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.none(err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "elsewhere"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	s.none(err)
	return der
}
