package dispatcher

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/protobuf/proto"
)

// digestForm is the only digest nodes report images by.
var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// checkClock refuses what no clock can be off by: its sums must not overflow.
func checkClock(c *schedulerpb.ClockOffset) error {
	if c != nil && (time.Duration(c.AheadNs).Abs() > maxClockOffset || c.UnsureNs < 0 || time.Duration(c.UnsureNs) > maxClockOffset) {
		return fmt.Errorf("the node's clock cannot be %d ns ahead, sure to %d ns", c.AheadNs, c.UnsureNs)
	}
	return nil
}

// checkDescription refuses what no honest node says of itself. The text of a
// description is shown to people, so it holds no control characters.
func checkDescription(d *schedulerpb.NodeDescription) error {
	if d == nil {
		return fmt.Errorf("the node did not describe itself")
	}
	if n := proto.Size(d); n > maxDescriptionBytes {
		return fmt.Errorf("the node's description has %d bytes: at most %d are accepted", n, maxDescriptionBytes)
	}
	if err := ident.CheckHostname(d.Hostname); err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{
		{"os", d.Os}, {"arch", d.Arch}, {"version", d.RedoubtVersion}, {"kernel", d.Kernel}, {"runtime", d.Runtime},
	} {
		if err := checkText(f.text, maxShortText); err != nil {
			return fmt.Errorf("the node's %s %w", f.name, err)
		}
	}
	r := d.GetResources()
	if r.GetNanoCpus() < 0 || r.GetNanoCpus() > maxNanoCPUs || r.GetMemoryBytes() < 0 ||
		r.GetMemoryBytes() > maxMemoryBytes || r.GetPids() < 0 || r.GetPids() > maxPIDs {
		return fmt.Errorf("the node's resources are out of range")
	}
	if len(d.Features) > maxFeatures {
		return fmt.Errorf("the node lists %d features: at most %d are accepted", len(d.Features), maxFeatures)
	}
	for _, f := range d.Features {
		if err := checkText(f.Name, maxShortText); err != nil {
			return fmt.Errorf("the name of a feature %w", err)
		}
		if err := checkText(f.Detail, maxDetailText); err != nil {
			return fmt.Errorf("feature %s: detail %w", f.Name, err)
		}
	}
	if st := d.GetStorage(); st.GetImageBytes() < 0 || st.GetDiskBytes() < 0 || st.GetDiskFree() < 0 || st.GetCollectedAt() < 0 {
		return errors.New("the node reports a negative amount of storage")
	} else if st != nil {
		st.Message = oneline.Text(st.Message, maxMessageText)
	}
	if k := d.GetStoreKey(); k != nil {
		if k.MadeAt < 0 {
			return errors.New("the node reports a key of before 1970")
		}
		k.Trouble = oneline.Text(k.Trouble, maxMessageText)
	}
	if t := d.GetTicket(); t != nil && (!ident.Valid(t.SlotId) || t.Generation == 0) {
		return errors.New("the node reports a malformed ticket")
	}
	if n := len(d.GetVolumes().GetInstances()); n > maxVolumes {
		return fmt.Errorf("the node lists %d volumes: at most %d are accepted", n, maxVolumes)
	}
	seen := map[string]bool{}
	for _, v := range d.GetVolumes().GetInstances() {
		if seen[v.Id] {
			return fmt.Errorf("the node lists volume %.60q twice", v.Id)
		}
		seen[v.Id] = true
		if !ident.Valid(v.Id) || v.CreatedAt < 0 || v.Size < 0 {
			return errors.New("the node reports a malformed volume")
		}
		for _, text := range []string{v.Name, v.Driver, v.Encryption} {
			if err := checkText(text, maxShortText); err != nil {
				return fmt.Errorf("volume %s: a word of it %w", v.Id, err)
			}
		}
	}
	if len(d.LoadedImages) > maxImages {
		return fmt.Errorf("the node lists %d images: at most %d are accepted", len(d.LoadedImages), maxImages)
	}
	for ref, digest := range d.LoadedImages {
		if err := checkText(ref, maxReference); err != nil {
			return fmt.Errorf("the name of an image %w", err)
		}
		if !digestForm.MatchString(digest) {
			return fmt.Errorf("image %s: %q is not a digest", ref, digest)
		}
	}
	return nil
}

func checkText(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("has %d bytes: at most %d are accepted", len(s), limit)
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("contains control characters")
	}
	return nil
}

