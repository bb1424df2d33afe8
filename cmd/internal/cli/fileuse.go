package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

const fileUseHelp = "NAME, or source=NAME[,target=…][,uid=…][,gid=…][,mode=0400][,version=…][,on-update=none|restart|SIGNAL]"

// filePath is where a container has it.
func filePath(u *taskpb.FileUse, config bool) string { return places.Of(u, config) }

// parseFileUse reads --secret and --config, in Docker's form.
func parseFileUse(s string) (*taskpb.FileUse, error) {
	u := new(taskpb.FileUse)
	if !strings.ContainsAny(s, "=,") {
		u.Source = s
		return u, checkSource(u)
	}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(field, "=")
		switch k = strings.ToLower(strings.TrimSpace(k)); k {
		case "src":
			k = "source"
		case "dst", "destination":
			k = "target"
		}
		if !ok {
			return nil, fmt.Errorf("%q: %q needs a value", s, k)
		}
		if seen[k] {
			return nil, fmt.Errorf("%q: the key %q is given twice", s, k)
		}
		seen[k] = true
		if err := setFileUse(u, k, v); err != nil {
			return nil, err
		}
	}
	return u, checkSource(u)
}

func checkSource(u *taskpb.FileUse) error {
	if u.Source == "" {
		return fmt.Errorf("it names nothing: write NAME, or source=NAME")
	}
	return nil
}

func setFileUse(u *taskpb.FileUse, k, v string) error {
	number := func(base, bits int) (uint64, error) {
		n, err := strconv.ParseUint(v, base, bits)
		if err != nil {
			return 0, fmt.Errorf("%s=%q: write a number", k, v)
		}
		return n, nil
	}
	var n uint64
	var err error
	switch k {
	case "source":
		u.Source = v
	case "target":
		if v == "" {
			return fmt.Errorf("target is empty: give a name, or an absolute path")
		}
		u.Target = v
	case "uid":
		n, err = number(10, 32)
		u.Uid = uint32(n)
	case "gid":
		n, err = number(10, 32)
		u.Gid = uint32(n)
	case "mode":
		if n, err = strconv.ParseUint(v, 8, 32); err != nil || n == 0 || n > 0o777 {
			return fmt.Errorf("mode=%q: write octal permissions, as 0400", v)
		}
		u.Mode = uint32(n)
	case "version":
		if n, err = number(10, 64); err == nil && n == 0 {
			return fmt.Errorf("version=0: versions are numbered from 1")
		}
		u.Version = n
	case "on-update":
		switch strings.ToLower(v) {
		case "none":
			u.OnUpdate = taskpb.OnUpdate_ON_UPDATE_NONE
		case "restart":
			u.OnUpdate = taskpb.OnUpdate_ON_UPDATE_RESTART
		case "":
			return fmt.Errorf("on-update is empty: use none, restart, or a signal such as SIGHUP")
		default:
			u.OnUpdate, u.Signal = taskpb.OnUpdate_ON_UPDATE_SIGNAL, v
		}
	default:
		return fmt.Errorf("unknown key %q: use source, target, uid, gid, mode, version or on-update", k)
	}
	return err
}

// fileUseList is a repeatable flag checked as it is read.
type fileUseList []*taskpb.FileUse

func (l *fileUseList) Type() string   { return "use" }
func (l *fileUseList) String() string { return "" }
func (l *fileUseList) Set(s string) error {
	u, err := parseFileUse(s)
	if err == nil {
		*l = append(*l, u)
	}
	return err
}

// fileFlags are those of service update for secrets and configs.
type fileFlags struct {
	secretAdd, configAdd fileUseList
	secretRm, configRm   []string
	// What flags name, by how they do: ids, and names for targets.
	secrets, configs map[string]named
}

type named struct{ id, name string }

func (f *fileFlags) add(s *pflag.FlagSet) {
	s.Var(&f.secretAdd, "secret-add", "give its tasks a secret, or change how: "+fileUseHelp)
	s.StringArrayVar(&f.secretRm, "secret-rm", nil, "take a secret from its tasks")
	s.Var(&f.configAdd, "config-add", "give its tasks a config, or change how: "+fileUseHelp)
	s.StringArrayVar(&f.configRm, "config-rm", nil, "take a config from its tasks")
}

