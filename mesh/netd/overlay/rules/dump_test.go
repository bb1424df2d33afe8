package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// dump is all of the tables but what packets and history put into them: counts
// and handles.
func (n *node) dump() (text string) {
	n.lab.t.Helper()
	within(n.lab.t, n.ns, func() (err error) { text, err = dump(); return err })
	return text
}

// request asks what the library has no words for.
func request(kind, flags int, family nftables.TableFamily, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}

func dump() (string, error) {
	var lines []string
	for _, table := range []*nftables.Table{arpTable(), inetTable()} {
		name := nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(table.Name))
		for kind, keep := range map[int][]uint16{
			unix.NFT_MSG_GETCHAIN: {unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE, unix.NFTA_CHAIN_USE},
			unix.NFT_MSG_GETOBJ:   {unix.NFTA_OBJ_NAME, unix.NFTA_OBJ_TYPE, unix.NFTA_OBJ_USE},
			unix.NFT_MSG_GETRULE:  {unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS},
		} {
			msgs, err := request(kind, unix.NLM_F_DUMP, table.Family, name)
			if err != nil {
				return "", err
			}
			places := map[string]int{}
			for _, m := range msgs {
				attrs, err := nl.ParseRouteAttr(m[min(len(m), nl.SizeofNfgenmsg):])
				if err != nil {
					return "", err
				}
				line, chain, ours := fmt.Sprintf("%d/%d", table.Family, kind), "", false
				for _, a := range attrs {
					switch t := a.Attr.Type & nl.NLA_TYPE_MASK; {
					case t == unix.NFTA_RULE_TABLE:
						ours = strings.TrimRight(string(a.Value), "\x00") == table.Name
					case slices.Contains(keep, t):
						line += fmt.Sprintf(" %d=%q", t, a.Value)
						if kind == unix.NFT_MSG_GETRULE && t == unix.NFTA_RULE_CHAIN {
							chain = string(a.Value) // rules of a chain have an order
							line += fmt.Sprintf(" #%d", places[chain])
							places[chain]++
						}
					}
				}
				if ours {
					lines = append(lines, line)
				}
			}
		}
	}
	err := kernel.WithNFT(func(c *nftables.Conn) error {
		for i := range sets {
			elements, err := c.GetSetElements(set(inetTable(), i))
			if err != nil {
				lines = append(lines, "no "+sets[i].Name)
				continue
			}
			for _, e := range elements {
				lines = append(lines, fmt.Sprintf("%s %x %x", sets[i].Name, e.Key, e.Val))
			}
		}
		return nil
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n"), err
}
