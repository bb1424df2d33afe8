package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (a *app) networkCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "network", Short: "Networks of services",
		Long: `network keeps the networks of the cluster: a name, subnets, and who may reach
whom. What passes between nodes on them is always encrypted.`,
	}
	group(c)
	c.AddCommand(a.networkCreateCmd(), a.networkLsCmd(), a.networkInspectCmd(), a.networkRmCmd())
	return c
}

func (a *app) networkCreateCmd() *cobra.Command {
	spec := &meshpb.NetworkSpec{}
	var subnets, gateways, ranges, options, labels []string
	c := &cobra.Command{
		Use: "create [flags] NETWORK", Short: "Make a network",
		Long: `create makes a network. Without --subnet it gets one from the cluster's pool, with
room for about 190 tasks and 60 services; a subnet is for life, so give a larger
one (--subnet 10.20.0.0/16) where more may come. A
second --subnet is for the other family; each --gateway and --ip-range belongs
to the subnet that it lies in.

Drivers: overlay spans nodes; bridge is the same, but each node has its own of
it, from which nothing leaves the node; cni is what the administrator of a node
installed there, named by --opt conflist=NAME; none is no network.`,
		Example: `  redoubt network create front
  redoubt network create --driver cni --opt conflist=lan lan
  redoubt network create --internal --default-deny --subnet 10.9.0.0/24 --ip-range 10.9.0.128/25 db`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, got []string) (err error) {
			spec.Name = got[0]
			if spec.Labels, err = keyValues("--label", labels); err != nil {
				return err
			}
			if spec.Options, err = keyValues("--opt", options); err != nil {
				return err
			}
			if spec.Subnets, err = subnetsOf(subnets, gateways, ranges); err != nil {
				return err
			}
			if _, err := meshspec.Network(spec); err != nil {
				return usagef("%v", err)
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.CreateNetwork(ctx, &controlpb.CreateNetworkRequest{Spec: spec})
				if err == nil {
					a.warn(r.GetWarnings())
					fmt.Fprintln(a.Stdout, printable(r.GetId()))
				}
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&spec.Driver, "driver", "d", meshspec.Overlay, "driver of the network")
	f.StringArrayVar(&subnets, "subnet", nil, "subnet, as 10.9.0.0/24 (default: from the pool)")
	f.StringArrayVar(&gateways, "gateway", nil, "gateway (default: the subnet's first address)")
	f.StringArrayVar(&ranges, "ip-range", nil, "part of the subnet to take addresses from")
	f.BoolVar(&spec.Ipv6, "ipv6", false, "IPv6 as well")
	f.BoolVar(&spec.Internal, "internal", false, "no way out of the network")
	f.BoolVar(&spec.Attachable, "attachable", false, "containers that are no service's may join it")
	f.BoolVar(&spec.DefaultDeny, "default-deny", false, "services reach only what a policy allows")
	f.StringArrayVarP(&options, "opt", "o", nil, "option of the driver, KEY=VALUE")
	f.StringArrayVar(&labels, "label", nil, "label of the network")
	fixed(c, "driver", meshspec.Drivers()...)
	return c
}

// subnetsOf gives each gateway and range to the subnet that it lies in.
func subnetsOf(subnets, gateways, ranges []string) (out []*meshpb.Subnet, err error) {
	for _, text := range subnets {
		out = append(out, &meshpb.Subnet{Subnet: text})
	}
	place := func(flag, text string, a netip.Addr, field func(*meshpb.Subnet) *string) error {
		for _, s := range out {
			p, err := netip.ParsePrefix(s.Subnet)
			if err != nil || !p.Contains(a) {
				continue
			}
			if *field(s) != "" {
				return usagef("%s %q: subnet %s has one already", flag, text, s.Subnet)
			}
			*field(s) = text
			return nil
		}
		return usagef("%s %q lies in no --subnet that was given: give that subnet as well", flag, text)
	}
	for _, text := range gateways {
		g, err := netip.ParseAddr(text)
		if err != nil {
			return nil, usagef("--gateway %q is no address: write it as 10.9.0.1", text)
		}
		if err := place("--gateway", text, g, func(s *meshpb.Subnet) *string { return &s.Gateway }); err != nil {
			return nil, err
		}
	}
	for _, text := range ranges {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usagef("--ip-range %q is not in CIDR notation: write it as 10.9.0.128/25", text)
		}
		if err := place("--ip-range", text, r.Addr(), func(s *meshpb.Subnet) *string { return &s.IpRange }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func subnetTexts(n *meshpb.Network) string {
	var out []string
	for _, s := range n.GetSubnets() {
		out = append(out, s.GetSubnet())
	}
	return strings.Join(out, ",")
}

// networkJSON is one network in `network ls --format json`.
type networkJSON struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Driver   string            `json:"driver"`
	Kind     string            `json:"kind"`
	Subnets  string            `json:"subnets"`
	VNI      uint32            `json:"vni"`
	Internal bool              `json:"internal"`
	Labels   map[string]string `json:"labels"`
}

func kindName(k meshpb.Kind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "KIND_"))
}

