package peer

import (
	"crypto/hmac"
	"crypto/sha512"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// exports stands for a connection's exporter: both ends have the same, and no other
// connection has.
func exports(connection int) exporter {
	return func(label string, context []byte, length int) ([]byte, error) {
		mac := hmac.New(sha512.New, fmt.Append(nil, connection, label, length))
		mac.Write(context)
		return mac.Sum(nil)[:length], nil
	}
}

// A side is one end of a pair, over one connection after the other.
type side struct {
	mem   memory
	x     exchange
	says  announcement
	sent  []*peerpb.Frame // under way to the other
	epoch uint64          // in force
}

// Whatever is announced, cut and delivered in whatever order, neither side has
// secrets in force that the other could not have had, and once nothing disturbs
// them both have the same, for all the keys there are.
func TestExchangeModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sides := [2]*side{{says: announcement{keys: keys{current: key{1}}, port: 1}}, {says: announcement{keys: keys{current: key{2}}, port: 1}}}
		now, connections, serial := time.Unix(1<<30, 0), 0, byte(2)
		connect := func() {
			connections++
			for i, s := range sides {
				s.x.mem = &s.mem
				s.x.abandon()
				s.x = exchange{ids: [2]string{"a", "b"}, lower: i == 0, export: exports(connections), mem: &s.mem}
				s.sent = s.x.tell(s.says, now)
			}
		}
		made := map[uint64]tag{} // what is in force under an epoch is one thing
		take := func(i int) {
			s, o := sides[i], sides[1-i]
			f := proto.CloneOf(o.sent[0])
			o.sent = o.sent[1:]
			if m := f.GetAnnounce(); m != nil {
				a, err := parseAnnounce(m)
				if err == nil {
					err = s.x.announced(a)
				}
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			out, switched, err := s.x.hear(f, now)
			if err != nil {
				t.Fatalf("side %d: %v", i, err)
			}
			s.sent = append(s.sent, out...)
			if !switched {
				return
			}
			got := s.mem.inForce
			if known, ok := made[got.epoch]; ok && known != got.commit || got.epoch <= s.epoch {
				t.Fatalf("side %d: epoch %d after %d", i, got.epoch, s.epoch)
			}
			made[got.epoch], s.epoch = got.commit, got.epoch
		}
		act := func(i int) {
			s := sides[i]
			out, _, err := s.x.act(now)
			if err != nil {
				connect()
				return
			}
			s.sent = append(s.sent, out...)
		}
		connect()
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "side")
			s := sides[i]
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				connect()
			case 1: // netd was restarted
				serial++
				s.says.keys = keys{current: key{serial}}
				s.sent = append(s.sent, s.x.tell(s.says, now)...)
			case 2: // the key is to be changed, was changed, or is not any more
				k := &s.says.keys
				switch {
				case k.next == (key{}):
					serial++
					k.next = key{serial}
				case rapid.Bool().Draw(t, "turned"):
					*k = keys{current: k.next}
				default:
					k.next = key{}
				}
				s.sent = append(s.sent, s.x.tell(s.says, now)...)
			case 3:
				s.mem.asked = true
			case 4: // redoubtd was restarted
				s.mem, s.epoch = memory{}, 0
				if sides[1-i].mem.inForce == nil {
					clear(made)
				}
				connect()
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "seconds")) * time.Second)
				act(0)
				act(1)
			default:
				if len(sides[1-i].sent) > 0 {
					take(i)
				}
				act(i)
			}
		}
		connect()
		for range 50 {
			now = now.Add(time.Second)
			for i := range sides {
				for len(sides[1-i].sent) > 0 {
					take(i)
				}
				act(i)
			}
		}
		a, b := sides[0].mem.inForce, sides[1].mem.inForce
		if a == nil || b == nil || a.commit != b.commit || a.epoch != b.epoch {
			t.Fatalf("they do not have the same: %v, %v", a, b)
		}
		for _, c := range couples(sides[0].says.keys, sides[1].says.keys) {
			x, ok := a.between(c[0], c[1])
			y, also := b.between(c[0], c[1])
			if !ok || !also || x != y {
				t.Fatalf("keys %x and %x have no pre-shared key", c[0][:1], c[1][:1])
			}
		}
	})
}