// lookUp finds what the flags name; for what is signed they name it in full.
func (f *fileFlags) lookUp(ctx context.Context, api *api, signed bool) error {
	f.secrets, f.configs = map[string]named{}, map[string]named{}
	sources := func(add fileUseList, rm []string) []string {
		out := slices.Clone(rm)
		for _, u := range add {
			out = append(out, u.Source)
		}
		return out
	}
	for _, ref := range sources(f.secretAdd, f.secretRm) {
		all, err := api.ListSecrets(ctx, []string{ref})
		if err != nil {
			return err
		}
		var one *secretspb.Secret
		if len(all) == 1 {
			one = all[0]
		}
		if f.secrets[ref], err = found("secret", ref, one.GetId(), one.GetSpec().GetName(), signed); err != nil {
			return err
		}
	}
	for _, ref := range sources(f.configAdd, f.configRm) {
		r, err := api.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{ref}})
		if err != nil {
			return err
		}
		var one *secretspb.Config
		if len(r.GetConfigs()) == 1 {
			one = r.GetConfigs()[0]
		}
		if f.configs[ref], err = found("config", ref, one.GetId(), one.GetSpec().GetName(), signed); err != nil {
			return err
		}
	}
	return nil
}

// found is what a manager says that ref names. Its name is where a container has it, so
// it is one.
func found(what, ref, id, name string, signed bool) (named, error) {
	switch {
	case !ident.Valid(id) || ident.CheckName(name) != nil || ref != name && !strings.HasPrefix(id, ref):
		return named{}, failf(ExitError, "%s %s was asked for, and the managers answer of %s", what, printable(ref), cmp.Or(printable(name), "none"))
	case signed && ref != name && ref != id:
		return named{}, usagef("%s %s: give its name or its whole id, as what is signed is not left to a manager to find", what, printable(ref))
	}
	return named{id, name}, nil
}

// apply changes what a service has: what is added takes the place of what is at
// the same path.
func (f *fileFlags) apply(c *taskpb.ContainerSpec) (err error) {
	if c.Secrets, err = changeFiles("secret", c.Secrets, f.secretAdd, f.secretRm, f.secrets); err != nil {
		return err
	}
	c.Configs, err = changeFiles("config", c.Configs, f.configAdd, f.configRm, f.configs)
	return err
}

func changeFiles(what string, have []*taskpb.FileUse, add fileUseList, rm []string, known map[string]named) ([]*taskpb.FileUse, error) {
	if known == nil { // nothing was looked up yet
		return have, nil
	}
	for _, ref := range rm {
		before := len(have)
		have = slices.DeleteFunc(have, func(u *taskpb.FileUse) bool { return u.Source == known[ref].id })
		if len(have) == before {
			return nil, failf(ExitError, "--%s-rm %s: the service does not have that %s: see `redoubt service inspect`", what, printable(ref), what)
		}
	}
	for _, given := range add {
		n := known[given.Source]
		u := &taskpb.FileUse{Source: n.id, Target: given.Target, Uid: given.Uid, Gid: given.Gid, Mode: given.Mode, Version: given.Version, OnUpdate: given.OnUpdate, Signal: given.Signal}
		if u.Target == "" {
			u.Target = n.name
		}
		config := what == "config"
		have = slices.DeleteFunc(have, func(o *taskpb.FileUse) bool { return filePath(o, config) == filePath(u, config) })
		have = append(have, u)
	}
	return have, nil
}

// fileUseText is one secret or config of a service for people.
func fileUseText(u *taskpb.FileUse, config bool) string {
	s := filePath(u, config) + " from " + shortID(u.GetSource())
	if u.GetVersion() > 0 {
		s += fmt.Sprintf(", version %d", u.GetVersion())
	}
	if u.GetUid() != 0 || u.GetGid() != 0 {
		s += fmt.Sprintf(", owner %d:%d", u.GetUid(), u.GetGid())
	}
	if u.GetMode() != 0 {
		s += fmt.Sprintf(", mode %04o", u.GetMode())
	}
	switch {
	case u.GetSignal() != "":
		s += ", " + u.GetSignal() + " on update"
	case u.GetOnUpdate() == taskpb.OnUpdate_ON_UPDATE_RESTART:
		s += ", restart on update"
	}
	return s
}
