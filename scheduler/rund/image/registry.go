package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	rerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// Registry is the configuration of one registry.
type Registry struct {
	// CAFile holds the PEM certificates that alone vouch for this registry.
	CAFile string `yaml:"ca_file"`
}

// Registries knows how each registry is reached.
type Registries struct {
	config map[string]Registry
	plain  *http.Client // for hosts without configuration
	own    map[string]*http.Client
}

// NewRegistries checks the configuration. CA files are read by Load.
func NewRegistries(config map[string]Registry) (*Registries, error) {
	for host, r := range config {
		if host == "" || strings.ContainsAny(host, "/@ ") || strings.Contains(host, "://") {
			return nil, fmt.Errorf("%q is not HOST or HOST:PORT", host)
		}
		if !filepath.IsAbs(r.CAFile) {
			return nil, fmt.Errorf("%s: ca_file %q must be an absolute path", host, r.CAFile)
		}
	}
	return &Registries{config: config, plain: httpClient(nil), own: map[string]*http.Client{}}, nil
}

// Load reads the CA files.
func (r *Registries) Load() error {
	for host, c := range r.config {
		pem, err := atomicfile.ReadBounded(c.CAFile, maxCAFile)
		if err != nil {
			return fmt.Errorf("registry %s: %w", host, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("registry %s: %s holds no PEM certificate", host, c.CAFile)
		}
		r.own[host] = httpClient(pool)
	}
	return nil
}

// resolver shows c to the registry of the image alone; nil: nothing.
func (r *Registries) resolver(c *credential.Credential) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: func(name string) ([]docker.RegistryHost, error) {
		host, err := docker.DefaultHost(name)
		if err != nil {
			return nil, err
		}
		client := r.plain
		if c := r.own[name]; c != nil {
			client = c
		} else if _, ok := r.config[name]; ok {
			return nil, fmt.Errorf("registry %s: its CA file was not read", name)
		}
		authorizer := []docker.AuthorizerOpt{docker.WithAuthClient(client)} // anonymous tokens
		if c != nil && c.Registry == name {
			authorizer = append(authorizer, docker.WithAuthCreds(func(asked string) (string, string, error) { return login(c, host, asked) }))
		}
		return []docker.RegistryHost{{
			Client:       client,
			Authorizer:   docker.NewDockerAuthorizer(authorizer...),
			Host:         host,
			Scheme:       "https",
			Path:         "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityReferrers,
		}}, nil
	}})
}

func httpClient(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: onlyTLS{stall: stallTimeout, Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headTimeout,
		IdleConnTimeout:       headTimeout,
		MaxIdleConnsPerHost:   4,
	}}}
}

// onlyTLS refuses to follow a redirect, or a token realm, to plain HTTP, and
// gives up a response that stalls.
type onlyTLS struct {
	*http.Transport
	stall time.Duration
}

func (t onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("refused to speak %s to %s: only https is allowed", r.URL.Scheme, r.URL.Host)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	resp, err := t.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &progress{body: resp.Body, ctx: ctx, cancel: cancel, limit: t.stall, left: t.stall}
	return resp, nil
}

// retry runs f up to attempts times while its error may be transient.
func retry(ctx context.Context, again func(error), f func() error) error {
	delay := firstDelay
	for i := 1; ; i++ {
		err := f()
		if err == nil || i == attempts || permanent(err) || ctx.Err() != nil {
			return err
		}
		if again != nil {
			again(err)
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		delay *= 2
	}
}

func permanent(err error) bool {
	if IsRejected(err) || errdefs.IsNotFound(err) || errors.Is(err, docker.ErrInvalidAuthorization) || errors.Is(err, images.ErrEmptyWalk) {
		return true
	}
	var cert *tls.CertificateVerificationError
	var status rerrors.ErrUnexpectedStatus
	return errors.As(err, &cert) ||
		errors.As(err, &status) && status.StatusCode >= 400 && status.StatusCode < 500 &&
			status.StatusCode != http.StatusTooManyRequests && status.StatusCode != http.StatusRequestTimeout
}

// explain turns an error of registry or store into one line for a person, and
// into a Rejected where another attempt is of no use.
func explain(ref string, err error) error {
	var status rerrors.ErrUnexpectedStatus
	var cert *tls.CertificateVerificationError
	switch {
	case err == nil, IsRejected(err):
		return err
	case errors.Is(err, docker.ErrInvalidAuthorization),
		errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return rejectf("image %s: the registry refuses access, or there is no such image: a private one is named by its digest, and the secret for its registry by --registry-auth", ref)
	case errors.Is(err, images.ErrEmptyWalk), strings.Contains(err.Error(), "no match for platform"):
		return rejectf("image %s is not made for %s", ref, platformName)
	case errors.As(err, &cert):
		return fmt.Errorf("image %s: the registry's certificate is not trusted (%v): set rund.registries.<host>.ca_file", ref, cert.Err)
	case errdefs.IsNotFound(err):
		return rejectf("image %s is not in its registry: push it, or correct the name", ref)
	}
	return fmt.Errorf("image %s: %w", ref, err)
}
