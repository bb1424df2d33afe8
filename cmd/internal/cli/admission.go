package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// maxCAFile bounds a file of certificates in bytes.
const maxCAFile = 256 << 10

func (a *app) admissionCmd() *cobra.Command {
	c := &cobra.Command{Use: "admission", Short: "See and change what machines must prove that join"}
	group(c)
	c.AddCommand(a.admissionShowCmd(), a.admissionSetCmd())
	return c
}

func (a *app) admissionShowCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "show", Short: "Show what machines must prove that join", Example: `  redoubt admission show`, Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.GetAdmission(ctx, &controlpb.GetAdmissionRequest{})
				if err != nil {
					return err
				}
				if out.structured() {
					return out.objects(a.Stdout, protoJSON(r.Policy))
				}
				printPolicy(a.Stdout, r.Policy)
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func printPolicy(w io.Writer, p *profilepb.AdmissionPolicy) {
	line := func(name, value string) { fmt.Fprintf(w, "%-18s %s\n", name+":", printable(value)) }
	line("TPM", map[bool]string{true: "every machine must prove one", false: "as its join token says"}[p.GetAttest()])
	line("New managers", map[bool]string{true: "each waits for `redoubt node approve`", false: "as their join tokens say"}[p.GetApproveManagers()])
	for _, h := range p.GetEkAllowed() {
		line("Allowed TPM", hex.EncodeToString(h))
	}
	for _, der := range p.GetEkCas() {
		line("Allowed TPMs of CA", fmt.Sprintf("SHA-256 %x", sha256.Sum256(der)))
	}
	for _, r := range p.GetPcrs() {
		for _, v := range r.GetValues() {
			line("PCR "+strconv.FormatUint(uint64(r.GetIndex()), 10), hex.EncodeToString(v))
		}
	}
}

// admissionFlags are those of admission set.
type admissionFlags struct {
	attest, approve      string
	allow, disallow, cas []string
	pcrs                 []string
	anyCA, anyPCR        bool
}

func (a *app) admissionSetCmd() *cobra.Command {
	var f admissionFlags
	c := &cobra.Command{
		Use: "set [flags]", Short: "Change what machines must prove that join",
		Long: `set changes what is named, and nothing else. Who is a member stays one.

A machine proves its TPM 2.0 by opening a challenge that only that chip opens, and
is believed where its endorsement key is allowed by its hash (redoubt status on
the machine shows it), or certified by a CA of --ek-ca. With --pcr its registers
must have one of the values named for each. It then renews its certificate with
that TPM alone, and keeps the key sealed by it.`,
		Example: `  # Machines with these TPMs may join by tokens of --attest
  redoubt admission set --allow 5f0c…

  # Every machine must prove a TPM of this maker, started with Secure Boot as here
  redoubt admission set --attest on --ek-ca maker.pem --pcr 7=9a3b…

  # Every new manager waits for redoubt node approve
  redoubt admission set --approve-managers on`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := f.request()
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.UpdateAdmission(ctx, req)
				if err == nil {
					printPolicy(a.Stdout, r.Policy)
				}
				return err
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.attest, "attest", "", "on: every machine must prove its TPM; off: as its token says")
	fl.StringVar(&f.approve, "approve-managers", "", "on: every new manager waits for redoubt node approve; off: as its token says")
	fl.StringSliceVar(&f.allow, "allow", nil, "hash of the endorsement key of a TPM that is believed")
	fl.StringSliceVar(&f.disallow, "disallow", nil, "hash of one that is believed no more")
	fl.StringArrayVar(&f.cas, "ek-ca", nil, "PEM file of CAs whose TPMs are believed, in place of those before")
	fl.BoolVar(&f.anyCA, "no-ek-ca", false, "no CA's TPMs are believed any more")
	fl.StringArrayVar(&f.pcrs, "pcr", nil, "N=SHA256[,SHA256]: values that register N may have, in place of all rules before")
	fl.BoolVar(&f.anyPCR, "no-pcr", false, "registers may have any value")
	return c
}

func (f *admissionFlags) request() (*controlpb.UpdateAdmissionRequest, error) {
	req := &controlpb.UpdateAdmissionRequest{ClearCas: f.anyCA, ClearPcrs: f.anyPCR}
	var err error
	if req.Attest, err = onOff("--attest", f.attest); err != nil {
		return nil, err
	}
	if req.ApproveManagers, err = onOff("--approve-managers", f.approve); err != nil {
		return nil, err
	}
	if req.Allow, err = hashes("--allow", f.allow); err != nil {
		return nil, err
	}
	if req.Disallow, err = hashes("--disallow", f.disallow); err != nil {
		return nil, err
	}
	switch {
	case f.anyCA && len(f.cas) > 0:
		return nil, usagef("--ek-ca and --no-ek-ca exclude each other")
	case f.anyPCR && len(f.pcrs) > 0:
		return nil, usagef("--pcr and --no-pcr exclude each other")
	}
	for _, path := range f.cas {
		found, err := readCAs("--ek-ca", path)
		if err != nil {
			return nil, err
		}
		req.EkCas = append(req.EkCas, found...)
	}
	for _, text := range f.pcrs {
		number, values, ok := strings.Cut(text, "=")
		n, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil || n >= autolock.Registers {
			return nil, usagef("--pcr %q: give a register from 0 to %d and its value, as 7=9a3b…", text, autolock.Registers-1)
		}
		rule := &profilepb.PCRRule{Index: uint32(n)}
		if rule.Values, err = hashes("--pcr", strings.Split(values, ",")); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(req.Pcrs, func(o *profilepb.PCRRule) bool { return o.Index == rule.Index }) {
			return nil, usagef("--pcr names register %d twice: give its values in one, separated by commas", n)
		}
		req.Pcrs = append(req.Pcrs, rule)
	}
	if req.Attest == nil && req.ApproveManagers == nil && len(req.Allow)+len(req.Disallow)+len(req.EkCas)+len(req.Pcrs) == 0 && !f.anyCA && !f.anyPCR {
		return nil, usagef("nothing to change: see `redoubt admission set --help`")
	}
	return req, nil
}

func onOff(flag, text string) (*bool, error) {
	on := text == "on"
	switch text {
	case "":
		return nil, nil
	case "on", "off":
		return &on, nil
	}
	return nil, usagef("%s %q: use on or off", flag, text)
}

func hashes(flag string, texts []string) (out [][]byte, _ error) {
	for _, text := range texts {
		h, err := hex.DecodeString(strings.TrimSpace(text))
		if err != nil || len(h) != sha256.Size {
			return nil, usagef("%s %q: give a SHA-256 as %d hexadecimal digits", flag, text, 2*sha256.Size)
		}
		out = append(out, h)
	}
	return out, nil
}

// readCAs reads the certificates of a PEM file that a flag names.
func readCAs(flag, path string) (out [][]byte, _ error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil || len(raw) > maxCAFile {
		return nil, fmt.Errorf("%s %s: it cannot be read, or is longer than %d bytes", flag, path, maxCAFile)
	}
	for len(bytes.TrimSpace(raw)) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s %s: it holds something else than certificates in PEM", flag, path)
		}
		out, raw = append(out, block.Bytes), rest
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s %s: it holds no certificate", flag, path)
	}
	return out, nil
}
