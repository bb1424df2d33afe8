package dockerapi

import (
	"maps"
	"net/http"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
)

func (s *Server) secrets(q *request) (any, error) {
	f, err := readFilters(q.Request, "id", "label", "name", "names")
	if err != nil {
		return nil, err
	}
	return q.list(each(func(yield func(any) bool) error {
		all, err := q.api.ListSecrets(q.Context(), nil)
		for _, sec := range all {
			if f.named(sec.GetId(), sec.GetSpec().GetName(), sec.GetSpec().GetLabels()) && !yield(toSecret(sec)) {
				return nil
			}
		}
		return err
	}))
}

// named reports whether a secret or config meets all filters.
func (f filters) named(id, name string, labels map[string]string) bool {
	return f.begins("id", id) && f.begins("name", name) && f.is("names", name) && f.has("label", labels)
}

func oneSecret(q *request) (*secretspb.Secret, error) {
	all, err := q.api.ListSecrets(q.Context(), []string{q.PathValue("id")})
	if isNotFound(err) || err == nil && len(all) != 1 {
		return nil, refuse(http.StatusNotFound, "secret %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func (s *Server) secret(q *request) (any, error) {
	sec, err := oneSecret(q)
	if err != nil {
		return nil, err
	}
	return toSecret(sec), nil
}

// toSecret tells all of a secret but what is in it, which nobody is told.
func toSecret(sec *secretspb.Secret) swarm.Secret {
	return swarm.Secret{ID: sec.GetId(), Meta: toMeta(sec.GetMeta()),
		Spec: swarm.SecretSpec{Annotations: swarm.Annotations{Name: sec.GetSpec().GetName(), Labels: labels(sec.GetSpec().GetLabels())}}}
}

// secretCreate seals what it was given to the cluster's key, which it asks this manager's
// keyd for, and forgets it.
func (s *Server) secretCreate(q *request) (any, error) {
	var in swarm.SecretSpec
	defer func() { clear(in.Data) }()
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	data := in.Data
	defer clear(data)
	in.Data = nil
	spec := &secretspb.SecretSpec{Name: take(&in.Name), Labels: take(&in.Labels), Kind: secretspb.SecretKind_SECRET_KIND_FILE}
	if in.Driver != nil || in.Templating != nil {
		return nil, notHere("SecretSpec.Driver and SecretSpec.Templating are not supported here: configs may be templates (`redoubt config create --template`), secrets are what they are")
	}
	if err := secretspec.CheckSecret(spec); err != nil {
		return nil, badRequest("%v", err)
	}
	if len(data) == 0 {
		return nil, badRequest("the secret is empty: give it data")
	}
	req := &controlpb.CreateSecretRequest{Id: ident.New(), Spec: spec}
	var err error
	if req.Version, err = s.seal(q, req.Id, spec, data); err != nil {
		return nil, err
	}
	if _, err := q.api.CreateSecret(q.Context(), req); err != nil {
		return nil, err
	}
	return accepted{http.StatusCreated, swarm.SecretCreateResponse{ID: req.Id}}, nil
}

// seal makes a version of a secret, of which nobody but granted tasks can say what it
// holds.
func (s *Server) seal(q *request, id string, spec *secretspb.SecretSpec, data []byte) (*controlpb.NewVersion, error) {
	to, err := s.c.Recipient(q.Context())
	if err != nil {
		return nil, err
	}
	return to.Seal(id, secretspec.KindOf(spec), data)
}

// secretUpdate gives a secret the data of the request, as a new version: that is what a
// stack that is deployed again asks for, and whether it is the same as before nobody can
// tell. Labels are for a secret's life.
func (s *Server) secretUpdate(q *request) (any, error) {
	var in swarm.SecretSpec
	defer func() { clear(in.Data) }()
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	data := in.Data
	defer clear(data)
	in.Data = nil
	sec, err := oneSecret(q)
	if err != nil {
		return nil, err
	}
	if err := unchanged("secret", q, sec.GetMeta().GetVersion(), &in.Annotations, sec.GetSpec().GetName(), sec.GetSpec().GetLabels()); err != nil {
		return nil, err
	}
	if err := untranslated("SecretSpec", &in); err != nil || len(data) == 0 {
		return nil, err
	}
	if sec.GetSpec().GetKind() != secretspb.SecretKind_SECRET_KIND_FILE {
		return nil, badRequest("secret %s is what a registry is shown: `redoubt secret update --registry`", sec.GetSpec().GetName())
	}
	v, err := s.seal(q, sec.GetId(), sec.GetSpec(), data)
	if err != nil {
		return nil, err
	}
	_, err = q.api.UpdateSecret(q.Context(), &controlpb.UpdateSecretRequest{Id: sec.GetId(), Version: v})
	return nil, err
}

// unchanged lets an update through that changes nothing but data.
func unchanged(what string, q *request, version uint64, in *swarm.Annotations, name string, labels map[string]string) error {
	at, err := versionOf(q.Request)
	switch {
	case err != nil:
		return err
	case at != version:
		return refuse(http.StatusConflict, "%s: %s %s changed since it was read", sequence, what, name)
	case take(&in.Name) != name:
		return badRequest("only updates to Labels are allowed")
	case !maps.Equal(take(&in.Labels), labels):
		return notHere("the labels of a %s are for its life: make another one", what)
	}
	return nil
}

func (s *Server) secretRemove(q *request) (any, error) {
	err := gone(q, func() error {
		_, err := q.api.RemoveSecret(q.Context(), &controlpb.RemoveSecretRequest{Secret: q.PathValue("id")})
		return err
	})
	if isNotFound(err) {
		err = refuse(http.StatusNotFound, "secret %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return accepted{http.StatusNoContent, nil}, nil
}
