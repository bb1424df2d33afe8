package svid

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// api answers the SPIFFE Workload API. Which task calls stands in the connection.
type api struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	h *Holder
}

func refuse(err error) error {
	if errors.Is(err, errNoIdentity) {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

func taskOf(ctx context.Context) (string, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if who, ok := p.AuthInfo.(callerInfo); ok {
			return who.task, nil
		}
	}
	return "", status.Error(codes.PermissionDenied, "the caller is no task")
}

// follow sends what make gives now and whenever it may have changed, until the
// stream ends or the task has no identity any more. make returns false while there
// is nothing to send. It holds mu.
func (h *Holder) follow(ctx context.Context, task string, make func(e *entry, now time.Time) bool, send func() error) error {
	h.mu.Lock()
	if e := h.tasks[task]; e != nil {
		e.streams++
		h.report = true
		defer func() {
			h.mu.Lock()
			e.streams--
			h.report = true
			h.mu.Unlock()
		}()
	}
	h.mu.Unlock()
	for {
		h.mu.Lock()
		e := h.tasks[task]
		if e == nil || e.denied {
			h.mu.Unlock()
			return refuse(errNoIdentity)
		}
		changed, news := e.changed, h.news
		ready := make(e, time.Now())
		h.mu.Unlock()
		if ready {
			if err := send(); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-news:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (a api) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	task, err := taskOf(stream.Context())
	if err != nil {
		return err
	}
	var resp *workload.X509SVIDResponse
	var sent *x509.Certificate
	var roots []*x509.Certificate
	return a.h.follow(stream.Context(), task, func(e *entry, now time.Time) bool {
		if !a.h.good(e, now) || e.leaf == sent && same(roots, a.h.roots) {
			return false
		}
		key, err := x509.MarshalPKCS8PrivateKey(e.key)
		if err != nil {
			return false
		}
		sent, roots = e.leaf, a.h.roots
		resp = &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: e.want.Identity, X509Svid: joined(e.chain), X509SvidKey: key, Bundle: joinedRoots(roots)}}}
		return true
	}, func() error { return stream.Send(resp) })
}

func (a api) FetchX509Bundles(_ *workload.X509BundlesRequest, stream workload.SpiffeWorkloadAPI_FetchX509BundlesServer) error {
	task, err := taskOf(stream.Context())
	if err != nil {
		return err
	}
	var roots []*x509.Certificate
	return a.h.follow(stream.Context(), task, func(*entry, time.Time) bool {
		fresh := len(a.h.roots) > 0 && !same(roots, a.h.roots)
		roots = a.h.roots
		return fresh
	}, func() error {
		return stream.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{a.h.domain(): joinedRoots(roots)}})
	})
}

func (a api) FetchJWTSVID(ctx context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	task, err := taskOf(ctx)
	if err != nil {
		return nil, err
	}
	a.h.mu.Lock()
	e := a.h.tasks[task]
	denied := e == nil || e.denied || req.GetSpiffeId() != "" && req.GetSpiffeId() != e.want.Identity
	id := ""
	if e != nil {
		id = e.want.Identity
	}
	a.h.mu.Unlock()
	if denied {
		return nil, refuse(errNoIdentity)
	}
	text, err := a.h.fetchToken(ctx, task, req.GetAudience())
	switch {
	case err == nil:
		return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: id, Svid: text}}}, nil
	case errors.Is(err, errTooManyTokens):
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, errNoIdentity):
		return nil, refuse(err)
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}

func (a api) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream workload.SpiffeWorkloadAPI_FetchJWTBundlesServer) error {
	task, err := taskOf(stream.Context())
	if err != nil {
		return err
	}
	var keys, sent string
	return a.h.follow(stream.Context(), task, func(*entry, time.Time) bool {
		keys = a.h.jwks()
		return keys != "" && keys != sent
	}, func() error {
		sent = keys
		return stream.Send(&workload.JWTBundlesResponse{Bundles: map[string][]byte{a.h.domain(): []byte(keys)}})
	})
}

func (a api) ValidateJWTSVID(ctx context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	task, err := taskOf(ctx)
	if err != nil {
		return nil, err
	}
	a.h.mu.Lock()
	if e := a.h.tasks[task]; e == nil || e.denied {
		a.h.mu.Unlock()
		return nil, refuse(errNoIdentity)
	}
	bundle := a.h.bundle
	a.h.mu.Unlock()
	c, err := a.h.verify(bundle, req.GetSvid(), req.GetAudience(), time.Now())
	if err != nil {
		return nil, refuse(err)
	}
	all := map[string]any{"sub": c.Sub, "exp": float64(c.Exp), "iat": float64(c.Iat)}
	var aud []any
	for _, x := range c.Aud {
		aud = append(aud, x)
	}
	all["aud"] = aud
	s, err := structpb.NewStruct(all)
	if err != nil {
		return nil, refuse(errors.New("the token's claims are malformed"))
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: c.Sub, Claims: s}, nil
}

// domain is how bundles are named: the trust domain's own id.
func (h *Holder) domain() string { return "spiffe://" + h.c.ClusterID }

// jwks is the bundle as a JSON Web Key Set; empty while there is none. The
// Holder's mu is held.
func (h *Holder) jwks() string {
	if h.bundle == nil {
		return ""
	}
	type jwk struct {
		Kty string `json:"kty"`
		Use string `json:"use"`
		Kid string `json:"kid"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Y   string `json:"y"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, k := range h.bundle.GetKeys() {
		spki := k.GetSpki() // of P-256, as was checked: it ends in the two coordinates
		x, y := spki[len(spki)-64:len(spki)-32], spki[len(spki)-32:]
		set.Keys = append(set.Keys, jwk{"EC", "jwt-svid", k.GetId(), "P-256", base64.RawURLEncoding.EncodeToString(x), base64.RawURLEncoding.EncodeToString(y)})
	}
	out, err := json.Marshal(set)
	if err != nil {
		return ""
	}
	return string(out)
}

func same(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func joined(chain [][]byte) (out []byte) {
	for _, der := range chain {
		out = append(out, der...)
	}
	return out
}

func joinedRoots(roots []*x509.Certificate) (out []byte) {
	for _, r := range roots {
		out = append(out, r.Raw...)
	}
	return out
}
