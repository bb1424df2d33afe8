// Package version says which Redoubt this is.
package version

import "runtime/debug"

// version is set by the build with -ldflags -X.
var version = ""

// String returns the release, or the revision a development build was made
// from.
func String() string {
	if version != "" {
		return version
	}
	rev, dirty := "unknown", ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				rev = s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+dirty"
			}
		}
	}
	return "devel-" + rev + dirty
}
