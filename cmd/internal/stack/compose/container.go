package compose

import (
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// mounts maps volumes and tmpfs.
func (m *mapper) mounts(s types.ServiceConfig, c *taskpb.ContainerSpec) {
	at := []string{"services", s.Name, "volumes"}
	for i, v := range s.Volumes {
		here := under(at, strconv.Itoa(i))
		out := &taskpb.Mount{Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly}
		for kind, given := range map[string]bool{"volume": v.Volume != nil, "bind": v.Bind != nil, "tmpfs": v.Tmpfs != nil} {
			if given && kind != v.Type {
				m.wrong(under(here, kind), "it is for type %s", kind)
			}
		}
		switch v.Type {
		case "volume":
			out.Type, out.Source = taskpb.Mount_TYPE_VOLUME, ""
			o := m.project.Volumes[v.Source]
			out.Volume = &taskpb.VolumeUse{Name: m.full(o.Name, v.Source, bool(o.External))}
			if v.Volume != nil {
				out.Volume.NoCopy, out.Volume.Subpath = v.Volume.NoCopy, v.Volume.Subpath
			}
		case "bind":
			out.Type = taskpb.Mount_TYPE_BIND
			if v.Bind != nil && v.Bind.Propagation != "" {
				out.Bind = &taskpb.BindOptions{Propagation: v.Bind.Propagation}
			}
		case "tmpfs":
			out.Type = taskpb.Mount_TYPE_TMPFS
			if v.Tmpfs != nil {
				out.TmpfsSize, out.TmpfsMode = int64(v.Tmpfs.Size), v.Tmpfs.Mode
			}
		default: // the check left no other
			m.wrong(here, "there is no type %q", v.Type)
		}
		c.Mounts = append(c.Mounts, out)
	}
	for i, text := range s.Tmpfs {
		target, options, _ := strings.Cut(text, ":")
		out := &taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: target}
		for option := range strings.SplitSeq(options, ",") {
			m.fail([]string{"services", s.Name, "tmpfs", strconv.Itoa(i)}, tmpfsOption(out, option))
		}
		c.Mounts = append(c.Mounts, out)
	}
}

type optionError string

func (e optionError) Error() string { return string(e) }

func tmpfsOption(m *taskpb.Mount, option string) error {
	k, v, _ := strings.Cut(option, "=")
	switch k {
	case "", "rw", "noexec", "nosuid", "nodev": // as it is anyway
		return nil
	case "ro":
		m.ReadOnly = true
		return nil
	case "size":
		n, err := units.RAMInBytes(v)
		if err != nil || n <= 0 {
			return optionError("size=" + v + ": write a size, as 64m")
		}
		m.TmpfsSize = n
		return nil
	case "mode":
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil {
			return optionError("mode=" + v + ": write octal permissions, as 1777")
		}
		m.TmpfsMode = uint32(n)
		return nil
	}
	return optionError("the option " + k + " is not supported: use size and mode")
}

// files maps what the containers get of secrets and configs.
func (m *mapper) files(s types.ServiceConfig, c *taskpb.ContainerSpec) {
	for i, u := range s.Secrets {
		at := []string{"services", s.Name, "secrets", strconv.Itoa(i)}
		o := m.project.Secrets[u.Source]
		out := m.fileUse(at, types.FileReferenceConfig(u))
		out.Source = m.full(o.Name, u.Source, bool(o.External))
		if out.Target == "" {
			out.Target = u.Source
		}
		out.Target = strings.TrimPrefix(out.Target, "/run/secrets/")
		c.Secrets = append(c.Secrets, out)
	}
	for i, u := range s.Configs {
		at := []string{"services", s.Name, "configs", strconv.Itoa(i)}
		o := m.project.Configs[u.Source]
		out := m.fileUse(at, types.FileReferenceConfig(u))
		out.Source = m.full(o.Name, u.Source, bool(o.External))
		if out.Target == "" {
			out.Target = u.Source
		}
		if !path.IsAbs(out.Target) {
			out.Target = "/" + out.Target
		}
		c.Configs = append(c.Configs, out)
	}
}

