package imagepolicy

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/strictyaml"
)

// Format is the number that a document begins with.
const Format = 1

// document is what people write.
type document struct {
	Format  int      `yaml:"format"`
	Signers []signer `yaml:"signers"`
	Rules   []rule   `yaml:"rules"`
}

type signer struct {
	Name string `yaml:"name"`
	// Keys are PEM public keys; any of them will do.
	Keys []string `yaml:"keys"`
	// CA holds PEM certificates: those that are self-signed are roots, others may
	// stand between.
	CA         string   `yaml:"ca"`
	Identities []string `yaml:"identities"`
	Issuer     string   `yaml:"issuer"`
}

type rule struct {
	Name     string   `yaml:"name"`
	Images   []string `yaml:"images"`
	ByDigest bool     `yaml:"by_digest"`
	// Unsigned admits images of which nothing else is asked.
	Unsigned     bool          `yaml:"unsigned"`
	Signatures   *signatures   `yaml:"signatures"`
	Attestations []attestation `yaml:"attestations"`
}

type signatures struct {
	By    []string `yaml:"by"`
	Count int      `yaml:"count"`
}

type attestation struct {
	Type  string   `yaml:"type"`
	By    []string `yaml:"by"`
	Count int      `yaml:"count"`
}

// Policy is a document that was understood.
type Policy struct {
	digest string
	rules  []*Rule
}

// Digest is the SHA-256 of the document, in hex.
func (p *Policy) Digest() string { return p.digest }

// Rules are the names of its rules, in their order.
func (p *Policy) Rules() (names []string) {
	for _, r := range p.rules {
		names = append(names, r.name)
	}
	return names
}

// Unsigned are the names of the rules that ask for no signature or attestation.
func (p *Policy) Unsigned() (names []string) {
	for _, r := range p.rules {
		if !r.NeedsEvidence() {
			names = append(names, r.name)
		}
	}
	return names
}

// Rule is what must hold of the images that its patterns match.
type Rule struct {
	name     string
	patterns []pattern
	byDigest bool
	wants    []want
}

// Name is the rule's.
func (r *Rule) Name() string { return r.name }

// NeedsEvidence reports whether Verify asks for bundles at all.
func (r *Rule) NeedsEvidence() bool { return len(r.wants) > 0 }

// NeedsOrigin reports whether nothing but the registry says what the image is: its name
// is no more than a claim until content of its digest is known to be there.
func (r *Rule) NeedsOrigin() bool { return !r.NeedsEvidence() && !slices.Contains(r.patterns, "**") }

// NotThere is the refusal of an image that is not in the registry that it is named by.
func (r *Rule) NotThere(digest string) error {
	return r.refuse("nothing but its name says where it is from, and %s is not in that repository: push it there, or have the rule ask for a signature", ident.Clip(digest))
}

// want is one kind of statement, by so many different signers.
type want struct {
	predicate string // predicateType
	by        []*trusted
	count     int
}

// trusted is a signer that was understood: of keys, or of a CA.
type trusted struct {
	name       string
	keys       []crypto.PublicKey
	ids        []string // of keys: SHA-256 of each SubjectPublicKeyInfo
	roots      *x509.CertPool
	between    []*x509.Certificate
	identities []string
	issuer     string
}

// Parse understands a document. Errors are one line and say which part is wrong.
func Parse(text []byte) (*Policy, error) {
	p, err := parseDocument(text)
	if err != nil { // YAML's quote what they are about
		return nil, errors.New(oneline.Text(err.Error(), maxSaid))
	}
	return p, nil
}

