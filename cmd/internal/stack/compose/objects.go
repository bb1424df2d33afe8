package compose

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
)

func (m *mapper) networks() {
	for _, key := range slices.Sorted(maps.Keys(m.project.Networks)) {
		n, at := m.project.Networks[key], []string{"networks", key}
		if n.External {
			continue
		}
		sp := &meshpb.NetworkSpec{
			Name: m.full(n.Name, key, false), Labels: m.labels(n.Labels), Driver: n.Driver, Internal: n.Internal,
			Attachable: n.Attachable, Options: n.DriverOpts,
		}
		if sp.Driver == "default" {
			sp.Driver = ""
		}
		if n.EnableIPv6 != nil {
			sp.Ipv6 = *n.EnableIPv6
		}
		for _, p := range n.Ipam.Config {
			if p != nil {
				sp.Subnets = append(sp.Subnets, &meshpb.Subnet{Subnet: p.Subnet, Gateway: p.Gateway, IpRange: p.IPRange})
			}
		}
		sp.DefaultDeny, _ = extension[bool](m, at, n.Extensions, "x-redoubt-default-deny")
		normal, err := meshspec.Network(sp)
		if err != nil {
			m.fail(at, err)
			continue
		}
		m.out.Networks = append(m.out.Networks, normal)
	}
}

func (m *mapper) volumes() {
	for _, key := range slices.Sorted(maps.Keys(m.project.Volumes)) {
		v, at := m.project.Volumes[key], []string{"volumes", key}
		if v.External {
			continue
		}
		sp := volumes.Complete(&taskpb.VolumeSpec{Name: m.full(v.Name, key, false), Driver: v.Driver, Labels: m.labels(v.Labels), Options: v.DriverOpts})
		if err := volumes.Check(sp); err != nil {
			m.fail(at, err)
			continue
		}
		m.out.Volumes = append(m.out.Volumes, sp)
	}
}

// keep is how many versions of a secret or config are kept.
func (m *mapper) keep(at []string, all types.Extensions) uint32 {
	n, ok := extension[int](m, at, all, "x-redoubt-keep")
	if ok && (n < 1 || n > 1<<16) {
		m.wrong(under(at, "x-redoubt-keep"), "%d: write a number of versions, as 5", n)
	}
	return uint32(n)
}

// data is what a secret or config is to hold.
func (m *mapper) data(at []string, file, variable, content string, limit int64) ([]byte, bool) {
	switch {
	case file != "":
		b, err := readRegular(file, limit)
		if err != nil {
			m.wrong(under(at, "file"), "%s cannot be read: %s", shown(file), reason(err))
			return nil, false
		}
		if fi, err := os.Stat(file); err == nil && at[0] == "secrets" && fi.Mode().Perm()&0o077 != 0 {
			m.read.Warnings = append(m.read.Warnings, fmt.Sprintf("%s can be read by other users (mode %04o): chmod 600 it, and replace what it holds", shown(file), fi.Mode().Perm()))
		}
		if len(b) == 0 {
			m.wrong(under(at, "file"), "%s is empty: give it data", shown(file))
		}
		return b, len(b) > 0
	case variable != "":
		v, ok := m.project.Environment[variable]
		if !ok || v == "" {
			m.wrong(under(at, "environment"), "the variable %s is not set, or empty", variable)
		}
		return []byte(v), v != ""
	}
	if content == "" {
		m.wrong(at, "it holds nothing: name a file")
	}
	return []byte(content), content != ""
}

func (m *mapper) secrets() {
	for _, key := range slices.Sorted(maps.Keys(m.project.Secrets)) {
		o, at := m.project.Secrets[key], []string{"secrets", key}
		if o.External {
			continue
		}
		sp := &secretspb.SecretSpec{Name: m.full(o.Name, key, false), Labels: m.labels(o.Labels), Kind: secretspb.SecretKind_SECRET_KIND_FILE, Keep: m.keep(at, o.Extensions)}
		if err := secretspec.CheckSecret(sp); err != nil {
			m.fail(at, err)
			continue
		}
		if data, ok := m.data(at, o.File, o.Environment, "", seal.MaxSecret); ok {
			m.out.Secrets = append(m.out.Secrets, stack.Secret{Spec: sp, Data: data})
		}
	}
}

func (m *mapper) configs() {
	for _, key := range slices.Sorted(maps.Keys(m.project.Configs)) {
		o, at := m.project.Configs[key], []string{"configs", key}
		if o.External {
			continue
		}
		sp := &secretspb.ConfigSpec{Name: m.full(o.Name, key, false), Labels: m.labels(o.Labels), Template: o.TemplateDriver == "golang", Keep: m.keep(at, o.Extensions)}
		var ok bool
		if sp.Data, ok = m.data(at, o.File, o.Environment, o.Content, secretspec.MaxConfigBytes); !ok {
			continue
		}
		if err := secretspec.CheckConfig(sp); err != nil {
			m.fail(at, err)
			continue
		}
		m.out.Configs = append(m.out.Configs, sp)
	}
}

// policies maps x-redoubt-policy, whose names of services are the file's where it has
// them.
func (m *mapper) policies() {
	all, ok := extension[map[string]any](m, nil, m.project.Extensions, "x-redoubt-policy")
	if !ok {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		at := []string{"x-redoubt-policy", key}
		one, ok := extension[map[string]any](m, at[:1], types.Extensions{key: all[key]}, key)
		if !ok {
			continue
		}
		sp := &meshpb.PolicySpec{Name: stack.Name(m.out.Name, key), Labels: m.labels(nil)}
		if network, ok := extension[string](m, at, one, "network"); ok {
			n, declared := m.project.Networks[network]
			if sp.Network = network; declared {
				sp.Network = m.full(n.Name, network, bool(n.External))
			}
		}
		rules, _ := extension[[]any](m, at, one, "allow")
		for i, v := range rules {
			text, _ := v.(string)
			r, err := meshspec.ParseRule(text)
			if err != nil {
				m.fail(under(at, "allow", strconv.Itoa(i)), err)
				continue
			}
			r.FromService, r.ToService = m.known(r.FromService), m.known(r.ToService)
			sp.Rules = append(sp.Rules, r)
		}
		normal, err := meshspec.Policy(sp)
		if err != nil {
			m.fail(at, err)
			continue
		}
		m.out.Policies = append(m.out.Policies, normal)
	}
}

// known is the whole name of a service of the file, and any other as it is.
func (m *mapper) known(name string) string {
	if _, ok := m.project.Services[name]; ok {
		return stack.Name(m.out.Name, name)
	}
	return strings.Clone(name)
}
