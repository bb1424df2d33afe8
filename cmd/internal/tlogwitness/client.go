package tlogwitness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Submission is a checkpoint for a witness.
type Submission struct {
	Old   uint64         // how many records the witness is thought to have cosigned
	Proof tlog.TreeProof // that the checkpoint goes on from there; empty for none and for all
	Note  []byte         // the checkpoint, signed
}

// Body is a submission as it is sent.
func (s Submission) Body() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", s.Old)
	for _, h := range s.Proof {
		fmt.Fprintln(&b, h)
	}
	b.WriteByte('\n')
	b.Write(s.Note)
	return b.Bytes()
}

// Kind is what a witness makes of a submission.
type Kind int

// The kinds of answers.
const (
	Cosigned Kind = iota + 1 // Lines has its cosignature
	Conflict                 // it cosigned Size records last, not as many as was thought
	Unproved                 // the proof does not hold: it knows another log
)

// Answer is what a witness answered. None of it is verified.
type Answer struct {
	Kind  Kind
	Lines string
	Size  uint64
	Sized bool // Size is known
}

// CheckURL returns why checkpoints cannot be submitted under that prefix.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case len(s) > MaxURL:
		return fmt.Errorf("the address of a witness has at most %d bytes", MaxURL)
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return errors.New("a witness is at https://HOST[:PORT][/PATH]")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#"):
		return errors.New("the address of a witness has no user, query or fragment")
	case strings.HasSuffix(s, "/") || u.String() != s || s != oneline.Text(s, MaxURL):
		return errors.New("the address of a witness is written plainly, without a slash at the end")
	}
	return nil
}

// Submit shows a checkpoint to the witness at a prefix, whose TLS ends in one of roots,
// or where there are none in one of the system's. An error is one line, and says why
// there is no answer that the protocol knows.
func Submit(ctx context.Context, prefix string, roots []*x509.Certificate, s Submission) (Answer, error) {
	if len(s.Proof) > maxProof {
		return Answer{}, fmt.Errorf("a proof of %d hashes: there may be %d", len(s.Proof), maxProof)
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if len(roots) > 0 {
		config.RootCAs = x509.NewCertPool()
		for _, c := range roots {
			config.RootCAs.AddCert(c)
		}
	}
	// Once a minute is no reason to hold a connection, or somebody to close it.
	client := http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, prefix+"/add-checkpoint", bytes.NewReader(s.Body()))
	if err != nil {
		return Answer{}, errors.New("its address cannot be asked")
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("it does not answer: %w", why(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return Answer{}, fmt.Errorf("its answer broke off: %w", why(err))
	}
	return read(resp.StatusCode, resp.Header.Get("Content-Type"), body)
}

// read reads an answer.
func read(status int, contentType string, body []byte) (Answer, error) {
	if len(body) > maxAnswer {
		return Answer{}, fmt.Errorf("it answers more than %d bytes", maxAnswer)
	}
	switch status {
	case http.StatusOK:
		return Answer{Kind: Cosigned, Lines: string(body)}, nil
	case http.StatusUnprocessableEntity:
		return Answer{Kind: Unproved}, nil
	case http.StatusConflict:
		if kind, _, err := mime.ParseMediaType(contentType); err != nil || kind != "text/x.tlog.size" {
			return Answer{Kind: Conflict}, nil
		}
		size, err := readSize(string(body))
		if err != nil {
			return Answer{}, err
		}
		return Answer{Kind: Conflict, Size: size, Sized: true}, nil
	case http.StatusNotFound:
		return Answer{}, errors.New("it does not know this log (404): have its operator add the first line of `redoubt audit checkpoint`, and the keys")
	case http.StatusForbidden:
		return Answer{}, errors.New("it does not take this log's key (403): give its operator what `redoubt audit checkpoint --keys` prints")
	}
	if status/100 == 3 {
		return Answer{}, fmt.Errorf("it leads elsewhere (%d), where nobody follows", status)
	}
	return Answer{}, fmt.Errorf("it answers %d", status)
}

var errSize = errors.New("it answers a number of records that cannot be read")

// readSize reads a decimal number and a newline, and no other writing of it.
func readSize(s string) (uint64, error) {
	digits, ok := strings.CutSuffix(s, "\n")
	n, err := strconv.ParseUint(digits, 10, 63)
	if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, errSize
	}
	return n, nil
}

// why says what kind of an error of a call that is, and nothing that the other side
// wrote.
func why(err error) error {
	var (
		timeout   net.Error
		name      *net.DNSError
		errno     syscall.Errno
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return errors.New("it took too long")
	case errors.As(err, &name):
		return errors.New("its name has no address")
	case errors.As(err, &errno):
		return errors.New(errno.Error())
	case errors.As(err, &authority):
		return errors.New("its certificate is of a CA that is not trusted for it")
	case errors.As(err, &hostname):
		return errors.New("its certificate is for another name")
	case errors.As(err, &invalid):
		return errors.New("its certificate is not valid, or not now")
	case errors.As(err, &op) && op.Op == "remote error": // an alert, in Go's own words
		return fmt.Errorf("it refuses TLS as it is spoken here: %w", op.Err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return errors.New("no TLS is spoken there")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it hung up")
	}
	return errors.New("what is spoken there is not HTTP as it should be")
}
