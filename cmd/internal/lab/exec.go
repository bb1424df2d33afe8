package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
)

// Exec runs a command on h: in its network and mount namespaces (the cgroup
// file system stays visible), with the lab's binaries first on PATH, and REDOUBT_HOST
// and DOCKER_HOST naming h's node. It returns the command's exit code.
func (l *Lab) Exec(h Host, argv []string, in io.Reader, out, errOut io.Writer) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("no command is given: write `redoubt lab exec NODE -- CMD…`")
	}
	path := l.binDir() + ":" + os.Getenv("PATH")
	name, err := lookPath(argv[0], path)
	if err != nil {
		return 0, err
	}
	cmd := &exec.Cmd{Path: name, Args: argv, Stdin: in, Stdout: out, Stderr: errOut}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains([]string{"PATH", "REDOUBT_HOST", "DOCKER_HOST", "DOCKER_CONTEXT"}, name) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+path, "REDOUBT_HOST=unix://"+l.APISocket(h), "DOCKER_HOST=unix://"+filepath.Join(filepath.Dir(l.APISocket(h)), "docker.sock"))
	if err := l.inside(h, cmd.Start); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if code := exit.ExitCode(); code >= 0 {
			return code, nil
		}
		return 128 + int(waitSignal(exit)), nil // as a shell reports it
	}
	return 0, err
}

// lookPath finds a command on path; one with a slash is taken as it is.
func lookPath(name, path string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0 && filepath.IsAbs(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: command not found", name)
}

// Load imports an image archive into every running host.
func (l *Lab) Load(ctx context.Context, archive string) (map[string]string, error) {
	images := make([]map[string]string, len(l.Hosts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, h := range l.Hosts {
		g.Go(func() (err error) {
			if images[i], err = l.loadOne(ctx, h, archive); err != nil {
				err = fmt.Errorf("%s: %w", h.Name, err)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return images[0], nil
}

func (l *Lab) loadOne(ctx context.Context, h Host, archive string) (map[string]string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := apiclient.Dial(ctx, l.APISocket(h))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return apiclient.LoadImage(ctx, c, f)
}

func waitSignal(e *exec.ExitError) syscall.Signal {
	if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ws.Signal()
	}
	return 0
}
