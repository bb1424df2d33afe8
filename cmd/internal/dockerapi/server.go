package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
)

// Config is what the gateway is given by its node.
type Config struct {
	// Operator returns a connection to the node's operator servers, on which they see,
	// and judge, the process at the other end of conn, which has that uid.
	Operator func(ctx context.Context, uid uint32, conn *net.UnixConn) (net.Conn, error)
	// Self is what this node knows of itself. Whoever may connect is told.
	Self func() Self
	// Recipient is what secrets are sealed to, as this node's keyd says.
	Recipient func(context.Context) (*apiclient.Recipient, error)
	Log       *slog.Logger
}

// Self is a node's own word of itself.
type Self struct {
	Phase             controlpb.NodePhase
	NodeID, ClusterID string
	Manager           bool
	// Address other managers reach it at, host:port, and those of managers that it knows.
	Address  string
	Managers []string
	// Message is what is wrong, for people.
	Message string
}

// Server is the gateway. It is safe for concurrent use.
type Server struct {
	c    Config
	mux  *http.ServeMux
	once once
}

// New returns a gateway.
func New(c Config) *Server {
	s := &Server{c: c, mux: http.NewServeMux()}
	for _, rt := range routes {
		s.mux.HandleFunc(rt.pattern, s.handler(rt))
	}
	return s
}

// Serve answers on l, whose connections are those of a unix socket, until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s, BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, c.(*conn).caller)
		},
		ReadHeaderTimeout: headerPatience, IdleTimeout: idlePatience, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(quiet{s.c.Log}, "", 0),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		srv.Close()
	})
	err := srv.Serve(listener{l, s})
	if stop() {
		srv.Close()
		return fmt.Errorf("docker.sock: a server stopped: %w", err)
	}
	<-stopped
	s.once.wipe()
	return ctx.Err()
}

// quiet keeps what callers do wrong, and so could repeat for ever, from the log.
type quiet struct{ log *slog.Logger }

func (q quiet) Write(p []byte) (int, error) {
	q.log.Debug("docker.sock", "http", strings.TrimSpace(string(p)))
	return len(p), nil
}

// listener gives each connection a caller.
type listener struct {
	net.Listener
	s *Server
}

func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		raw := c
		if under, ok := c.(interface{ NetConn() net.Conn }); ok {
			raw = under.NetConn()
		}
		uc, ok := raw.(*net.UnixConn)
		if !ok {
			c.Close()
			continue
		}
		cred, err := peercred.Of(uc)
		if err != nil {
			c.Close()
			continue
		}
		who := &caller{uid: cred.Uid}
		if who.api, err = apiclient.Over(func(ctx context.Context) (net.Conn, error) { return l.s.c.Operator(ctx, cred.Uid, uc) }); err != nil {
			c.Close()
			continue
		}
		return &conn{c, who}, nil
	}
}

// caller is who is at the other end of a connection.
type caller struct {
	uid uint32
	api *apiclient.Client
}

type callerKey struct{}

// conn closes its caller's connection to the operator API with itself.
type conn struct {
	net.Conn
	caller *caller
}

// Close implements net.Conn.
func (c *conn) Close() error {
	return errors.Join(c.Conn.Close(), c.caller.api.Close())
}

var versioned = regexp.MustCompile(`^/v([0-9]{1,3})\.([0-9]{1,3})(/.*)$`)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Api-Version", version(maxMinor))
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", server())
	if r.Body != http.NoBody { // which has a moment to come, read or not
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
	}
	minor := maxMinor
	if m := versioned.FindStringSubmatch(r.URL.Path); m != nil {
		major, _ := strconv.Atoi(m[1])
		minor, _ = strconv.Atoi(m[2])
		said := m[1] + "." + m[2]
		switch {
		case major < 1, major == 1 && minor < minMinor:
			writeError(w, badRequest("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", said, version(minMinor)))
			return
		case major > 1, minor > maxMinor:
			writeError(w, badRequest("client version %s is too new. Maximum supported API version is %s", said, version(maxMinor)))
			return
		}
		u := *r.URL
		u.Path, u.RawPath = m[3], ""
		r2 := *r
		r2.URL, r = &u, &r2
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		writeError(w, elsewhere(r))
		return
	}
	s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), minorKey{}, minor)))
}

type minorKey struct{}

func version(minor int) string { return "1." + strconv.Itoa(minor) }

// request is one request on its way through a handler.
type request struct {
	*http.Request
	w http.ResponseWriter
	*caller
	// minor is that of the version of the API that the caller speaks.
	minor int
}

// accepted is an answer with a code other than 200.
type accepted struct {
	code int
	v    any
}

// answered is returned by a handler that wrote its answer itself.
type answered struct{}

func (s *Server) handler(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if !rt.follows {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, callPatience)
			defer cancel()
		}
		who, _ := ctx.Value(callerKey{}).(*caller)
		minor, _ := ctx.Value(minorKey{}).(int)
		q := &request{r.WithContext(ctx), w, who, minor}
		if rt.manager {
			if err := s.manages(); err != nil {
				writeError(w, err)
				return
			}
		}
		v, err := rt.handle(s, q)
		if err != nil {
			writeError(w, err)
			return
		}
		code := http.StatusOK
		if a, ok := v.(accepted); ok {
			code, v = a.code, a.v
		}
		switch v.(type) {
		case answered:
			return
		case nil:
			w.WriteHeader(code)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(v) // who does not read it has gone
	}
}

// manages refuses where this node cannot speak for a cluster.
func (s *Server) manages() error {
	self := s.c.Self()
	unavailable := func(text string) error { return refuse(http.StatusServiceUnavailable, "%s", text) }
	switch {
	case self.Phase == controlpb.NodePhase_NODE_PHASE_EMPTY, self.Phase == controlpb.NodePhase_NODE_PHASE_REMOVED:
		return unavailable(notSwarm)
	case self.Phase == controlpb.NodePhase_NODE_PHASE_LOCKED:
		return unavailable(locked)
	case !self.Manager:
		return unavailable(notManager)
	}
	return nil
}
