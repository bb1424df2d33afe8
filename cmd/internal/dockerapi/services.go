package dockerapi

import (
	"context"
	"net/http"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// services lists them one page of the operator API after the other.
func (s *Server) services(q *request) (any, error) {
	if err := onlyParameters(q.Request, "filters", "status", "insertDefaults"); err != nil {
		return nil, err
	}
	f, err := readFilters(q.Request, "id", "name", "label", "mode", "runtime")
	if err != nil {
		return nil, err
	}
	if err := f.oneOf("mode", "replicated", "global", "replicated-job", "global-job"); err != nil {
		return nil, err
	}
	if err := f.oneOf("runtime", "container", "plugin"); err != nil {
		return nil, err
	}
	names := newNames(q)
	return q.list(each(func(yield func(any) bool) error {
		return eachService(q.Context(), q, func(v *controlpb.ServiceView) bool {
			sp := v.GetService().GetSpec()
			if !f.begins("id", v.GetService().GetId()) || !f.begins("name", sp.GetName()) || !f.has("label", sp.GetLabels()) ||
				!f.is("mode", spec.ModeName(sp)) || !f.is("runtime", "container") {
				return true
			}
			return yield(toServiceView(v, names.of, isOn(q.Request, "status") && q.minor >= 41))
		})
	}))
}

// eachService visits all services, as long as visit says so.
func eachService(ctx context.Context, q *request, visit func(*controlpb.ServiceView) bool) error {
	return pages(ctx, q.api.StreamServices, &controlpb.ListServicesRequest{}, (*controlpb.ListServicesResponse).GetServices, visit)
}

// oneService is the service that a path names.
func oneService(q *request) (*controlpb.ServiceView, error) {
	r, err := q.api.ListServices(q.Context(), &controlpb.ListServicesRequest{Services: []string{q.PathValue("id")}})
	if err != nil {
		if isNotFound(err) {
			err = refuse(http.StatusNotFound, "service %s not found", q.PathValue("id"))
		}
		return nil, err
	}
	if len(r.GetServices()) != 1 {
		return nil, refuse(http.StatusNotFound, "service %s not found", q.PathValue("id"))
	}
	return r.GetServices()[0], nil
}

func (s *Server) service(q *request) (any, error) {
	v, err := oneService(q)
	if err != nil {
		return nil, err
	}
	return toServiceView(v, newNames(q).of, false), nil
}

func (s *Server) serviceCreate(q *request) (any, error) {
	if err := withoutCredentials(q.Request); err != nil {
		return nil, err
	}
	var in serviceSpec
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	sp, err := fromService(&in, nil)
	if err != nil {
		return nil, err
	}
	r, err := q.api.CreateService(q.Context(), &controlpb.CreateServiceRequest{Spec: sp})
	if err != nil {
		return nil, err
	}
	return accepted{http.StatusCreated, struct {
		ID       string
		Warnings []string `json:",omitempty"`
	}{r.GetId(), r.GetWarnings()}}, nil
}

func (s *Server) serviceUpdate(q *request) (any, error) {
	if err := onlyParameters(q.Request, "version", "registryAuthFrom", "rollback"); err != nil {
		return nil, err
	}
	if err := withoutCredentials(q.Request); err != nil {
		return nil, err
	}
	at, err := versionOf(q.Request)
	if err != nil {
		return nil, err
	}
	if from := q.URL.Query().Get("registryAuthFrom"); from != "" && from != "spec" && from != "previous-spec" {
		return nil, badRequest("invalid registryAuthFrom %q", from)
	}
	var in serviceSpec
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	switch to := q.URL.Query().Get("rollback"); to {
	case "", "none":
	case "previous":
		return rollback(q, at)
	default:
		return nil, badRequest("unrecognized rollback option %q", to)
	}
	v, err := oneService(q)
	if err != nil {
		return nil, err
	}
	was := v.GetService()
	if was.GetMeta().GetVersion() != at { // what is kept of it is of another one
		return nil, refuse(http.StatusConflict, "%s: service %s changed since it was read", sequence, was.GetSpec().GetName())
	}
	sp, err := fromService(&in, was.GetSpec())
	if err != nil {
		return nil, err
	}
	r, err := q.api.UpdateService(q.Context(), &controlpb.UpdateServiceRequest{Service: was.GetId(), Version: at, Spec: sp})
	if err != nil {
		return nil, err
	}
	return struct{ Warnings []string }{r.GetWarnings()}, nil
}

func (s *Server) serviceRemove(q *request) (any, error) {
	_, err := q.api.RemoveService(q.Context(), &controlpb.RemoveServiceRequest{Service: q.PathValue("id")})
	if isNotFound(err) {
		err = refuse(http.StatusNotFound, "service %s not found", q.PathValue("id"))
	}
	return nil, err
}

// toServiceView is a service in Docker's words.
func toServiceView(v *controlpb.ServiceView, named func(string) string, status bool) swarm.Service {
	svc := v.GetService()
	out := swarm.Service{ID: svc.GetId(), Meta: toMeta(svc.GetMeta()), Spec: toService(svc.GetSpec(), named), UpdateStatus: toUpdateStatus(svc.GetUpdateStatus()),
		JobStatus: toJobStatus(v)}
	out.Endpoint.Spec = *out.Spec.EndpointSpec
	out.Endpoint.Ports = out.Spec.EndpointSpec.Ports
	for _, n := range v.GetNetworks() {
		for _, a := range n.GetAddresses() {
			if addr, err := netip.ParseAddr(a); err == nil {
				out.Endpoint.VirtualIPs = append(out.Endpoint.VirtualIPs, swarm.EndpointVirtualIP{NetworkID: n.GetNetworkId(), Addr: netip.PrefixFrom(addr, addr.BitLen())})
			}
		}
	}
	if status {
		out.ServiceStatus = toServiceStatus(v)
	}
	return out
}

// names are those of secrets and configs, by id. They are asked for when the first one is
// wanted. One that the caller may not list is called by its id.
type names struct {
	q     *request
	known map[string]string
}

func newNames(q *request) *names { return &names{q: q} }

func (n *names) of(id string) string {
	if n.known == nil {
		n.known = map[string]string{}
		if all, err := n.q.api.ListSecrets(n.q.Context(), nil); err == nil {
			for _, s := range all {
				n.known[s.GetId()] = s.GetSpec().GetName()
			}
		}
		if all, err := n.q.api.ListConfigs(n.q.Context()); err == nil {
			for _, c := range all {
				n.known[c.GetId()] = c.GetName()
			}
		}
	}
	if name := n.known[id]; name != "" {
		return name
	}
	return id
}

// distribution says which digest the name of an image means, as a service that is made
// with it would be told. It asks for that by planning one, which makes nothing. What the
// answer says of platforms is nothing: each node finds out what it can run.
func (s *Server) distribution(q *request) (any, error) {
	image, ok := strings.CutSuffix(q.PathValue("name"), "/json")
	if !ok {
		return nil, elsewhere(q.Request)
	}
	sp := &schedulerpb.ServiceSpec{Name: "image-lookup", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: image}}}
	r, err := q.api.CreateService(q.Context(), &controlpb.CreateServiceRequest{Spec: sp, Plan: true})
	if err != nil {
		return nil, err
	}
	digest := r.GetPlanned().GetTask().GetContainer().GetDigest()
	if digest == "" {
		return nil, refuse(http.StatusNotFound, "image %s has no digest", image)
	}
	return map[string]any{
		"Descriptor": map[string]any{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": 0},
		"Platforms":  []any{},
	}, nil
}
