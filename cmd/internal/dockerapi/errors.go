package dockerapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
)

// refusal is an answer other than success.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// badRequest refuses what could never be right.
func badRequest(format string, args ...any) error {
	return refuse(http.StatusBadRequest, format, args...)
}

// notHere refuses what this cluster does otherwise, or not yet.
func notHere(format string, args ...any) error {
	return refuse(http.StatusNotImplemented, format, args...)
}

// What Docker says of a node that cannot answer, which its command and others look for.
const (
	notSwarm   = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`
	notManager = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
	inSwarm    = `This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`
	leaderless = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online."
	locked     = "Swarm is encrypted and needs to be unlocked before it can be used. Run `redoubt unlock` on this machine: the key goes to redoubt-keyd alone."
	sequence   = "update out of sequence"
)

// codeOf are the codes that Docker answers with, by what the operator API says.
var codeOf = map[apierr.Reason]int{
	apierr.ReasonInvalid: http.StatusBadRequest, apierr.ReasonAmbiguous: http.StatusBadRequest,
	apierr.ReasonNotFound: http.StatusNotFound, apierr.ReasonExists: http.StatusConflict,
	apierr.ReasonConflict: http.StatusConflict, apierr.ReasonState: http.StatusConflict,
	apierr.ReasonLocked: http.StatusServiceUnavailable, apierr.ReasonNoCluster: http.StatusServiceUnavailable,
	apierr.ReasonInCluster: http.StatusServiceUnavailable, apierr.ReasonNoLeader: http.StatusServiceUnavailable,
	apierr.ReasonUnreachable: http.StatusServiceUnavailable, apierr.ReasonDenied: http.StatusForbidden,
	apierr.ReasonApproval: http.StatusForbidden, apierr.ReasonLimited: http.StatusTooManyRequests,
	apierr.ReasonUnsupported: http.StatusNotImplemented, apierr.ReasonTimeout: http.StatusGatewayTimeout,
}

// refusalOf is what is answered to err, of the operator API or of this package.
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	e := apierr.Decode(err)
	code, text := codeOf[e.Reason], e.Error()
	switch e.Reason {
	case apierr.ReasonConflict:
		text = sequence + ": " + text
	case apierr.ReasonLocked:
		text = locked
	case apierr.ReasonNoCluster:
		text = notSwarm
	case apierr.ReasonInCluster:
		text = inSwarm
	case apierr.ReasonNoLeader:
		text = leaderless + " " + text
	}
	if code == 0 {
		code = http.StatusInternalServerError
	}
	return &refusal{code, text}
}

// isNotFound reports whether the operator API knows no such thing.
func isNotFound(err error) bool {
	return err != nil && apierr.Decode(err).Reason == apierr.ReasonNotFound
}

// isDenied reports whether the caller may not ask.
func isDenied(err error) bool { return err != nil && apierr.Decode(err).Reason == apierr.ReasonDenied }

func writeError(w http.ResponseWriter, err error) {
	r := refusalOf(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.code)
	json.NewEncoder(w).Encode(struct { // who does not read it has gone
		Message string `json:"message"`
	}{r.text})
}
