package signedreport

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
)

// envelope is DSSE's, with one signature.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// Message is what a signature is over: DSSE's encoding of the payload and its type.
func Message(text []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(PayloadType), PayloadType, len(text)), text...)
}

// Of keys: redoubt/CLUSTER/reports.
const (
	namePrefix = "redoubt/"
	nameSuffix = "/reports"
)

// Key writes the public key with which a cluster signs, as the keys of its audit log
// are written: one file may have both.
func Key(cluster string, public ed25519.PublicKey) string {
	return checkpoint.Key(namePrefix+cluster+nameSuffix, public)
}

// clusterOf is whose key that is; empty where it is not of reports.
func clusterOf(name string) string {
	rest, ok := strings.CutPrefix(name, namePrefix)
	cluster, ok2 := strings.CutSuffix(rest, nameSuffix)
	if !ok || !ok2 || !ident.Valid(cluster) {
		return ""
	}
	return cluster
}

// Envelope is the statement that Text wrote with its signature over Message.
func Envelope(cluster string, text []byte, public ed25519.PublicKey, sig []byte) ([]byte, error) {
	std := base64.StdEncoding.EncodeToString
	b, err := json.Marshal(envelope{PayloadType, std(text), []signature{{Key(cluster, public), std(sig)}}})
	return append(b, '\n'), err
}

var errEnvelope = errors.New("that is no signed statement about a compliance report")

// CutError: the end of the envelope is missing.
type CutError struct{}

func (CutError) Error() string { return "the signed statement is cut off: fetch it again" }

// beginning is how every envelope begins.
const beginning = `{"payloadType":"`

// ForeignError: the keys are those of other clusters.
type ForeignError struct{ Cluster string }

func (e *ForeignError) Error() string { return "it is of another cluster, " + e.Cluster }

// UnknownKeyError: the key that it names is none of those that are known.
type UnknownKeyError struct{}

func (UnknownKeyError) Error() string { return "nobody whose key is known has signed it" }

// SignatureError: the signature is not for what the statement says.
type SignatureError struct{}

func (SignatureError) Error() string {
	return "its statement was changed: the signature is not for what it says"
}

// Open reads an envelope whose statement the cluster has signed that it names, with
// one of the keys, and no other writing of one. Keys that are not of reports are
// passed by.
func Open(msg []byte, keys []string) (Statement, error) {
	text, key, sig, err := parseEnvelope(msg)
	if err != nil {
		return Statement{}, err
	}
	st, err := Parse(text)
	if err != nil {
		return Statement{}, err
	}
	var known []ed25519.PublicKey
	foreign, named := false, false
	for _, k := range keys {
		name, public, err := checkpoint.ParseKey(k)
		if err != nil {
			return Statement{}, err
		}
		switch clusterOf(name) {
		case "":
		case st.Cluster:
			known = append(known, public)
			named = named || k == key
		default:
			foreign = true
		}
	}
	for _, public := range known {
		if ed25519.Verify(public, Message(text), sig) {
			if Key(st.Cluster, public) != key {
				return Statement{}, errEnvelope // it names another key than the one that it is signed with
			}
			return st, nil
		}
	}
	switch {
	case named:
		return Statement{}, SignatureError{}
	case len(known) == 0 && foreign:
		return Statement{}, &ForeignError{st.Cluster}
	}
	return Statement{}, UnknownKeyError{}
}

// parseEnvelope reads what Envelope wrote.
func parseEnvelope(msg []byte) (text []byte, key string, sig []byte, _ error) {
	switch {
	case len(msg) > MaxEnvelope:
		return nil, "", nil, errEnvelope
	case !bytes.HasSuffix(msg, []byte("\n")) && (bytes.HasPrefix(msg, []byte(beginning)) || bytes.HasPrefix([]byte(beginning), msg)):
		return nil, "", nil, CutError{} // it is one line
	}
	var e envelope
	err := strictjson.Decode(msg, &e)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, "", nil, CutError{}
	}
	if err != nil || e.PayloadType != PayloadType || len(e.Signatures) != 1 {
		return nil, "", nil, errEnvelope
	}
	text, err = base64.StdEncoding.DecodeString(e.Payload)
	sig, err2 := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	key = e.Signatures[0].KeyID
	name, public, err3 := checkpoint.ParseKey(key)
	if errors.Join(err, err2, err3) != nil || clusterOf(name) == "" {
		return nil, "", nil, errEnvelope
	}
	if again, err := Envelope(clusterOf(name), text, public, sig); err != nil || !bytes.Equal(again, msg) {
		return nil, "", nil, errEnvelope
	}
	return text, key, sig, nil
}
