package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2126, 5, 4, 3, 2, 1, 0, time.UTC)

// goodDoor is a port as it should be.
func goodDoor() Door {
	return Door{Manager: "manager-2", Group: safeGroup, OnRecord: true, NotAfter: now.Add(day)}
}

// sound is a cluster as it should be, with one of everything.
func sound() *Cluster {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	manager := func(name, host, zone string) Member {
		return Member{Name: name, Manager: true, Connected: true, Trusts: [][]byte{{1, 2}}, Up: true, Host: host, Zone: zone, Version: "1.2.3", NotAfter: now.Add(day), Voter: true, Probed: true, Lock: "link 1 ab",
			SlotEpoch: 4, StoreKeyMade: ago(80 * day), Clocked: true, ClockOff: time.Second}
	}
	return &Cluster{
		Now: now, Level: 3, Here: 3,
		Members: []Member{manager("manager-1", "10.0.0.1", "a"), manager("manager-2", "10.0.0.2", "b"), manager("manager-3", "10.0.0.3", "c"),
			{Name: "worker-1", Connected: true, Up: true, Host: "10.0.0.4", Version: "1.2.3", NotAfter: now.Add(day), Clocked: true, Tasks: 7, Trusts: [][]byte{{3, 4}}, Probed: true, Lock: "no chain", Waits: true},
			{Name: "worker-2", Host: "10.0.0.5", NotAfter: now.Add(day)}},
		Authorities: []Authority{{ID: "ef01", Root: true, NotBefore: ago(1000 * day), NotAfter: now.Add(2000 * day)}, {ID: "abcd", NotBefore: ago(31 * day), NotAfter: now.Add(2000 * day)}},
		Roots:       [][]byte{{1, 2}, {3, 4}},
		Lists:       []RevocationList{{CA: "abcd", NextUpdate: now.Add(day)}, {CA: "ef01", NextUpdate: now.Add(day)}},
		Replacing:   ago(day),
		External:    &External{URL: "https://ca.example"},
		Tokens:      []Token{{ID: "tok1", Minted: ago(time.Hour), Expires: now.Add(time.Hour)}},
		Slots:       []Slot{{Name: "operator", People: true, Made: ago(100 * day)}, {Name: "chip", Made: ago(999 * day)}},
		SlotEpoch:   4,
		ImageRules:  []ImageRule{{Name: "own"}},
		Secrets:     []Secret{{Name: "key", Version: 3, Made: ago(10 * day)}},
		Networks:    []Network{{Name: "front", Driver: "overlay", InMesh: true, Denies: true, Services: 4}, {Name: "own", Driver: "overlay", InMesh: true, Services: 1}},
		Services: []Service{{Name: "web", Image: "web:1", Digest: "sha256:aa", ReadOnly: true, MemoryBytes: 1, NanoCPUs: 1,
			Mounts: []Mount{{Source: "/srv/web", ReadOnly: true}}, Ports: []Port{{Published: 8080, Host: "10.0.0.4"}}}},
		AuditLog: func(context.Context) ([]ManagerLog, error) {
			return []ManagerLog{{Manager: "manager-1"}, {Manager: "manager-2"}, {Manager: "manager-3"}}, nil
		},
		Signed: func(context.Context) (Checkpoint, error) {
			return Checkpoint{Size: 7, Records: 9, Unsigned: ago(time.Minute)}, nil
		},
		Witnessed: func(context.Context) ([]Witness, error) {
			return []Witness{{Name: "w1", Size: 7, At: ago(2 * time.Hour), Lacks: ago(time.Minute), Failure: "no route"}, {Name: "w2", Size: 9, At: ago(time.Minute)}}, nil
		},
		Doors: func() ([]Door, error) { return []Door{goodDoor(), goodDoor()}, nil },
		LastBackup: func(_ context.Context, since time.Time) (time.Time, error) {
			if at := ago(2 * day); at.After(since) {
				return at, nil
			}
			return time.Time{}, nil
		},
	}
}

// doors has ports behave otherwise.
func doors(all ...Door) func(*Cluster) {
	return func(c *Cluster) { c.Doors = func() ([]Door, error) { return all, nil } }
}

