package named

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// SandboxProfile is what named keeps after its start: sockets of its own to ask
// resolvers with, none to listen on. No file, no capability.
func SandboxProfile() sandbox.Profile {
	return sandbox.Profile{Files: &sandbox.Files{Connect: true}, Syscalls: sandbox.Resolver}
}

// Serve takes declarations on control from processes of the user controlUID, and
// sockets on hand from those of handUID, until ctx ends or something fails. It
// closes both.
func (s *Server) Serve(ctx context.Context, control net.Listener, controlUID uint32, hand net.Listener, handUID uint32) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	running.Go(func() { cancel(s.accept(ctx, control, controlUID, s.serveControl)) })
	running.Go(func() { cancel(s.accept(ctx, hand, handUID, s.serveHand)) })
	running.Wait()
	return context.Cause(ctx)
}

func (s *Server) accept(ctx context.Context, l net.Listener, uid uint32, serve func(*net.UnixConn) error) error {
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		if stop() {
			l.Close()
		}
	}()
	slots := make(chan struct{}, maxControlConns)
	pl := peercred.Listener(l, func(err error) { s.log.Warn("connection refused", "err", err) }, uid)
	for {
		conn, err := pl.Accept()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log.Warn("connection refused", "err", "too many connections")
			conn.Close()
			continue
		}
		running.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer func() { stop(); conn.Close(); <-slots }()
			if err := serve(conn.(*net.UnixConn)); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.log.Warn("connection ended", "err", err)
			}
		})
	}
}

func (s *Server) serveControl(conn *net.UnixConn) error {
	for {
		var req namedpb.Request
		if err := wire.Read(conn, &req); err != nil {
			return err
		}
		if err := wire.Write(conn, s.do(&req)); err != nil {
			return err
		}
	}
}

// do refuses what it does not know.
func (s *Server) do(req *namedpb.Request) *namedpb.Response {
	switch v := req.GetVerb().(type) {
	case *namedpb.Request_Declare:
		if err := s.Declare(v.Declare); err != nil {
			return &namedpb.Response{Result: &namedpb.Response_Error{Error: &namedpb.Error{Message: err.Error(), NeedWhole: errors.Is(err, errNeedWhole)}}}
		}
		return &namedpb.Response{Result: &namedpb.Response_Declare{Declare: &namedpb.DeclareResponse{}}}
	case *namedpb.Request_State:
		return &namedpb.Response{Result: &namedpb.Response_State{State: s.State()}}
	}
	return &namedpb.Response{Result: &namedpb.Response_Error{Error: &namedpb.Error{Message: "the request names no verb"}}}
}

// serveHand tells netd what is here, and takes what it gives.
func (s *Server) serveHand(conn *net.UnixConn) error {
	conn.SetWriteDeadline(time.Now().Add(handWithin))
	if err := wire.Write(conn, &namedpb.Hello{Held: s.held()}); err != nil {
		return err
	}
	for {
		var req namedpb.Hand
		files, err := wire.ReadFiles(conn, &req, 2)
		if err != nil {
			return err
		}
		answer := new(namedpb.Handed)
		switch v := req.GetVerb().(type) {
		case *namedpb.Hand_Give:
			p, err := takePair(files)
			if err == nil {
				err = s.give(v.Give.GetTaskId(), p)
			}
			if err != nil {
				answer.Error = err.Error()
			}
		case *namedpb.Hand_Drop:
			s.drop(v.Drop.GetTaskId())
		default:
			answer.Error = "the message names no verb"
		}
		for _, f := range files {
			f.Close()
		}
		conn.SetWriteDeadline(time.Now().Add(handWithin))
		if err := wire.Write(conn, answer); err != nil {
			return err
		}
	}
}
