package cli

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
)

// logAPI answers with records of its own.
type logAPI struct {
	controlpb.AuditClient
	records []*controlpb.RecordView
}

func (l logAPI) ListRecords(_ context.Context, req *controlpb.ListRecordsRequest, _ ...grpc.CallOption) (*controlpb.ListRecordsResponse, error) {
	resp := &controlpb.ListRecordsResponse{Size: uint64(len(l.records))}
	for n := req.GetFrom(); n < resp.Size && n-req.GetFrom() < uint64(req.GetCount()); n++ {
		resp.Records = append(resp.Records, l.records[n])
	}
	return resp, nil
}

func someRecords(t *testing.T, n int, edit func(*auditpb.Record)) (out []*controlpb.RecordView) {
	t.Helper()
	for i := range n {
		r := &auditpb.Record{Request: "req", Outcome: auditpb.Outcome_OUTCOME_DONE, Method: "redoubt.control.v1.Control/RemoveNode", Verbs: []string{"node.remove"},
			Caller: &auditpb.Caller{Name: "local root of node m1", Node: "m1", Manager: "m1", Address: "10.0.0.1:40000"}}
		if edit != nil {
			edit(r)
		}
		data, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &controlpb.RecordView{Number: uint64(i), Index: uint64(i + 7), Clock: time.Date(2125, 1, 2, 3, 4, 5, 6000, time.UTC).UnixNano(), Record: data})
	}
	return out
}

