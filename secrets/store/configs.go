// Package store holds the replicated table of configs, and the transactions that
// change it.
//
// A config is named data that services are to read: a file of settings, a
// certificate's public half. It owns the rules that must hold however many
// writers there are: a name belongs to one config, and a config is never changed.
// Who wants other data makes another config. What may be stored is spec's to say.
//
// A config is no secret: it lies sealed on the managers' disks as everything in
// the store does, and anybody who may call the operator API reads it. Secrets,
// which only the nodes that run their services may open, are not there yet.
//
// Objects that are read are shared: clone before changing.
package store

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Configs has the unique index "name".
var Configs = raftstore.NewTable("configs", raftstore.Index[*secretspb.Config]{
	Name: "name", Unique: true,
	Keys: func(c *secretspb.Config) []string { return []string{c.GetSpec().GetName()} },
}).Summing(raftstore.Sum[*secretspb.Config]{Name: sumBytes, Of: func(c *secretspb.Config) (string, raftstore.Amounts) {
	return sumBytes, raftstore.Amounts{weight(c)}
}})

const sumBytes = "bytes"

// weight is what a config counts for: a small one costs more than its bytes.
func weight(c *secretspb.Config) int64 {
	return int64(max(proto.Size(c.GetSpec()), minConfigWeight))
}

// Tables lists what the composition root registers with the store.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{Configs, ConfigVersions, Secrets, SecretVersions}
}

// ErrChanged: there is another config of that name than the one that was read.
var ErrChanged = errors.New("the config is not the one that was read: look at it and try again")

// ErrFull: the configs of the cluster take as much room as they may.
var ErrFull = fmt.Errorf("the configs take %d MiB in all, as much as they may: remove some", MaxConfigsBytes>>20)

// CreateConfig stores a config that package spec accepted, under a new id. The
// config shares sp from then on. Those that are made at the same moment may
// together exceed the bound by what they are.
func CreateConfig(ctx context.Context, s *raftstore.Store, sp *secretspb.ConfigSpec) (id string, err error) {
	id = ident.New()
	var used int64
	if err := s.View(func(r *raftstore.ReadTx) error { used = Configs.Total(r, sumBytes, sumBytes)[0]; return nil }); err != nil {
		return "", err
	}
	if used+weight(&secretspb.Config{Spec: sp}) > MaxConfigsBytes {
		return "", ErrFull
	}
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		return Configs.Put(tx, &secretspb.Config{Id: id, Spec: sp})
	})
	if dup := (*raftstore.DuplicateError)(nil); errors.As(err, &dup) && dup.Index == "name" {
		return "", fmt.Errorf("a config named %q exists already: choose another name: %w", sp.GetName(), err)
	}
	return id, err
}

// ResolveConfig finds a config by id, name or unique prefix of its id, in this
// order.
func ResolveConfig(r raftstore.Reader, ref string) (*secretspb.Config, error) {
	return resolve.Named("config", Configs, r, ref)
}

// RemoveConfig deletes the config that ref stands for and returns its id. A
// version other than 0 is the one that was read: another one now is ErrChanged.
func RemoveConfig(ctx context.Context, s *raftstore.Store, ref string, version uint64) (id string, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		c, err := ResolveConfig(tx, ref)
		if err != nil {
			return err
		}
		if version != 0 && c.GetMeta().GetVersion() != version {
			return ErrChanged
		}
		id = c.GetId()
		return Configs.Delete(tx, id)
	})
	return id, err
}
