package dockerapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/events"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// eventTypes are those that Docker has, too. Of tasks and of what is Redoubt's own
// `redoubt events` tells.
var eventTypes = []string{"config", "network", "node", "secret", "service", "volume"}

// events streams what happens, one JSON object after the other.
func (s *Server) events(q *request) (any, error) {
	if err := onlyParameters(q.Request, "since", "until", "filters"); err != nil {
		return nil, err
	}
	f, err := readFilters(q.Request, "type", "event", "scope", "label", "config", "network", "node", "secret", "service",
		"container", "daemon", "image", "plugin", "volume")
	if err != nil {
		return nil, err
	}
	req := &controlpb.EventsRequest{}
	if req.Since, err = at(q, "since"); err != nil {
		return nil, err
	}
	if req.Until, err = at(q, "until"); err != nil {
		return nil, err
	}
	stream, err := q.api.Events(q.Context(), req)
	if err != nil {
		return nil, err
	}
	out, flush := json.NewEncoder(q.w), http.NewResponseController(q.w).Flush
	begun := false
	for {
		r, err := stream.Recv()
		switch {
		case err != nil && !begun && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil:
			return answered{}, nil
		}
		if !begun { // until then it may be refused
			begun = true
			q.w.Header().Set("Content-Type", "application/json")
			q.w.WriteHeader(http.StatusOK)
		}
		for _, e := range r.GetEvents() {
			if !f.event(e) {
				continue
			}
			if out.Encode(toEvent(e)) != nil {
				return answered{}, nil // nobody reads on
			}
		}
		if flush() != nil {
			return answered{}, nil
		}
	}
}

// event reports whether e is one of Docker's, and asked for.
func (f filters) event(e *controlpb.Event) bool {
	if !slices.Contains(eventTypes, e.GetType()) || !f.is("type", e.GetType()) || !f.is("event", e.GetAction()) || !f.is("scope", scopeSwarm) || len(f["label"]) > 0 {
		return false
	}
	named := false
	for _, kind := range slices.Concat(eventTypes, []string{"container", "daemon", "image", "plugin"}) {
		if len(f[kind]) == 0 {
			continue
		}
		named = true
		if kind == e.GetType() && (slices.Contains(f[kind], e.GetName()) || f.begins(kind, e.GetId())) {
			return true
		}
	}
	return !named
}

func toEvent(e *controlpb.Event) events.Message {
	attributes := map[string]string{}
	for k, v := range e.GetAttributes() {
		attributes[k] = v
	}
	if e.GetName() != "" {
		attributes["name"] = e.GetName()
	}
	return events.Message{Type: events.Type(e.GetType()), Action: events.Action(e.GetAction()), Actor: events.Actor{ID: e.GetId(), Attributes: attributes},
		Scope: scopeSwarm, Time: e.GetAt() / 1e9, TimeNano: e.GetAt()}
}