func (m *mapper) fileUse(at []string, u types.FileReferenceConfig) *taskpb.FileUse {
	out := &taskpb.FileUse{Target: u.Target}
	for _, id := range []struct {
		key, text string
		to        *uint32
	}{{"uid", u.UID, &out.Uid}, {"gid", u.GID, &out.Gid}} {
		if id.text == "" {
			continue
		}
		n, err := strconv.ParseUint(id.text, 10, 32)
		if err != nil {
			m.wrong(under(at, id.key), "%q is no number", id.text)
		}
		*id.to = uint32(n)
	}
	if u.Mode != nil {
		if *u.Mode <= 0 || *u.Mode > 0o777 {
			m.wrong(under(at, "mode"), "%s: write octal permissions, as 0400", u.Mode.String())
		}
		out.Mode = uint32(*u.Mode)
	}
	if n, ok := extension[int](m, at, u.Extensions, "x-redoubt-version"); ok {
		if n < 1 {
			m.wrong(under(at, "x-redoubt-version"), "versions are numbered from 1")
		}
		out.Version = uint64(n)
	}
	if text, ok := extension[string](m, at, u.Extensions, "x-redoubt-on-update"); ok {
		switch text {
		case "none":
			out.OnUpdate = taskpb.OnUpdate_ON_UPDATE_NONE
		case "restart":
			out.OnUpdate = taskpb.OnUpdate_ON_UPDATE_RESTART
		default:
			out.OnUpdate, out.Signal = taskpb.OnUpdate_ON_UPDATE_SIGNAL, text
		}
	}
	return out
}

func (m *mapper) ports(s types.ServiceConfig, t *taskpb.TaskSpec) {
	for i, p := range s.Ports {
		at := []string{"services", s.Name, "ports", strconv.Itoa(i)}
		out := &taskpb.Port{Target: p.Target, HostIp: p.HostIP}
		switch p.Protocol {
		case "", "tcp":
			out.Protocol = taskpb.Port_PROTOCOL_TCP
		case "udp":
			out.Protocol = taskpb.Port_PROTOCOL_UDP
		default:
			m.wrong(under(at, "protocol"), "there is no protocol %q: use tcp or udp", p.Protocol)
		}
		switch p.Mode {
		case "", "ingress":
			out.Mode = taskpb.Port_MODE_INGRESS
		case "host":
			out.Mode = taskpb.Port_MODE_HOST
		default:
			m.wrong(under(at, "mode"), "there is no mode %q: use ingress or host", p.Mode)
		}
		if p.Published != "" {
			n, err := strconv.ParseUint(p.Published, 10, 16)
			if err != nil {
				m.wrong(under(at, "published"), "%q is no port: use 1 to 65535; of a range, write each port", p.Published)
			}
			out.Published = uint32(n)
		}
		out.PreferLocal, _ = extension[bool](m, at, p.Extensions, "x-redoubt-prefer-local")
		if text, ok := extension[string](m, at, p.Extensions, "x-redoubt-proxy-protocol"); ok {
			if out.ProxyProtocol = text == "v2"; text != "v2" {
				m.wrong(under(at, "x-redoubt-proxy-protocol"), "%q: use v2", text)
			}
		}
		t.Ports = append(t.Ports, out)
	}
}

// extensions maps what a service has of ours.
func (m *mapper) extensions(s types.ServiceConfig, sp *schedulerpb.ServiceSpec) {
	at := []string{"services", s.Name}
	if auth, ok := extension[string](m, at, s.Extensions, "x-redoubt-registry-auth"); ok {
		if o, ours := m.project.Secrets[auth]; ours {
			auth = m.full(o.Name, auth, bool(o.External))
		}
		sp.Task.Container.RegistryAuth = auth
	}
	if list, ok := extension[[]any](m, at, s.Extensions, "x-redoubt-ingress-constraints"); ok {
		for _, v := range list {
			text, _ := v.(string)
			sp.IngressConstraints = append(sp.IngressConstraints, text)
		}
	}
	id, ok := extension[map[string]any](m, at, s.Extensions, "x-redoubt-identity")
	if !ok {
		return
	}
	at = under(at, "x-redoubt-identity")
	out := &taskpb.Identity{}
	out.None, _ = extension[bool](m, at, id, "none")
	out.Files, _ = extension[string](m, at, id, "files")
	out.Signal, _ = extension[string](m, at, id, "signal")
	if text, ok := extension[string](m, at, id, "life"); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			m.wrong(under(at, "life"), "%q: write a duration, as 1h", text)
		}
		out.LifeNs = int64(d)
	}
	sp.Task.Identity = out
}
