package stack

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
)

// Signer signs services before they are sent, as the deployment lock wants it.
type Signer interface {
	Create(ctx context.Context, api *apiclient.Client, req *controlpb.CreateServiceRequest) error
	Update(ctx context.Context, api *apiclient.Client, name string, req *controlpb.UpdateServiceRequest, was *schedulerpb.ServiceSpec, signed []byte) error
	Rollback(ctx context.Context, api *apiclient.Client, name string, req *controlpb.RollbackServiceRequest, signed []byte) error
}

// Applier carries out plans. It is used by one goroutine.
type Applier struct {
	API *apiclient.Client
	// Signer is nil where services are not signed.
	Signer Signer
	// Seal makes a version of a secret, of that id.
	Seal func(ctx context.Context, secretID, kind, versionID string, data []byte) (*controlpb.NewVersion, error)
	Key  FingerprintKey
	// Done is told of each step that was done, and of what the managers remarked.
	Done func(s Step, remarks []string)
}

// Applied is what a plan came to.
type Applied struct {
	// Services that were created or updated, and so are to be waited for.
	Services []AppliedService
	// files are those with another current version than before.
	files []Step
}

// AppliedService is a service that a step was done to.
type AppliedService struct {
	ID, Name string
	// before is as it was read; nil where the step created it.
	before *schedulerpb.Service
	asked  *schedulerpb.ServiceSpec
}

// Updated reports whether it was there before.
func (s *AppliedService) Updated() bool { return s.before != nil }

// Apply does all of the plan but the removal of what is not a service: what a
// service leaves is in use for a while. A service that cannot be changed does not
// keep the others; otherwise the first error ends it.
func (a *Applier) Apply(ctx context.Context, p *Plan) (*Applied, error) {
	out := &Applied{}
	var errs []error
	for i := range p.Steps {
		s := p.Steps[i]
		if s.Action == Keep || s.Action == Leave || s.Action == Remove && s.Kind != KindService {
			continue
		}
		remarks, err := a.step(ctx, s, out)
		if err != nil {
			err = fmt.Errorf("%s %s: %w", s.Kind, s.Name, explain(err))
			if s.Kind != KindService || ctx.Err() != nil || apierr.ReasonOf(err) == apierr.ReasonUnreachable {
				return out, errors.Join(append(errs, err)...)
			}
			errs = append(errs, err)
			continue
		}
		a.Done(s, remarks)
	}
	return out, errors.Join(errs...)
}

// explain decodes an error of the API, and leaves any other as it is.
func explain(err error) error {
	if _, ok := status.FromError(err); err == nil || !ok && apierr.ReasonOf(err) == "" && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	err = apiclient.Err(err)
	if apierr.ReasonOf(err) == apierr.ReasonConflict {
		return fmt.Errorf("%w: somebody else changed it at the same time, and it is as they left it", err)
	}
	return err
}

func (a *Applier) step(ctx context.Context, s Step, out *Applied) (remarks []string, err error) {
	switch s.Kind {
	case KindNetwork:
		r, err := a.API.CreateNetwork(ctx, &controlpb.CreateNetworkRequest{Spec: s.network})
		return r.GetWarnings(), err
	case KindVolume:
		r, err := a.API.CreateVolume(ctx, &controlpb.CreateVolumeRequest{Spec: s.volume})
		return r.GetWarnings(), err
	case KindPolicy:
		if s.Action == Replace {
			if _, err := a.API.RemovePolicy(ctx, &controlpb.RemovePolicyRequest{Policy: s.id}); err != nil {
				return nil, err
			}
		}
		r, err := a.API.CreatePolicy(ctx, &controlpb.CreatePolicyRequest{Spec: s.policy})
		if s.coming { // that they are not there yet is known
			return nil, err
		}
		return r.GetWarnings(), err
	case KindSecret:
		if s.Action == Update {
			out.files = append(out.files, s)
		}
		return a.secret(ctx, s)
	case KindConfig:
		if s.Action == Create {
			_, err := a.API.CreateConfig(ctx, &controlpb.CreateConfigRequest{Spec: s.config})
			return nil, err
		}
		out.files = append(out.files, s)
		r, err := a.API.UpdateConfig(ctx, &controlpb.UpdateConfigRequest{Config: s.id, Data: s.config.GetData()})
		return restarted(r), err
	}
	switch s.Action {
	case Create:
		return a.create(ctx, s, out)
	case Update:
		return a.update(ctx, s, out)
	}
	_, err = a.API.RemoveService(ctx, &controlpb.RemoveServiceRequest{Service: s.id})
	return nil, err
}

