package dockerapi

import (
	"bytes"
	"net/http"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// configs lists them without their data, which those who may list them may not read for
// that alone.
func (s *Server) configs(q *request) (any, error) {
	f, err := readFilters(q.Request, "id", "label", "name", "names")
	if err != nil {
		return nil, err
	}
	return q.list(each(func(yield func(any) bool) error {
		return pages(q.Context(), q.api.StreamConfigs, &controlpb.StreamConfigsRequest{}, (*controlpb.StreamConfigsResponse).GetConfigs, func(c *controlpb.ConfigView) bool {
			if !f.named(c.GetId(), c.GetName(), c.GetLabels()) {
				return true
			}
			return yield(swarm.Config{ID: c.GetId(),
				Meta: swarm.Meta{Version: swarm.Version{Index: c.GetVersion()}, CreatedAt: moment(c.GetCreatedAt()), UpdatedAt: moment(max(c.GetCurrentAt(), c.GetCreatedAt()))},
				Spec: swarm.ConfigSpec{Annotations: swarm.Annotations{Name: c.GetName(), Labels: labels(c.GetLabels())}}})
		})
	}))
}

func oneConfig(q *request) (*secretspb.Config, error) {
	r, err := q.api.GetConfigs(q.Context(), &controlpb.GetConfigsRequest{Configs: []string{q.PathValue("id")}})
	if isNotFound(err) || err == nil && len(r.GetConfigs()) != 1 {
		return nil, refuse(http.StatusNotFound, "config %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return r.GetConfigs()[0], nil
}

func (s *Server) config(q *request) (any, error) {
	c, err := oneConfig(q)
	if err != nil {
		return nil, err
	}
	out := swarm.Config{ID: c.GetId(), Meta: toMeta(c.GetMeta()),
		Spec: swarm.ConfigSpec{Annotations: swarm.Annotations{Name: c.GetSpec().GetName(), Labels: labels(c.GetSpec().GetLabels())}, Data: c.GetSpec().GetData()}}
	if c.GetSpec().GetTemplate() {
		out.Spec.Templating = &swarm.Driver{Name: golangTemplate}
	}
	return out, nil
}

// golangTemplate is how Docker calls the templates that there are.
const golangTemplate = "golang"

func (s *Server) configCreate(q *request) (any, error) {
	var in swarm.ConfigSpec
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	spec := &secretspb.ConfigSpec{Name: take(&in.Name), Labels: take(&in.Labels), Data: take(&in.Data)}
	if t := in.Templating; t != nil && t.Name == golangTemplate {
		spec.Template, t.Name = true, ""
	}
	if err := untranslated("ConfigSpec", &in); err != nil {
		return nil, err
	}
	r, err := q.api.CreateConfig(q.Context(), &controlpb.CreateConfigRequest{Spec: spec})
	if err != nil {
		return nil, err
	}
	return accepted{http.StatusCreated, swarm.ConfigCreateResponse{ID: r.GetId()}}, nil
}

// configUpdate gives a config other data, as a new version, where it differs.
func (s *Server) configUpdate(q *request) (any, error) {
	var in swarm.ConfigSpec
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	c, err := oneConfig(q)
	if err != nil {
		return nil, err
	}
	if err := unchanged("config", q, c.GetMeta().GetVersion(), &in.Annotations, c.GetSpec().GetName(), c.GetSpec().GetLabels()); err != nil {
		return nil, err
	}
	data := take(&in.Data)
	if t := in.Templating; t != nil && t.Name == golangTemplate && c.GetSpec().GetTemplate() {
		t.Name = ""
	}
	if err := untranslated("ConfigSpec", &in); err != nil || len(data) == 0 || bytes.Equal(data, c.GetSpec().GetData()) {
		return nil, err
	}
	_, err = q.api.UpdateConfig(q.Context(), &controlpb.UpdateConfigRequest{Config: c.GetId(), Data: data})
	return nil, err
}

func (s *Server) configRemove(q *request) (any, error) {
	err := gone(q, func() error {
		_, err := q.api.RemoveConfig(q.Context(), &controlpb.RemoveConfigRequest{Config: q.PathValue("id")})
		return err
	})
	if isNotFound(err) {
		err = refuse(http.StatusNotFound, "config %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return accepted{http.StatusNoContent, nil}, nil
}
