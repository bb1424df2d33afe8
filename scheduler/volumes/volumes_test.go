package volumes

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"1m": 1 << 20, "1MiB": 1 << 20, "10GB": 10 << 30, "2g": 2 << 30, "1t": 1 << 40, "1048576": 1 << 20, "1048576b": 1 << 20,
		"": 0, "m": 0, "-1g": 0, "+1g": 0, "1.5g": 0, "1023k": 0, "1ib": 0, "1gg": 0, "1 g": 0, "99999999t": 0, "9223372036854775807t": 0, "1e9": 0} {
		got, err := parseSize(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := func() *taskpb.VolumeUse { return &taskpb.VolumeUse{Name: "db_data"} }
	if err := CheckUse(good()); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*taskpb.VolumeUse){
		"is empty":             func(u *taskpb.VolumeUse) { u.Name = "" },
		"only lowercase":       func(u *taskpb.VolumeUse) { u.Name = "../../etc" },
		"only lowercase ":      func(u *taskpb.VolumeUse) { u.Name = "data-{{.Task.Slot}}" },
		"has the form of an":   func(u *taskpb.VolumeUse) { u.Name = ident.New() },
		"no volume driver":     func(u *taskpb.VolumeUse) { u.Driver = "nfs" },
		"has no option":        func(u *taskpb.VolumeUse) { u.Options = map[string]string{"mode": "1"} },
		"mounts something of":  func(u *taskpb.VolumeUse) { u.Options = map[string]string{"device": "/etc"} },
		"such as 500MiB":       func(u *taskpb.VolumeUse) { u.Options = map[string]string{Size: "big"} },
		"volume label":         func(u *taskpb.VolumeUse) { u.Labels = map[string]string{"": "x"} },
		"below the volume":     func(u *taskpb.VolumeUse) { u.Subpath = "a/../../b" },
		"below the volume,":    func(u *taskpb.VolumeUse) { u.Subpath = "/etc" },
		"below the volume, w":  func(u *taskpb.VolumeUse) { u.Subpath = ".." },
		"below the volume, wi": func(u *taskpb.VolumeUse) { u.Subpath = "a/" },
		"control character":    func(u *taskpb.VolumeUse) { u.Subpath = "a\nb" },
		"characters long":      func(u *taskpb.VolumeUse) { u.Subpath = strings.Repeat("a", MaxSubpath+1) },
	} {
		u := good()
		change(u)
		if err := CheckUse(u); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%v: %v, want %q", u, err, want)
		}
	}
	if CheckUse(nil) == nil || Check(nil) == nil {
		t.Error("nothing is a volume")
	}
}

func TestDiffers(t *testing.T) {
	is := &taskpb.VolumeSpec{Name: "v", Driver: Local, Options: map[string]string{Size: "1g"}}
	for _, c := range []struct {
		u    *taskpb.VolumeUse
		same bool
	}{
		{&taskpb.VolumeUse{Name: "v"}, true},
		{&taskpb.VolumeUse{Name: "v", Driver: Local, Options: map[string]string{Size: "1g"}, Labels: map[string]string{"a": "b"}}, true},
		{&taskpb.VolumeUse{Name: "v", Options: map[string]string{Size: "2g"}}, false},
		{&taskpb.VolumeUse{Name: "v", Driver: "csi"}, false},
	} {
		if got := Differs(is, c.u); (got == "") != c.same {
			t.Errorf("%v: %q", c.u, got)
		}
	}
}