// restarted are what is said of an update of a secret or config.
func restarted(r *controlpb.UpdateFileResponse) (out []string) {
	for _, name := range r.GetRestarted() {
		out = append(out, "tasks of service "+name+" are replaced for it")
	}
	return out
}

func (a *Applier) secret(ctx context.Context, s Step) ([]string, error) {
	id := s.id
	if s.Action == Create {
		id = ident.New()
	}
	if s.version != 0 {
		r, err := a.API.RollbackFile(ctx, &controlpb.RollbackFileRequest{Name: id, Version: s.version})
		return restarted(r), err
	}
	v, err := a.Seal(ctx, id, secretspec.KindOf(s.secret.Spec), a.Key.Version(id, s.secret.Data), s.secret.Data)
	if err != nil {
		return nil, err
	}
	if s.Action == Create {
		_, err = a.API.CreateSecret(ctx, &controlpb.CreateSecretRequest{Id: id, Spec: s.secret.Spec, Version: v})
		return nil, err
	}
	r, err := a.API.UpdateSecret(ctx, &controlpb.UpdateSecretRequest{Id: id, Version: v})
	return restarted(r), err
}

func (a *Applier) create(ctx context.Context, s Step, out *Applied) ([]string, error) {
	req := &controlpb.CreateServiceRequest{Spec: s.service}
	if a.Signer != nil {
		if err := a.Signer.Create(ctx, a.API, req); err != nil {
			return nil, err
		}
	}
	r, err := a.API.CreateService(ctx, req)
	if err == nil {
		out.Services = append(out.Services, AppliedService{ID: r.GetId(), Name: s.Name, asked: s.service})
	}
	return r.GetWarnings(), err
}

// update sends what is wanted at the version that is there now, if that is what the
// plan was made for: a secret of the same plan may have had its tasks replaced.
func (a *Applier) update(ctx context.Context, s Step, out *Applied) ([]string, error) {
	now, err := a.service(ctx, s.id)
	if err != nil {
		return nil, err
	}
	sp, force := proto.CloneOf(s.service), now.GetSpec().GetTask().GetForce()
	planned := proto.CloneOf(s.have.GetSpec())
	planned.Task.Force, sp.Task.Force = force, force
	if !proto.Equal(planned, now.GetSpec()) {
		return nil, apierr.Conflict("service")
	}
	req := &controlpb.UpdateServiceRequest{Service: s.id, Version: now.GetMeta().GetVersion(), Spec: proto.CloneOf(sp)}
	if a.Signer != nil {
		if err := a.Signer.Update(ctx, a.API, s.Name, req, now.GetSpec(), now.GetSigned()); err != nil {
			return nil, err
		}
	}
	r, err := a.API.UpdateService(ctx, req)
	if err == nil {
		out.Services = append(out.Services, AppliedService{ID: s.id, Name: s.Name, before: now, asked: sp})
	}
	return r.GetWarnings(), err
}

func (a *Applier) service(ctx context.Context, id string) (*schedulerpb.Service, error) {
	l, err := a.API.ListServices(ctx, &controlpb.ListServicesRequest{Services: []string{id}})
	if err != nil {
		return nil, err
	}
	if len(l.GetServices()) != 1 {
		return nil, apierr.NotFound("see `redoubt service ls`", "it is not there any more")
	}
	return l.GetServices()[0].GetService(), nil
}
