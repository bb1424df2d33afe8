// Package signedreport is what keyd signs about a compliance report: which report it
// is, which one came before it, and how long the audit log was.
//
// # What it owns
//
// The statement, which is in-toto's (version 1) with a predicate of our own, in the
// one writing that Parse takes back; the DSSE envelope around it, with the cluster's
// Ed25519 signature; and Check and Follows, which hold a report and the statement
// before against it. So what is kept can be checked by tools that know nothing of
// Redoubt.
//
// # What it refuses
//
// It holds no key and signs nothing: keyd does. The report is not in the statement
// but its SHA-256 is: keyd reads no report, which may be large and is redoubtd's
// word. An envelope is not believed because somebody signed it: Open wants the
// cluster's key, from its caller.
//
// # Use
//
//	st, err := signedreport.Open(envelope, keys)
//	err = st.Check(sha256.Sum256(report))
//	err = st.Follows(previous) // which was opened as well
package signedreport

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
)

// What a statement says of itself.
const (
	// PayloadType is DSSE's.
	PayloadType   = "application/vnd.in-toto+json"
	inTotoType    = "https://in-toto.io/Statement/v1"
	predicateType = "https://github.com/redoubt-cluster/redoubt/compliance-report/v1"
	subjectName   = "report.json"
)

// Statement is about one report.
type Statement struct {
	// SHA256 is the report's, as JSON.
	SHA256 [sha256.Size]byte
	// Cluster and Manager are ids: of whose keyd signed.
	Cluster, Manager string
	// Incarnation is of the cluster's life.
	Incarnation uint64
	// Number counts the cluster's signed reports from 1, and Previous is the SHA-256
	// of the statement before, zero in the first.
	Number   uint64
	Previous [sha256.Size]byte
	// Signed is by keyd's clock, of whole seconds.
	Signed time.Time
	// Records and Root are those of the checkpoint of the audit log that keyd signed last.
	Records uint64
	Root    [sha256.Size]byte
}

// form is the JSON of a statement, in the order in which it is written.
type form struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string `json:"name"`
	Digest digest `json:"digest"`
}

type digest struct {
	SHA256 string `json:"sha256"`
}

type predicate struct {
	Cluster     string   `json:"cluster"`
	Incarnation uint64   `json:"incarnation"`
	Manager     string   `json:"manager"`
	Number      uint64   `json:"number"`
	Previous    string   `json:"previous,omitempty"`
	Signed      string   `json:"signed"`
	Audit       auditLog `json:"audit"`
}

type auditLog struct {
	Records uint64 `json:"records"`
	Root    string `json:"root"`
}

// Text is what is signed, in an envelope.
func (s Statement) Text() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	p := predicate{Cluster: s.Cluster, Incarnation: s.Incarnation, Manager: s.Manager, Number: s.Number, Signed: s.Signed.UTC().Format(time.RFC3339),
		Audit: auditLog{s.Records, hex.EncodeToString(s.Root[:])}}
	if s.Number > 1 {
		p.Previous = hex.EncodeToString(s.Previous[:])
	}
	return json.Marshal(form{inTotoType, []subject{{subjectName, digest{hex.EncodeToString(s.SHA256[:])}}}, predicateType, p})
}

func (s Statement) check() error {
	switch {
	case !ident.Valid(s.Cluster) || !ident.Valid(s.Manager):
		return errors.New("it names no cluster and manager")
	case s.Incarnation == 0 || s.Number == 0 || s.Records == 0:
		return errors.New("its incarnation, number and records begin with 1")
	case (s.Number == 1) != (s.Previous == [sha256.Size]byte{}):
		return errors.New("the first report alone has none before it")
	}
	return nil
}

var errText = errors.New("that is no statement about a compliance report")

