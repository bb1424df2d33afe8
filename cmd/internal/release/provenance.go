package main

import "strings"

// statement is an in-toto attestation (https://in-toto.io/Statement/v1) that says
// by SLSA's provenance v1 how its subjects came to be. It is not signed here:
// whoever publishes a release signs SHA256SUMS, which names it, with a key of theirs.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     predicate  `json:"predicate"`
}

// resource is a ResourceDescriptor of in-toto.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

type predicate struct {
	BuildDefinition struct {
		BuildType            string            `json:"buildType"`
		ExternalParameters   map[string]string `json:"externalParameters"`
		InternalParameters   map[string]string `json:"internalParameters"`
		ResolvedDependencies []resource        `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

// provenance says how the artefacts were made of the sources, the modules and Go.
func provenance(src source, bins []binary, mods []module, artefacts []artefact) (statement, error) {
	s := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1"}
	for _, a := range artefacts {
		s.Subject = append(s.Subject, resource{Name: a.name, Digest: map[string]string{"sha256": a.sha256}})
	}
	for _, b := range bins {
		s.Subject = append(s.Subject, resource{Name: b.name, Digest: map[string]string{"sha256": b.sha256}})
	}
	d := &s.Predicate.BuildDefinition
	d.BuildType = "https://" + mainModule + "/make-release/v1"
	d.ExternalParameters = map[string]string{"version": src.version, "commit": src.commit}
	d.InternalParameters = map[string]string{}
	for _, set := range bins[0].info.Settings {
		if strings.HasPrefix(set.Key, "vcs") {
			continue
		}
		d.InternalParameters[set.Key] = set.Value
	}
	d.ResolvedDependencies = []resource{
		{URI: "git+https://" + mainModule + "@" + src.commit, Digest: map[string]string{"gitCommit": src.commit}},
		{URI: "pkg:golang/std@" + strings.TrimPrefix(bins[0].info.GoVersion, "go")},
	}
	for _, m := range mods {
		hash, err := m.dirHash()
		if err != nil {
			return statement{}, err
		}
		d.ResolvedDependencies = append(d.ResolvedDependencies, resource{URI: m.purl(), Digest: map[string]string{"dirHash": hash}})
	}
	s.Predicate.RunDetails.Builder.ID = "https://" + mainModule + "/make-release"
	return s, nil
}
