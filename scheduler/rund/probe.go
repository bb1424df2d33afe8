package rund

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Probe says what this node can do. A required feature that is missing means
// that no task may run here.
func (s *Server) Probe(ctx context.Context, _ *rundpb.ProbeRequest) (*rundpb.ProbeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	resp := &rundpb.ProbeResponse{Features: kernelFeatures()}
	need := func(name string, present bool, detail string) {
		resp.Features = append(resp.Features, &taskpb.Feature{Name: name, Present: present, Required: true, Detail: detail})
	}
	v, err := s.client.Version(ctx)
	if err != nil {
		need("containerd", false, "no answer on "+s.config.Containerd.Socket+": start containerd, or correct rund.containerd.socket")
	} else {
		resp.Runtime = "containerd " + v.Version
		need("containerd", true, v.Version)
	}
	runc, ok := findRuntime(s.config.Containerd.Runtime)
	if ok {
		need("runc", true, runc)
	} else {
		need("runc", false, "not found: install runc, or set rund.containerd.runtime")
	}
	resp.Features = append(resp.Features, s.locals.features(ctx)...)
	resp.Features = append(resp.Features, &taskpb.Feature{Name: "secret-files", Present: true, Detail: s.files.Kind()})
	if s.check != nil {
		resp.Features = append(resp.Features, &taskpb.Feature{Name: "check", Present: true})
	}
	resp.Features = append(resp.Features, s.execFeature())
	resp.Features = append(resp.Features, s.allowed.features()...)
	resp.Features = append(resp.Features, s.ranges.feature())
	resp.Features = append(resp.Features, s.lockFeature()...)
	resp.Features = append(resp.Features, s.volumes.Features()...)
	var verr error
	if resp.Volumes, verr = s.volumes.List(); verr != nil {
		return nil, status.Error(codes.Unavailable, oneline.Text(verr.Error(), maxSaid))
	}
	if err == nil {
		if resp.LoadedImages, err = s.images.Loaded(ctx); err != nil {
			return nil, imageStatus(err)
		}
	}
	s.mu.Lock()
	resp.Storage = s.storage
	s.mu.Unlock()
	return resp, nil
}

func kernelFeatures() []*taskpb.Feature {
	var fs []*taskpb.Feature
	need := func(name string, present bool, remedy string) {
		f := &taskpb.Feature{Name: name, Present: present, Required: true}
		if !present {
			f.Detail = remedy
		}
		fs = append(fs, f)
	}
	need("overlayfs", listed("/proc/filesystems", "overlay"), "load the module overlay")
	need("user-namespaces", positive("/proc/sys/user/max_user_namespaces"), "set the sysctl user.max_user_namespaces to a large number")
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	need("seccomp", err == nil, "use a kernel with CONFIG_SECCOMP_FILTER")
	have := controllers()
	for _, c := range []string{"memory", "pids", "cpu"} {
		need("cgroup-"+c, have[c], fmt.Sprintf("enable the cgroup controller %s (kernel command line cgroup_enable=%s)", c, c))
	}
	version := "v1"
	if unified() {
		version = "v2"
	}
	return append(fs, &taskpb.Feature{Name: "cgroup", Present: true, Detail: version})
}

// listed reports whether a line of file ends in word.
func listed(file, word string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if slices.Contains(strings.Fields(sc.Text()), word) {
			return true
		}
	}
	return false
}

func positive(file string) bool {
	b, err := os.ReadFile(file)
	v := strings.TrimSpace(string(b))
	return err == nil && v != "" && v != "0"
}

// findRuntime looks where containerd would.
func findRuntime(configured string) (string, bool) {
	if configured != "" {
		return configured, isExecutable(configured)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if p := filepath.Join(dir, "runc"); isExecutable(p) {
			return p, true
		}
	}
	return "", false
}

func isExecutable(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}
