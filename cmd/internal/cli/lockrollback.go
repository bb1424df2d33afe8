package cli

import (
	"context"
	"fmt"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// rollback has req be signed, by which the service of that name goes back to what the
// managers say it was, and was signed so. It is signed anew: nodes begin nothing older
// than what they know.
func (s *signer) rollback(ctx context.Context, c *api, name string, req *controlpb.RollbackServiceRequest, signed []byte) error {
	if req.GetSpec().GetName() != name { // see update
		return failf(ExitError, "service %s was asked for, and the managers have %s in its place: what is signed is named by its name, as ids are theirs to give", printable(name), printable(req.GetSpec().GetName()))
	}
	if err := pinned(req.GetSpec()); err != nil {
		return err
	}
	base, err := s.signedAs(req.GetSpec(), signed)
	if err != nil {
		if !s.flags.asIs {
			return fmt.Errorf("what the managers say the service was is not what a deployer signed (%w): look at all of it (redoubt service history --format json), and add --sign-as-is if it is right", err)
		}
		base = nil
	}
	r, err := c.RollbackService(ctx, &controlpb.RollbackServiceRequest{Service: req.GetService(), Version: req.GetVersion(), To: req.GetTo(), Spec: req.GetSpec(), Plan: true})
	if err != nil {
		return err
	}
	req.Signed, err = s.sign(ctx, c, req.GetSpec(), r.GetPlanned(), base)
	return err
}