func (a *app) networkLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List networks",
		Example: `  redoubt network ls --filter driver=overlay --format '{{.Name}} {{.Subnets}}'`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListNetworks(ctx, nil)
				if err != nil {
					return err
				}
				var ids []string
				objects := []networkJSON{}
				var rows [][]string
				for _, v := range all {
					n := v.GetNetwork()
					o := networkJSON{n.GetId(), n.GetSpec().GetName(), n.GetSpec().GetDriver(), kindName(n.GetKind()), subnetTexts(n), n.GetVni(), n.GetSpec().GetInternal(), n.GetSpec().GetLabels()}
					if !filter.begins("id", o.ID) || !filter.begins("name", o.Name) || !filter.begins("driver", o.Driver) || !filter.begins("kind", o.Kind) || !filter.label(o.Labels) {
						continue
					}
					ids, objects = append(ids, o.ID), append(objects, o)
					rows = append(rows, []string{out.id(o.ID), o.Name, o.Driver, o.Kind, o.Subnets})
				}
				return out.list(a.Stdout, ids, objects, []string{"ID", "NAME", "DRIVER", "KIND", "SUBNETS"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "driver", "kind=overlay|ingress|local", "label")
	return c
}

func (a *app) networkInspectCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "inspect NETWORK...", Short: "Show networks and who is on them",
		Example: `  redoubt network inspect front`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListNetworks(ctx, names)
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, all)
				}
				for i, v := range all {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					printNetwork(a.Stdout, v)
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func printNetwork(w io.Writer, v *controlpb.NetworkDetail) {
	n := v.GetNetwork()
	field(w, "ID", n.GetId())
	field(w, "Name", n.GetSpec().GetName())
	field(w, "Labels", pairs(n.GetSpec().GetLabels()))
	field(w, "Created", time.Unix(0, n.GetMeta().GetCreatedAt()).UTC().Format(time.RFC3339))
	field(w, "Driver", n.GetSpec().GetDriver())
	field(w, "Options", pairs(n.GetSpec().GetOptions()))
	field(w, "Kind", kindName(n.GetKind()))
	if n.GetVni() != 0 {
		field(w, "VNI", fmt.Sprint(n.GetVni()))
	}
	for _, s := range n.GetSubnets() {
		text := s.GetSubnet() + " gateway " + s.GetGateway()
		if s.GetIpRange() != "" {
			text += " range " + s.GetIpRange()
		}
		field(w, "Subnet", text)
	}
	field(w, "Internal", fmt.Sprint(n.GetSpec().GetInternal()))
	field(w, "Attachable", fmt.Sprint(n.GetSpec().GetAttachable()))
	field(w, "Default deny", fmt.Sprint(n.GetSpec().GetDefaultDeny()))
	field(w, "Policies", strings.Join(v.GetPolicies(), ", "))
	if len(v.GetUsedBy()) == 0 {
		field(w, "Services", strings.Join(v.GetServices(), ", "))
	}
	for _, s := range v.GetUsedBy() {
		mode := strings.ToLower(enumName(s.GetEndpointMode(), "ENDPOINT_MODE_"))
		if !meshspec.Given(n.GetSpec().GetDriver()) {
			mode = "dnsrr" // there are no virtual addresses to give
		}
		field(w, "Service", s.GetName()+" "+networkText(&controlpb.NetworkAddress{NetworkName: mode, Addresses: s.GetVips(), Aliases: s.GetAliases()}))
	}
	field(w, "Tasks", fmt.Sprint(v.GetTasks()))
	for _, e := range v.GetEndpoints() {
		text := fmt.Sprintf("%s %s on %s", e.GetTaskName(), strings.Join(e.GetAddresses(), " "), nodeLabel(e.GetNodeName(), e.GetNodeId()))
		if !e.GetServing() {
			text += ", not serving"
		}
		field(w, "Endpoint", text)
	}
	for _, x := range v.GetNotices() {
		field(w, "Notice", fmt.Sprintf("rules on %s were %s", nodeLabel(x.GetNodeName(), x.GetNodeId()), x.GetMessage()))
	}
	if more := int(v.GetTasks()) - len(v.GetEndpoints()); more > 0 && len(v.GetEndpoints()) > 0 {
		field(w, "Endpoint", fmt.Sprintf("and %d more", more))
	}
}

// networkText is what something has on a network: front 10.200.1.7 as web, www.
func networkText(v *controlpb.NetworkAddress) string {
	text := strings.Join(append([]string{v.GetNetworkName()}, v.GetAddresses()...), " ")
	if len(v.GetAliases()) > 0 {
		text += " as " + strings.Join(v.GetAliases(), ", ")
	}
	return text
}

func (a *app) networkRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm NETWORK...", Aliases: []string{"remove"}, Short: "Remove networks that nothing is on, with their policies",
		Example: `  redoubt network rm front`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemoveNetwork(ctx, &controlpb.RemoveNetworkRequest{Network: n})
				return n, err
			})
		},
	}
}

