package cni

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/redoubt-cluster/redoubt/internal/trustedfile"
)

// versions of CNI's specification that a conflist may ask for.
var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// listKeys are what stands at the top of a conflist.
var listKeys = []string{"cniversion", "name", "disablecheck", "disablegc", "plugins"}

// conflist is one that passed every check.
type conflist struct {
	list    *libcni.NetworkConfigList
	plugins []string // that it needs, those it delegates to included
}

// load reads and checks the administrator's conflist of a name.
func (c *Config) load(name string) (*conflist, error) {
	if !validName(name) {
		return nil, refuse("conflist %.80q is no plain name: use that of a file in %s, without .conflist", name, c.Conflists)
	}
	path := filepath.Join(c.Conflists, name+".conflist")
	data, err := trustedfile.Read(path, maxConflist)
	if err != nil {
		return nil, refuse("conflist %s: %w", name, err)
	}
	l, err := c.check(name, data)
	if err != nil {
		return nil, refuse("conflist %s: %w", path, err)
	}
	return l, nil
}

// check decides whether data may be given to plugins as the conflist of a name.
func (c *Config) check(name string, data []byte) (*conflist, error) {
	v, err := parse(data)
	if err != nil {
		return nil, err
	}
	top, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is no JSON object")
	}
	for k := range top {
		if !slices.Contains(listKeys, k) {
			return nil, fmt.Errorf("%.80q is not known beside the plugins: remove it", k)
		}
	}
	if top["name"] != name {
		return nil, fmt.Errorf(`it must say "name": %q, as its file does: addresses are kept under that name`, name)
	}
	if s, _ := top["cniversion"].(string); !slices.Contains(versions, s) {
		return nil, fmt.Errorf("cniVersion must be one of %s", strings.Join(versions, ", "))
	}
	for _, k := range []string{"disablecheck", "disablegc"} {
		if v, there := top[k]; there && v != true && v != false {
			return nil, fmt.Errorf("%s must be true or false", k)
		}
	}
	chain, _ := top["plugins"].([]any)
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("it has %d plugins: give 1 to %d", len(chain), maxChain)
	}
	l := &conflist{}
	for i, p := range chain {
		if err := c.plugin(l, p, "type"); err != nil {
			return nil, fmt.Errorf("plugin %d: %w", i+1, err)
		}
	}
	// Last, from the same bytes: libcni is given nothing that was not checked.
	if l.list, err = libcni.NetworkConfFromBytes(data); err != nil {
		return nil, err
	}
	if l.list.Name != name || len(l.list.Plugins) != len(chain) {
		return nil, errors.New("it can be read in two ways")
	}
	return l, nil
}

// plugin checks one of the chain, or what it delegates to.
func (c *Config) plugin(l *conflist, v any, what string) error {
	p, ok := v.(map[string]any)
	if !ok {
		return errors.New("it is no JSON object")
	}
	for _, k := range []string{"prevresult", "runtimeconfig", "name", "cniversion"} {
		if _, there := p[k]; there {
			return fmt.Errorf("%s is not for a conflist to say: remove it", k)
		}
	}
	name, _ := p["type"].(string)
	if !validName(name) {
		return fmt.Errorf("%s %.80q is no plain name: plugins are found by name, in %s alone", what, p["type"], c.PluginDir)
	}
	if _, pinned := c.Plugins[name]; !pinned {
		return fmt.Errorf("plugin %s is not pinned: add its SHA-256 to rund.cni.plugins of this node's configuration", name)
	}
	if !slices.Contains(l.plugins, name) {
		l.plugins = append(l.plugins, name)
	}
	for _, k := range []string{"ipam", "delegate"} {
		d, there := p[k].(map[string]any)
		if !there && p[k] != nil {
			return fmt.Errorf("%s is no JSON object", k)
		}
		// An empty one is the usual way to say that there is none.
		if len(d) == 0 {
			continue
		}
		if err := c.plugin(l, d, k+".type"); err != nil {
			return err
		}
	}
	return c.paths(p)
}

// paths refuses files outside of the directories that the configuration allows,
// whatever the key: plugins run as root and write where they are told to.
func (c *Config) paths(v any) error {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if err := c.paths(e); err != nil {
				return err
			}
		}
	case []any:
		for _, e := range v {
			if err := c.paths(e); err != nil {
				return err
			}
		}
	case string:
		// A backslash is none on Linux; NUL would end it early in C.
		if strings.ContainsRune(v, 0) || slices.Contains(strings.Split(v, "/"), "..") {
			return fmt.Errorf("%.80q leads elsewhere: write paths that have no .. in them", v)
		}
		if !strings.HasPrefix(strings.TrimSpace(v), "/") {
			return nil
		}
		if filepath.Clean(v) != v || !slices.ContainsFunc(c.Paths, func(dir string) bool { return v == dir || strings.HasPrefix(v, dir+"/") }) {
			return fmt.Errorf("path %.80q is in none of the allowed directories: use one of %s, or add its directory to rund.cni.paths of this node's configuration", v, strings.Join(c.Paths, ", "))
		}
	}
	return nil
}

// refusal is an error that only a change of the node's files makes go away.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// Refused reports whether trying again is no use.
func Refused(err error) bool { return errors.As(err, new(refusal)) }