func parseDocument(text []byte) (*Policy, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("the image policy is longer than %d bytes", MaxDocument)
	}
	var d document
	switch err := strictyaml.Decode(text, &d); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the image policy is empty: write at least one rule")
	case err != nil:
		return nil, fmt.Errorf("the image policy: %w", err)
	}
	switch {
	case d.Format != Format:
		return nil, fmt.Errorf("the image policy has format %d: this version reads `format: %d`", d.Format, Format)
	case len(d.Rules) == 0:
		return nil, errors.New("the image policy has no rules, so it would admit nothing: write at least one rule")
	case len(d.Rules) > maxRules || len(d.Signers) > maxSigners:
		return nil, fmt.Errorf("the image policy has more than %d rules or %d signers", maxRules, maxSigners)
	}
	sum := sha256.Sum256(text)
	p := &Policy{digest: hex.EncodeToString(sum[:])}
	signers := map[string]*trusted{}
	for i := range d.Signers {
		s := &d.Signers[i]
		if err := ident.CheckName(s.Name); err != nil {
			return nil, fmt.Errorf("signer %d: %w", i+1, err)
		}
		if signers[s.Name] != nil {
			return nil, fmt.Errorf("signer %s is there twice", s.Name)
		}
		t, err := s.compile()
		if err != nil {
			return nil, fmt.Errorf("signer %s: %w", s.Name, err)
		}
		signers[s.Name] = t
	}
	used, names, before := map[string]bool{}, map[string]bool{}, map[pattern]string{}
	for i := range d.Rules {
		r := &d.Rules[i]
		if err := ident.CheckName(r.Name); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		if names[r.Name] {
			return nil, fmt.Errorf("rule %s is there twice", r.Name)
		}
		names[r.Name] = true
		c, err := r.compile(signers, used)
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", r.Name, err)
		}
		for _, pat := range c.patterns {
			if other := before[pat]; other != "" {
				return nil, fmt.Errorf("rule %s: %s is a pattern of rule %s already, which decides first", r.Name, pat, other)
			}
			before[pat] = r.Name
		}
		p.rules = append(p.rules, c)
	}
	for i := range d.Signers {
		if !used[d.Signers[i].Name] {
			return nil, fmt.Errorf("signer %s is named by no rule: remove it, or correct the rule's `by`", d.Signers[i].Name)
		}
	}
	return p, nil
}

func (r *rule) compile(signers map[string]*trusted, used map[string]bool) (*Rule, error) {
	c := &Rule{name: r.Name, byDigest: r.ByDigest}
	if len(r.Images) == 0 || len(r.Images) > maxPatterns {
		return nil, fmt.Errorf("`images` must have 1 to %d patterns", maxPatterns)
	}
	for _, text := range r.Images {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		c.patterns = append(c.patterns, p)
	}
	if asks := r.Signatures != nil || len(r.Attestations) > 0; asks == r.Unsigned {
		return nil, errors.New("say what is asked for by `signatures` or `attestations`, or that nothing is by `unsigned: true`, not both")
	}
	if r.Signatures != nil {
		w, err := compileWant(cosignSign, r.Signatures.By, r.Signatures.Count, signers, used)
		if err != nil {
			return nil, fmt.Errorf("signatures: %w", err)
		}
		c.wants = append(c.wants, w)
	}
	if len(r.Attestations) > maxTypes {
		return nil, fmt.Errorf("more than %d attestations", maxTypes)
	}
	seen := map[string]bool{}
	for _, a := range r.Attestations {
		if err := line("type", a.Type); err != nil {
			return nil, fmt.Errorf("attestations: %w", err)
		}
		switch {
		case !strings.Contains(a.Type, "://"):
			return nil, fmt.Errorf("attestations: type %q: write the predicate type in full, as https://slsa.dev/provenance/v1", a.Type)
		case a.Type == cosignSign:
			return nil, errors.New("attestations: that type is a signature's: use `signatures`")
		case seen[a.Type]:
			return nil, fmt.Errorf("attestations: type %s is there twice", a.Type)
		}
		seen[a.Type] = true
		w, err := compileWant(a.Type, a.By, a.Count, signers, used)
		if err != nil {
			return nil, fmt.Errorf("attestation %s: %w", a.Type, err)
		}
		c.wants = append(c.wants, w)
	}
	return c, nil
}

func compileWant(predicate string, by []string, count int, signers map[string]*trusted, used map[string]bool) (want, error) {
	w := want{predicate: predicate, count: max(count, 1)}
	if count < 0 {
		return w, errors.New("`count` must be 1 or more")
	}
	if len(by) == 0 {
		return w, errors.New("`by` must name a signer")
	}
	most, ids := 0, map[string]bool{}
	seen := map[string]bool{}
	for _, name := range by {
		s := signers[name]
		switch {
		case s == nil:
			return w, fmt.Errorf("there is no signer %q", ident.Clip(name))
		case seen[name]:
			return w, fmt.Errorf("signer %s is there twice", name)
		}
		seen[name], used[name] = true, true
		w.by = append(w.by, s)
		for _, id := range s.ids {
			if !ids[id] {
				ids[id] = true
				most++
			}
		}
		for _, i := range s.identities {
			if most++; strings.HasSuffix(i, "*") {
				most += MaxBundles
			}
		}
	}
	if w.count > most || w.count > MaxBundles {
		return w, fmt.Errorf("`count` is %d, and only %d can sign", w.count, min(most, MaxBundles))
	}
	return w, nil
}

// line checks a text that is shown to people.
func line(what, text string) error {
	if text == "" || len(text) > maxText || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || r == unicode.ReplacementChar }) {
		return fmt.Errorf("%s %q: write 1 to %d characters without spaces", what, ident.Clip(text), maxText)
	}
	return nil
}
