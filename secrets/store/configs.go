// Package store holds the replicated tables of secrets and configs, and the
// transactions that change them.
//
// Both are named data that services are to read, in versions, of which one is
// current. It owns the rules that must hold however many writers there are: a name
// belongs to one secret and to one config, a version is never changed but for the
// envelope of its key, a number is not used again, and so many versions are kept.
// What may be stored is spec's to say, and who may read it the scheduler's.
//
// A config is no secret: it lies sealed on the managers' disks as everything in
// the store does, and anybody who may call the operator API reads it. Of a secret
// the store has what package seal made of it, which nothing here can open.
//
// Helpers that take a *raftstore.Tx are parts of a transaction that the caller
// runs; those that take a *raftstore.Store run their own.
//
// Objects that are read are shared: clone before changing.
package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	return []raftstore.Registered{Configs, ConfigVersions, ConfigGrants, Secrets, SecretVersions}
}

// ErrChanged: there is another config of that name than the one that was read.
var ErrChanged = errors.New("the config is not the one that was read: look at it and try again")

// CreateConfig stores a config that package spec accepted, under a new id. The
// config shares sp from then on. Those that are made at the same moment may
// together exceed the bound by what they are.
func CreateConfig(ctx context.Context, s *raftstore.Store, sp *secretspb.ConfigSpec) (id string, err error) {
	id = ident.New()
	if err := s.View(func(r *raftstore.ReadTx) error { return roomForConfig(r, weight(&secretspb.Config{Spec: sp})) }); err != nil {
		return "", err
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

// RemoveConfig deletes a config with all its versions. A version other than 0 is
// the one that was read: another one now is ErrChanged. Who uses it is the caller's
// to see, in the same transaction.
func RemoveConfig(tx *raftstore.Tx, c *secretspb.Config, version uint64) error {
	if version != 0 && c.GetMeta().GetVersion() != version {
		return ErrChanged
	}
	if _, ok := ConfigGrants.Get(tx, c.GetId()); ok { // a grant meanwhile changes it, or makes it
		if err := ConfigGrants.Delete(tx, c.GetId()); err != nil {
			return err
		}
	}
	for _, v := range slices.Collect(ConfigVersions.By(tx, "config", c.GetId())) {
		if err := ConfigVersions.Delete(tx, v.GetId()); err != nil {
			return err
		}
	}
	return Configs.Delete(tx, c.GetId())
}
