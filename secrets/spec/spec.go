// Package spec decides whether a secret or a config may be stored: it validates
// every field, each with a bound in limits.go. It is strict: what it does not
// know it refuses, also fields of a newer version. Every refusal is one line that
// names the field and the remedy. It looks nothing up.
package spec

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// CheckConfig returns an error that says which field of a config is wrong and
// what to do.
func CheckConfig(s *secretspb.ConfigSpec) error {
	if s == nil {
		return errors.New("there is no config: give a name and data")
	}
	if t := strictpb.Unknown(s); t != "" {
		return unknown(t)
	}
	if err := ident.CheckOwnName("config", s.GetName()); err != nil {
		return err
	}
	if err := ident.CheckLabels("config label", s.GetLabels()); err != nil {
		return err
	}
	if err := checkKeep(s.GetKeep()); err != nil {
		return err
	}
	if err := CheckConfigData(s.GetData()); err != nil {
		return err
	}
	if s.GetTemplate() {
		if err := CheckTemplate(s.GetData()); err != nil {
			return fmt.Errorf("config %s: %w", s.GetName(), err)
		}
	}
	if n := proto.Size(s); n > MaxSpecBytes {
		return fmt.Errorf("the config and its labels are %d bytes long in all: at most %d are allowed", n, MaxSpecBytes)
	}
	return nil
}

func unknown(message string) error {
	return fmt.Errorf("%s has fields that this version does not know: upgrade the cluster or use the matching client", message[strings.LastIndexByte(message, '.')+1:])
}
