package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
)

// shipment sends records to a collector by TLS, each behind its length (RFC 5425),
// and knows how far it came. The protocol has no receipts, so a batch is a
// connection: the sender closes its side, and what it sent was read when the
// collector closes the other. Then, and only then, the cursor moves. So nothing is
// lost, and what was sent before a failure comes again, with the same number.
type shipment struct {
	to     string
	tls    *tls.Config
	cursor string // file
	encode func(exportedJSON) ([]byte, error)
}

// cursor is what the file has: the next record, and the leaf of the one before.
type cursor struct {
	Format int    `json:"format"`
	Next   uint64 `json:"next"`
	Leaf   string `json:"leaf"`
}

const cursorFormat = 1

func newShipment(to, caFile, cursorFile string, encode func(exportedJSON) ([]byte, error)) (*shipment, error) {
	host, _, err := net.SplitHostPort(to)
	if err != nil || host == "" {
		return nil, usagef("--to %q: a collector is HOST:PORT", to)
	}
	if cursorFile == "" {
		return nil, usagef("--to needs --cursor FILE, where it is kept how far the collector got")
	}
	s := &shipment{to: to, tls: &tls.Config{ServerName: host, MinVersion: tls.VersionTLS13}, cursor: cursorFile, encode: encode}
	if caFile != "" {
		pem, err := atomicfile.ReadBounded(caFile, maxCAFile)
		if err != nil {
			return nil, usagef("--ca: %v", err)
		}
		s.tls.RootCAs = x509.NewCertPool()
		if !s.tls.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("--ca %s has no certificate", caFile)
		}
	}
	return s, nil
}

// begin reads the cursor, and holds the record before it against the log: a log
// that was restored or rewritten goes on only by the operator's word.
func (s *shipment) begin(ctx context.Context, api *api) (next uint64, err error) {
	raw, err := atomicfile.ReadBounded(s.cursor, maxCursorFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, failf(ExitError, "--cursor: %v", err)
	}
	var c cursor
	if err := strictjson.Decode(raw, &c); err != nil || c.Format != cursorFormat || c.Next == 0 {
		return 0, failf(ExitError, "--cursor %s is none, or damaged: without it all records are sent again", s.cursor)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := api.ListRecords(ctx, &controlpb.ListRecordsRequest{From: c.Next - 1, Count: 1})
	if err != nil {
		return 0, apiclient.Err(err)
	}
	if len(resp.GetRecords()) == 0 || resp.GetRecords()[0].GetNumber() != c.Next-1 || leafOf(resp.GetRecords()[0]) != c.Leaf {
		return 0, failf(ExitError, "record %d is not the one that was sent: the audit log was restored from a backup, or see `redoubt audit verify`; without %s all records are sent again", c.Next-1, s.cursor)
	}
	return c.Next, nil
}

// send has the collector take these records, and moves the cursor behind them.
func (s *shipment) send(ctx context.Context, records []*controlpb.RecordView) error {
	var b bytes.Buffer
	for _, v := range records {
		r, err := recordOf(v)
		if err != nil {
			return err
		}
		line, err := s.encode(exportedJSON{r, v.GetClock(), v.GetRecord(), leafOf(v)})
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%d %s", len(line), line)
	}
	ctx, cancel := context.WithTimeout(ctx, shipTimeout)
	defer cancel()
	plain, err := new(net.Dialer).DialContext(ctx, "tcp", s.to)
	if err != nil {
		return failf(ExitError, "the collector at %s: %v", s.to, err)
	}
	conn := tls.Client(toldConn{plain}, s.tls)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { plain.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.HandshakeContext(ctx)
	if err == nil {
		_, err = conn.Write(b.Bytes())
	}
	if err == nil {
		err = conn.CloseWrite()
	}
	if err != nil {
		return failf(ExitError, "the collector at %s: %v", s.to, err)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(conn, maxReceipt)); err != nil || n == maxReceipt {
		return failf(ExitError, "the collector at %s did not say that it has read all of %d records: %v", s.to, len(records), cmp.Or(err, errors.New("it said too much")))
	}
	last := records[len(records)-1]
	raw, err := json.Marshal(cursor{cursorFormat, last.GetNumber() + 1, leafOf(last)})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.cursor, append(raw, '\n')); err != nil {
		return failf(ExitError, "--cursor: %v", err)
	}
	return nil
}

// toldConn is a connection whose end is an error, unless the other side said in TLS
// that there is one: crypto/tls takes either for the end, and anybody on the way can
// make one.
type toldConn struct{ net.Conn }

var errCut = errors.New("the connection was cut")

func (c toldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}
