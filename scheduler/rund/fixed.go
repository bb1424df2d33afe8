package rund

import (
	"errors"

	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// What a task is does not change: its service, its slot and its specification are
// those that it was first seen with, or that its container was made from. Else the
// secrets of one that was signed could be had by another, under its id.

var errAnotherTask = errors.New("another task is wanted under an id that was given already: a task is replaced by one with an id of its own")

// fix remembers what the task is from the first d that says so, and returns an error
// where d is another. What d leaves out, as of a service that was removed, is as before.
func (w *worker) fix(d *rundpb.TaskDesired) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == nil {
		if d.GetSpec() != nil {
			if alone(d.GetSpec()) {
				if err := w.s.ranges.take(w.id); err != nil {
					return err
				}
			}
			w.first = &rundpb.TaskDesired{TaskId: w.id, ServiceId: d.GetServiceId(), ServiceName: d.GetServiceName(), Slot: d.GetSlot(), Spec: d.GetSpec()}
		}
		return nil
	}
	other := func(was, is string) bool { return is != "" && is != was }
	if other(w.first.GetServiceId(), d.GetServiceId()) || other(w.first.GetServiceName(), d.GetServiceName()) ||
		d.GetServiceId() != "" && d.GetSlot() != w.first.GetSlot() || d.GetSpec() != nil && !lock.Alike(d.GetSpec(), w.first.GetSpec()) {
		return errAnotherTask
	}
	return nil
}

// forgetFixed is for a task of which nothing is left.
func (w *worker) forgetFixed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.first = nil
	w.s.ranges.release(w.id)
}

// fixed is what the task is, with what d alone says: who signed it.
func (w *worker) fixed(d *rundpb.TaskDesired) *rundpb.TaskDesired {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &rundpb.TaskDesired{TaskId: w.id, ServiceId: w.first.GetServiceId(), ServiceName: w.first.GetServiceName(), Slot: w.first.GetSlot(), Spec: w.first.GetSpec(),
		Signed: d.GetSigned()}
}
