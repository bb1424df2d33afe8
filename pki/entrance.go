package pki

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// entrance is before a service that callers without a certificate reach, and bounds
// everything before the proof: calls at a time, how long one takes, and what failed
// attempts of a source may write to the log. The port bounds the connections. It may be
// used concurrently.
type entrance struct {
	answers *entranceAnswers
	sources *limiter      // of failed proofs
	places  chan struct{} // one for each call at a time
	refused *quietlog.Log
}

// entranceAnswers are how a service refuses at its entrance, in its own words.
type entranceAnswers struct {
	// identity: the caller is not one of those whom it is for, or comes from nowhere.
	identity error
	// tooMany: others take all places.
	tooMany error
	// unproved is the one answer to whoever did not prove to hold what lets in: it
	// never says what was wrong. guesses is it for who was given it too often.
	unproved, guesses error
	// noExporter: the connection is not the caller's own.
	noExporter error
}

func newEntrance(answers *entranceAnswers, log *slog.Logger) *entrance {
	return &entrance{answers, newLimiter(joinBurst, joinRefill, maxSources), make(chan struct{}, maxJoinsAtATime), quietlog.New(log)}
}

// enter returns the context for the call, from where it came, and what gives its place
// back, or a refusal.
func (e *entrance) enter(ctx context.Context) (_ context.Context, source netip.Addr, leave func(), _ error) {
	caller, ok := authz.FromContext(ctx)
	if !ok || !caller.Is(authzpb.Caller_CALLER_ANYONE) {
		return nil, source, nil, e.answers.identity
	}
	if source, ok = strangers.SourceOf(caller.Source); !ok {
		return nil, source, nil, e.answers.identity
	}
	select {
	case e.places <- struct{}{}:
	default:
		return nil, source, nil, e.answers.tooMany
	}
	ctx, cancel := context.WithTimeout(ctx, joinCallTimeout)
	return ctx, source, func() {
		cancel()
		<-e.places
	}, nil
}

// exporter returns the keying material of the caller's connection under that label,
// which the proof is over.
func (e *entrance) exporter(ctx context.Context, label, id string) ([]byte, error) {
	cs, ok := authz.TLSState(ctx)
	if !ok {
		return nil, e.answers.noExporter
	}
	material, err := cs.ExportKeyingMaterial(label, []byte(id), profile.ExporterLen)
	if err != nil {
		return nil, e.answers.noExporter
	}
	return material, nil
}

// refuse returns the answer to a call from source that failed with err, and writes it
// down. Only who proves nothing is charged, and is not written down any more once it did
// so too often: whoever shares an address with a guesser, as a node does with its
// containers, still comes in with what lets in.
func (e *entrance) refuse(source netip.Addr, err error, message string, args ...any) error {
	key := strangers.SourceKey(source)
	if errors.Is(err, e.answers.unproved) && !e.sources.allow(key, time.Now()) {
		return e.answers.guesses
	}
	e.refused.Warn(key, message, append(args, "reason", status.Convert(err).Message())...)
	return err
}