// What is drawn depends on all that it is for.
func TestSecretsDiffer(t *testing.T) {
	now := time.Unix(1<<30, 0)
	seen := map[psk]string{}
	tags := map[tag]string{}
	for name, c := range map[string]struct {
		connection    int
		ids           [2]string
		epoch         uint64
		lower, higher keys
	}{
		"one":                {1, [2]string{"a", "b"}, 1, keys{current: key{1}}, keys{current: key{2}}},
		"another connection": {2, [2]string{"a", "b"}, 1, keys{current: key{1}}, keys{current: key{2}}},
		"another node":       {1, [2]string{"a", "c"}, 1, keys{current: key{1}}, keys{current: key{2}}},
		"ids run together":   {1, [2]string{"ab", ""}, 1, keys{current: key{1}}, keys{current: key{2}}},
		"another epoch":      {1, [2]string{"a", "b"}, 2, keys{current: key{1}}, keys{current: key{2}}},
		"another lower key":  {1, [2]string{"a", "b"}, 1, keys{current: key{3}}, keys{current: key{2}}},
		"another higher key": {1, [2]string{"a", "b"}, 1, keys{current: key{1}}, keys{current: key{3}}},
		"keys swapped":       {1, [2]string{"a", "b"}, 1, keys{current: key{2}}, keys{current: key{1}}},
	} {
		s, err := draw(exports(c.connection), c.ids, c.epoch, c.lower, c.higher, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range s.of {
			if other := seen[x.psk]; other != "" {
				t.Errorf("%s has the key of %s", name, other)
			}
			seen[x.psk] = name
		}
		for _, x := range []tag{s.confirm, s.commit} {
			if other := tags[x]; other != "" {
				t.Errorf("%s has a tag of %s", name, other)
			}
			tags[x] = name
		}
	}
}

// FuzzFrames gives a side that is in the middle of an exchange whatever a peer may
// send.
func FuzzFrames(f *testing.F) {
	add := func(frames ...*peerpb.Frame) {
		for _, m := range frames {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, true)
			f.Add(b, false)
		}
	}
	for _, lower := range []bool{true, false} {
		x := exchange{ids: [2]string{"a", "b"}, lower: lower, export: exports(1), mem: &memory{}}
		add(x.tell(announcement{keys: keys{key{1}, key{2}}, port: 7, inForce: tag{1}}, time.Unix(1, 0))...)
	}
	add(&peerpb.Frame{Message: &peerpb.Frame_Propose{Propose: &peerpb.Propose{Epoch: 2, Lower: keys{current: key{9}}.message(), Higher: keys{current: key{8}}.message()}}},
		&peerpb.Frame{Message: &peerpb.Frame_Confirm{Confirm: &peerpb.Confirm{Epoch: 1, Tag: make([]byte, 16)}}},
		&peerpb.Frame{Message: &peerpb.Frame_Commit{Commit: &peerpb.Commit{Epoch: 1, Tag: make([]byte, 16)}}},
		&peerpb.Frame{Message: &peerpb.Frame_Ready{Ready: &peerpb.Ready{Epoch: 1}}}, &peerpb.Frame{Message: &peerpb.Frame_Ask{Ask: &peerpb.Ask{}}})
	f.Fuzz(func(t *testing.T, b []byte, lower bool) {
		var m peerpb.Frame
		if proto.Unmarshal(b, &m) != nil || strictpb.Unknown(&m) != "" {
			return
		}
		now := time.Unix(1<<30, 0)
		x := exchange{ids: [2]string{"a", "b"}, lower: lower, export: exports(1), mem: &memory{}}
		mine, theirs := keys{current: key{9}}, keys{current: key{8}}
		if !lower {
			mine, theirs = theirs, mine
		}
		x.tell(announcement{keys: mine, port: 1}, now)
		if err := x.announced(announcement{keys: theirs, port: 1}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.act(now); err != nil {
			t.Fatal(err)
		}
		if a := m.GetAnnounce(); a != nil {
			if heard, err := parseAnnounce(a); err == nil {
				x.announced(heard)
			}
		} else if _, switched, err := x.hear(&m, now); switched && err == nil {
			// Only what has the right tag switches, and a fuzzer does not find it.
			t.Error("it switched")
		}
		if x.mem.inForce != nil {
			t.Error("something is in force")
		}
		x.act(now.Add(time.Minute))
	})
}
