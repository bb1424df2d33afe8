package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Secrets has the unique index "name".
var Secrets = raftstore.NewTable("secrets", raftstore.Index[*secretspb.Secret]{
	Name: "name", Unique: true,
	Keys: func(s *secretspb.Secret) []string { return []string{s.GetSpec().GetName()} },
})

// SecretVersions has the index "secret".
var SecretVersions = raftstore.NewTable("secret_versions", raftstore.Index[*secretspb.SecretVersion]{
	Name: "secret",
	Keys: func(v *secretspb.SecretVersion) []string { return []string{v.GetSecretId()} },
}).Summing(raftstore.Sum[*secretspb.SecretVersion]{Name: sumBytes, Of: func(v *secretspb.SecretVersion) (string, raftstore.Amounts) {
	return sumBytes, raftstore.Amounts{sealedWeight(v.GetSealed())}
}})

func sealedWeight(d *secretspb.SealedData) int64 {
	return int64(max(len(d.GetData()), minConfigWeight))
}

// NewVersion is a version as its maker sealed it, by the id it was sealed with.
type NewVersion struct {
	ID     string
	Sealed *secretspb.SealedData
}

// CreateSecret stores a secret with its first version. Package spec accepted both.
// That the epoch is that of the secrets master in force is the caller's to see, in
// the same transaction.
func CreateSecret(tx *raftstore.Tx, id string, sp *secretspb.SecretSpec, v NewVersion) error {
	if err := freeIDs(tx, id, v.ID); err != nil {
		return err
	}
	if _, ok := Secrets.Get(tx, id); ok {
		return refuse("there is a secret of that id already: seal it again, under a new one")
	}
	for range Secrets.By(tx, "name", sp.GetName()) {
		return &NameTakenError{"secret", sp.GetName()}
	}
	s := &secretspb.Secret{Id: id, Spec: sp}
	return addVersion(tx, s, v, func(uint64) bool { return false })
}

// NameTakenError: a name belongs to one secret, or to one config.
type NameTakenError struct{ Kind, Name string }

func (e *NameTakenError) Error() string {
	return fmt.Sprintf("a %s named %q exists already: choose another name", e.Kind, ident.Clip(e.Name))
}

func freeIDs(tx *raftstore.Tx, ids ...string) error {
	for _, id := range ids {
		if !ident.Valid(id) {
			return refuse("the secret or its version has a malformed id")
		}
	}
	if _, ok := SecretVersions.Get(tx, ids[len(ids)-1]); ok {
		return refuse("there is a version of that id already: seal it again, under a new one")
	}
	return nil
}

// RoomForSecret returns an error unless one more version fits beside those that
// there are. Those that are made at the same moment may exceed the bound together.
func RoomForSecret(r *raftstore.ReadTx, d *secretspb.SealedData) error {
	return room(r, SecretVersions, "secrets", sealedWeight(d), MaxSecretsBytes)
}

// TouchSecret has the removal of a secret that goes on meanwhile fail: somebody
// begins to use it.
func TouchSecret(tx *raftstore.Tx, s *secretspb.Secret) error {
	return Secrets.Put(tx, proto.CloneOf(s))
}

// AddSecretVersion adds a version, which becomes the current one, to the secret of
// that id.
func AddSecretVersion(tx *raftstore.Tx, id string, v NewVersion, pinned Pinned) (*secretspb.Secret, error) {
	old, ok := Secrets.Get(tx, id)
	if !ok {
		return nil, &resolve.Error{Kind: "secret", Ref: id}
	}
	if err := freeIDs(tx, v.ID); err != nil {
		return nil, err
	}
	s := proto.CloneOf(old)
	return s, addVersion(tx, s, v, pinned)
}

func addVersion(tx *raftstore.Tx, s *secretspb.Secret, v NewVersion, pinned Pinned) error {
	facts := &secretspb.VersionFacts{Number: newest(s.GetVersions()) + 1, Id: v.ID, CreatedAt: tx.Now().UnixNano(),
		Size: uint64(len(v.Sealed.GetData()) - seal.DataOverhead)}
	now, gone, err := renewed("secret "+s.GetSpec().GetName(), s.GetVersions(), s.GetCurrent(), facts, s.GetSpec().GetKeep(), pinned)
	if err != nil {
		return err
	}
	for _, old := range gone {
		if err := SecretVersions.Delete(tx, old.GetId()); err != nil {
			return err
		}
	}
	s.Versions, s.Current = now, facts.Number
	if err := SecretVersions.Put(tx, &secretspb.SecretVersion{Id: v.ID, SecretId: s.GetId(), Number: facts.Number, Sealed: v.Sealed}); err != nil {
		return err
	}
	return Secrets.Put(tx, s)
}

// RollbackSecret makes a version that there is the current one; 0: the newest of
// those before the current.
func RollbackSecret(tx *raftstore.Tx, ref string, number uint64) (*secretspb.Secret, error) {
	old, err := ResolveSecret(tx, ref)
	if err != nil {
		return nil, err
	}
	to, err := pick("secret "+old.GetSpec().GetName(), old.GetVersions(), old.GetCurrent(), number)
	if err != nil || to.GetNumber() == old.GetCurrent() {
		return old, err
	}
	s := proto.CloneOf(old)
	s.Current = to.GetNumber()
	return s, Secrets.Put(tx, s)
}

// RemoveSecret deletes a secret with all its versions. Who uses it is the caller's
// to see, in the same transaction.
func RemoveSecret(tx *raftstore.Tx, s *secretspb.Secret) error {
	for _, v := range s.GetVersions() {
		if err := SecretVersions.Delete(tx, v.GetId()); err != nil {
			return err
		}
	}
	return Secrets.Delete(tx, s.GetId())
}

// ResolveSecret finds a secret by id, name or unique prefix of its id, in this
// order.
func ResolveSecret(r raftstore.Reader, ref string) (*secretspb.Secret, error) {
	return resolve.Named("secret", Secrets, r, ref)
}

// SecretVersionOf is the version of that number of a secret, or for 0 the current
// one. It is false where that is gone.
func SecretVersionOf(r raftstore.Reader, s *secretspb.Secret, number uint64) (*secretspb.SecretVersion, bool) {
	f := factsOf(s.GetVersions(), s.GetCurrent(), number)
	if f == nil {
		return nil, false
	}
	return SecretVersions.Get(r, f.GetId())
}

// Oldest is when the current version was made of the secret that was changed longest
// ago, in nanoseconds of Unix time; 0: there is no secret.
func Oldest(r raftstore.Reader) (at int64) {
	for s := range Secrets.All(r) {
		if made := factsOf(s.GetVersions(), s.GetCurrent(), 0).GetCreatedAt(); at == 0 || made < at {
			at = made
		}
	}
	return at
}

// SealedAnew puts versions' keys in the place of those that they had, after the
// secrets master was replaced. A version that is gone meanwhile is left out, as is
// one that has a key of a later epoch.
func SealedAnew(tx *raftstore.Tx, epoch uint64, keys map[string][]byte) error {
	for id, key := range keys {
		old, ok := SecretVersions.Get(tx, id)
		if !ok || old.GetSealed().GetEpoch() >= epoch {
			continue
		}
		v := proto.CloneOf(old)
		v.Sealed.Key, v.Sealed.Epoch = key, epoch
		if err := SecretVersions.Put(tx, v); err != nil {
			return err
		}
	}
	return nil
}