// cleanStatus returns a report's status as it may be stored, or why not. Error
// texts may quote what a container printed, so they are bounded and stripped
// rather than refused.
func cleanStatus(s *schedulerpb.TaskStatus, now time.Time) (*schedulerpb.TaskStatus, error) {
	if s == nil {
		return nil, fmt.Errorf("no status")
	}
	switch s.State {
	case schedulerpb.TaskState_TASK_STATE_ACCEPTED, schedulerpb.TaskState_TASK_STATE_PREPARING,
		schedulerpb.TaskState_TASK_STATE_READY, schedulerpb.TaskState_TASK_STATE_STARTING,
		schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_COMPLETE,
		schedulerpb.TaskState_TASK_STATE_SHUTDOWN, schedulerpb.TaskState_TASK_STATE_FAILED,
		schedulerpb.TaskState_TASK_STATE_REJECTED:
	default:
		return nil, fmt.Errorf("state %d is not for a node to report", s.State)
	}
	if len(s.ContainerId) > maxContainerID || strings.ContainsFunc(s.ContainerId, notPlain) {
		return nil, fmt.Errorf("malformed container id")
	}
	if s.Address != "" {
		if _, err := netip.ParseAddr(s.Address); err != nil || len(s.Address) > maxAddress || strings.Contains(s.Address, "%") {
			return nil, fmt.Errorf("malformed address")
		}
	}
	local, err := cleanLocal(s.Local)
	if err != nil {
		return nil, err
	}
	files, err := cleanFiles(s.Files)
	if err != nil {
		return nil, err
	}
	c := &schedulerpb.TaskStatus{ // field by field: nothing unknown is kept
		State: s.State, At: s.At,
		Message: oneline.Text(s.Message, maxMessageText), Error: oneline.Text(s.Error, maxMessageText),
		ExitCode: s.ExitCode, OomKilled: s.OomKilled,
		ContainerId: s.ContainerId, Address: s.Address, Unhealthy: s.Unhealthy, Local: local, Files: files,
	}
	if c.At <= 0 || c.At > now.Add(maxClockAhead).UnixNano() {
		c.At = now.UnixNano()
	}
	return c, nil
}

// cleanLocal checks what a node says of addresses that its own drivers gave. They
// are shown, and nothing is led to them: whose they are nobody can check.
func cleanLocal(list []*taskpb.Attachment) (out []*taskpb.Attachment, err error) {
	if len(list) > meshspec.MaxLocal {
		return nil, fmt.Errorf("addresses on %d networks: at most %d are accepted", len(list), meshspec.MaxLocal)
	}
	for _, a := range list {
		if !ident.Valid(a.GetNetworkId()) || len(a.GetAddresses()) > maxLocalAddresses {
			return nil, fmt.Errorf("malformed addresses on a network: at most %d are accepted", maxLocalAddresses)
		}
		for _, text := range a.Addresses {
			if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" || addr.String() != text {
				return nil, fmt.Errorf("malformed address on network %s", a.NetworkId)
			}
		}
		out = append(out, &taskpb.Attachment{NetworkId: a.NetworkId, Addresses: a.Addresses})
	}
	return out, nil
}

// cleanFiles checks what a node says of the versions that a container has.
func cleanFiles(list []*taskpb.FileVersion) (out []*taskpb.FileVersion, err error) {
	if len(list) > maxFiles {
		return nil, fmt.Errorf("versions of %d secrets and configs: at most %d are accepted", len(list), maxFiles)
	}
	for _, v := range list {
		if !ident.Valid(v.GetObjectId()) || !ident.Valid(v.GetVersionId()) {
			return nil, fmt.Errorf("malformed version of a secret or config")
		}
		out = append(out, &taskpb.FileVersion{ObjectId: v.ObjectId, VersionId: v.VersionId})
	}
	return out, nil
}

func notPlain(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
}

// checkTrust bounds what a node says of the roots it trusts.
func checkTrust(t *schedulerpb.TrustReport) error {
	if len(t.GetRoots()) > maxRoots {
		return fmt.Errorf("a node that trusts %d roots: at most %d are", len(t.GetRoots()), maxRoots)
	}
	for _, h := range t.GetRoots() {
		if len(h) != sha256.Size {
			return errors.New("the hash of a root has another length")
		}
	}
	return nil
}
