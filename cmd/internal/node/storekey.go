package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/internal/erase"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// The key of a manager's store is renewed by the manager itself: when the unlock
// slots changed, as an old copy of its disk opens with an old credential and has the
// old key; when it is old; and when an operator asks. Other managers have nothing to
// do with it. decision 91 has the argument.
//
// keyd says how far it is: a former key that is still kept is a renewal under way,
// whoever began it, and is gone on with first.

// storeKeyLevel is the store level from which on keys are renewed: a version before it
// would not open the store any more, and could still be gone back to.
var storeKeyLevel = autolockstore.StoreKeys.Since()

const (
	// storeKeyLook is how often it is looked whether the key is old.
	storeKeyLook = 10 * time.Minute
	// storeKeyLevelLook is the same while the cluster is below storeKeyLevel.
	storeKeyLevelLook = 5 * time.Second
	// storeKeyRetry, doubling up to longestStoreKeyRetry, is the pause after a
	// renewal that was not done.
	storeKeyRetry, longestStoreKeyRetry = time.Second, 5 * time.Minute
	// storeKeySpare is what must be free on the disk beside a copy of the store.
	storeKeySpare = 4 * raftstore.SegmentBytes
)

// keepStoreKey renews the key of the store when that is due, until ctx ends.
func (m *managerState) keepStoreKey(ctx context.Context, k *keys) error {
	for {
		err := m.watchStoreKey(ctx, k)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (m *managerState) watchStoreKey(ctx context.Context, k *keys) error {
	w, err := m.store.Watch(func(*raftstore.ReadTx) error { return nil }, autolockstore.StoreKeys)
	if err != nil {
		return err
	}
	defer w.Close()
	asked := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, err := w.Next(ctx)
			if err == nil {
				m.storeKeyDue()
				continue
			}
			asked <- err
			return
		}
	}()
	defer func() { cancel(); <-ended }()
	pause := storeKeyRetry
	for {
		wait := storeKeyLook
		if m.store.Level().Cluster < storeKeyLevel {
			wait = storeKeyLevelLook
		}
		if err := m.tendStoreKey(ctx, k); err != nil {
			if ctx.Err() != nil || errors.Is(err, errKeydLost) {
				return errors.Join(ctx.Err(), err)
			}
			m.n.log.Warn("the key of the store was not renewed yet", "err", err, "retry_in", pause)
			wait = pause
			pause = min(2*pause, longestStoreKeyRetry)
		} else {
			pause = storeKeyRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-m.storeKeyLook:
			timer.Stop()
		case err := <-asked:
			timer.Stop()
			return err
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// storeKeyDue has it looked at once whether the store needs a new key. Whoever
// changes what keyd is sealed to calls it, afterwards.
func (m *managerState) storeKeyDue() {
	select {
	case m.storeKeyLook <- struct{}{}:
	default: // asked for already
	}
}

// tendStoreKey looks once, and renews the key where that is due.
func (m *managerState) tendStoreKey(ctx context.Context, k *keys) (err error) {
	st, err := m.n.keyd.Status(ctx)
	if err != nil {
		return fmt.Errorf("%w (%v)", errKeydLost, err)
	}
	dek := st.GetDek()
	defer func() { m.reportStoreKey(dek, err) }()
	defer m.noteTicket(ctx)
	epoch, why := dek.GetEpoch(), ""
	if dek.GetFormerEpoch() == 0 {
		if why, err = m.whyRenew(dek, st.GetSlots().GetEpoch()); err != nil || why == "" {
			return err
		}
		epoch++
	}
	if err := m.n.disk.roomForCopy(m.n.disk.raftDir(k.incarnation)); err != nil {
		return err
	}
	if why != "" {
		m.n.log.Info("the key of the store is renewed", "epoch", epoch, "why", why)
	}
	next, err := m.n.nextStoreKey(ctx, k.ring, epoch)
	if err != nil {
		return err
	}
	dek = next
	m.reportStoreKey(dek, nil)
	began := time.Now()
	report, err := m.store.Rekey(ctx)
	if err != nil {
		return err
	}
	former := dek.GetFormerEpoch()
	resp, err := m.n.keyd.DropDEK(ctx, former)
	if err != nil {
		return fmt.Errorf("keyd keeps the former key: %w", err)
	}
	dek = resp.GetState()
	m.n.log.Info("the key of the store was renewed: no record under the former one is left, and it is gone", "epoch", epoch, "former", former,
		"records", report.Epochs()[epoch], "files", len(report.Files), "took", time.Since(began).Round(time.Millisecond))
	err = k.ring.Drop(former)
	erase.Now()
	return err
}

// whyRenew says why a new key is due; empty: it is not.
func (m *managerState) whyRenew(dek *keydpb.DEKState, slotEpoch uint64) (string, error) {
	if m.store.Level().Cluster < storeKeyLevel {
		return "", nil
	}
	var wanted uint32
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		order, _ := autolockstore.StoreKeys.Get(r, m.n.who().NodeID)
		wanted = order.GetEpoch()
		return nil
	}); err != nil {
		return "", err
	}
	switch {
	case wanted > dek.GetEpoch():
		return "asked for", nil
	case dek.GetSlotEpoch() < slotEpoch:
		return "the unlock slots changed", nil
	case storeKeyOld(dek, m.n.who().NodeID, m.n.cfg.Raft.KeyLifetime, time.Now()):
		return "age", nil
	}
	return "", nil
}

// storeKeyOld reports whether a key has lived long enough. Managers do not do it all
// in one moment: each does so up to a tenth of its life early. A key of the future
// was made by a clock that was wrong: nobody knows its age.
func storeKeyOld(dek *keydpb.DEKState, nodeID string, life time.Duration, now time.Time) bool {
	if life == 0 {
		return false
	}
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint32([]byte(nodeID), dek.GetEpoch()))
	early := time.Duration(h.Sum64() % uint64(life/10))
	made := time.Unix(dek.GetMadeAt(), 0)
	return now.Sub(made) > life-early || made.Sub(now) > 24*time.Hour
}

