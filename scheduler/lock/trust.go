package lock

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/headed"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

// file is the name of what a node keeps.
const file = "lock"

// ErrForked says that a node trusts another chain already.
var ErrForked = errors.New("this node trusts another chain, and no chain that goes on from it takes its place but by local root: redoubt lock forget")

// Trust is what a node keeps of the lock: the chain that it follows, and of each
// service the newest statement that it ran. It is safe for concurrent use.
type Trust struct {
	path string
	// required: where no chain is known nothing runs, and none that comes along with a
	// service is the first.
	required bool

	mu    sync.Mutex
	state *lockpb.State // guarded by mu; replaced, never modified
	chain *Chain        // of state; nil: none
	// damaged is why what is kept cannot be used: then nothing runs, until local root
	// says what to trust. Guarded by mu.
	damaged error
}

// Open reads what is kept in dir, which only who opens it can write. A file that
// cannot be used is no missing one: everything is refused. required says that a missing
// one is that too.
func Open(dir string, required bool) *Trust {
	t := &Trust{path: filepath.Join(dir, file), required: required, state: &lockpb.State{}}
	if err := t.read(); err != nil {
		t.state, t.chain = &lockpb.State{}, nil
		t.damaged = refuse(RuleState, "%s, by which this node knows whose services it runs, cannot be used: %v: root of the node says anew what to trust (redoubt lock trust)", t.path, err)
	}
	return t
}

// read is called before anybody else has t.
func (t *Trust) read() error {
	raw, err := atomicfile.ReadBounded(t.path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	body, err := headed.Decode(file, raw)
	s := &lockpb.State{}
	if err == nil {
		err = proto.Unmarshal(body, s)
	}
	if err == nil && (strictpb.Unknown(s) != "" || len(s.GetPin()) != 0 && len(s.GetPin()) != sha256.Size || len(s.GetPin()) == 0 && s.GetChain() == nil) {
		err = headed.ErrDamaged
	}
	if err == nil && s.GetChain() != nil {
		if t.chain, err = complete(s.GetChain()); err == nil && len(s.GetPin()) > 0 && !t.chain.Contains(s.GetPin()) {
			err = headed.ErrDamaged
		}
	}
	t.state = s
	return err
}

func complete(raw *lockpb.Chain) (*Chain, error) {
	c, err := ReadChain(raw)
	if err == nil && c.Missing() > 0 {
		err = refuse(RuleChain, "the last link lacks %d of the signatures that it needs", c.Missing())
	}
	return c, err
}

// State is what is kept; shared.
func (t *Trust) State() *lockpb.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// On reports whether the node runs signed services alone.
func (t *Trust) On() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.on()
}

func (t *Trust) on() bool {
	if t.damaged != nil || t.required && t.unknown() {
		return true
	}
	return t.chain != nil && !t.chain.Head().GetEnds() || t.chain == nil && len(t.state.GetPin()) > 0
}

// unknown: nobody said whom to trust.
func (t *Trust) unknown() bool { return t.chain == nil && len(t.state.GetPin()) == 0 }

// Damaged is why what is kept cannot be used; nil: it can.
func (t *Trust) Damaged() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.damaged
}

// Pin has the node run nothing but by a chain that has a link of that digest. It is
// refused where another chain is followed.
func (t *Trust) Pin(digest []byte) error {
	if len(digest) != sha256.Size {
		return refuse(RuleChain, "the digest of a link has %d bytes, not %d", sha256.Size, len(digest))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.damaged != nil:
		return t.damaged
	case t.chain != nil && t.chain.Contains(digest), t.chain == nil && bytes.Equal(t.state.GetPin(), digest):
		return nil
	case t.chain != nil || len(t.state.GetPin()) > 0:
		return ErrForked
	}
	return t.keep(&lockpb.State{Pin: digest}, nil)
}

