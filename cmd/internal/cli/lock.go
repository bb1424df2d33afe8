package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

func (a *app) lockCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "lock",
		Short: "Have nodes run only what a deployer signed",
		Long: `Under the deployment lock a node runs a service only where a deployer has signed
exactly that: image, command, environment, mounts, secrets, configs, networks. A
manager that was taken over can then start nothing else there, and hand no secret to
what nobody signed.

Whose signatures count stands in a chain: its first link names keys and how many of
them sign the next link. Each node keeps the chain and verifies it by itself; it is
told of it by its own root (redoubt lock trust) or by the join token, and no manager
changes that. Deployers' keys are made and used on their own machines (redoubt lock
key), in redoubt/lock of the configuration directory, encrypted by age.

  redoubt lock key create ann                       # each deployer
  redoubt lock chain create --cluster ID --threshold 2 \
      --key RDTD1.… --key RDTD1.… --key RDTD1.…     # one of them
  redoubt lock chain sign --with ann                # as many as the threshold says
  redoubt service update --sign-with ann --sign-as-is web
  redoubt lock trust chain                          # root, on each node`,
	}
	group(c)
	c.AddCommand(a.lockKeyCmd(), a.lockChainCmd(), a.lockTrustCmd(), a.lockStatusCmd(), a.lockForgetCmd())
	return c
}

// lockDir is where deployers' keys are, and their chain.
func (a *app) lockDir() (string, error) {
	s, err := a.contexts()
	if err != nil {
		return "", errors.New("there is no directory for deployers' keys: set XDG_CONFIG_HOME or HOME to an absolute path")
	}
	return filepath.Join(filepath.Dir(s.Dir), "lock"), nil
}

func (a *app) deployers() (contexts.Deployers, error) {
	dir, err := a.lockDir()
	return contexts.Deployers{Dir: dir}, err
}

func (a *app) openDeployer(name string) (ed25519.PrivateKey, error) {
	d, err := a.deployers()
	if err != nil {
		return nil, err
	}
	return d.Open(name, func(h contexts.DeployerHeader) (contexts.Key, error) {
		return a.openKey("deployer's key "+h.Name, h.Identity)
	})
}

func (a *app) lockKeyCmd() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Make and list deployers' keys on this machine"}
	group(c)
	c.AddCommand(a.lockKeyCreateCmd(), a.lockKeyLsCmd())
	return c
}

func (a *app) lockKeyCreateCmd() *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a deployer's key, and print its public half",
		Long: `create makes a key on this machine, which should be no node of the cluster, encrypts
it to a passphrase or to an age identity of your own, and prints the public half: that
is what a chain names.`,
		Example: `  redoubt lock key create ann
  redoubt lock key create ann --age-identity ~/.age/key.txt`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, names []string) error {
			if err := contexts.CheckName(names[0]); err != nil {
				return usagef("%v", err)
			}
			d, err := a.deployers()
			if err != nil {
				return err
			}
			k, err := a.newContextKey(identity)
			if err != nil {
				return err
			}
			h, err := d.Create(names[0], lock.NewSigner(), k)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Stdout, h.Public)
			return err
		},
	}
	c.Flags().StringVar(&identity, "age-identity", "", "encrypt to the first identity in this age identity `file`, instead of to a passphrase")
	return c
}

func (a *app) lockKeyLsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the deployers' keys on this machine",
		Example: `  redoubt lock key ls`,
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			d, err := a.deployers()
			if err != nil {
				return err
			}
			all, err := d.List()
			if err != nil {
				return err
			}
			var rows [][]string
			for _, h := range all {
				opened, bad := "passphrase", ""
				if h.Identity != "" {
					opened = h.Identity
				}
				if h.Damaged != nil {
					opened, bad = "", h.Damaged.Error()
				}
				rows = append(rows, []string{h.Name, h.Public, opened, bad})
			}
			return table(a.Stdout, []string{"NAME", "PUBLIC KEY", "OPENED BY", "ERROR"}, rows)
		},
	}
}

// chainFile is the one that is named, or the deployer's own.
func (a *app) chainFile(named []string) (string, error) {
	if len(named) > 0 && named[0] != "" {
		return named[0], nil
	}
	dir, err := a.lockDir()
	return filepath.Join(dir, "chain"), err
}

func readChain(path string) (*lock.Chain, error) {
	b, err := atomicfile.ReadBounded(path, 2*lock.MaxChain)
	if err != nil {
		return nil, fmt.Errorf("cannot read the chain: %w", err)
	}
	c, err := lock.ParseChain(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func writeChain(path string, c *lock.Chain) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(c.Text()+"\n"))
}

