package keyd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/erase"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/wire"
)

// Serve answers on both sockets until ctx ends, which is a clean end, or a
// listener fails. It closes the listeners, waits for every connection and wipes
// the keys before it returns.
func (s *Server) Serve(ctx context.Context, control, unlock net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	for _, sock := range []*socket{
		{server: s, name: "keyd", verb: s.controlVerb, listener: peercred.Listener(control, s.strange("keyd"), s.cfg.ControlUID)},
		{server: s, name: "unlock", verb: s.unlockVerb, listener: peercred.Listener(unlock, s.strange("unlock"), 0)},
	} {
		wg.Go(func() {
			failed <- sock.serve(ctx)
			cancel() // one socket without the other is of no use
		})
	}
	wg.Wait()
	return errors.Join(<-failed, <-failed, s.Close())
}

func (s *Server) strange(socket string) func(error) {
	return func(err error) { s.log.Warn("connection refused", "socket", socket, "why", err) }
}

// socket is one listener and the verbs that may be used on it.
type socket struct {
	server   *Server
	name     string
	listener net.Listener
	verb     func(context.Context, *keydpb.Request) (*keydpb.Response, error)
}

func (k *socket) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { k.listener.Close() })
	defer stop()
	defer k.listener.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := k.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case err != nil:
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			k.server.log.Warn("too many connections: one was refused", "socket", k.name)
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			k.converse(ctx, conn)
		})
	}
}

// converse answers one connection's requests, one at a time.
func (k *socket) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		req, more := new(keydpb.Request), false
		erase.Do(func() { more = k.read(ctx, conn, req) })
		switch {
		case more && frequent(req):
			more = k.reply(ctx, conn, req)
		case more:
			erase.Do(func() { more = k.reply(ctx, conn, req) })
			fallthrough
		default:
			erase.Now()
		}
		if !more {
			return
		}
	}
}

// read reads a request and reports whether there is one.
func (k *socket) read(ctx context.Context, conn net.Conn, req *keydpb.Request) bool {
	err := wire.Read(&io.LimitedReader{R: conn, N: maxRequest}, req)
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		k.server.log.Warn("malformed request", "socket", k.name, "err", err)
	}
	return err == nil
}

// reply answers a request and reports whether another may come.
func (k *socket) reply(ctx context.Context, conn net.Conn, req *keydpb.Request) bool {
	resp, err := k.answer(ctx, conn, req)
	wipeRequest(req)
	if err != nil {
		return false
	}
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err = wire.Write(conn, resp)
	wipeResponse(resp)
	return err == nil
}

// frequent reports whether a verb is used often, and with keys alone that keyd holds
// all the time that it is open: their copies are not overwritten, which would take
// three times as long as signing does.
func frequent(req *keydpb.Request) bool {
	switch req.GetVerb().(type) {
	case *keydpb.Request_Status, *keydpb.Request_WaitUnlocked, *keydpb.Request_MintToken, *keydpb.Request_SignJoin, *keydpb.Request_SignRenew,
		*keydpb.Request_SignWorkloads, *keydpb.Request_Journalled, *keydpb.Request_TakeExternal, *keydpb.Request_SignCrl, *keydpb.Request_OpenAndSeal,
		*keydpb.Request_MintInvitation, *keydpb.Request_SignPerson, *keydpb.Request_ReadJournal, *keydpb.Request_NoteRefused:
		return true
	}
	return false
}

// answer runs a verb. Its error ends the connection; refusals are answers.
func (k *socket) answer(ctx context.Context, conn net.Conn, req *keydpb.Request) (*keydpb.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if req.GetWaitUnlocked() != nil {
		done, err := watchHangup(conn, cancel)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	resp, err := k.verb(ctx, req)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		if codeOf(err) == keydpb.Code_CODE_INTERNAL {
			k.server.log.Error("request failed", "socket", k.name, "err", err)
		}
		return &keydpb.Response{Result: &keydpb.Response_Error{Error: &keydpb.Error{Code: codeOf(err), Message: oneline.Text(err.Error(), maxSaid)}}}, nil
	}
	return resp, nil
}

// watchHangup calls cancel when the other side closes, or speaks out of turn,
// while it waits for an answer. done ends the watch and waits for it.
func watchHangup(conn net.Conn, cancel func()) (done func(), err error) {
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		var b [1]byte
		if _, err := conn.Read(b[:]); !isTimeout(err) {
			cancel()
		}
	})
	return func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		wg.Wait()
		conn.SetReadDeadline(time.Time{})
	}, nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func wipeRequest(req *keydpb.Request) {
	clear(req.GetUnlock().GetSeed())
	clear(req.GetGiveShare().GetShare())
	clear(req.GetTestSlot().GetSeed())
	clear(req.GetTestSlot().GetShare())
	for _, share := range append(req.GetOpenBackup().GetShares(), req.GetAuthorizeRecovery().GetShares()...) {
		clear(share)
	}
	clear(req.GetOpenBackup().GetSeed())
	clear(req.GetAuthorizeRecovery().GetSeed())
	clear(req.GetSealLeaf().GetLeafKey())
	clear(req.GetSealToTpm().GetKey())
}

func wipeResponse(resp *keydpb.Response) {
	clear(resp.GetOpenStore().GetDek())
	clear(resp.GetOpenStore().GetFormerDek())
	clear(resp.GetRotateDek().GetDek())
	clear(resp.GetSealBackup().GetStateKey())
	clear(resp.GetOpenBackup().GetStateKey())
	clear(resp.GetFinishRestore().GetStateKey())
	clear(resp.GetOpenStore().GetLeafKey())
	clear(resp.GetSealToTpm().GetKey())
}
