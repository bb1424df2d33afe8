package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// billOfMaterials returns the CycloneDX document of the release: the programs
// with their digests, and of each the modules that its linker says it links.
func billOfMaterials(src source, bins []binary, mods []module) ([]byte, error) {
	self := mainModule + "@" + src.version
	bom := cdx.NewBOM()
	bom.SerialNumber = serialNumber(src, bins)
	bom.Metadata = &cdx.Metadata{
		Timestamp: src.at.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: self, Type: cdx.ComponentTypeApplication, Name: "redoubt", Version: src.version,
			PackageURL: "pkg:golang/" + self,
			Licenses:   licences([]string{"Apache-2.0"}),
			ExternalReferences: &[]cdx.ExternalReference{{
				Type: cdx.ERTypeVCS, URL: "https://" + mainModule, Comment: "commit " + src.commit}},
		},
	}
	std := module{path: "std", version: strings.TrimPrefix(bins[0].info.GoVersion, "go"), licences: []string{"BSD-3-Clause"}}
	var components []cdx.Component
	var programs []string
	dependencies := []cdx.Dependency{}
	for _, b := range bins {
		ref := "program:" + b.name
		programs = append(programs, ref)
		components = append(components, cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: b.name, Version: src.version,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: b.sha256}},
		})
		links := []string{std.purl()}
		for _, d := range b.info.Deps {
			links = append(links, module{path: d.Path, version: d.Version}.purl())
		}
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &links})
	}
	for _, m := range append([]module{std}, mods...) {
		c := cdx.Component{
			BOMRef: m.purl(), Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version,
			PackageURL: m.purl(), Licenses: licences(m.licences), Scope: cdx.ScopeRequired,
		}
		if m.sum != "" {
			c.Properties = &[]cdx.Property{{Name: "redoubt:go.sum", Value: m.sum}}
		}
		components = append(components, c)
	}
	bom.Components = &components
	dependencies = append([]cdx.Dependency{{Ref: self, Dependencies: &programs}}, dependencies...)
	bom.Dependencies = &dependencies

	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	return out.Bytes(), err
}

func licences(ids []string) *cdx.Licenses {
	var all cdx.Licenses
	for _, id := range ids {
		all = append(all, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return &all
}

// serialNumber is a UUID (version 8, RFC 9562) of what the release consists of, so
// that the same release has the same one.
func serialNumber(src source, bins []binary) string {
	h := sha256.New()
	fmt.Fprintln(h, "redoubt sbom", src.version, src.commit)
	for _, b := range bins {
		fmt.Fprintln(h, b.name, b.sha256)
	}
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
