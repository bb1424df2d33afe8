package cli

import (
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// hosts opens the lab and finds several of its hosts.
func (la *labApp) hosts(names []string) (*lab.Lab, []lab.Host, error) {
	l, err := lab.Open(la.name)
	if err != nil {
		return nil, nil, err
	}
	var hosts []lab.Host
	for _, n := range names {
		h, err := l.Host(n)
		if err != nil {
			return nil, nil, err
		}
		hosts = append(hosts, h)
	}
	return l, hosts, nil
}

func (la *labApp) cutCmd() *cobra.Command {
	var together bool
	c := &cobra.Command{
		Use: "cut NODE...", Short: "Cut hosts off the network; their processes go on",
		Long: `cut pulls the hosts' cables: what they send and what is sent to them vanishes
without an answer, and open connections hang. Their processes, addresses and
routes stay as they are. Each host is alone, or with --together they reach each
other and nobody else. heal plugs them in again.`,
		Example: `  redoubt lab cut manager-1

  # Two managers on one side, the others on the other
  redoubt lab cut --together manager-1 manager-2`,
		Args: args(1, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, hosts, err := la.hosts(args)
			if err != nil {
				return err
			}
			return l.Cut(hosts, together)
		},
	}
	c.Flags().BoolVar(&together, "together", false, "the named hosts still reach each other")
	return c
}

func (la *labApp) healCmd() *cobra.Command {
	return &cobra.Command{
		Use: "heal [NODE...]", Short: "Plug hosts in again; all of them where none is named",
		Example: `  redoubt lab heal
  redoubt lab heal manager-1`,
		Args: args(0, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, hosts, err := la.hosts(args)
			if err != nil {
				return err
			}
			return l.Heal(hosts)
		},
	}
}
