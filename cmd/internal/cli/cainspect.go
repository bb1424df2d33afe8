package cli

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
)

func (a *app) caInspectCmd() *cobra.Command {
	var out output
	var asPEM bool
	c := &cobra.Command{
		Use:   "inspect",
		Short: "Show the chain of CAs, their ages, and which nodes have certificates of which",
		Long: `inspect lists the root, the issuing CA, and those of before that something still
needs; then the nodes, with the CA that each one's certificate is of.

ALARM tells of a certificate that was shown and that nobody gave out: the key of a
CA is in other hands. Replacing the root ends that; where the certificate is of the
external CA, another one or none does. With --pem it prints the certificates
instead.`,
		Example: `  redoubt ca inspect

  # The roots, for openssl
  redoubt ca inspect --pem > ca.pem`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.InspectCA(ctx, &controlpb.InspectCARequest{})
				if err != nil {
					return err
				}
				if asPEM {
					return a.printPEM(r)
				}
				return a.printCA(&out, r)
			})
		},
	}
	c.Flags().BoolVar(&asPEM, "pem", false, "print the certificates")
	out.flags(c, false)
	return c
}

func (a *app) printPEM(r *controlpb.InspectCAResponse) error {
	for _, v := range r.Authorities {
		fmt.Fprintf(a.Stdout, "# %s\n", enumName(v.Kind, "KIND_"))
		if err := pem.Encode(a.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printCA(out *output, r *controlpb.InspectCAResponse) error {
	if out.structured() {
		return out.list(a.Stdout, nil, protoJSON(r), nil, nil)
	}
	now := time.Now()
	var cas, nodes [][]string
	names := map[string]string{}
	for _, v := range r.Authorities {
		sum := sha256.Sum256(v.Certificate)
		kind, short := enumName(v.Kind, "KIND_"), hex.EncodeToString(sum[:6])
		cert, err := x509.ParseCertificate(v.Certificate)
		if err != nil {
			return fmt.Errorf("the %s is malformed", kind)
		}
		count := strconv.Itoa(int(v.Nodes))
		if v.Kind == controlpb.CAView_KIND_CROSS {
			count = "-"
		} else {
			names[string(sum[:])] = short
		}
		cas = append(cas, []string{kind, short, printable(cert.Subject.CommonName), ago(cert.NotBefore.Add(pki.CABackdate), now), cert.NotAfter.UTC().Format(time.DateOnly), count})
	}
	for _, n := range r.Nodes {
		state := "current"
		switch {
		case !n.Current:
			state = "of before"
		case n.Connected && !n.Trusts:
			state = "current, does not trust every root yet"
		}
		if !n.Connected {
			state += ", away"
		}
		of := names[string(n.Issuer)]
		if of == "" {
			of = "-"
		}
		nodes = append(nodes, []string{shortID(n.Id), printable(n.Name), enumName(n.Role, "ROLE_"), of, time.Unix(n.LeafNotAfter, 0).UTC().Format(time.RFC3339), state})
	}
	fmt.Fprintf(a.Stdout, "Keyset epoch %d\n", r.KeysetEpoch)
	if line := phaseLines[r.Rotation.GetPhase()]; line != "" {
		fmt.Fprintf(a.Stdout, "The root is being replaced since %s: %s.\n", time.Unix(0, r.Rotation.BeganAt).UTC().Format(time.RFC3339), line)
	} else if r.NextRotation != 0 {
		fmt.Fprintf(a.Stdout, "The issuing CA is replaced by itself on %s.\n", time.Unix(r.NextRotation, 0).UTC().Format(time.DateOnly))
	}
	if r.WorkerLeafSeconds != 0 {
		fmt.Fprintf(a.Stdout, "Workers' certificates are good for %v.\n", time.Duration(r.WorkerLeafSeconds)*time.Second)
	}
	if r.External != nil {
		a.printExternal(r)
	}
	for _, u := range r.Unjournalled {
		fmt.Fprintf(a.Stdout, "ALARM: a certificate of %s %s was shown that nobody gave out (serial %s, from %s, %s): %s.\n", enumName(u.Role, "ROLE_"),
			printable(shortID(u.NodeId)), printable(u.Serial), printable(u.Source), time.Unix(u.At, 0).UTC().Format(time.RFC3339), pki.UnjournalledRemedy(u))
	}
	fmt.Fprintln(a.Stdout)
	if err := table(a.Stdout, []string{"CA", "SHA-256", "NAME", "AGE", "UNTIL", "NODES"}, cas); err != nil {
		return err
	}
	fmt.Fprintln(a.Stdout)
	return table(a.Stdout, []string{"NODE", "HOSTNAME", "ROLE", "CA", "CERTIFICATE UNTIL", "STATE"}, nodes)
}