// rundLock asks this node's rund, as root of the node: neither redoubtd nor a manager
// is in between.
func (a *app) rundLock(ctx context.Context, req *rundpb.LockRequest) (*rundpb.LockResponse, error) {
	path, err := a.socketPath()
	if err != nil {
		return nil, err
	}
	path = filepath.Join(filepath.Dir(path), "rund.sock")
	if _, err := os.Stat(path); err != nil {
		return nil, failf(ExitUnreachable, "no node answers at %s: is redoubt-node running here, and is this root?", path)
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials())) // a unix socket, checked by peer credentials
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := rundpb.NewRundClient(conn).Lock(ctx, req)
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return resp, nil
}

func (a *app) lockTrustCmd() *cobra.Command {
	return &cobra.Command{
		Use: "trust FILE", Short: "Have this node run only what is signed by a chain's keys",
		Long: `trust has this node follow the chain in FILE: from then on it begins nothing that is
not signed by a key of the chain's head. It is for root of the node, and for the first
chain, or one that goes on from what the node follows. Compare the digest that is
printed with what the deployers say (redoubt lock chain show).

What runs already goes on, and gets no secret any more unless it is signed.`,
		Example: `  redoubt lock trust /root/chain`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, files []string) error {
			chain, err := readChain(files[0])
			if err != nil {
				return err
			}
			r, err := a.rundLock(c.Context(), &rundpb.LockRequest{Change: &rundpb.LockRequest_Chain{Chain: chain.Proto()}})
			if err != nil {
				return err
			}
			return a.printLock(r)
		},
	}
}

func (a *app) lockStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what this node trusts",
		Long: `status shows what this node itself keeps of the deployment lock, as only its root can
ask. What other nodes say of theirs: redoubt node inspect, feature deployment-lock.`,
		Example: `  redoubt lock status`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.rundLock(c.Context(), &rundpb.LockRequest{})
			if err != nil {
				return err
			}
			return a.printLock(r)
		},
	}
}

func (a *app) printLock(r *rundpb.LockResponse) error {
	on := "off: this node runs what managers say"
	if r.GetOn() {
		on = "on: this node runs signed services alone"
	}
	field(a.Stdout, "Lock", on)
	if pin := r.GetState().GetPin(); len(pin) > 0 {
		field(a.Stdout, "Pinned link", lock.FormatDigest(pin))
	}
	if r.GetState().GetChain() == nil {
		return nil
	}
	c, err := lock.ReadChain(r.GetState().GetChain())
	if err != nil {
		return err
	}
	field(a.Stdout, "Services", fmt.Sprintf("%d ran here as they were signed; nothing older of these begins", len(r.GetState().GetSerials())))
	return a.printChain(c)
}

func (a *app) lockForgetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "forget", Short: "Have this node run whatever managers say",
		Long: `forget takes the deployment lock off this node, for its root alone. All deployers
together do it for every node by a link that ends the lock (redoubt lock chain extend
--end). A node that left its cluster keeps the lock until then.`,
		Example: `  redoubt lock forget`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.rundLock(c.Context(), &rundpb.LockRequest{Change: &rundpb.LockRequest_Forget{Forget: true}})
			if err != nil {
				return err
			}
			return a.printLock(r)
		},
	}
}

func (a *app) printChain(c *lock.Chain) error {
	var rows [][]string
	for n, l := range c.Links() {
		counts := fmt.Sprintf("%d of %d", l.GetThreshold(), len(l.GetKeys()))
		if l.GetEnds() {
			counts = "ends the lock"
		}
		void := ""
		if v := l.GetVoidBefore(); v > 0 {
			void = time.UnixMilli(v).UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{fmt.Sprint(n), counts, fmt.Sprint(len(c.Signatures(n))), void, lock.FormatDigest(c.Digest(n))})
	}
	field(a.Stdout, "Cluster", c.Head().GetClusterId())
	field(a.Stdout, "Head", lock.FormatDigest(c.HeadDigest()))
	for _, k := range c.Head().GetKeys() {
		field(a.Stdout, "Key", lock.FormatKey(k))
	}
	if err := table(a.Stdout, []string{"LINK", "KEYS", "SIGNATURES", "VOIDS BEFORE", "DIGEST"}, rows); err != nil {
		return err
	}
	if n := c.Missing(); n > 0 {
		_, err := fmt.Fprintf(a.Stdout, "The last link lacks %s: redoubt lock chain sign\n", plural(n, "signature"))
		return err
	}
	return nil
}