// nextStoreKey has keyd make the keys of that epoch, or give them again, puts the
// store's into the ring and seals the manager leaf anew.
func (n *Node) nextStoreKey(ctx context.Context, ring *autolock.Ring, epoch uint32) (*keydpb.DEKState, error) {
	n.leafMu.Lock()
	defer n.leafMu.Unlock()
	resp, err := n.keyd.RotateDEK(ctx, epoch)
	if err != nil {
		return nil, fmt.Errorf("keyd: %w", err)
	}
	defer clear(resp.GetDek())
	if ring.Epochs()[0] != epoch {
		if err := ring.Add(resp.GetDek(), epoch); err != nil {
			return nil, err
		}
	}
	return resp.GetState(), n.resealLeaf(ctx, epoch)
}

// resealLeaf has the manager leaf sealed under the key of that epoch. The caller
// holds leafMu.
func (n *Node) resealLeaf(ctx context.Context, epoch uint32) error {
	f, err := n.disk.loadLeaf("leaf")
	if err != nil {
		return err
	}
	if got, ok := autolock.RecordEpoch(f.Sealed); ok && got == epoch {
		return nil
	}
	opened, err := n.keyd.OpenStore(ctx, &keydpb.OpenStoreRequest{SealedLeaf: f.Sealed})
	if err != nil {
		return fmt.Errorf("keyd: %w", err)
	}
	defer clear(opened.GetDek())
	defer clear(opened.GetFormerDek())
	defer clear(opened.GetLeafKey())
	sealed, err := n.keyd.SealLeaf(ctx, &keydpb.SealLeafRequest{LeafKey: opened.GetLeafKey()})
	if err != nil {
		return fmt.Errorf("keyd: %w", err)
	}
	f.Sealed = sealed.GetSealedLeaf()
	return n.disk.saveLeaf("leaf", f)
}

// reportStoreKey notes what managers are told.
func (m *managerState) reportStoreKey(dek *keydpb.DEKState, err error) {
	if dek == nil || m.store.Level().Cluster < storeKeyLevel {
		return
	}
	now := &schedulerpb.StoreKeyState{Epoch: dek.GetEpoch(), MadeAt: dek.GetMadeAt(), SlotEpoch: dek.GetSlotEpoch(), FormerEpoch: dek.GetFormerEpoch()}
	if err != nil {
		now.Trouble = oneline.Text(messageOf(err).Error(), maxTrouble)
	}
	m.storeKey.Store(now)
	m.n.lookAgain()
}

// maxTrouble bounds what is told of a renewal that was not done, in bytes.
const maxTrouble = 200

// roomForCopy says where there is no room for a copy of a store.
func (d disk) roomForCopy(dir string) error {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return ignoreGone(err)
	})
	if err != nil {
		return err
	}
	var at unix.Statfs_t
	if err := unix.Statfs(dir, &at); err != nil || at.Blocks == 0 {
		return nil
	}
	if free := int64(at.Bavail) * int64(at.Bsize); free < size+storeKeySpare {
		return fmt.Errorf("the disk has %d MiB free, and a copy of the store needs %d: free some", free>>20, (size+storeKeySpare)>>20)
	}
	return nil
}

// ignoreGone is for files that go while they are looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
