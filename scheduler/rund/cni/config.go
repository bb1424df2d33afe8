package cni

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Config is the part `rund: cni:` of the node's configuration file.
type Config struct {
	// Conflists is the directory of NAME.conflist files.
	Conflists string `yaml:"conflists"`
	// PluginDir is where the plugins' binaries are.
	PluginDir string `yaml:"plugin_dir"`
	// Plugins that may run, by name, with the SHA-256 of their binary. Without
	// any there are no CNI networks on this node.
	Plugins map[string]string `yaml:"plugins"`
	// Paths are the directories that conflists may name files in.
	Paths []string `yaml:"paths"`
}

// Defaults is the configuration of a node whose file says nothing.
func Defaults() Config {
	return Config{Conflists: "/etc/redoubt/cni.d", PluginDir: "/usr/lib/cni", Paths: []string{"/var/lib/cni", "/run/cni"}}
}

// Enabled reports whether this node has CNI networks.
func (c *Config) Enabled() bool { return len(c.Plugins) > 0 }

// Validate checks what can be checked without touching the machine.
func (c *Config) Validate() error {
	for _, p := range append([]string{c.Conflists, c.PluginDir}, c.Paths...) {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
			return fmt.Errorf("%q must be a clean absolute path other than /", p)
		}
	}
	if len(c.Plugins) > maxPlugins {
		return fmt.Errorf("%d plugins are pinned: at most %d are allowed", len(c.Plugins), maxPlugins)
	}
	for name, digest := range c.Plugins {
		if !validName(name) {
			return fmt.Errorf("plugin %.80q is no plain name: use that of a file in %s", name, c.PluginDir)
		}
		if b, err := hex.DecodeString(digest); err != nil || len(b) != 32 {
			return fmt.Errorf("plugin %s: %.80q is no SHA-256 in hexadecimal: write what sha256sum %s prints", name, digest, filepath.Join(c.PluginDir, name))
		}
	}
	return nil
}

// validName reports whether s can only be a name: of a conflist or a plugin.
func validName(s string) bool {
	if s == "" || len(s) > maxName || !alphanumeric(s[0]) {
		return false
	}
	return !slices.ContainsFunc([]byte(s), func(c byte) bool { return !alphanumeric(c) && c != '-' && c != '_' && c != '.' })
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
