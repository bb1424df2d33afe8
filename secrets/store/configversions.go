package store

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// ConfigVersions has the index "config".
var ConfigVersions = raftstore.NewTable("config_versions", raftstore.Index[*secretspb.ConfigVersion]{
	Name: "config",
	Keys: func(v *secretspb.ConfigVersion) []string { return []string{v.GetConfigId()} },
}).Summing(raftstore.Sum[*secretspb.ConfigVersion]{Name: sumBytes, Of: func(v *secretspb.ConfigVersion) (string, raftstore.Amounts) {
	return sumBytes, raftstore.Amounts{dataWeight(v.GetData())}
}})

// ConfigGrants has one row of each config that was ever granted.
var ConfigGrants = raftstore.NewTable[*secretspb.ConfigGrant]("config_grants")

func dataWeight(data []byte) int64 { return int64(max(len(data), minConfigWeight)) }

// VersionsOf are a config's versions and the number of the current one. One that
// never got a second version says nothing of its first.
func VersionsOf(c *secretspb.Config) (versions []*secretspb.VersionFacts, current uint64) {
	if len(c.GetVersions()) > 0 {
		return c.GetVersions(), c.GetCurrent()
	}
	return []*secretspb.VersionFacts{{Number: 1, Id: c.GetId(), CreatedAt: c.GetMeta().GetCreatedAt(), Size: uint64(len(c.GetSpec().GetData()))}}, 1
}

// ConfigVersionOf is the version of that number of a config, or for 0 the current
// one, with its data. It is false where that is gone.
func ConfigVersionOf(r raftstore.Reader, c *secretspb.Config, number uint64) (*secretspb.VersionFacts, []byte, bool) {
	versions, current := VersionsOf(c)
	f := factsOf(versions, current, number)
	if f == nil {
		return nil, nil, false
	}
	if data := c.GetSpec().GetData(); f.GetId() == c.GetId() && len(data) > 0 {
		return f, data, true
	}
	v, ok := ConfigVersions.Get(r, f.GetId())
	return f, v.GetData(), ok
}

// UpdateConfig adds a version, which becomes the current one, to the config that
// ref stands for. Package spec accepted its data. accept may refuse it for the config
// that it turns out to be for; also is done in the transaction that makes it current,
// with the config as it is then.
func UpdateConfig(ctx context.Context, s *raftstore.Store, ref string, data []byte, accept func(*secretspb.Config) error,
	pinned func(raftstore.Reader, string) Pinned, also func(*raftstore.Tx, *secretspb.Config) error) (c *secretspb.Config, err error) {
	if err := s.View(func(r *raftstore.ReadTx) error { return roomForConfig(r, dataWeight(data)) }); err != nil {
		return nil, err
	}
	// A transaction holds the data of one version and little else: the first one moves
	// before, and the new one is there before it is listed.
	if err := s.Update(ctx, func(tx *raftstore.Tx) error { return moveFirst(tx, ref) }); err != nil {
		return nil, err
	}
	var v *secretspb.ConfigVersion
	if err := s.Update(ctx, func(tx *raftstore.Tx) error {
		old, err := ResolveConfig(tx, ref)
		if err != nil {
			return err
		}
		if err := accept(old); err != nil {
			return err
		}
		v = &secretspb.ConfigVersion{Id: ident.New(), ConfigId: old.GetId(), Number: newest(old.GetVersions()) + 1, Data: data}
		return errors.Join(dropUnlisted(tx, old), ConfigVersions.Put(tx, v))
	}); err != nil {
		return nil, err
	}
	err = s.Update(ctx, func(tx *raftstore.Tx) (err error) {
		if c, err = listVersion(tx, v, pinned); err != nil {
			return err
		}
		return also(tx, c)
	})
	return c, err
}

// dropUnlisted removes versions of which a config does not tell: somebody was
// interrupted before they were listed.
func dropUnlisted(tx *raftstore.Tx, c *secretspb.Config) error {
	for _, v := range slices.Collect(ConfigVersions.By(tx, "config", c.GetId())) {
		if factsOf(c.GetVersions(), 0, v.GetNumber()).GetId() != v.GetId() {
			if err := ConfigVersions.Delete(tx, v.GetId()); err != nil {
				return err
			}
		}
	}
	return nil
}

// listVersion makes a version that there is the current one of its config.
func listVersion(tx *raftstore.Tx, v *secretspb.ConfigVersion, pinned func(raftstore.Reader, string) Pinned) (*secretspb.Config, error) {
	old, ok := Configs.Get(tx, v.GetConfigId())
	if _, there := ConfigVersions.Get(tx, v.GetId()); !ok || !there || newest(old.GetVersions())+1 != v.GetNumber() {
		return nil, ErrChanged // updated or removed by another at the same moment
	}
	c := proto.CloneOf(old)
	facts := &secretspb.VersionFacts{Number: v.GetNumber(), Id: v.GetId(), CreatedAt: tx.Now().UnixNano(), Size: uint64(len(v.GetData()))}
	now, gone, err := renewed("config "+c.GetSpec().GetName(), c.GetVersions(), c.GetCurrent(), facts, c.GetSpec().GetKeep(), pinned(tx, c.GetId()))
	if err != nil {
		return nil, err
	}
	for _, v := range gone {
		if err := ConfigVersions.Delete(tx, v.GetId()); err != nil {
			return nil, err
		}
	}
	c.Versions, c.Current = now, facts.Number
	return c, Configs.Put(tx, c)
}

// moveFirst has a config say what versions it has, and its data lie where that of
// all later ones does.
func moveFirst(tx *raftstore.Tx, ref string) error {
	old, err := ResolveConfig(tx, ref)
	if err != nil || len(old.GetSpec().GetData()) == 0 {
		return err
	}
	c := proto.CloneOf(old)
	c.Versions, c.Current = VersionsOf(old)
	data := c.Spec.Data
	c.Spec.Data = nil
	if err := ConfigVersions.Put(tx, &secretspb.ConfigVersion{Id: c.GetId(), ConfigId: c.GetId(), Number: 1, Data: data}); err != nil {
		return err
	}
	return Configs.Put(tx, c)
}

// RollbackConfig makes a version that there is the current one; 0: the newest of
// those before the current.
func RollbackConfig(tx *raftstore.Tx, ref string, number uint64) (*secretspb.Config, error) {
	old, err := ResolveConfig(tx, ref)
	if err != nil {
		return nil, err
	}
	versions, current := VersionsOf(old)
	to, err := pick("config "+old.GetSpec().GetName(), versions, current, number)
	if err != nil || to.GetNumber() == current {
		return old, err
	}
	c := proto.CloneOf(old)
	c.Versions, c.Current = slices.Clone(versions), to.GetNumber()
	return c, Configs.Put(tx, c)
}

// TouchConfig has the removal of a config that goes on meanwhile fail: somebody
// begins to use it. The config itself stays as it is: it may fill a transaction.
func TouchConfig(tx *raftstore.Tx, c *secretspb.Config) error {
	g, ok := ConfigGrants.Get(tx, c.GetId())
	if !ok {
		g = &secretspb.ConfigGrant{Id: c.GetId()}
	}
	return ConfigGrants.Put(tx, proto.CloneOf(g))
}

func roomForConfig(r *raftstore.ReadTx, more int64) error {
	return room(r, ConfigVersions, "configs", more+Configs.Total(r, sumBytes, sumBytes)[0], MaxConfigsBytes)
}