// Take follows a chain: one that goes on from the node's own, or has the link that the
// node was given when it joined, or, where there is neither, any. Whoever calls it says
// by that where the first comes from. It takes the place of what is damaged, and of what
// somebody made of the file.
func (t *Trust) Take(raw *lockpb.Chain) error {
	c, err := complete(raw)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.take(c); err != nil || t.kept() == nil {
		return err
	}
	return t.keep(t.state, t.chain)
}

// take follows a complete chain. An older beginning of the own one changes nothing.
func (t *Trust) take(c *Chain) error {
	switch {
	case t.chain != nil && c.begins(t.chain):
		return nil
	case t.chain != nil && !t.chain.begins(c), !(t.chain != nil) && len(t.state.GetPin()) > 0 && !c.Contains(t.state.GetPin()):
		return ErrForked
	}
	next := proto.CloneOf(t.state)
	next.Chain = c.raw
	maps.DeleteFunc(next.Serials, func(_ string, s int64) bool { return s < c.Head().GetVoidBefore() }) // they are retired anyway
	return t.keep(next, c)
}

// keep writes before it believes.
func (t *Trust) keep(s *lockpb.State, c *Chain) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return err
	}
	if len(b) > maxState-1024 {
		return refuse(RuleState, "there is no room for more services on this node")
	}
	err = os.MkdirAll(filepath.Dir(t.path), 0o700)
	if err == nil {
		err = headed.Write(t.path, file, b)
	}
	if err != nil {
		return refuse(RuleState, "what this node trusts cannot be written down: %v", err)
	}
	t.state, t.chain, t.damaged = s, c, nil
	return nil
}

// Forget has the node run whatever managers say, unless it is required to have a chain.
func (t *Trust) Forget() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := atomicfile.Remove(t.path); err != nil {
		return err
	}
	t.state, t.chain, t.damaged = &lockpb.State{}, nil, nil
	return nil
}

// Admit returns an error unless task may be begun at now: the lock is off, or signed
// says so, and nothing newer of that service ran here. It remembers what it lets in.
func (t *Trust) Admit(now time.Time, task Task, signed *lockpb.Signed) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.check(now, task, signed)
	if err != nil || s == nil {
		return err
	}
	was := t.state.GetSerials()[s.GetService()]
	if s.GetSerial() < was {
		return refuse(RuleVersion, "something newer of this service ran on this node: this was signed %s, that %s", stamp(s.GetSerial()), stamp(was))
	}
	if s.GetSerial() == was {
		return nil
	}
	if _, known := t.state.GetSerials()[s.GetService()]; !known && len(t.state.GetSerials()) >= maxServices {
		return refuse(RuleState, "there is no room for more services on this node")
	}
	next := proto.CloneOf(t.state)
	if next.Serials == nil {
		next.Serials = map[string]int64{}
	}
	next.Serials[s.GetService()] = s.GetSerial()
	return t.keep(next, t.chain)
}

// Check is what Admit asks of a task that was let in before, of which there may be a
// newer one here by now. The statement is nil where the lock is off.
func (t *Trust) Check(now time.Time, task Task, signed *lockpb.Signed) (*lockpb.Statement, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.check(now, task, signed)
}

func (t *Trust) check(now time.Time, task Task, signed *lockpb.Signed) (*lockpb.Statement, error) {
	switch {
	case !t.on():
		return nil, nil
	case t.damaged != nil:
		return nil, t.damaged
	case t.unknown():
		return nil, refuse(RuleChain, "this node is to run signed services alone, and its root has not said yet whose (redoubt lock trust)")
	case signed == nil:
		return nil, ErrUnsigned
	}
	c, err := complete(signed.GetChain())
	if err != nil {
		return nil, err
	}
	if err := t.take(c); errors.Is(err, ErrForked) {
		return nil, refuse(RuleChain, "the service is signed under another chain than this node trusts")
	} else if err != nil {
		return nil, err
	}
	if !t.on() {
		return nil, nil // that chain ends the lock
	}
	s, err := t.chain.Verify(now, signed.GetStatement())
	if err != nil {
		return nil, err
	}
	return s, match(s, task)
}

func stamp(serial int64) string { return time.UnixMilli(serial).UTC().Format(time.RFC3339Nano) }
