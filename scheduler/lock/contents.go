package lock

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

// contentsLabel begins what Contents.Digest hashes.
const contentsLabel = "redoubt lock contents v1\x00"

// Contents is what the files of a task are made of, but for the values of its secrets:
// all that a template can write out is in it, or a node's own.
type Contents struct {
	// Configs and Secrets, by name, in the order of the specification.
	Configs []*lockpb.Config
	Secrets []string
	// Labels are the service's.
	Labels map[string]string
}

// NewConfig is what a statement has of a config.
func NewConfig(name string, template bool, data []byte) *lockpb.Config {
	return &lockpb.Config{Name: name, Template: template, Digest: ConfigDigest(data)}
}

// ConfigDigest is what a statement has of a config's content.
func ConfigDigest(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

// ContentsOf is what s says.
func ContentsOf(s *lockpb.Statement) Contents {
	return Contents{s.GetConfigs(), s.GetSecrets(), s.GetLabels()}
}

// Digest is the same for the same contents alone.
func (c Contents) Digest() []byte {
	var configs, secrets, labels []byte
	for _, x := range c.Configs {
		kind := byte(0)
		if x.GetTemplate() {
			kind = 1
		}
		configs = lp.Append(lp.Append(append(configs, kind), []byte(x.GetName())), x.GetDigest())
	}
	for _, name := range c.Secrets {
		secrets = lp.Append(secrets, []byte(name))
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		labels = lp.Append(lp.Append(labels, []byte(k)), []byte(c.Labels[k]))
	}
	sum := sha256.Sum256(lp.Append(lp.Append(lp.Append([]byte(contentsLabel), configs), secrets), labels))
	return sum[:]
}

// CheckFiles returns an error unless a task's files are made of what was signed.
func CheckFiles(s *lockpb.Statement, c Contents) error {
	if len(c.Configs) != len(s.GetConfigs()) {
		return refuse(RuleConfig, "%d configs were signed, and %d delivered", len(s.GetConfigs()), len(c.Configs))
	}
	for i, is := range c.Configs {
		was := s.GetConfigs()[i]
		switch {
		case is.GetName() != was.GetName():
			return refuse(RuleConfig, "config %d was signed as %.64q", i+1, was.GetName())
		case is.GetTemplate() != was.GetTemplate():
			return refuse(RuleConfig, "config %.64q is a template where none was signed, or the other way round", was.GetName())
		case !bytes.Equal(is.GetDigest(), was.GetDigest()):
			return refuse(RuleConfig, "config %.64q has not the content that was signed: have the service signed anew", was.GetName())
		}
	}
	if !slices.Equal(c.Secrets, s.GetSecrets()) {
		return refuse(RuleConfig, "its secrets are called other than when it was signed: have the service signed anew")
	}
	if !maps.Equal(c.Labels, s.GetLabels()) {
		return refuse(RuleService, "the service's labels are not those that were signed")
	}
	return nil
}

// CheckOlder returns an error where s was signed before what a task was let in by,
// which has that serial.
func CheckOlder(s *lockpb.Statement, serial int64) error {
	if s.GetSerial() < serial {
		return refuse(RuleVersion, "the task was let in by something newer: this was signed %s, that %s", stamp(s.GetSerial()), stamp(serial))
	}
	return nil
}

// CheckDelivered returns an error unless files whose contents had that digest are what
// s says. Empty: it is not known, as they came while the lock was off.
func CheckDelivered(s *lockpb.Statement, digest []byte) error {
	if !bytes.Equal(ContentsOf(s).Digest(), digest) {
		return refuse(RuleConfig, "the task has other files than were signed, from before")
	}
	return nil
}