func networkNames(ctx context.Context, api *api) (out []string, err error) {
	all, err := api.ListNetworks(ctx, nil)
	for _, v := range all {
		out = append(out, v.GetNetwork().GetSpec().GetName())
	}
	return out, err
}

// parseNetworkUse reads --network NAME[,alias=…], or Docker's name=NAME,alias=….
func parseNetworkUse(s string) (*taskpb.NetworkUse, error) {
	u := &taskpb.NetworkUse{}
	for i, part := range strings.Split(s, ",") {
		k, v, ok := strings.Cut(part, "=")
		switch {
		case i == 0 && !ok && part != "":
			u.Network = part
		case k == "name" && ok && v != "" && u.Network == "":
			u.Network = v
		case k == "alias" && ok && v != "":
			u.Aliases = append(u.Aliases, v)
		default:
			return nil, usagef("--network %q: write it as NAME or NAME,alias=OTHER", s)
		}
	}
	if u.Network == "" {
		return nil, usagef("--network %q: name a network", s)
	}
	return u, nil
}

// endpointMode reads --endpoint-mode.
func endpointMode(text string) (schedulerpb.EndpointMode, error) {
	switch text {
	case "vip":
		return schedulerpb.EndpointMode_ENDPOINT_MODE_VIP, nil
	case "dnsrr":
		return schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR, nil
	}
	return 0, usagef("--endpoint-mode %q: use vip or dnsrr", text)
}

// networkFlags puts --network and --endpoint-mode into spec.
func networkFlags(spec *schedulerpb.ServiceSpec, networks []string, mode string) error {
	for _, text := range networks {
		u, err := parseNetworkUse(text)
		if err != nil {
			return err
		}
		spec.Task.Networks = append(spec.Task.Networks, u)
	}
	if mode == "" {
		return nil
	}
	var err error
	spec.EndpointMode, err = endpointMode(mode)
	return err
}
