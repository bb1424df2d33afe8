package tpm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/redoubt-cluster/redoubt/internal/erase"
)

// TPM is an open one. Safe for concurrent use; calls wait for each other, each as long
// as its context lasts.
type TPM struct {
	turn   chan struct{} // holds one while nobody uses the device
	closed chan struct{} // closed by Close, once
	once   sync.Once
	began  atomic.Pointer[time.Time] // when the present turn did; nil: there is none

	dev device                   // used by who has the turn
	id  atomic.Pointer[Identity] // nil until asked for
}

// Open opens the TPM at a device or unix socket, and makes sure that it is one.
// It is kept open: nothing is opened later.
func Open(path string) (*TPM, error) {
	if err := allowed(); err != nil {
		return nil, err
	}
	dev, err := openDevice(path)
	if err != nil {
		return nil, fmt.Errorf("the TPM cannot be opened: %w", err)
	}
	t := &TPM{turn: make(chan struct{}, 1), closed: make(chan struct{}), dev: dev}
	t.turn <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	if _, err := use(ctx, t, func() (struct{}, error) { return struct{}{}, t.start() }); err != nil {
		dev.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Close waits for the call under way; those that wait are refused.
func (t *TPM) Close() (err error) {
	t.once.Do(func() {
		close(t.closed)
		<-t.turn
		err = t.dev.Close()
	})
	return err
}

// use runs fn in the caller's turn, and returns when fn has or when ctx ends. No call
// to a device can be taken back: one that does not answer keeps its turn until it
// does or fails, which Close waits for, and keeps nobody who waits: once it has taken
// overdue, whoever comes is told so at once. What fn returns too late is wiped.
func use[T any](ctx context.Context, t *TPM, fn func() (T, error)) (none T, _ error) {
	if began := t.began.Load(); began != nil && time.Since(*began) >= overdue {
		return none, fmt.Errorf("%w: it was asked something %v ago", ErrDevice, time.Since(*began).Truncate(time.Second))
	}
	select {
	case <-t.turn:
	case <-t.closed:
		return none, fmt.Errorf("%w: it was closed", ErrDevice)
	case <-ctx.Done():
		return none, late(ctx)
	}
	t.began.Store(new(time.Now()))
	type result struct {
		out T
		err error
	}
	done := make(chan result) // sent to once, or never where nobody waits
	go func() {
		defer func() {
			t.began.Store(nil)
			t.turn <- struct{}{}
		}()
		var r result
		erase.Do(func() { r.out, r.err = fn() })
		select {
		case done <- r:
		case <-ctx.Done():
			if secret, ok := any(r.out).([]byte); ok {
				clear(secret)
			}
		}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return none, late(ctx)
	}
}

// late is why nobody waits any more.
func late(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w in time", ErrDevice)
	}
	return ctx.Err()
}

// start asks which version it is, and flushes what another user left behind:
// without a resource manager there are three places for objects. A resource
// manager shows only one's own.
func (t *TPM) start() error {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTFamilyIndicator), PropertyCount: 1}.Execute(t.dev)
	if err != nil {
		return err
	}
	p, err := r.CapabilityData.Data.TPMProperties()
	if err != nil || len(p.TPMProperty) != 1 || p.TPMProperty[0].Value != 0x322E3000 { // "2.0"
		return fmt.Errorf("%w: it is not a TPM 2.0", ErrDevice)
	}
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTLoadedSession} {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 64}.Execute(t.dev)
		if err != nil {
			return err
		}
		handles, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		for _, h := range handles.Handle {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t.dev); err != nil {
				return err
			}
		}
	}
	return nil
}

// loaded is an object in the TPM.
type loaded struct {
	t      *TPM
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public *tpm2.TPMTPublic
}

// flush takes it out again. What cannot be flushed is found at the next start.
func (l *loaded) flush() { _, _ = tpm2.FlushContext{FlushHandle: l.handle}.Execute(l.t.dev) }

func (l *loaded) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: l.handle, Name: l.name, Auth: s}
}

var noAuth = tpm2.PasswordAuth(nil)

// primary makes the key of a template: the same one each time.
func (t *TPM) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (*loaded, error) {
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: noAuth},
		InPublic:      tpm2.New2B(template),
	}.Execute(t.dev)
	if err != nil {
		return nil, hierarchyError(err)
	}
	public, err := r.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	return &loaded{t, r.ObjectHandle, r.Name, public}, nil
}

func hierarchyError(err error) error {
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("the TPM's owner or endorsement hierarchy has a password, which is not supported: clear it (%w)", err)
	}
	return err
}

// selection names registers of the SHA-256 bank.
func selection(pcrs []int) tpm2.TPMLPCRSelection {
	var which []uint
	for _, p := range pcrs {
		which = append(which, uint(p))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(which...)}}}
}

// CheckPCRs refuses registers that are not there, and any but an ascending list.
func CheckPCRs(pcrs []int) error {
	if len(pcrs) > PCRs || !slices.IsSorted(pcrs) {
		return errors.New("registers (PCR) must be given in ascending order")
	}
	for i, p := range pcrs {
		if p < 0 || p >= PCRs {
			return fmt.Errorf("there is no register (PCR) %d: they are 0 to %d", p, PCRs-1)
		}
		if i > 0 && p == pcrs[i-1] {
			return fmt.Errorf("register (PCR) %d is named twice", p)
		}
	}
	return nil
}

// ReadPCRs returns the values of registers, in their order.
func (t *TPM) ReadPCRs(ctx context.Context, pcrs []int) ([][]byte, error) {
	if err := CheckPCRs(pcrs); err != nil {
		return nil, err
	}
	return use(ctx, t, func() ([][]byte, error) { return t.readPCRs(pcrs) })
}

// readPCRs reads eight at a time, which is what a TPM answers at once.
func (t *TPM) readPCRs(pcrs []int) (values [][]byte, _ error) {
	for part := range slices.Chunk(pcrs, 8) {
		r, err := tpm2.PCRRead{PCRSelectionIn: selection(part)}.Execute(t.dev)
		if err != nil {
			return nil, err
		}
		if len(r.PCRValues.Digests) != len(part) {
			return nil, errors.New("the TPM lacks these registers in its SHA-256 bank: enable that bank in the firmware's settings")
		}
		for _, d := range r.PCRValues.Digests {
			values = append(values, d.Buffer)
		}
	}
	return values, nil
}