// harm is one way to spoil a sound cluster, and what is said of it.
type harm struct {
	do   func(*Cluster)
	says string
}

func logs(all ...ManagerLog) func(*Cluster) {
	return func(c *Cluster) { c.AuditLog = func(context.Context) ([]ManagerLog, error) { return all, nil } }
}

func signed(c Checkpoint) func(*Cluster) {
	return func(all *Cluster) { all.Signed = func(context.Context) (Checkpoint, error) { return c, nil } }
}

func witnessed(all ...Witness) func(*Cluster) {
	return func(c *Cluster) { c.Witnessed = func(context.Context) ([]Witness, error) { return all, nil } }
}

// ofMember spoils the i-th node.
func ofMember(i int, do func(*Member)) func(*Cluster) {
	return func(c *Cluster) { do(&c.Members[i]) }
}

func ofService(do func(*Service)) func(*Cluster) {
	return func(c *Cluster) { do(&c.Services[0]) }
}

// harms is, for each control of the cluster, what makes it fail, and no other.
var harms = map[string][]harm{
	"addresses-own": {
		{func(c *Cluster) { c.Shared = []Shared{{"10.0.0.9", []string{"worker-1", "worker-2"}}} }, "worker-1, worker-2 are all at 10.0.0.9"},
		{ofMember(3, func(m *Member) { m.Replaced = true }), "the session of worker-1 was replaced"},
	},
	"audit-log-agreed": {
		{logs(ManagerLog{Manager: "manager-1"}, ManagerLog{Manager: "manager-2", Forked: true}), "manager-2 has another audit log"},
		{logs(ManagerLog{Manager: "manager-1", Wrong: "record 7 is another"}), "manager-1: record 7 is another"},
		{logs(ManagerLog{Manager: "manager-3", Missing: 2}, ManagerLog{Manager: "manager-2", Away: "no route"}), "manager-3 lacks 2"},
	},
	"audit-log-signed": {
		{signed(Checkpoint{Size: 7, Records: 9, Unsigned: now.Add(-6 * time.Minute)}), "record 7 of the audit log, and all after it, are signed by nobody for 6m0s"},
		{signed(Checkpoint{Records: 9, Unsigned: now.Add(-6 * time.Minute)}), "record 0 of the audit log"},
		{signed(Checkpoint{Size: 9, Records: 9, Dissents: []Dissent{{"manager-2", "no route"}}}), "manager-2 did not sign the audit log's first 9 records: no route"},
	},
	"audit-witnessed": {
		{witnessed(Witness{Name: "w1", Size: 9, At: now}, Witness{Name: "w2", Size: 7, At: now.Add(-time.Hour), Lacks: now.Add(-3 * time.Minute), Failure: "it took too long"}), "witness w2 has cosigned 7 records, and none since for 3m0s: it took too long"},
		{witnessed(Witness{Name: "w1", Lacks: now.Add(-time.Hour)}), "witness w1 has cosigned 0 records, and none since for 1h0m0s"},
		{witnessed(Witness{Name: "w1", Size: 9, At: now, Alarm: "it knows another log", AlarmAt: now.Add(-day)}), "ALARM of witness w1 on 2126-05-03: it knows another log"},
		{witnessed(Witness{Name: "w1", Size: 9, At: now.Add(-4 * time.Hour)}), "witness w1 cosigned last on 2126-05-03T23:02:01Z"},
	},
	"backup-recent": {{func(c *Cluster) {
		c.LastBackup = func(context.Context, time.Time) (time.Time, error) { return time.Time{}, nil }
	}, "no backup was made within 7 days"}},
	"ca-life": {
		{func(c *Cluster) { c.Authorities[0].NotAfter = now.Add(300 * day) }, "a root ends on 2127-02-28"},
		{func(c *Cluster) { c.Authorities[1].NotAfter = now.Add(80 * day) }, "the issuing CA ends on"},
		{func(c *Cluster) { c.Authorities[1].NotBefore = now.Add(-50 * day) }, "was not replaced"},
	},
	"ca-no-alarm": {{func(c *Cluster) {
		c.Alarms = []Alarm{{"manager-2", "ab12", "192.0.2.7", now}}
	}, "a certificate of manager-2 that nobody gave out was shown from 192.0.2.7 on 2126-05-04 (serial ab12)"}},
	"ca-not-exposed":       {{func(c *Cluster) { c.Exposed = []string{"manager-9"} }, "manager-9 left in other hands"}},
	"ca-replacement-ended": {{func(c *Cluster) { c.Replacing = now.Add(-8 * day) }, "since 2126-04-26"}},
	"certificates-current": {
		{ofMember(4, func(m *Member) { m.Stale = true }), "worker-2 is of a CA of before"},
		{ofMember(4, func(m *Member) { m.Stale, m.Forgotten = true, true }), "worker-2 was away so long"},
	},
	"roots-agreed":        {{ofMember(3, func(m *Member) { m.Trusts = [][]byte{{3, 4}, {5, 6}} }), "worker-1 trusts the root 0506, which is none of the cluster's"}},
	"certificates-valid":  {{ofMember(0, func(m *Member) { m.NotAfter = now }), "manager-1 ended on 2126-05-04"}},
	"clocks-agree":        {{ofMember(3, func(m *Member) { m.ClockOff = -7 * time.Second }), "worker-1 is off by 7s"}},
	"external-ca-answers": {{func(c *Cluster) { c.External.Failure = "refused" }, "https://ca.example certifies no worker: refused"}},
	"images-signed": {{func(c *Cluster) {
		c.ImageRules = append(c.ImageRules, ImageRule{Name: "rest", Unsigned: true})
	}, "rule rest of the image policy admits what nobody signed"}},
	"lock-agreed": {
		{ofMember(3, func(m *Member) { m.Lock, m.Waits = "", false }), "worker-1 has no deployment lock"},
		{ofMember(3, func(m *Member) { m.Lock, m.Waits = "link 0 cd", false }), "worker-1: link 0 cd"},
	},
	"join-tokens-bounded": {{func(c *Cluster) { c.Tokens[0].Expires = time.Time{} }, "tok1 does not end"}},
	"join-tokens-young":   {{func(c *Cluster) { c.Tokens[0].Minted, c.Tokens[0].Manager = now.Add(-9*day), true }, "tok1 for managers is of 2126-04-25"}},
	"managers-certificates-shown": {
		{doors(Door{Manager: "manager-3", Group: safeGroup, NotAfter: now.Add(day)}), "manager-3 shows a certificate whose key is not on record"},
		{doors(goodDoor(), Door{Manager: "manager-3", Group: safeGroup, OnRecord: true, NotAfter: now}), "manager-3 shows a certificate that ended on 2126-05-04"},
	},
	"managers-quantum-safe":     {{doors(Door{Manager: "manager-3", Group: "X25519", OnRecord: true, NotAfter: now.Add(day)}), "manager-3 agreed on X25519"}},
	"managers-refuse-strangers": {{doors(Door{Manager: "manager-3", Admitted: []string{"one"}, Group: safeGroup, OnRecord: true, NotAfter: now.Add(day)}), "manager-3 answers one"}},
	"managers-drained":          {{ofMember(1, func(m *Member) { m.Tasks = 2 }), "manager-2 runs 2 tasks"}},
	"managers-quorum": {
		{ofMember(0, func(m *Member) { m.Locked = true }), "manager-1 is locked"},
		{ofMember(1, func(m *Member) { m.Up = false }), "manager-2 is down"},
		{ofMember(2, func(m *Member) { m.Voter = false }), "manager-3 has no vote"},
		{func(c *Cluster) {
			m := c.Members[0]
			m.Host, m.Zone = "10.0.0.6", "d"
			c.Members = append(c.Members, m)
		}, "4 managers vote, and bear no more losses than 3"},
		{func(c *Cluster) {
			for i := range 4 {
				m := c.Members[0]
				m.Host, m.Zone = string(rune('p'+i)), string(rune('p'+i))
				c.Members = append(c.Members, m)
			}
		}, "7 managers vote: 5 bear the loss of two"},
		{func(c *Cluster) { c.Members = c.Members[2:] }, "1 managers vote: the loss of one"},
	},
	"managers-spread": {
		{ofMember(1, func(m *Member) { m.Zone = "a" }), "manager-1, manager-2 share zone a"},
		{ofMember(1, func(m *Member) { m.Host = "10.0.0.3" }), "manager-2, manager-3 share the address 10.0.0.3"},
	},
	"managers-store-keys": {
		{ofMember(1, func(m *Member) { m.StoreKeyMade = now.Add(-121 * day) }), "manager-2's store is of 2126-01-03"},
		{ofMember(1, func(m *Member) { m.StoreKeyMade = time.Time{} }), "manager-2 does not say"},
		{ofMember(1, func(m *Member) { m.StoreKeyWrong = "the disk is full" }), "not renewed: the disk is full"},
	},
	"networks-deny":    {{func(c *Cluster) { c.Networks[0].Denies = false }, "4 services on network front"}},
	"networks-in-mesh": {{func(c *Cluster) { c.Networks[1].InMesh, c.Networks[1].Driver = false, "cni" }, "network own is of driver cni"}},
	"nodes-same-version": {
		{ofMember(3, func(m *Member) { m.Version = "1.2.2" }), "worker-1: version 1.2.2"},
		{ofMember(3, func(m *Member) { m.Version = "" }), "worker-1 does not say"},
		{func(c *Cluster) { c.Level = 2 }, "level 2 of 3"},
	},
	"revocation-lists-current": {
		{func(c *Cluster) { c.Lists[0].NextUpdate = now }, "CA abcd ended"},
		{func(c *Cluster) { c.Lists = c.Lists[1:] }, "CA abcd has no revocation list"},
		{func(c *Cluster) { c.Lists = nil }, "CA ef01 has no revocation list"},
	},
	"secrets-renewed": {
		{func(c *Cluster) { c.Secrets[0].Made = now.Add(-400 * day) }, "version 3 of secret key is of 2125-03-30"},
		{func(c *Cluster) { c.Secrets[0].Made = time.Time{} }, "secret key does not say"},
	},
	"services-cpu-bounded":    {{ofService(func(s *Service) { s.NanoCPUs = 0 }), "web may take all processors"}},
	"services-image-pinned":   {{ofService(func(s *Service) { s.Digest = "" }), "whatever is called web:1"}},
	"services-memory-bounded": {{ofService(func(s *Service) { s.MemoryBytes = 0 }), "web may take all memory"}},
	"services-mounts-harmless": {
		{ofService(func(s *Service) { s.Mounts[0].Source = "/" }), "web have / of"},
		{ofService(func(s *Service) { s.Mounts[0].Source = "/srv/../etc/ssh/" }), "web have /etc/ssh of"},
		{ofService(func(s *Service) { s.Mounts[0].Source = "/var" }), "web have /var of"},
		{ofService(func(s *Service) { s.Mounts[0].Source = "/sbin" }), "web have /sbin of"},
		{ofService(func(s *Service) { s.Mounts[0].Source = "/var/spool/cron/crontabs" }), "web have /var/spool/cron/crontabs of"},
	},
	"services-mounts-read-only": {{ofService(func(s *Service) { s.Mounts[0].ReadOnly = false }), "web write to /srv/web"}},
	"services-ports-addressed":  {{ofService(func(s *Service) { s.Ports[0].Host = "" }), "port 8080 on every address"}},
	"services-ports-high":       {{ofService(func(s *Service) { s.Ports[0].Published = 443 }), "publishes port 443"}},
	"services-read-only":        {{ofService(func(s *Service) { s.ReadOnly = false }), "web may change their own"}},
	"slots-current": {
		{ofMember(0, func(m *Member) { m.SlotEpoch = 3 }), "manager-1 opens with the slots of epoch 3 still, of 4"},
		{ofMember(0, func(m *Member) { m.Lacks = 1 }), "manager-1 lacks 1"},
	},
	"slots-no-file": {{func(c *Cluster) { c.Slots = append(c.Slots, Slot{Name: "auto", File: true}) }, "autolock is off"}},
	"slots-renewed": {{func(c *Cluster) { c.Slots[0].Made = now.Add(-366 * day) }, "operator is of 2125-05-03"}},
}

