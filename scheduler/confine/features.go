package confine

import (
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// UserNSFeature is what a node calls it that it has ranges of ids for containers that
// want one for themselves.
const UserNSFeature = "isolation userns"

// InitFeature is what a node calls it that it has a program for --init.
const InitFeature = "init"

// CapabilityFeature, DeviceFeature and SeccompFeature are what a node calls it that it
// allows one.
func CapabilityFeature(name string) string { return capabilityFeature + name }
func DeviceFeature(path string) string     { return deviceFeature + path }
func SeccompFeature(profile string) string { return seccompFeature + profile }

const (
	capabilityFeature = "capability "
	deviceFeature     = "device "
	seccompFeature    = "seccomp "
)

// Remedy says, behind the name of a feature that a node lacks, what in its configuration
// would allow it; empty: it is none of these.
func Remedy(feature string) string {
	switch {
	case strings.HasPrefix(feature, capabilityFeature):
		return " (rund.allowed_capabilities there)"
	case strings.HasPrefix(feature, deviceFeature):
		return " (rund.allowed_devices there)"
	case feature == UserNSFeature:
		return " (rund.userns.tasks there)"
	case feature == seccompFeature+Unconfined:
		return " (rund.seccomp_unconfined there)"
	case strings.HasPrefix(feature, seccompFeature):
		return " (rund.seccomp_profiles there)"
	}
	return ""
}

// Features are those that a node must have to run the container.
func Features(c *taskpb.ContainerSpec) (out []string) {
	if c.GetInit() {
		out = append(out, InitFeature)
	}
	if c.GetIsolation() == taskpb.Isolation_ISOLATION_USERNS {
		out = append(out, UserNSFeature)
	}
	for _, n := range c.GetCapAdd() {
		out = append(out, CapabilityFeature(n))
	}
	for _, d := range c.GetDevices() {
		if f := DeviceFeature(d.GetSource()); !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	if s := c.GetSecurity().GetSeccomp(); s != "" {
		out = append(out, SeccompFeature(s))
	}
	return out
}
