package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// Undo takes back what was applied, the last first: secrets and configs have the
// version that they had, services that were updated the specification that they had,
// and those that were created are removed. It returns what it did, in words. What
// somebody else changed since stays as they left it, and is an error that says so.
// Networks, volumes, and what was created for services, stay: nothing runs for them.
func (a *Applier) Undo(ctx context.Context, done *Applied) (did []string, _ error) {
	var errs []error
	fail := func(kind Kind, name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s is not as it was before: %w", kind, name, err))
		}
	}
	for _, s := range slices.Backward(done.files) {
		_, err := a.API.RollbackFile(ctx, &controlpb.RollbackFileRequest{Name: s.id, Config: s.Kind == KindConfig, Version: s.was})
		if fail(s.Kind, s.Name, explain(err)); err == nil {
			did = append(did, fmt.Sprintf("%s %s has version %d again", s.Kind, s.Name, s.was))
		}
	}
	for _, s := range slices.Backward(done.Services) {
		text, err := a.undo(ctx, s)
		if fail(KindService, s.Name, explain(err)); err == nil {
			did = append(did, text)
		}
	}
	return did, errors.Join(errs...)
}

func (a *Applier) undo(ctx context.Context, s AppliedService) (string, error) {
	if s.before == nil {
		_, err := a.API.RemoveService(ctx, &controlpb.RemoveServiceRequest{Service: s.ID})
		return "service " + s.Name + " is removed", err
	}
	now, err := a.service(ctx, s.ID)
	if err != nil {
		return "", err
	}
	text := "service " + s.Name + " is as it was before"
	back := proto.CloneOf(s.before.GetSpec())
	force := now.GetSpec().GetTask().GetForce()
	if back.Task.Force = force; proto.Equal(back, now.GetSpec()) { // by its own failure action
		return text, nil
	}
	have, err := Read(ctx, a.API, nil)
	if err != nil {
		return "", err
	}
	asked := proto.CloneOf(s.asked)
	if asked.Task.Force = force; !proto.Equal(have.asStored(asked, now.GetSpec()), now.GetSpec()) {
		return "", errors.New("somebody else changed it since")
	}
	// Services from before specifications had numbers have 1.
	req := &controlpb.RollbackServiceRequest{Service: s.ID, Version: now.GetMeta().GetVersion(), To: max(s.before.GetSpecNumber(), 1), Spec: s.before.GetSpec()}
	if a.Signer != nil {
		if err := a.Signer.Rollback(ctx, a.API, s.Name, req, s.before.GetSigned()); err != nil {
			return "", err
		}
	}
	_, err = a.API.RollbackService(ctx, req)
	return text, err
}
