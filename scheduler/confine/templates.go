package confine

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/render"
)

// Templated reports whether something that may be a template looks as if it were one:
// who makes a specification of what people wrote says so by it.
func Templated(c *taskpb.ContainerSpec) bool {
	const opens = "{{"
	if strings.Contains(c.GetHostname(), opens) {
		return true
	}
	for _, e := range c.GetEnv() {
		if _, value, _ := strings.Cut(e, "="); strings.Contains(value, opens) {
			return true
		}
	}
	for _, m := range c.GetMounts() {
		if strings.Contains(m.GetSource(), opens) {
			return true
		}
	}
	return false
}

// Facts are what the container's templates may say of the task, as render takes them.
func Facts(task string, f *taskpb.FileFacts) (out render.Facts) {
	out.Cluster.ID, out.Node.ID, out.Node.Hostname = f.GetClusterId(), f.GetNodeId(), f.GetNodeName()
	out.Service.ID, out.Service.Name, out.Service.Labels = f.GetServiceId(), f.GetServiceName(), f.GetServiceLabels()
	out.Task.ID, out.Task.Slot = task, f.GetSlot()
	if out.Task.Name = fmt.Sprintf("%s.%d", f.GetServiceName(), f.GetSlot()); f.GetSlot() == 0 { // as store.TaskName
		out.Task.Name = f.GetServiceName() + "." + f.GetNodeId()
	}
	return out
}

// Expand returns the container with its templates filled in, or itself where it has
// none. What becomes of them is bounded and not looked at otherwise: whoever uses it
// checks it as what was written. Errors quote no value of the environment.
func Expand(c *taskpb.ContainerSpec, f render.Facts) (*taskpb.ContainerSpec, error) {
	if !c.GetTemplated() {
		return c, nil
	}
	c = proto.CloneOf(c)
	c.Templated = false
	x := expander{facts: f}
	for i, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		c.Env[i] = name + "=" + x.fill("environment variable "+clip(name), value, maxEnvValue)
		if x.err != nil { // what is wrong may quote the value
			return nil, fmt.Errorf("environment variable %s: %w", clip(name), errValue)
		}
	}
	c.Hostname = x.fill("hostname", c.Hostname, maxHostname)
	for _, m := range c.Mounts {
		m.Source = x.fill("source of the mount at "+clip(m.Target), m.Source, maxSource)
	}
	return c, x.err
}

// expander fills in templates of one container until something is wrong.
type expander struct {
	facts   render.Facts
	actions int
	err     error
}

func (x *expander) fill(what, text string, most int) string {
	n := strings.Count(text, "{{")
	if n == 0 || x.err != nil {
		return text
	}
	if x.actions += n; x.actions > maxTemplates {
		x.err = fmt.Errorf("the container has more than %d templates", maxTemplates)
		return ""
	}
	out, err := rendered(text, x.facts)
	switch {
	case err != nil:
		x.err = fmt.Errorf("%s: %w", what, err)
	case len(out) > most:
		x.err = fmt.Errorf("%s: its template becomes %d bytes: at most %d are allowed", what, len(out), most)
	}
	return out
}

// errValue says no more than what helps whoever wrote it.
var errValue = errors.New(`its value is no template, or becomes too long: there are {{.Service.Name}}, {{.Service.Labels}}, {{.Task.Name}}, {{.Task.Slot}}, {{.Node.Hostname}} and others, if, with and eq; no secret; braces are written {{"{{"}}`)

// errSecret: what is in an environment can be read on the node.
var errSecret = errors.New("a template outside of configs names no secret: grant it with --secret, and read its file")

func rendered(text string, f render.Facts) (string, error) {
	t, err := render.Parse([]byte(text))
	if err != nil {
		return "", err
	}
	if len(t.Secrets()) > 0 {
		return "", errSecret
	}
	out, err := t.Render(f, nil)
	return string(out), err
}

// MarkTemplated says whether the container has templates, once it was changed: one that
// had none of them before and something that looks like one (before) keeps it as it is
// written.
func MarkTemplated(c *taskpb.ContainerSpec, before bool) {
	switch now := Templated(c); {
	case !now:
		c.Templated = false
	case !before:
		c.Templated = true
	}
}
