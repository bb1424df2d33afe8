package external

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Client reaches CAs; the zero value is ready, and safe for concurrent use.
type Client struct {
	mu   sync.Mutex
	http *http.Client // guarded by mu; of url and root
	url  string
	root string
}

// to is the HTTP client for a CA whose TLS ends in that root. There is one at a
// time, as a cluster has one CA.
func (c *Client) to(url string, root *x509.Certificate) *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil && c.url == url && c.root == string(root.Raw) {
		return c.http
	}
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	c.url, c.root = url, string(root.Raw)
	c.http = &http.Client{
		Transport: &http.Transport{ // no proxy: nothing of the environment leads elsewhere
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
			MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: idleTimeout, ForceAttemptHTTP2: true,
		},
		// A token is for one CA.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c.http
}

// Probe returns why no step-ca answers there.
func (c *Client) Probe(ctx context.Context, url string, root *x509.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var health struct {
		Status string `json:"status"`
	}
	if err := c.call(ctx, http.MethodGet, url, "/health", root, nil, &health); err != nil {
		return err
	}
	if health.Status != "ok" {
		return fmt.Errorf("the CA at %s is not well: it says %q", url, oneline.Text(health.Status, maxMessage))
	}
	return nil
}

// call is one request and its answer, both JSON.
func (c *Client) call(ctx context.Context, method, url, path string, root *x509.Certificate, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.to(url, root).Do(req)
	if err != nil {
		return fmt.Errorf("the CA at %s does not answer: %w", url, why(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the CA at %s does not answer: %w", url, why(err))
	case len(b) > maxAnswer:
		return fmt.Errorf("the CA at %s answers more than %d bytes", url, maxAnswer)
	case resp.StatusCode/100 != 2:
		var no struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(b, &no) // then it says nothing of use
		hint := ""
		if resp.StatusCode == http.StatusUnauthorized {
			hint = " (does it have what `redoubt ca external provisioner` prints now?)"
		}
		return fmt.Errorf("the CA at %s refuses: %d %s%s", url, resp.StatusCode, oneline.Text(no.Message, maxMessage), hint)
	case json.Unmarshal(b, out) != nil:
		return fmt.Errorf("the CA at %s answers what cannot be read", url)
	}
	return nil
}

// why is an error of a call without what the caller knows, method and address.
func why(err error) error {
	var net net.Error
	if errors.As(err, &net) && net.Timeout() {
		return errors.New("it took too long")
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		if _, ok := err.(interface{ Timeout() bool }); !ok {
			break
		}
		err = inner
	}
	return errors.New(oneline.Text(err.Error(), maxMessage))
}

// Order is what keyd ordered.
type Order struct {
	URL      string
	Root     *x509.Certificate // of the CA's own
	Token    string
	NotAfter time.Time
}

// Authorized is the CA for one order: it signs the order's request once.
func (c *Client) Authorized(ctx context.Context, o Order) apiv1.CertificateAuthorityService {
	return authorized{ctx, c, o}
}

type authorized struct {
	ctx context.Context // of the order: the interface knows none
	c   *Client
	o   Order
}

// CreateCertificate implements apiv1.CertificateAuthorityService. It returns what
// the CA answered; nothing of it was verified.
func (a authorized) CreateCertificate(req *apiv1.CreateCertificateRequest) (*apiv1.CreateCertificateResponse, error) {
	if req.CSR == nil {
		return nil, errors.New("external: no certificate request")
	}
	ctx, cancel := context.WithTimeout(a.ctx, SignTimeout)
	defer cancel()
	in := struct {
		CSR      string `json:"csr"`
		Token    string `json:"ott"`
		NotAfter string `json:"notAfter"`
	}{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: req.CSR.Raw})), a.o.Token, a.o.NotAfter.UTC().Format(time.RFC3339)}
	var out struct {
		Chain []string `json:"certChain"`
	}
	if err := a.c.call(ctx, http.MethodPost, a.o.URL, "/1.0/sign", a.o.Root, in, &out); err != nil {
		return nil, err
	}
	chain, err := parseChain(out.Chain)
	if err != nil {
		return nil, fmt.Errorf("the CA at %s answers %w", a.o.URL, err)
	}
	return &apiv1.CreateCertificateResponse{Certificate: chain[0], CertificateChain: chain[1:]}, nil
}

func parseChain(pems []string) (chain []*x509.Certificate, _ error) {
	if len(pems) == 0 || len(pems) > maxChain {
		return nil, fmt.Errorf("a chain of %d certificates", len(pems))
	}
	for _, p := range pems {
		block, rest := pem.Decode([]byte(p))
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
			return nil, errors.New("a certificate that cannot be read")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a malformed certificate")
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

var errOnce = errors.New("external: an order is for one new certificate")

// RenewCertificate implements apiv1.CertificateAuthorityService: a renewal is an
// order of its own.
func (authorized) RenewCertificate(*apiv1.RenewCertificateRequest) (*apiv1.RenewCertificateResponse, error) {
	return nil, errOnce
}

// RevokeCertificate implements apiv1.CertificateAuthorityService: nodes are denied
// by the cluster's record.
func (authorized) RevokeCertificate(*apiv1.RevokeCertificateRequest) (*apiv1.RevokeCertificateResponse, error) {
	return nil, errOnce
}
