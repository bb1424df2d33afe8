package imagepolicy

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/distribution/reference"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Refusal is that an image may not run. Rule is empty where none is for it.
type Refusal struct{ Rule, Why string }

func (r *Refusal) Error() string {
	if r.Rule == "" {
		return "the image policy refuses it: " + r.Why
	}
	return fmt.Sprintf("the image policy refuses it, rule %s: %s", r.Rule, r.Why)
}

// IsRefusal reports whether err is the policy's decision, which another attempt does
// not change.
func IsRefusal(err error) bool {
	var r *Refusal
	return errors.As(err, &r)
}

func (r *Rule) refuse(format string, args ...any) error {
	return &Refusal{r.name, oneline.Text(fmt.Sprintf(format, args...), maxSaid)}
}

// Decide finds the rule for an image and refuses what can be refused without
// evidence. ref is as the user wrote it, "nginx" meaning docker.io/library/nginx.
func (p *Policy) Decide(ref string) (*Rule, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, &Refusal{Why: fmt.Sprintf("%q is no image reference", ident.Clip(ref))}
	}
	repository := named.Name()
	for _, r := range p.rules {
		for _, pat := range r.patterns {
			if !pat.matches(repository) {
				continue
			}
			if _, pinned := named.(reference.Digested); r.byDigest && !pinned {
				return nil, r.refuse("the image must be named by its digest, as %s@sha256:…", repository)
			}
			return r, nil
		}
	}
	return nil, &Refusal{Why: "no rule is for " + repository}
}

// pattern is of repositories: "registry.example.com/team/*".
type pattern string

// parsePattern takes the registry's name in full, then names of which each may have
// *, and ** at the end for any number of names; or ** alone.
func parsePattern(text string) (pattern, error) {
	if text == "**" {
		return pattern(text), nil
	}
	bad := fmt.Errorf("images: %q: write REGISTRY/NAME/…, where * stands for a part of a name and ** at the end for the rest", ident.Clip(text))
	if line("images", text) != nil {
		return "", bad
	}
	names := strings.Split(text, "/")
	if len(names) < 2 || strings.ContainsAny(text, `[]?\@`) {
		return "", bad
	}
	if strings.Contains(names[0], "*") {
		return "", fmt.Errorf("images: %q: name the registry in full", ident.Clip(text))
	}
	for i, n := range names {
		if n == "**" && i == len(names)-1 {
			continue
		}
		if n == "" || strings.Contains(n, "**") || n != strings.ToLower(n) {
			return "", bad
		}
	}
	// What stands there must be able to match something.
	example := strings.ReplaceAll(strings.ReplaceAll(text, "**", "a"), "*", "a")
	if named, err := reference.ParseNamed(example); err != nil || !reference.IsNameOnly(named) {
		return "", fmt.Errorf("images: %q can match nothing: write the registry with its dot or port, as in docker.io/library/nginx, and no tag", ident.Clip(text))
	}
	return pattern(text), nil
}

func (p pattern) matches(repository string) bool {
	if p == "**" {
		return true
	}
	want, have := strings.Split(string(p), "/"), strings.Split(repository, "/")
	for i, w := range want {
		if w == "**" {
			return len(have) > i
		}
		if i >= len(have) {
			return false
		}
		if ok, err := path.Match(w, have[i]); err != nil || !ok {
			return false
		}
	}
	return len(have) == len(want)
}
