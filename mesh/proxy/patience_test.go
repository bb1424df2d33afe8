package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestPlacesComeBack: once the program let go of a client, that has its place no
// longer than it is spoken of, whatever it does.
func TestPlacesComeBack(t *testing.T) {
	for name, holds := range map[string]func(s *story){
		"says nothing": func(s *story) {
			s.dial()
			program, _, _ := s.next()
			program.Close()
		},
		"takes nothing": func(s *story) {
			s.dial()
			program, _, _ := s.next()
			program.SetWriteDeadline(time.Now().Add(deadline))
			for {
				if _, err := program.Write(make([]byte, 1<<20)); err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						s.t.Error("the program cannot get rid of a client that takes nothing")
					}
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, "127.0.0.1", func(r *Relay) { r.Most, r.shortly = 1, 300*time.Millisecond })
			holds(s)
			s.dial().Write([]byte("next"))
			_, r, _ := s.next()
			if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
				t.Error(err)
			}
		})
	}
}

// quiet reports whether nothing comes for so long.
func quiet(c *net.TCPConn, d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// TestPatience: a client that goes on, or that a program which goes on is silent to,
// stays.
func TestPatience(t *testing.T) {
	s := tell(t, "127.0.0.1", func(r *Relay) { r.shortly = time.Second })
	client := s.dial()
	program, r, _ := s.next()
	if !quiet(client, 2*time.Second) {
		t.Fatal("a client that waits for the program is sent away")
	}
	program.CloseWrite()
	client.SetReadDeadline(time.Now().Add(deadline))
	if b, err := io.ReadAll(client); err != nil || len(b) > 0 {
		t.Fatalf("%q, %v", b, err)
	}
	every := time.NewTicker(250 * time.Millisecond)
	defer every.Stop()
	for range 8 {
		<-every.C
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadByte(); err != nil {
			t.Fatal(err)
		}
	}
}
