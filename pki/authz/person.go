package authz

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// identifyPerson judges whoever is a person, or comes by their protocol. Where the
// record refuses, the identity says whom.
func (a *Authorizer) identifyPerson(alpn string, p *Peer) (Identity, error) {
	switch {
	case p.Person == "" || alpn != ALPNPerson:
		return Identity{}, status.Errorf(codes.PermissionDenied, "that certificate may not use the protocol %s", alpn)
	case time.Now().After(p.Leaf.NotAfter):
		return Identity{}, status.Errorf(codes.Unauthenticated, "the certificate of person %s has expired: ask for an invitation", p.Person)
	case a.cfg.People == nil:
		return Identity{}, status.Error(codes.FailedPrecondition, "this node has no store to check people against: it is locked or no manager")
	}
	rec, err := a.cfg.People.Person(p.Person)
	if err != nil {
		return Identity{}, status.Error(codes.Unavailable, "the records of people cannot be read now")
	}
	id := Identity{Person: p.Person, SPKI: p.SPKI, Chain: p.Chain, kinds: []authzpb.Caller{authzpb.Caller_CALLER_PERSON}}
	return id, CheckPerson(rec, p.Person, p.SPKI)
}

// CheckPerson returns a refusal, which the person is told, unless the record (nil
// where there is none) stands for that name with a key of that SPKI hash.
func CheckPerson(rec *pkipb.Person, name string, spki []byte) error {
	keys := [][]byte{rec.GetLeafSpki(), rec.GetPreviousSpki()}
	switch {
	case rec == nil:
		return toPerson(name, 0, fmt.Sprintf("the cluster knows no person %s: the name was removed", name))
	case rec.GetDenied():
		return toPerson(name, rec.GetDeniedAt(), fmt.Sprintf("person %s was revoked", name))
	case len(spki) == 0 || !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, spki) }):
		return toPerson(name, 0, fmt.Sprintf("person %s has a newer certificate than this one: if it was made by somebody else, have the person revoked", name))
	}
	return nil
}

// toPerson is a refusal that the person is told.
func toPerson(name string, at int64, message string) error {
	return explained(&pkipb.Node{Id: profile.PersonSubject(name), DeniedAt: at}, authzpb.Refusal_REASON_REMOVED, message)
}