// TestSabotageOfCluster: every control of the cluster passes where all is well, and
// each fails by what is done to it, says what it found, and no other does.
func TestSabotageOfCluster(t *testing.T) {
	for _, r := range RunCluster(t.Context(), All(), sound()) {
		if r.Outcome != Pass || !r.Control.OfCluster() {
			t.Errorf("%s where all is well: %s %q", r.Control.ID, r.Outcome, r.Evidence)
		}
		if len(harms[r.Control.ID]) == 0 {
			t.Errorf("%s has no sabotage that makes it fail", r.Control.ID)
		}
	}
	for id, ways := range harms {
		for _, h := range ways {
			c := sound()
			h.do(c)
			results := RunCluster(t.Context(), All(), c)
			if !slices.ContainsFunc(results, func(r Result) bool { return r.Control.ID == id }) {
				t.Errorf("%s is no control of the cluster", id)
			}
			for _, r := range results {
				want := Pass
				if r.Control.ID == id {
					want = Fail
				}
				// Of a single manager more cannot be asked than that there be more.
				if r.Outcome != want && !(r.Control.ID == "managers-spread" && r.Outcome == NotApplicable && id == "managers-quorum") {
					t.Errorf("%s, %s: %s %q, want %s", h.says, r.Control.ID, r.Outcome, r.Evidence, want)
				}
				if want == Fail && !strings.Contains(strings.Join(r.Evidence, "\n"), h.says) {
					t.Errorf("%s: %q does not say %q", id, r.Evidence, h.says)
				}
			}
		}
	}
}

