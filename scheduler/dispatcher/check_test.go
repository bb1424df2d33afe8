package dispatcher

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/protobuf/proto"
)

func TestCheckDescription(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	good := func() *schedulerpb.NodeDescription {
		return &schedulerpb.NodeDescription{
			Hostname: "worker-1", Os: "linux", Arch: "amd64", RedoubtVersion: "1.0", Kernel: "6.1", Runtime: "containerd 1.6.20",
			Resources:    &taskpb.Resources{NanoCpus: 2e9, MemoryBytes: 1 << 30},
			Features:     []*taskpb.Feature{{Name: "seccomp", Present: true, Required: true}},
			LoadedImages: map[string]string{"web:1": digest},
		}
	}
	if err := checkDescription(good()); err != nil {
		t.Fatal(err)
	}
	for name, break_ := range map[string]func(*schedulerpb.NodeDescription){
		"hostname":  func(d *schedulerpb.NodeDescription) { d.Hostname = "../etc" },
		"no name":   func(d *schedulerpb.NodeDescription) { d.Hostname = "" },
		"control":   func(d *schedulerpb.NodeDescription) { d.Kernel = "6.1\x1b[2J" },
		"long":      func(d *schedulerpb.NodeDescription) { d.Runtime = strings.Repeat("x", maxShortText+1) },
		"negative":  func(d *schedulerpb.NodeDescription) { d.Resources.MemoryBytes = -1 },
		"endless":   func(d *schedulerpb.NodeDescription) { d.Resources.NanoCpus = 1 << 62 },
		"digest":    func(d *schedulerpb.NodeDescription) { d.LoadedImages["web:2"] = "sha256:abc" },
		"reference": func(d *schedulerpb.NodeDescription) { d.LoadedImages["a\nb"] = digest },
		"feature":   func(d *schedulerpb.NodeDescription) { d.Features[0].Detail = "a\x00b" },
		"features":  func(d *schedulerpb.NodeDescription) { d.Features = make([]*taskpb.Feature, maxFeatures+1) },
		"volumes": func(d *schedulerpb.NodeDescription) {
			v := &taskpb.VolumeInstance{Id: ident.New(), Name: "db", Driver: "local"}
			d.Volumes = &schedulerpb.NodeVolumes{Instances: []*taskpb.VolumeInstance{v, v}}
		},
		"everything": func(d *schedulerpb.NodeDescription) { d.Os = strings.Repeat("x", maxDescriptionBytes) },
	} {
		d := good()
		break_(d)
		if err := checkDescription(d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if checkDescription(nil) == nil {
		t.Error("nothing was accepted")
	}
}

// Whatever a node reports, what is kept of it is bounded, printable and in a
// state that a node may report.
func FuzzCleanStatus(f *testing.F) {
	f.Add([]byte(nil))
	for _, s := range []*schedulerpb.TaskStatus{
		{State: schedulerpb.TaskState_TASK_STATE_RUNNING, At: 5, Address: "172.30.0.2", ContainerId: "abc"},
		{State: schedulerpb.TaskState_TASK_STATE_FAILED, Error: strings.Repeat("é\x1b", 2000)},
		{State: schedulerpb.TaskState_TASK_STATE_ORPHANED},
		{State: schedulerpb.TaskState_TASK_STATE_RUNNING, Local: []*taskpb.Attachment{{NetworkId: ident.New(), Addresses: []string{"10.1.0.2", "fd00::2"}}}},
		{State: schedulerpb.TaskState_TASK_STATE_RUNNING, Local: []*taskpb.Attachment{{NetworkId: "x", Addresses: []string{"10.1.0.2/24", "fe80::1%eth0"}}}},
		{State: 83, Address: "fe80::1%eth0"},
	} {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &schedulerpb.TaskStatus{}
		if proto.Unmarshal(b, s) != nil {
			return
		}
		c, err := cleanStatus(s, now)
		if err != nil {
			return
		}
		if len(c.Message) > maxMessageText || len(c.Error) > maxMessageText || len(c.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("unbounded %v", c)
		}
		for _, text := range []string{c.Message, c.Error, c.ContainerId, c.Address} {
			if strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("control characters in %q", text)
			}
		}
		for _, a := range c.Local {
			for _, text := range a.Addresses {
				if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" || !ident.Valid(a.NetworkId) {
					t.Errorf("addresses %v", c.Local)
				}
			}
		}
		if c.State < schedulerpb.TaskState_TASK_STATE_ACCEPTED || c.State > schedulerpb.TaskState_TASK_STATE_REJECTED {
			t.Errorf("state %v", c.State)
		}
		if c.At <= 0 || c.At > now.Add(maxClockAhead).UnixNano() {
			t.Errorf("time %d", c.At)
		}
		if _, err := proto.Marshal(c); err != nil {
			t.Error(err)
		}
	})
}

func TestBucket(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := newBucket(2, 4, now)
	if !b.take(4, now) || b.take(1, now) {
		t.Error("the burst is wrong")
	}
	if now = now.Add(time.Second); !b.take(2, now) || b.take(0.5, now) {
		t.Error("the rate is wrong")
	}
	if now = now.Add(time.Hour); b.take(5, now) || !b.take(4, now) {
		t.Error("more than the burst was saved")
	}
	if b.take(1, now.Add(-time.Hour)) {
		t.Error("a clock set back gave tokens")
	}
}
