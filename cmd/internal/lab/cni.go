package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// pluginsFrom is where Debian puts CNI's plugins; hosts get copies of these.
const pluginsFrom = "/usr/lib/cni"

var plugins = []string{"bridge", "macvlan", "host-local", "static"}

// cniDir holds h's plugins, conflists, and the addresses that plugins gave.
func (l *Lab) cniDir(h Host) string { return filepath.Join(l.hostDir(h), "cni") }

// writeCNI gives h plugins and a conflist, lan, of a bridge that is the host's
// own. It returns what its configuration says of them. What is there stays.
func (l *Lab) writeCNI(h Host) (config string, err error) {
	dir := l.cniDir(h)
	for _, d := range []string{dir, filepath.Join(dir, "plugins"), filepath.Join(dir, "conflists"), filepath.Join(dir, "addresses")} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return "", err
		}
	}
	config = fmt.Sprintf("  cni:\n    conflists: %[1]s/conflists\n    plugin_dir: %[1]s/plugins\n    paths: [%[1]s/addresses]\n    plugins:\n", dir)
	for _, name := range plugins {
		to := filepath.Join(dir, "plugins", name)
		if err := copyFile(filepath.Join(pluginsFrom, name), to); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("%w: run `apt-get install containernetworking-plugins`", err)
		}
		b, err := os.ReadFile(to)
		if err != nil {
			return "", err
		}
		config += fmt.Sprintf("      %s: %x\n", name, sha256.Sum256(b))
	}
	list := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "lan", "plugins": [
  {"type": "bridge", "bridge": "lan0", "isGateway": false,
   "ipam": {"type": "host-local", "dataDir": "%s/addresses", "ranges": [[{"subnet": "172.29.%d.0/24"}]]}}]}
`, dir, h.Number)
	path := filepath.Join(dir, "conflists", "lan.conflist")
	if _, err := os.Lstat(path); err == nil {
		return config, nil
	}
	return config, atomicfile.WriteMode(path, []byte(list), 0o644)
}