// Parse reads a Text, and no other writing of it.
func Parse(text []byte) (Statement, error) {
	var f form
	if len(text) > maxText || strictjson.Decode(text, &f) != nil || len(f.Subject) != 1 {
		return Statement{}, errText
	}
	p := f.Predicate
	s := Statement{Cluster: p.Cluster, Manager: p.Manager, Incarnation: p.Incarnation, Number: p.Number, Records: p.Audit.Records}
	var err error
	if s.Signed, err = time.Parse(time.RFC3339, p.Signed); err != nil {
		return Statement{}, errText
	}
	for _, h := range []struct {
		text string
		to   *[sha256.Size]byte
	}{{f.Subject[0].Digest.SHA256, &s.SHA256}, {p.Previous, &s.Previous}, {p.Audit.Root, &s.Root}} {
		raw, err := hex.DecodeString(h.text)
		if err != nil || len(raw) != sha256.Size && h.text != "" {
			return Statement{}, errText
		}
		copy(h.to[:], raw)
	}
	s.Signed = s.Signed.UTC()
	if again, err := s.Text(); err != nil || !bytes.Equal(again, text) {
		return Statement{}, errText
	}
	return s, nil
}

// Sum is what the next statement has as its Previous.
func (s Statement) Sum() ([sha256.Size]byte, error) {
	text, err := s.Text()
	return sha256.Sum256(text), err
}

// ChangedError: the report is not the one that was signed.
type ChangedError struct{}

func (ChangedError) Error() string {
	return "the report was changed: it is not the one that was signed"
}

// Check returns a ChangedError unless the statement is about the report with that
// SHA-256.
func (s Statement) Check(report [sha256.Size]byte) error {
	if report != s.SHA256 {
		return ChangedError{}
	}
	return nil
}

// ChainError: one statement is not the one before another.
type ChainError struct{ why string }

func (e *ChainError) Error() string { return "the chain of reports is broken: " + e.why }

// Follows returns a ChainError unless previous is the statement before this one.
func (s Statement) Follows(previous Statement) error {
	sum, err := previous.Sum()
	if err != nil {
		return err
	}
	switch {
	case previous.Cluster != s.Cluster:
		return &ChainError{"the previous report is of another cluster, " + previous.Cluster}
	case s.Number == 1:
		return &ChainError{"report 1 is the first, and has none before it"}
	case previous.Number != s.Number-1:
		return &ChainError{fmt.Sprintf("report %d comes after report %d, and this is %d", s.Number, s.Number-1, previous.Number)}
	case sum != s.Previous:
		return &ChainError{fmt.Sprintf("report %d was signed after another report %d", s.Number, previous.Number)}
	case previous.Incarnation > s.Incarnation || previous.Incarnation == s.Incarnation && previous.Records > s.Records:
		return &ChainError{fmt.Sprintf("the audit log had %d records when report %d was signed, and %d before", s.Records, s.Number, previous.Records)}
	}
	return nil
}

// LogError: the statement and a checkpoint cannot be of one audit log.
type LogError struct{ why string }

func (e *LogError) Error() string {
	return "the report and the checkpoint are not of one audit log: " + e.why
}

// Fits returns a LogError where the audit log that the statement names cannot be the one
// of a checkpoint that somebody kept: another root of as many records, or fewer records
// after more. That one of them goes on from the other it does not prove.
func (s Statement) Fits(c checkpoint.Signed) error {
	if c.Cluster != s.Cluster {
		return &LogError{"the checkpoint is of another cluster, " + c.Cluster}
	}
	if c.Incarnation != s.Incarnation {
		return nil // a backup was restored between them
	}
	if c.Size == s.Records && c.Root != s.Root {
		return &LogError{fmt.Sprintf("the first %d records have another root in each", c.Size)}
	}
	for _, by := range c.By {
		later := s.Signed.Sub(by.At)
		switch {
		case by.At.IsZero(): // the cluster's signature has no time
		case later > maxSkew && s.Records < c.Size, -later > maxSkew && s.Records > c.Size:
			return &LogError{fmt.Sprintf("there were %d records on %s, and %d on %s", s.Records, s.Signed.Format(time.RFC3339), c.Size, by.At.Format(time.RFC3339))}
		}
	}
	return nil
}
