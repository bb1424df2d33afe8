// Package tpmtest starts TPMs for tests: real ones in software, each a process
// of swtpm with a state directory and a unix socket of its own. There is no fake:
// what a test says of a TPM was answered by one.
//
//	d := tpmtest.New(t)           // a TPM without a certificate
//	d := tpmtest.Certified(t)     // one of a maker, whose CA is d.CA
//	t, err := tpm.Open(d.Socket)
package tpmtest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Device is one TPM.
type Device struct {
	// Socket is where it takes commands; one caller at a time.
	Socket string
	// CA certified it, where it is Certified.
	CA *x509.Certificate

	t     testing.TB
	dir   string // of its state
	swtpm *exec.Cmd
}

// startTime bounds how long swtpm may take to listen.
const startTime = 30 * time.Second

// New starts a TPM without a certificate. It ends with the test.
func New(t testing.TB) *Device {
	t.Helper()
	d := newDevice(t)
	d.Start()
	return d
}

// Certified starts a TPM that has a certificate, as from a factory.
func Certified(t testing.TB) *Device {
	t.Helper()
	d := newDevice(t)
	d.certify()
	d.Start()
	return d
}

func newDevice(t testing.TB) *Device {
	t.Helper()
	dir, err := os.MkdirTemp("", "redoubt-tpm-") // short: a socket's path is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &Device{Socket: filepath.Join(dir, "sock"), t: t, dir: dir}
}

// Start starts it, as a machine does that is switched on: registers are reset.
func (d *Device) Start() {
	d.t.Helper()
	os.Remove(d.Socket)
	d.swtpm = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+d.dir, "--server", "type=unixio,path="+d.Socket,
		"--flags", "not-need-init,startup-clear", "--seccomp", "action=none")
	said := new(bytes.Buffer)
	d.swtpm.Stderr = said
	if err := d.swtpm.Start(); err != nil {
		d.t.Fatalf("swtpm (Debian package swtpm): %v", err)
	}
	d.t.Cleanup(d.Stop)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(startTime); ; <-tick.C {
		if c, err := net.Dial("unix", d.Socket); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			d.Stop() // before its words are read
			d.t.Fatalf("swtpm does not listen: %s", said)
		}
	}
}

// Stop ends it, as a machine does that is switched off.
func (d *Device) Stop() {
	if d.swtpm != nil {
		d.swtpm.Process.Kill()
		d.swtpm.Wait()
		d.swtpm = nil
	}
}

// Pause makes it one that takes commands and does not answer, until Resume.
func (d *Device) Pause() { d.signal(syscall.SIGSTOP) }

// Resume has it answer again.
func (d *Device) Resume() { d.signal(syscall.SIGCONT) }

func (d *Device) signal(s os.Signal) {
	d.t.Helper()
	if err := d.swtpm.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// Extend measures something into a register, while nobody else uses the TPM.
func (d *Device) Extend(pcr int, digest [32]byte) {
	d.t.Helper()
	c, err := net.Dial("unix", d.Socket)
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(transport.FromReadWriter(c))
	if err != nil {
		d.t.Fatal(err)
	}
}

// certify has swtpm's own certificate authority, which is made for the purpose,
// sign the EK, and writes the certificate into the TPM.
func (d *Device) certify() {
	d.t.Helper()
	ca := filepath.Join(d.dir, "ca")
	conf := filepath.Join(d.dir, "setup.conf")
	local, options := filepath.Join(d.dir, "localca.conf"), filepath.Join(d.dir, "localca.options")
	for path, text := range map[string]string{
		conf:    fmt.Sprintf("create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n", local, options),
		local:   fmt.Sprintf("statedir = %s\nsigningkey = %s/key.pem\nissuercert = %s/cert.pem\ncertserial = %s/serial\n", ca, ca, ca, ca),
		options: "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	if err := os.Mkdir(ca, 0o700); err != nil {
		d.t.Fatal(err)
	}
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", d.dir, "--create-ek-cert", "--lock-nvram", "--config", conf, "--overwrite").CombinedOutput()
	if err != nil {
		d.t.Fatalf("swtpm_setup (Debian package swtpm-tools): %v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(ca, "cert.pem"))
	if err != nil {
		d.t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(strings.TrimSpace(string(raw))))
	if block == nil {
		d.t.Fatal("swtpm_localca wrote no certificate")
	}
	if d.CA, err = x509.ParseCertificate(block.Bytes); err != nil {
		d.t.Fatal(err)
	}
}
