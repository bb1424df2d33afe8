package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// RegistryName is the fixed name of every lab's registry.
const RegistryName = "registry.lab:5000"

// daemons are the binaries a lab runs.
var daemons = []string{"redoubt", "redoubt-node", "redoubtd", "redoubt-keyd", "redoubt-named", "redoubt-netd", "redoubt-proxy", "redoubt-rund"}

// writeHost makes h's directories and files. Directories can be passed through
// by the daemons' users; what is secret is in files of mode 0600.
func (l *Lab) writeHost(h Host) error {
	for _, d := range []string{l.hostDir(h), l.DataDir(h), filepath.Join(l.hostDir(h), "containerd"), l.HostRunDir(h)} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o711); err != nil { // whatever the umask
			return err
		}
	}
	config := l.nodeConfig(h)
	if l.CNI {
		cni, err := l.writeCNI(h)
		if err != nil {
			return err
		}
		config += cni
	}
	return errors.Join(
		atomicfile.WriteMode(l.configFile(h), []byte(config), 0o644),
		atomicfile.WriteMode(filepath.Join(l.hostDir(h), "containerd.toml"), []byte(l.containerdConfig(h)), 0o600),
		atomicfile.WriteMode(filepath.Join(l.hostDir(h), "hosts"), []byte(l.hostsFile(h)), 0o644))
}

// nodeConfig is h's config.yaml. Every value is made here from numbers and
// checked names, so nothing needs quoting.
func (l *Lab) nodeConfig(h Host) string {
	return fmt.Sprintf(`# Written by redoubt lab; see docs/operations.md for what can stand here.
log:
  level: info
node:
  name: %s
  listen: %[2]s:2377
  advertise: %[2]s:2377
  dns: [%s]
rund:
  containerd:
    socket: /run/containerd/containerd.sock
  cgroup_parent: /%s
  userns: {base: %d, size: %d}
  registries:
    "%s": {ca_file: %s}
`, h.Name, l.Addr(h), l.Gateway(), l.CgroupOf(h), l.usernsBase(h), usernsSize, RegistryName, l.caFile())
}

// containerdConfig is h's private containerd, without the Kubernetes plugin.
func (l *Lab) containerdConfig(h Host) string {
	return fmt.Sprintf(`version = 2
root = "%s"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
`, filepath.Join(l.hostDir(h), "containerd"))
}

func (l *Lab) hostsFile(h Host) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n%s registry.lab\n", l.Gateway())
	for _, o := range l.Hosts {
		fmt.Fprintf(&b, "%s %s\n", l.Addr(o), o.Name)
	}
	return b.String()
}

func (l *Lab) binDir() string { return filepath.Join(l.Dir(), "bin") }

// copyBinaries takes the binaries into the lab: their own directory may be
// closed to the daemons' users, and a rebuild must not change a running lab.
func (l *Lab) copyBinaries(from string) error {
	if err := os.MkdirAll(l.binDir(), 0o755); err != nil {
		return err
	}
	for _, name := range daemons {
		if err := copyFile(filepath.Join(from, name), filepath.Join(l.binDir(), name)); err != nil {
			return err
		}
	}
	return nil
}

// checkTools says what is missing before anything is touched.
func checkTools(binDir string) error {
	if os.Geteuid() != 0 {
		return errors.New("a lab makes namespaces and starts daemons: run it as root")
	}
	for _, name := range daemons {
		fi, err := os.Stat(filepath.Join(binDir, name))
		if err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
			return fmt.Errorf("%s is not in %s: build it (`make build`), or name the directory with --bin-dir", name, binDir)
		}
	}
	for _, tool := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed: run `apt-get install containerd runc`", tool)
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Chmod(0o755); err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return err
}
