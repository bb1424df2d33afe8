package spec

import (
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/secrets/render"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// CheckSecret returns an error that says which field of a secret is wrong and what
// to do.
func CheckSecret(s *secretspb.SecretSpec) error {
	if s == nil {
		return errors.New("there is no secret: give a name and data")
	}
	if t := strictpb.Unknown(s); t != "" {
		return unknown(t)
	}
	if err := ident.CheckOwnName("secret", s.GetName()); err != nil {
		return err
	}
	if err := ident.CheckLabels("secret label", s.GetLabels()); err != nil {
		return err
	}
	if KindOf(s) == "" {
		return errors.New("the kind of the secret is unknown: use file or registry")
	}
	return checkKeep(s.GetKeep())
}

// KindOf is how envelopes call a secret's kind; empty: there is none such.
func KindOf(s *secretspb.SecretSpec) string {
	switch s.GetKind() {
	case secretspb.SecretKind_SECRET_KIND_FILE:
		return seal.KindFile
	case secretspb.SecretKind_SECRET_KIND_REGISTRY:
		return seal.KindRegistry
	}
	return ""
}

// CheckSealed returns an error unless d may be a version as its maker sealed it.
// What is in it nobody here can tell.
func CheckSealed(d *secretspb.SealedData) error {
	if t := strictpb.Unknown(d); t != "" {
		return unknown(t)
	}
	if err := seal.CheckData(d.GetData()); err != nil {
		return err
	}
	if err := seal.CheckKey(d.GetKey()); err != nil {
		return err
	}
	if d.GetEpoch() == 0 {
		return errors.New("the sealed data names no epoch")
	}
	return nil
}

// CheckConfigData returns an error unless data may be that of a config.
func CheckConfigData(data []byte) error {
	switch n := len(data); {
	case n == 0:
		return errors.New("the config is empty: give it data")
	case n > MaxConfigBytes:
		return fmt.Errorf("the config is %d bytes long: at most %d are allowed", n, MaxConfigBytes)
	}
	return nil
}

// CheckTemplate returns an error unless data may be that of a config which is a
// template. That the services which use it are granted the secrets it names is seen
// when it is rendered.
func CheckTemplate(data []byte) error {
	_, err := render.Parse(data)
	return err
}

func checkKeep(n uint32) error {
	if n == 1 || n > MaxKeep {
		return fmt.Errorf("%d versions are to be kept: use 2 to %d", n, MaxKeep)
	}
	return nil
}
