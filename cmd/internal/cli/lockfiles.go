package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// What configs hold is signed by what the deployer has: a file, or what was signed of
// the config before. What a manager says that one holds is only compared with it.

// contents reads the files that the flags name.
func (f *signFlags) contents() (map[string]*lockpb.Config, error) {
	out := map[string]*lockpb.Config{}
	read := func(flag string, all []string, template bool) error {
		for _, text := range all {
			name, path, ok := strings.Cut(text, "=")
			if !ok || name == "" || path == "" {
				return usagef("--%s %q: write NAME=FILE", flag, text)
			}
			if out[name] != nil {
				return usagef("the content of config %q is given twice", name)
			}
			data, err := atomicfile.ReadBounded(path, maxSignedConfig)
			if err != nil {
				var p *os.PathError
				if errors.As(err, &p) {
					err = p.Err
				}
				return fmt.Errorf("--%s: cannot read %s: %w", flag, path, err)
			}
			out[name] = lock.NewConfig(name, template, data)
		}
		return nil
	}
	if err := read("sign-config", f.configs, false); err != nil {
		return nil, err
	}
	return out, read("sign-template", f.templates, true)
}

// files completes a statement by what the task's files are made of.
func (s *signer) files(ctx context.Context, c *api, st *lockpb.Statement, asked *schedulerpb.ServiceSpec, base *lockpb.Statement) error {
	is, was := st.GetTask().GetContainer(), base.GetTask().GetContainer()
	before := map[string]*lockpb.Config{}
	for i, u := range was.GetConfigs() {
		if i < len(base.GetConfigs()) {
			before[u.GetSource()] = base.GetConfigs()[i]
		}
	}
	names := map[string]string{}
	for i, u := range was.GetSecrets() {
		if i < len(base.GetSecrets()) {
			names[u.GetSource()] = base.GetSecrets()[i]
		}
	}
	held, err := configsOf(ctx, c, is.GetConfigs())
	if err != nil {
		return err
	}
	for i, u := range is.GetConfigs() {
		x := held[i]
		if err := askedFor("config", asked.GetTask().GetContainer().GetConfigs()[i], u, x.GetName()); err != nil {
			return err
		}
		switch given := s.contents[x.GetName()]; {
		case given != nil && !proto.Equal(given, x):
			return fmt.Errorf("config %s: the managers have another content than your file, or another kind (--sign-config, --sign-template): nothing was signed", printable(x.GetName()))
		case given == nil && before[u.GetSource()] == nil:
			return usagef("config %s: nobody signed what it holds: give that, --sign-config %s=FILE (--sign-template where it is a template)", printable(x.GetName()), printable(x.GetName()))
		case given == nil && !proto.Equal(before[u.GetSource()], x):
			return fmt.Errorf("config %s is not what was signed of it: if it was changed on purpose, give what it is to hold, --sign-config %s=FILE (--sign-template where it is a template)", printable(x.GetName()), printable(x.GetName()))
		}
		st.Configs = append(st.Configs, x)
	}
	for name := range s.contents {
		if !slices.ContainsFunc(st.Configs, func(x *lockpb.Config) bool { return x.GetName() == name }) {
			return usagef("a content is given for config %q, which the service does not have", name)
		}
	}
	for i, u := range is.GetSecrets() {
		name, ok := names[u.GetSource()]
		if !ok {
			all, err := c.ListSecrets(ctx, []string{u.GetSource()})
			if err != nil {
				return err
			}
			if len(all) != 1 || all[0].GetId() != u.GetSource() {
				return errOtherFiles
			}
			name = all[0].GetSpec().GetName()
		}
		if err := askedFor("secret", asked.GetTask().GetContainer().GetSecrets()[i], u, name); err != nil {
			return err
		}
		st.Secrets = append(st.Secrets, name)
	}
	return nil
}

var errOtherFiles = errors.New("the manager answered of other secrets or configs than it was asked for")

// askedFor returns an error where one was asked for, and another is had, or in another
// place than under its name where none was said. The beginning of an id will not do: it
// is a manager's to find something that a name begins.
func askedFor(what string, asked, is *taskpb.FileUse, name string) error {
	switch ref := asked.GetSource(); {
	case ref != name && ref != is.GetSource():
		return fmt.Errorf("%s %s was asked for, and the manager has %s in its place: give its name or its whole id; nothing was signed", what, printable(ref), printable(name))
	case asked.GetTarget() == "" && is.GetTarget() != name:
		return fmt.Errorf("%s %s would be at %s in its container, and not under its name: nothing was signed", what, printable(name), printable(is.GetTarget()))
	}
	return nil
}

// configsOf are what the managers say that configs hold now.
func configsOf(ctx context.Context, c *api, uses []*taskpb.FileUse) (out []*lockpb.Config, err error) {
	if len(uses) == 0 {
		return nil, nil
	}
	req := &controlpb.GetConfigsRequest{}
	for _, u := range uses {
		req.Configs = append(req.Configs, u.GetSource())
	}
	r, err := c.GetConfigs(ctx, req)
	if err != nil {
		return nil, err
	}
	if len(r.GetConfigs()) != len(uses) {
		return nil, errOtherFiles
	}
	for i, u := range uses {
		cfg := r.GetConfigs()[i]
		if cfg.GetId() != u.GetSource() {
			return nil, errOtherFiles
		}
		if current := max(cfg.GetCurrent(), 1); u.GetVersion() != 0 && u.GetVersion() != current {
			return nil, fmt.Errorf("config %s: only its current version %d can be signed for", printable(cfg.GetSpec().GetName()), current)
		}
		out = append(out, lock.NewConfig(cfg.GetSpec().GetName(), cfg.GetSpec().GetTemplate(), cfg.GetSpec().GetData()))
	}
	return out, nil
}