// TestNothingToJudge: an empty cluster has nothing that passes for its being empty,
// and what could not be asked is no pass.
func TestNothingToJudge(t *testing.T) {
	c := &Cluster{Now: now, AuditLog: func(context.Context) ([]ManagerLog, error) { return nil, errors.New("no\nlog") },
		LastBackup: func(context.Context, time.Time) (time.Time, error) { return time.Time{}, errors.New("no log") }}
	passes := []string{"ca-no-alarm", "ca-not-exposed", "ca-replacement-ended"} // of which one is sure that there are none
	for _, r := range RunCluster(t.Context(), All(), c) {
		if (r.Outcome == Pass) != slices.Contains(passes, r.Control.ID) || len(r.Evidence) == 0 {
			t.Errorf("%s of nothing: %s %q", r.Control.ID, r.Outcome, r.Evidence)
		}
	}
	c = sound()
	c.AuditLog = func(context.Context) ([]ManagerLog, error) {
		return []ManagerLog{{Manager: "manager-1"}, {Manager: "manager-2", Away: "no route"}}, nil
	}
	away := goodDoor()
	away.Away = "no route"
	c.Doors = func() ([]Door, error) { return []Door{goodDoor(), away}, nil }
	c.LastBackup = nil // a mistake in whoever fills it in
	c.Members[3].Clocked, c.Members[3].Probed = false, false
	c.ImagesUnread = errors.New("a field of later")
	for _, r := range RunCluster(t.Context(), All(), c) {
		if bad := slices.Contains([]string{"audit-log-agreed", "backup-recent", "clocks-agree", "images-signed", "lock-agreed", "managers-certificates-shown", "managers-quantum-safe", "managers-refuse-strangers"}, r.Control.ID); bad != (r.Outcome == Error) {
			t.Errorf("%s: %s %q", r.Control.ID, r.Outcome, r.Evidence)
		}
	}
}

// TestAwayIsNotLookedAt: of a node that is not there, clock and version are not judged,
// and are not counted as if they had been.
func TestAwayIsNotLookedAt(t *testing.T) {
	want := map[string]string{"clocks-agree": "4 looked at", "lock-agreed": "4 looked at", "nodes-same-version": "4 looked at"}
	for _, r := range RunCluster(t.Context(), All(), sound()) {
		if says, ok := want[r.Control.ID]; ok && !slices.Equal(r.Evidence, []string{says}) {
			t.Errorf("%s: %q, want %q", r.Control.ID, r.Evidence, says)
		}
	}
}
