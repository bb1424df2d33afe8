package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	if err := Write(&buf, wrapperspb.String("hello")); err != nil {
		t.Fatal(err)
	}
	var got wrapperspb.StringValue
	if err := Read(&buf, &got); err != nil || got.Value != "hello" {
		t.Fatalf("%q, %v", got.Value, err)
	}
	if err := Read(&buf, &got); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	unknown := protowire.AppendTag(nil, 99, protowire.VarintType)
	unknown = protowire.AppendVarint(unknown, 1)
	for name, b := range map[string][]byte{
		"oversized":        {0xff, 0xff, 0xff, 0xff},
		"truncated length": {0, 0},
		"truncated body":   {0, 0, 0, 5, 1},
		"garbage":          {0, 0, 0, 2, 0xff, 0xff},
		"unknown field":    append([]byte{0, 0, 0, byte(len(unknown))}, unknown...),
	} {
		if err := Read(bytes.NewReader(b), &wrapperspb.StringValue{}); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m wrapperspb.BytesValue
		if Read(bytes.NewReader(b), &m) != nil {
			return
		}
		var out bytes.Buffer
		if err := Write(&out, &m); err != nil {
			t.Fatal(err)
		}
		var again wrapperspb.BytesValue
		if err := Read(&out, &again); err != nil || !proto.Equal(&m, &again) {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func TestClientRedialsAndHonoursContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for i := range 3 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var m wrapperspb.StringValue
			if Read(conn, &m) == nil && i == 1 { // the first is dropped, the third never answered
				Write(conn, &m)
				Read(conn, &m)
			} else if i == 2 {
				io.Copy(io.Discard, conn)
			}
			conn.Close()
		}
	}()
	c := NewClient(path)
	var got wrapperspb.StringValue
	if err := c.Call(t.Context(), wrapperspb.String("a"), &got); err == nil {
		t.Fatal("a dropped call succeeded")
	}
	if err := c.Call(t.Context(), wrapperspb.String("b"), &got); err != nil || got.Value != "b" {
		t.Fatalf("%q, %v", got.Value, err)
	}
	c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, wrapperspb.String("c"), &got); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	<-served
	l.Close()
}
