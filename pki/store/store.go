// Package store declares the replicated tables of identities: Nodes, Tokens, People,
// who may do what, and the one Cluster record, and reads them for those who decide by them.
//
// It holds no rule of its own. Writing a node or a token is for the
// transactions of package pki; this package only says what the tables are and
// answers look-ups from the local state, which on a follower may lag behind
// the leader by the time an entry takes to arrive.
package store

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// ClusterID is the id of the only record in Cluster.
const ClusterID = "cluster"

// AccessID is the id of the only record in AccessState.
const AccessID = "access"

// CheckpointID is the id of the only record in AuditCheckpoints.
const CheckpointID = "newest"

// RetentionID is the id of the only record in AuditRetention.
const RetentionID = "audit"

// ReportingID is the id of the only record in Reporting.
const ReportingID = "reporting"

var (
	// Nodes has an index of the roles that certificates carry ("worker",
	// "manager") and one of names, which are not unique.
	Nodes = raftstore.NewTable("nodes",
		raftstore.Index[*pkipb.Node]{Name: "role", Keys: func(n *pkipb.Node) []string { return []string{profile.RoleName(n.GetRole())} }},
		raftstore.Index[*pkipb.Node]{Name: "name", Keys: func(n *pkipb.Node) []string { return nonEmpty(n.GetName()) }},
	)

	// Tokens holds the records of join tokens.
	Tokens = raftstore.NewTable[*pkipb.Token]("tokens")

	// People are those who come in by a certificate of their own, by name.
	People = raftstore.NewTable("people",
		raftstore.Index[*pkipb.Person]{Name: "invitation", Keys: func(p *pkipb.Person) []string { return nonEmpty(p.GetInvitationId()) }},
	)

	// DeniedIdentities are workload identities that were revoked, by SPIFFE id.
	DeniedIdentities = raftstore.NewTable[*pkipb.DeniedIdentity]("denied_identities")

	// RevocationLists are the newest CRLs, by CA.
	RevocationLists = raftstore.NewTable[*pkipb.RevocationList]("revocation_lists")

	// CustomRoles, RoleBindings and AccessPolicies are who may do what; package
	// cmd/internal/roles changes and reads them.
	CustomRoles    = raftstore.NewTable[*pkipb.CustomRole]("custom_roles")
	RoleBindings   = raftstore.NewTable[*pkipb.RoleBinding]("role_bindings")
	AccessPolicies = raftstore.NewTable[*pkipb.AccessPolicy]("access_policies")

	// Approvals are requests that several people must be for, by the hash of what
	// is asked for; package cmd/internal/roles changes and reads them.
	Approvals = raftstore.NewTable("approvals",
		raftstore.Index[*pkipb.Approval]{Name: "hash", Keys: func(a *pkipb.Approval) []string { return []string{hex.EncodeToString(a.GetHash())} }})

	// AccessState holds one record, AccessID.
	AccessState = raftstore.NewTable[*pkipb.AccessState]("access_state")

	// BreakGlasses are those that nobody acknowledged, by the manager's id.
	BreakGlasses = raftstore.NewTable[*pkipb.BreakGlass]("break_glasses")

	// AuditCheckpoints holds one record, CheckpointID, and AuditKeys what verifies it
	// and those of before.
	AuditCheckpoints = raftstore.NewTable[*pkipb.AuditCheckpoint]("audit_checkpoints")
	AuditKeys        = raftstore.NewTable[*pkipb.AuditKey]("audit_keys")

	// AuditWitnesses are who outside of the cluster cosigns checkpoints, by the names
	// of their keys, and AuditWitnessed what they said last.
	AuditWitnesses = raftstore.NewTable[*pkipb.AuditWitness]("audit_witnesses")
	AuditWitnessed = raftstore.NewTable[*pkipb.AuditWitnessed]("audit_witnessed")

	// AuditRetention holds one record, RetentionID: which older segments of the audit log
	// the managers dropped.
	AuditRetention = raftstore.NewTable[*pkipb.AuditRetention]("audit_retention")

	// Waivers are controls that may fail until a day, because somebody said so.
	Waivers = raftstore.NewTable[*pkipb.Waiver]("waivers")

	// SignedReports are the newest compliance reports that the cluster signed, and
	// Reporting holds one record, ReportingID: where their chain is.
	SignedReports = raftstore.NewTable[*pkipb.SignedReport]("signed_reports")
	Reporting     = raftstore.NewTable[*pkipb.Reporting]("reporting")

	// KeydJournals says, by manager, how far its keyd's journal is in the audit log.
	KeydJournals = raftstore.NewTable[*pkipb.KeydJournal]("keyd_journals")

	// Cluster holds one record.
	Cluster = raftstore.NewTable[*pkipb.Cluster]("cluster")
)

