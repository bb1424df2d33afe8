package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// demo shows what Redoubt does on a lab of its own, by the commands a user
// would type; each step is checked, and the first that is not as it should be
// ends it with an error.
type demo struct {
	lab *Lab
	out io.Writer
}

// Demo runs it: a cluster, a service, a lost worker, a locked manager.
func Demo(ctx context.Context, o Options, keep bool, out io.Writer) (err error) {
	d := &demo{out: out}
	o.Log = func(format string, args ...any) { fmt.Fprintf(out, "  "+format+"\n", args...) }
	d.say("A cluster of %d managers and %d workers on this machine", o.Managers, o.Workers)
	d.lab, err = Up(ctx, o)
	if d.lab != nil && !keep {
		defer func() {
			d.say("Removing the lab")
			// Also after an interruption: what was made is not left behind.
			err = errors.Join(err, Down(context.WithoutCancel(ctx), o.Name))
		}()
	}
	if err != nil {
		return err
	}
	if err := d.run(ctx, o); err != nil {
		return err
	}
	d.say("The demo ended well")
	return nil
}

func (d *demo) run(ctx context.Context, o Options) error {
	archive := filepath.Join(d.lab.Dir(), "demo.tar")
	if err := WriteImage(archive, o.BinDir); err != nil {
		return err
	}
	d.say("An image of our own, loaded into every host")
	if _, err := d.lab.Load(ctx, archive); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.services, d.loseWorker, d.lockManager} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) services(ctx context.Context) error {
	d.say("Two services: one published on port 8080 of its node, one of six tasks")
	if _, err := d.cli("manager-1", "", "node", "ls"); err != nil {
		return err
	}
	if _, err := d.cli("manager-1", "", "service", "create", "--name", "web", "--publish", "published=8080,target=80,mode=host", DemoImage); err != nil {
		return err
	}
	if _, err := d.cli("manager-1", "", "service", "create", "--name", "crowd", "--replicas", "6", "--limit-memory", "64m", DemoImage); err != nil {
		return err
	}
	if _, err := d.cli("manager-1", "", "service", "ls"); err != nil {
		return err
	}
	h, err := d.hostOf("web")
	if err != nil {
		return err
	}
	return d.curl(ctx, h)
}

func (d *demo) loseWorker(ctx context.Context) error {
	h, err := d.hostOf("web")
	if err != nil {
		return err
	}
	d.say("%s loses its power; its tasks move", h.Name)
	if err := d.lab.Kill(ctx, h, true); err != nil {
		return err
	}
	start := time.Now()
	var now Host
	err = await(ctx, readyWait, "the tasks of "+h.Name+" did not move", func(context.Context) error {
		tasks, err := d.tasks("web", "crowd")
		if err != nil {
			return err
		}
		n := 0
		for _, t := range tasks {
			if t.Node == h.Name {
				return fmt.Errorf("%s is still said to run on %s", t.Name, t.Node)
			}
			if t.State == "running" {
				n++
			}
		}
		if n != 7 {
			return fmt.Errorf("%d of 7 tasks run", n)
		}
		now, err = d.hostOf("web")
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  all seven run elsewhere after %.1f s\n", time.Since(start).Seconds())
	if _, err := d.cli("manager-1", "", "service", "ps", "--filter", "desired-state=running"); err != nil {
		return err
	}
	return d.curl(ctx, now)
}

func (d *demo) lockManager(ctx context.Context) error {
	var h Host
	for _, o := range d.lab.Hosts {
		if o.Role == "manager" {
			h = o
		}
	}
	d.say("%s restarts: its disk alone opens nothing", h.Name)
	if err := d.lab.Stop(h); err != nil {
		return err
	}
	st, err := d.lab.Start(ctx, h, false)
	if err != nil {
		return err
	}
	if st.Phase != controlpb.NodePhase_NODE_PHASE_LOCKED {
		return fmt.Errorf("%s restarted and is %s instead of locked", h.Name, st.Phase)
	}
	if code, err := d.cli(h.Name, "", "node", "ls"); code != 4 {
		return fmt.Errorf("a locked manager answered with exit code %d instead of 4 (%v)", code, err)
	}
	key, err := atomicfile.ReadBounded(d.lab.KeyFile(), 1<<10)
	if err != nil {
		return err
	}
	defer clear(key)
	if _, err := d.cli(h.Name, string(key), "unlock"); err != nil {
		return err
	}
	_, err = d.cli(h.Name, "", "node", "ls")
	return err
}

// cli runs the redoubt command on a host and shows it with its output.
func (d *demo) cli(host, stdin string, args ...string) (int, error) {
	h, err := d.lab.Host(host)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(d.out, "\n%s$ redoubt %s\n", host, strings.Join(args, " "))
	code, err := d.lab.Exec(h, append([]string{"redoubt"}, args...), strings.NewReader(stdin), d.out, d.out)
	if err == nil && code != 0 {
		err = fmt.Errorf("`redoubt %s` ended with exit code %d", strings.Join(args, " "), code)
	}
	return code, err
}

type taskOf struct {
	Name  string `json:"name"`
	Node  string `json:"node"`
	State string `json:"state"`
}

// tasks lists the tasks that should run.
func (d *demo) tasks(services ...string) ([]taskOf, error) {
	h, err := d.lab.Host("manager-1")
	if err != nil {
		return nil, err
	}
	var out, errOut bytes.Buffer
	args := append([]string{"redoubt", "service", "ps", "--format", "json", "--filter", "desired-state=running"}, services...)
	code, err := d.lab.Exec(h, args, strings.NewReader(""), &out, &errOut)
	if err != nil || code != 0 {
		return nil, fmt.Errorf("service ps: %w: %s", errors.Join(err, fmt.Errorf("exit code %d", code)), errOut.String())
	}
	var tasks []taskOf
	return tasks, json.Unmarshal(out.Bytes(), &tasks)
}

func (d *demo) hostOf(service string) (Host, error) {
	tasks, err := d.tasks(service)
	if err != nil {
		return Host{}, err
	}
	for _, t := range tasks {
		if t.State == "running" {
			return d.lab.Host(t.Node)
		}
	}
	return Host{}, fmt.Errorf("no task of %s runs", service)
}

// curl asks the published port from outside of the lab.
func (d *demo) curl(ctx context.Context, h Host) error {
	url := fmt.Sprintf("http://%s:8080/", d.lab.Addr(h))
	fmt.Fprintf(d.out, "\n$ curl %s\n", url)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return await(ctx, 10*time.Second, url+" does not answer", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s, %w", resp.Status, err)
		}
		_, err = d.out.Write(b)
		return err
	})
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n== %s\n", fmt.Sprintf(format, args...))
}
