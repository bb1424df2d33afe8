package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

func (l *Lab) caFile() string       { return filepath.Join(l.Dir(), "registry-ca.pem") }
func (l *Lab) registryCert() string { return filepath.Join(l.Dir(), "registry.pem") }
func (l *Lab) registryKey() string  { return filepath.Join(l.Dir(), "registry.key") }
func (l *Lab) registryPID() pidFile { return pidFile{filepath.Join(l.Dir(), "registry.pid")} }
func (l *Lab) registryAddr() string { return l.Gateway().String() + ":5000" }

// makeCA makes the CA that the hosts trust for the registry alone, and the
// registry's certificate. The CA's key is used once and never written.
func (l *Lab) makeCA() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Redoubt lab " + l.Name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry.lab"}, DNSNames: []string{"registry.lab"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return errors.Join(
		atomicfile.WriteMode(l.caFile(), block("CERTIFICATE", caDER), 0o644),
		atomicfile.Write(l.registryCert(), block("CERTIFICATE", leafDER)),
		atomicfile.Write(l.registryKey(), block("PRIVATE KEY", keyDER)))
}

// StartRegistry starts the lab's registry, reached by its hosts as
// RegistryName; one that runs stays.
func (l *Lab) StartRegistry(ctx context.Context) error {
	if l.registryPID().alive() {
		return nil
	}
	out, err := os.OpenFile(filepath.Join(l.Dir(), "registry.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(l.binDir(), "redoubt"), "lab", "registry", "serve", "--name", l.Name)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // as in spawn
	if err := l.registryPID().write(cmd.Process.Pid); err != nil {
		return err
	}
	return await(ctx, bootWait, "registry (see "+out.Name()+")", func(ctx context.Context) error {
		if !l.registryPID().alive() {
			return errors.New("it ended")
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", l.registryAddr())
		if err == nil {
			c.Close()
		}
		return err
	})
}

func (l *Lab) stopRegistry() error { return l.registryPID().end(unix.SIGTERM, stopWait) }

// ServeRegistry is the registry's process: it serves until ctx ends.
func (l *Lab) ServeRegistry(ctx context.Context) error {
	cert, err := tls.LoadX509KeyPair(l.registryCert(), l.registryKey())
	if err != nil {
		return err
	}
	blobs := filepath.Join(l.Dir(), "registry")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return err
	}
	s := &http.Server{
		Addr:              l.registryAddr(),
		Handler:           registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)), registry.Logger(log.New(io.Discard, "", 0))),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that hang up
	}
	done := make(chan error, 1)
	go func() { done <- s.ListenAndServeTLS("", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		s.Close()
		<-done
		return nil
	}
}

// repositoryForm is stricter than the library, which takes "../x".
var repositoryForm = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// Push puts a docker-save archive into the registry under repository[:tag] and
// returns the reference by which hosts pull it.
func (l *Lab) Push(ctx context.Context, archive, repository string) (string, error) {
	if !repositoryForm.MatchString(repository) {
		return "", fmt.Errorf("%q: write NAME:TAG, as demo:1", repository)
	}
	ref, err := name.NewTag(RegistryName+"/"+repository, name.StrictValidation)
	if err != nil {
		return "", fmt.Errorf("%q: write NAME:TAG: %w", repository, err)
	}
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return "", fmt.Errorf("%s is no docker-save archive of one image: %w", archive, err)
	}
	ca, err := atomicfile.ReadBounded(l.caFile(), 1<<16)
	if err != nil {
		return "", err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		// The fixed name is known on the lab's hosts only.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, l.registryAddr())
		},
	}
	defer transport.CloseIdleConnections()
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
		return "", fmt.Errorf("push (is the registry up? `redoubt lab registry`): %w", err)
	}
	d, err := img.Digest()
	return ref.Name() + "@" + d.String(), err
}
