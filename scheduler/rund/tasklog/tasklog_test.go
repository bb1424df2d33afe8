package tasklog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func collect(t *testing.T, dir string, q Query) []string {
	t.Helper()
	var got []string
	err := Read(t.Context(), dir, q, func(r Record) error {
		got = append(got, string(r.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Record{
			Time:    time.Unix(0, rapid.Int64().Draw(t, "time")),
			Stderr:  rapid.Bool().Draw(t, "stderr"),
			Partial: rapid.Bool().Draw(t, "partial"),
			Data:    bytes.ReplaceAll(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data"), []byte("\n"), nil),
		}
		b := appendRecord(nil, want)
		got, err := parseRecord(b[:len(b)-1])
		if err != nil || !got.Time.Equal(want.Time) || got.Stderr != want.Stderr || got.Partial != want.Partial || !bytes.Equal(got.Data, want.Data) {
			t.Fatalf("%v became %v (%v)", want, got, err)
		}
	})
}

// FuzzParseRecord: whatever is accepted has one spelling.
func FuzzParseRecord(f *testing.F) {
	for _, s := range []string{"1 o F hello", "-5 e P ", "01 o F x", "1 o F", "1 x F y", "", "9223372036854775808 o F x", "1 o F a\nb"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRecord(line)
		if err != nil {
			return
		}
		if again := appendRecord(nil, r); string(again) != string(line)+"\n" {
			t.Fatalf("%q is read as %q", line, again)
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"1:2:65536:/run/x", "1:2:3:", "01:2:3:/x", "1:2:3:/x/../y", "1:2:3:/a:b", ":::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if s, err := ParseSpec(arg); err == nil && s.String() != arg {
			t.Fatalf("%q is read as %q", arg, s)
		}
	})
}

func TestRotationIsBounded(t *testing.T) {
	dir := t.TempDir()
	const limit = 32 << 10
	w, err := NewWriter(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	const lines = 5000
	Copy(w, strings.NewReader(strings.Repeat("0123456789 0123456789\n", lines)), false)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{current, older} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Size() > limit || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
	got := collect(t, dir, Query{Tail: -1})
	if len(got) < limit/60 || len(got) >= lines {
		t.Errorf("%d lines are kept", len(got))
	}
	if tail := collect(t, dir, Query{Tail: 3}); len(tail) != 3 {
		t.Errorf("tail of 3 has %d", len(tail))
	}
	// A writer that comes later continues.
	if w, err = NewWriter(dir, limit); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Record{Time: time.Now(), Data: []byte("after")}); err != nil {
		t.Fatal(err)
	}
	if tail := collect(t, dir, Query{Tail: 1}); len(tail) != 1 || tail[0] != "after" {
		t.Errorf("tail %q", tail)
	}
	if since := collect(t, dir, Query{Tail: -1, Since: time.Now()}); len(since) != 0 {
		t.Errorf("since now: %q", since)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWindow: what lies between two times, and the last of it.
func TestWindow(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, maxRecord*2)
	if err != nil {
		t.Fatal(err)
	}
	at := func(sec int) time.Time { return time.Unix(int64(sec), 0) }
	for sec := range 2000 { // so that it is spread over both files
		if err := w.Write(Record{Time: at(sec), Data: fmt.Append(nil, sec)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{Tail: -1, Since: at(1989), Until: at(1992)}, "[1990 1991]"},
		{Query{Tail: 2, Until: at(1500)}, "[1498 1499]"},
		{Query{Tail: 3, Since: at(1498), Until: at(1500)}, "[1499]"},
		{Query{Tail: 0, Until: at(1500)}, "[]"},
		{Query{Tail: -1, Until: at(0)}, "[]"},
	} {
		if got := fmt.Sprint(collect(t, dir, c.q)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.q, got, c.want)
		}
	}
}

func TestLongLinesAndNoNewline(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", MaxData+100)
	Copy(w, strings.NewReader(long+"\nend"), true)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	err = Read(t.Context(), dir, Query{Tail: -1}, func(r Record) error {
		text.Write(r.Data)
		if !r.Partial {
			text.WriteByte('\n')
		}
		if !r.Stderr {
			t.Error("stream lost")
		}
		return nil
	})
	if err != nil || text.String() != long+"\nend\n" {
		t.Errorf("%v, %d bytes", err, text.Len())
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done, lines := make(chan struct{}), make(chan string)
	result := make(chan error, 1)
	go func() {
		result <- Read(ctx, dir, Query{Tail: -1, Follow: true, Done: done}, func(r Record) error {
			select {
			case lines <- string(r.Data):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for i := range 2000 {
		want := fmt.Sprintf("line %d %s", i, strings.Repeat("y", 1000)) // rotates
		if err := w.Write(Record{Time: time.Now(), Data: []byte(want)}); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("got %.20q, want %.20q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("line %d never came", i)
		}
	}
	if err := w.Write(Record{Time: time.Now(), Data: []byte("last")}); err != nil {
		t.Fatal(err)
	}
	close(done)
	if got := <-lines; got != "last" {
		t.Errorf("got %q", got)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestForeignContentIsSkipped(t *testing.T) {
	dir := t.TempDir()
	text := "garbage\n1 o F good\n" + strings.Repeat("z", 3*maxRecord) + "\n2 e F fine\n"
	if err := os.WriteFile(filepath.Join(dir, current), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, dir, Query{Tail: -1}); strings.Join(got, ",") != "good,fine" {
		t.Errorf("got %q", got)
	}
	if err := Read(t.Context(), t.TempDir(), Query{Tail: -1}, func(Record) error { return io.EOF }); err != nil {
		t.Errorf("a log that was never written: %v", err)
	}
}