// Tables lists them for raftstore.Config.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{Nodes, Tokens, Cluster, DeniedIdentities, RevocationLists,
		CustomRoles, RoleBindings, AccessPolicies, AccessState, BreakGlasses, People, AuditCheckpoints, AuditKeys, AuditWitnesses, AuditWitnessed, AuditRetention, Waivers, KeydJournals, Approvals, SignedReports, Reporting}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// Store is the part of *raftstore.Store that reading needs.
type Store interface {
	View(func(*raftstore.ReadTx) error) error
	Watch(snapshot func(*raftstore.ReadTx) error, tables ...raftstore.Registered) (*raftstore.Watch, error)
}

// GetCluster returns the cluster record, shared: do not modify it.
func GetCluster(r raftstore.Reader) (*pkipb.Cluster, error) {
	c, ok := Cluster.Get(r, ClusterID)
	if !ok {
		return nil, errors.New("the store has no cluster record yet")
	}
	return c, nil
}

// Directory answers who is a member. It satisfies authz.Directory and authz.People.
type Directory struct{ Store Store }

// Node returns the record of that node, shared; nil where there is none.
func (d Directory) Node(id string) (*pkipb.Node, error) {
	var n *pkipb.Node
	err := d.Store.View(func(r *raftstore.ReadTx) error {
		n, _ = Nodes.Get(r, id)
		return nil
	})
	return n, err
}

// Person returns the record of that person, shared; nil where there is none.
func (d Directory) Person(name string) (*pkipb.Person, error) {
	var p *pkipb.Person
	err := d.Store.View(func(r *raftstore.ReadTx) error {
		p, _ = People.Get(r, name)
		return nil
	})
	return p, err
}

// Changes calls changed whenever records of nodes or people may have changed, first at once,
// until ctx ends or the store does. It never misses a change: after falling
// behind it starts again and calls changed with nil, meaning any of them.
func (d Directory) Changes(ctx context.Context, changed func(subjects []string)) error {
	for {
		err := d.follow(ctx, changed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, raftstore.ErrLagged):
			return fmt.Errorf("watching the records of nodes and people: %w", err)
		}
	}
}

func (d Directory) follow(ctx context.Context, changed func([]string)) error {
	w, err := d.Store.Watch(func(*raftstore.ReadTx) error { return nil }, Nodes, People)
	if err != nil {
		return err
	}
	defer w.Close()
	changed(nil)
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		ids := make([]string, 0, len(events))
		for _, e := range events {
			if old, now, ok := Nodes.Event(e); ok {
				ids = append(ids, cmp.Or(now.GetId(), old.GetId()))
			}
			if old, now, ok := People.Event(e); ok {
				ids = append(ids, profile.PersonSubject(cmp.Or(now.GetId(), old.GetId())))
			}
		}
		changed(ids)
	}
}

// FollowCluster calls changed with the cluster record, shared, first at once
// where there is one and then whenever it changed, until ctx ends or the store
// does.
func FollowCluster(ctx context.Context, s Store, changed func(*pkipb.Cluster)) error {
	for {
		err := followCluster(ctx, s, changed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, raftstore.ErrLagged):
			return fmt.Errorf("watching the cluster record: %w", err)
		}
	}
}

func followCluster(ctx context.Context, s Store, changed func(*pkipb.Cluster)) error {
	var first *pkipb.Cluster
	w, err := s.Watch(func(r *raftstore.ReadTx) error {
		first, _ = Cluster.Get(r, ClusterID)
		return nil
	}, Cluster)
	if err != nil {
		return err
	}
	defer w.Close()
	if first != nil {
		changed(first)
	}
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if _, now, ok := Cluster.Event(e); ok && now != nil {
				changed(now)
			}
		}
	}
}

// DroppedSegments is how many of the audit log's segments, the oldest ones, the managers
// dropped.
func DroppedSegments(r raftstore.Reader) uint64 {
	rec, _ := AuditRetention.Get(r, RetentionID)
	if d := rec.GetDrops(); len(d) > 0 {
		return d[len(d)-1].GetNext()
	}
	return 0
}
