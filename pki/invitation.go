package pki

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

const invitationPrefix = "RDTI1"

// Why a text is no invitation. None quotes the text, which may hold a seed.
var (
	ErrInvitationEmpty     = errors.New("the invitation is empty: give the whole line that redoubt person invite printed")
	ErrInvitationPrefix    = errors.New("this is no invitation: one begins with " + invitationPrefix)
	ErrInvitationTruncated = errors.New("the invitation is truncated: copy the whole line again")
	ErrInvitationDamaged   = errors.New("the invitation is damaged: copy it again")
)

// Invitation is what a person is given: the seed by which the cluster knows them, the
// pin by which they know the cluster, and where its managers are. It is a secret, and
// formatted and logged as a Token is.
type Invitation struct {
	token    Token
	managers []string
}

// NewInvitation makes the id and seed of a new one. The cluster is told ID and
// PublicKey; Bind completes it with what the cluster answers.
func NewInvitation() Invitation { return Invitation{token: NewToken()} }

// Bind returns it completed.
func (i Invitation) Bind(clusterID string, pin []byte, managers []string) (Invitation, error) {
	t, err := i.token.Bind(clusterID, pin)
	if err == nil {
		err = CheckAddresses(managers)
	}
	return Invitation{t, managers}, err
}

// ParseInvitation reads an invitation's text, strictly, save white space around it.
func ParseInvitation(text string) (Invitation, error) {
	if len(text) > maxInvitationText {
		return Invitation{}, fmt.Errorf("the invitation is longer than %d characters: give the invitation alone", maxInvitationText)
	}
	text = strings.TrimSpace(text)
	f := strings.SplitN(text, ".", 6) // addresses have dots
	switch {
	case text == "":
		return Invitation{}, ErrInvitationEmpty
	case f[0] != invitationPrefix:
		return Invitation{}, ErrInvitationPrefix
	case len(f) < 6 || f[5] == "":
		return Invitation{}, ErrInvitationTruncated
	}
	var seed [ed25519.SeedSize]byte
	i := Invitation{token: Token{id: f[1], seed: func() []byte { return seed[:] }, clusterID: f[4]}, managers: strings.Split(f[5], ",")}
	if !ident.Valid(f[1]) || !decode32(&seed, f[2]) || !decode32(&i.token.pin, f[3]) || !ident.Valid(f[4]) || CheckAddresses(i.managers) != nil {
		return Invitation{}, ErrInvitationDamaged
	}
	return i, nil
}

// Text is the invitation as people carry it. Print it once, to whoever asked.
func (i Invitation) Text() string {
	t := i.token
	if t.clusterID == "" {
		panic("pki: Text of an invitation that was not bound to a cluster")
	}
	return strings.Join([]string{invitationPrefix, t.id, tokenEncoding.EncodeToString(t.seed()),
		tokenEncoding.EncodeToString(t.pin[:]), t.clusterID, strings.Join(i.managers, ",")}, ".")
}

// ID is the invitation's public name.
func (i Invitation) ID() string { return i.token.id }

// ClusterID is the cluster that invites.
func (i Invitation) ClusterID() string { return i.token.clusterID }

// Managers are where to take it, host:port.
func (i Invitation) Managers() []string { return i.managers }

// PublicKey is what the cluster keeps of the seed.
func (i Invitation) PublicKey() ed25519.PublicKey { return i.token.PublicKey() }

// String, GoString, Format, LogValue and MarshalText keep the seed out of output.
func (i Invitation) String() string { return "invitation " + i.token.id }

// GoString implements fmt.GoStringer.
func (i Invitation) GoString() string { return i.String() }

// Format implements fmt.Formatter for every verb.
func (i Invitation) Format(s fmt.State, _ rune) { fmt.Fprint(s, i.String()) }

// LogValue implements slog.LogValuer.
func (i Invitation) LogValue() slog.Value { return slog.StringValue(i.String()) }

// MarshalText refuses, so that no encoder writes one by accident.
func (i Invitation) MarshalText() ([]byte, error) {
	return nil, errors.New("an invitation is not to be encoded")
}
