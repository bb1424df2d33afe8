package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// TestStoreKeyOld: a key is renewed in the last tenth of its life, by different
// managers at different times, and one whose age cannot be known at once.
func TestStoreKeyOld(t *testing.T) {
	const life = 90 * 24 * time.Hour
	made := time.Unix(1_800_000_000, 0)
	dek := &keydpb.DEKState{Epoch: 3, MadeAt: made.Unix()}
	due := map[time.Duration]int{}
	for i := range 50 {
		id := fmt.Sprint("node-", i)
		if storeKeyOld(dek, id, life, made.Add(life*9/10)) || !storeKeyOld(dek, id, life, made.Add(life+time.Second)) {
			t.Fatalf("%s renews outside of the last tenth", id)
		}
		at := life * 9 / 10
		for !storeKeyOld(dek, id, life, made.Add(at)) {
			at += time.Hour
		}
		due[at]++
	}
	if len(due) < 20 {
		t.Errorf("50 managers renew at %d times", len(due))
	}
	now := made.Add(time.Hour)
	for name, c := range map[string]struct {
		at   time.Time
		life time.Duration
		old  bool
	}{
		"never by age":            {time.Time{}, 0, false},
		"age not known":           {time.Unix(0, 0), life, true},
		"of a clock a year ahead": {now.AddDate(1, 0, 0), life, true},
		"a clock set back a bit":  {now.Add(time.Hour), life, false},
	} {
		if got := storeKeyOld(&keydpb.DEKState{Epoch: 1, MadeAt: c.at.Unix()}, "n", c.life, now); got != c.old {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestRoomForCopy: where there is none, it is said, and nothing begins.
func TestRoomForCopy(t *testing.T) {
	d := disk{t.TempDir()}
	if err := d.roomForCopy(d.dir); err != nil {
		t.Error(err)
	}
	if err := d.roomForCopy(d.path("none")); err != nil {
		t.Errorf("a directory that is not there: %v", err)
	}
}
