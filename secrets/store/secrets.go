package store

import (
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

var (
	// Secrets has the unique index "name".
	Secrets = raftstore.NewTable("secrets", raftstore.Index[*secretspb.Secret]{
		Name: "name", Unique: true,
		Keys: func(s *secretspb.Secret) []string { return []string{s.GetSpec().GetName()} },
	})

	// SecretVersions has the index "secret".
	SecretVersions = raftstore.NewTable("secret_versions", raftstore.Index[*secretspb.SecretVersion]{
		Name: "secret",
		Keys: func(v *secretspb.SecretVersion) []string { return []string{v.GetSecretId()} },
	}).Summing(raftstore.Sum[*secretspb.SecretVersion]{Name: sumBytes, Of: func(v *secretspb.SecretVersion) (string, raftstore.Amounts) {
		return sumBytes, raftstore.Amounts{int64(max(len(v.GetSealed().GetData()), minConfigWeight))}
	}})

	// ConfigVersions has the index "config".
	ConfigVersions = raftstore.NewTable("config_versions", raftstore.Index[*secretspb.ConfigVersion]{
		Name: "config",
		Keys: func(v *secretspb.ConfigVersion) []string { return []string{v.GetConfigId()} },
	}).Summing(raftstore.Sum[*secretspb.ConfigVersion]{Name: sumBytes, Of: func(v *secretspb.ConfigVersion) (string, raftstore.Amounts) {
		return sumBytes, raftstore.Amounts{int64(max(len(v.GetData()), minConfigWeight))}
	}})
)
