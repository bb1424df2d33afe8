package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

func (a *app) lockChainCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "chain", Short: "Make, sign and verify the chain that says whose signatures count",
		Long: `A chain is a file that deployers pass on to each other and to nodes; nothing in it is
secret. A new link is made by one of them and signed by as many as the link before
asks for, each on their own machine. Without FILE it is lock/chain in redoubt's
configuration directory, the one that services are signed with.`,
	}
	group(c)
	c.AddCommand(a.lockChainCreateCmd(), a.lockChainExtendCmd(), a.lockChainSignCmd(), a.lockChainShowCmd())
	return c
}

// linkFlags are whose signatures count from a link on.
type linkFlags struct {
	threshold uint32
	keys      []string
}

func (l *linkFlags) add(c *cobra.Command) {
	c.Flags().Uint32Var(&l.threshold, "threshold", 0, "how many of the keys sign the next link")
	c.Flags().StringArrayVar(&l.keys, "key", nil, "a deployer's public key, RDTD1.… (again for each)")
}

func (l *linkFlags) parse() (out []*lockpb.Key, err error) {
	for _, text := range l.keys {
		k, err := lock.ParseKey(text)
		if err != nil {
			return nil, usagef("--key: %v", err)
		}
		out = append(out, k)
	}
	return out, nil
}

func (a *app) lockChainCreateCmd() *cobra.Command {
	var l linkFlags
	var cluster string
	c := &cobra.Command{
		Use: "create --cluster ID --threshold K --key KEY... [FILE]", Short: "Begin a chain",
		Long: `create makes the first link, which is signed by K of its own keys. Two of three is a
good choice: one lost key locks nobody out, and one stolen key changes nothing.`,
		Example: `  redoubt lock chain create --cluster abcdefghijklmnopqrstuvwxyz --threshold 2 \
    --key RDTD1.aaaa… --key RDTD1.bbbb… --key RDTD1.cccc…`,
		Args: args(0, 1),
		RunE: func(_ *cobra.Command, files []string) error {
			keys, err := l.parse()
			if err != nil {
				return err
			}
			if !ident.Valid(cluster) {
				return usagef("--cluster: give the cluster's id, which redoubt status shows")
			}
			path, err := a.chainFile(files)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(path); err == nil {
				return fmt.Errorf("%s is there already: give another file, or go on from it (redoubt lock chain extend)", path)
			}
			chain, err := lock.New(cluster, l.threshold, keys)
			if err != nil {
				return usagef("%v", err)
			}
			return a.keepChain(path, chain)
		},
	}
	l.add(c)
	c.Flags().StringVar(&cluster, "cluster", "", "id of the cluster")
	return c
}

func (a *app) keepChain(path string, c *lock.Chain) error {
	if err := writeChain(path, c); err != nil {
		return err
	}
	return a.printChain(c)
}

func (a *app) lockChainExtendCmd() *cobra.Command {
	var l linkFlags
	var retire, end bool
	c := &cobra.Command{
		Use: "extend [--threshold K --key KEY...] [--retire] [FILE]", Short: "Add a link: other keys, or an end",
		Long: `extend adds a link to the chain, which counts once it is signed by as many keys as
the link before asks for. Keys that are not named again count no more: what they
signed is refused, so sign services anew before nodes see the new link.`,
		Example: `  # Another key in the place of one that was lost
  redoubt lock chain extend --threshold 2 --key RDTD1.aaaa… --key RDTD1.bbbb… --key RDTD1.dddd…

  # The same keys; whatever was signed until now counts no more
  redoubt lock chain extend --retire

  # No lock any more
  redoubt lock chain extend --end`,
		Args: args(0, 1),
		RunE: func(_ *cobra.Command, files []string) error {
			keys, err := l.parse()
			if err != nil {
				return err
			}
			if end && (len(keys) > 0 || l.threshold > 0 || retire) || (len(keys) == 0) != (l.threshold == 0) || !end && !retire && len(keys) == 0 {
				return usagef("give --threshold and every --key, or --retire, or --end alone")
			}
			path, err := a.chainFile(files)
			if err != nil {
				return err
			}
			chain, err := readChain(path)
			if err != nil {
				return err
			}
			next := &lockpb.Link{Ends: end, Threshold: l.threshold, Keys: keys}
			if len(keys) == 0 && !end {
				next.Threshold, next.Keys = chain.Head().GetThreshold(), chain.Head().GetKeys()
			}
			if retire {
				next.VoidBefore = time.Now().UnixMilli()
			}
			if chain, err = chain.Extend(next); err != nil {
				return err
			}
			return a.keepChain(path, chain)
		},
	}
	l.add(c)
	c.Flags().BoolVar(&retire, "retire", false, "what was signed for services until now counts no more")
	c.Flags().BoolVar(&end, "end", false, "the lock is over")
	return c
}

func (a *app) lockChainSignCmd() *cobra.Command {
	var with string
	c := &cobra.Command{
		Use: "sign --with KEY [FILE]", Short: "Sign the last link of a chain",
		Example: `  redoubt lock chain sign --with ann
  redoubt lock chain sign --with ann /tmp/chain`,
		Args: args(0, 1),
		RunE: func(_ *cobra.Command, files []string) error {
			if with == "" {
				return usagef("--with: name the deployer's key (redoubt lock key ls)")
			}
			path, err := a.chainFile(files)
			if err != nil {
				return err
			}
			chain, err := readChain(path)
			if err != nil {
				return err
			}
			if chain.Missing() == 0 {
				return errors.New("the chain has all signatures that it needs")
			}
			key, err := a.openDeployer(with)
			if err != nil {
				return err
			}
			defer clear(key)
			if chain, err = chain.Sign(key); err != nil {
				return err
			}
			return a.keepChain(path, chain)
		},
	}
	c.Flags().StringVar(&with, "with", "", "the deployer's key to sign by")
	_ = c.RegisterFlagCompletionFunc("with", a.deployerNames) // fails only where a flag gets two
	return c
}

func (a *app) lockChainShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [FILE]", Aliases: []string{"verify"}, Short: "Verify a chain, and show it",
		Long: `show verifies every link of a chain, without any node, and prints it. The digest of
the head is what people compare. It exits with 1 where the chain does not verify or
lacks signatures.`,
		Example: `  redoubt lock chain show
  redoubt lock chain show /tmp/chain`,
		Args: args(0, 1),
		RunE: func(_ *cobra.Command, files []string) error {
			path, err := a.chainFile(files)
			if err != nil {
				return err
			}
			chain, err := readChain(path)
			if err != nil {
				return err
			}
			if err := a.printChain(chain); err != nil || chain.Missing() == 0 {
				return err
			}
			return errors.New("the chain lacks signatures: no node takes it")
		},
	}
}