// collector takes what is sent by TLS; cut says after how many messages of a
// connection it is cut off, 0 never.
type collector struct {
	addr, ca string
	got      chan []string // of a connection, once it has ended
	cut      chan int
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{ca: filepath.Join(t.TempDir(), "ca.pem"), got: make(chan []string, 1), cut: make(chan int, 1)}
	if err := os.WriteFile(c.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	c.addr = l.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.take(conn.(*tls.Conn))
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return c
}

func (c *collector) take(conn *tls.Conn) {
	cut := 0
	select {
	case cut = <-c.cut:
	default:
	}
	var got []string
	r := bufio.NewReader(conn)
	for {
		size, err := r.ReadString(' ')
		n, nerr := strconv.Atoi(strings.TrimSuffix(size, " "))
		if err != nil || nerr != nil {
			break
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			break
		}
		if got = append(got, string(b)); len(got) == cut {
			conn.NetConn().Close()
			break
		}
	}
	conn.Close()
	select {
	case c.got <- got:
	default: // nobody asks: the sender did not come through
	}
}

func TestShipment(t *testing.T) {
	c := newCollector(t)
	api := &api{AuditClient: logAPI{records: someRecords(t, 5, nil)}}
	all := api.AuditClient.(logAPI).records
	file := filepath.Join(t.TempDir(), "cursor")
	s, err := newShipment(c.addr, c.ca, file, recordFormats["syslog"])
	if err != nil {
		t.Fatal(err)
	}
	begin := func(want uint64) {
		t.Helper()
		if next, err := s.begin(t.Context(), api); err != nil || next != want {
			t.Fatalf("it begins at %d (%v), not %d", next, err, want)
		}
	}
	begin(0)
	if err := s.send(t.Context(), all[:3]); err != nil {
		t.Fatal(err)
	}
	if got := <-c.got; len(got) != 3 || !strings.Contains(got[2], `number="2"`) {
		t.Errorf("it got %q", got)
	}
	begin(3)
	// A collector that goes away in the middle has not got it: the same come again.
	c.cut <- 1
	if err := s.send(t.Context(), all[3:]); err == nil {
		t.Fatal("a connection that was cut counts as received")
	}
	<-c.got
	begin(3)
	if err := s.send(t.Context(), all[3:]); err != nil {
		t.Fatal(err)
	}
	if got := <-c.got; len(got) != 2 || !strings.Contains(got[0], `number="3"`) {
		t.Errorf("it got %q", got)
	}
	begin(5)

	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the cursor has mode %v, %v", info.Mode(), err)
	}
	// A log that is another than the one that was sent.
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := &apiOf{someRecords(t, 5, func(r *auditpb.Record) { r.Request = "other" })}
	if _, err := s.begin(t.Context(), other.api()); err == nil || !strings.Contains(err.Error(), "record 4 is not the one that was sent") {
		t.Errorf("another log: %v", err)
	}
	short := &apiOf{all[:4]}
	if _, err := s.begin(t.Context(), short.api()); err == nil {
		t.Error("a log that was shortened goes on")
	}
	for _, bad := range []string{"", "{}", string(good) + "{}", strings.Replace(string(good), `"format":1`, `"format":2`, 1), strings.Replace(string(good), `{`, `{"more":1,`, 1), strings.Replace(string(good), `"next":5`, `"next":0`, 1)} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.begin(t.Context(), api); err == nil {
			t.Errorf("the cursor %q is taken", bad)
		}
	}
	// Who is not the collector gets nothing.
	stranger := newCollector(t)
	s.to = stranger.addr
	if err := s.send(t.Context(), all); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("somebody else took them: %v", err)
	}
	if got := <-stranger.got; len(got) > 0 {
		t.Errorf("somebody else got %q", got)
	}
	for _, bad := range [][3]string{{"nowhere", c.ca, file}, {":6514", c.ca, file}, {c.addr, c.ca, ""}, {c.addr, file, file}, {c.addr, "/nowhere", file}} {
		if _, err := newShipment(bad[0], bad[1], bad[2], nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// apiOf answers with these records.
type apiOf struct{ records []*controlpb.RecordView }

func (a *apiOf) api() *api { return &api{AuditClient: logAPI{records: a.records}} }

// syslogLine is what RFC 5424 allows of a message, as far as ours go.
var syslogLine = regexp.MustCompile(`^<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} redoubt - [!-~]{1,32} \[redoubt@32473( [a-z]+="([^"\\\]\n]|\\["\\\]])*")*\] \x{feff}\{.*\}$`)

// TestRecordFormats has what callers write into records in the formats: nothing of
// it ends a field, a record or a line.
func TestRecordFormats(t *testing.T) {
	for _, nasty := range []string{"plain", "ends in |", `"]|=\`, "a\nb\r\nCEF:0|x", "\x1b[31m\x00", "é\u2028ü", strings.Repeat("x", 500), "] <110>1 ", ""} {
		views := someRecords(t, 1, func(r *auditpb.Record) {
			r.Outcome, r.Reason, r.Verbs, r.Caller.Name, r.Caller.Manager, r.Request, r.Times = auditpb.Outcome_OUTCOME_DENIED, nasty, []string{"v" + nasty}, nasty, nasty, nasty, 3
		})
		r, err := recordOf(views[0])
		if err != nil {
			t.Fatal(err)
		}
		e := exportedJSON{r, views[0].GetClock(), views[0].GetRecord(), leafOf(views[0])}
		for name, encode := range recordFormats {
			b, err := encode(e)
			if err != nil || strings.ContainsAny(string(b), "\n\r") {
				t.Errorf("%s of %q: %q, %v", name, nasty, b, err)
			}
		}
		b, _ := recordFormats["syslog"](e)
		if !syslogLine.Match(b) || !strings.HasPrefix(string(b), "<108>1 2125-01-02T03:04:05.000006Z ") {
			t.Errorf("syslog of %q: %s", nasty, b)
		}
		_, text, _ := strings.Cut(string(b), "\ufeff")
		if err := json.Unmarshal([]byte(text), new(exportedJSON)); err != nil {
			t.Errorf("syslog of %q: %v", nasty, err)
		}
		cef, _ := recordFormats["cef"](e)
		if head := strings.Count(strings.NewReplacer(`\\`, "", `\|`, "").Replace(string(cef)), "|"); head < 7 || !strings.HasPrefix(string(cef), "CEF:0|Redoubt|redoubt|") {
			t.Errorf("cef of %q: %s", nasty, cef)
		}
		for _, want := range []string{" src=10.0.0.1", " cnt=3", "|6|rt=", " cs3Label=leaf cs3=" + e.Leaf, " outcome=denied", fmt.Sprint(" externalId=", r.Number)} {
			if !strings.Contains(string(cef), want) {
				t.Errorf("cef of %q lacks %q: %s", nasty, want, cef)
			}
		}
	}
}

// liarAPI answers as it likes.
type liarAPI struct {
	controlpb.AuditClient
	resp *controlpb.ListRecordsResponse
}

func (l liarAPI) ListRecords(context.Context, *controlpb.ListRecordsRequest, ...grpc.CallOption) (*controlpb.ListRecordsResponse, error) {
	return l.resp, nil
}

// TestRecordsFrom: a leader that leaves records out, gives others, or has fewer than
// before is not believed.
func TestRecordsFrom(t *testing.T) {
	all := someRecords(t, 5, nil)
	for name, tc := range map[string]struct {
		records []*controlpb.RecordView
		size    uint64
		ok      bool
	}{
		"all":          {all[2:], 5, true},
		"the first":    {all[2:4], 5, true},
		"none there":   {nil, 2, true},
		"none of some": {nil, 5, false},
		"one left out": {[]*controlpb.RecordView{all[2], all[4]}, 5, false},
		"others":       {all[:2], 5, false},
		"shortened":    {nil, 1, false},
		"too many":     {all[2:], 3, false},
	} {
		_, err := recordsFrom(t.Context(), &api{AuditClient: liarAPI{resp: &controlpb.ListRecordsResponse{Records: tc.records, Size: tc.size}}}, 2)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
