package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
)

// runtime is what libcni calls its argument.
func (r *record) runtime(netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: r.Task, NetNS: netns, IfName: r.Interface}
}

func (r *record) attachment() *cnipb.Attachment {
	return &cnipb.Attachment{TaskId: r.Task, NetworkId: r.Network, Interface: r.Interface, Addresses: r.Addresses, Mac: r.MAC}
}

// before040 reports whether the conflist is of a version without CHECK.
func (r *record) before040() bool {
	v, err := parse(r.Config)
	m, _ := v.(map[string]any)
	version, _ := m["cniversion"].(string)
	return err != nil || strings.HasPrefix(version, "0.3.")
}

// take reads a plugin's result: the sandbox's end of it.
func (r *record) take(res types.Result) error {
	if res == nil {
		return errors.New("the last plugin gave no result")
	}
	got, err := types100.NewResultFromResult(res)
	if err != nil {
		return fmt.Errorf("a result that cannot be read: %w", err)
	}
	if len(got.IPs) > maxAddresses {
		return fmt.Errorf("a result with %d addresses: at most %d are taken", len(got.IPs), maxAddresses)
	}
	for _, i := range got.Interfaces {
		if i != nil && i.Name == r.Interface && i.Sandbox != "" {
			mac, err := net.ParseMAC(i.Mac)
			if err == nil {
				r.MAC = mac.String()
			}
		}
	}
	for _, ip := range got.IPs {
		// An index is of the interface that has it; of others it is the host's.
		if ip.Interface != nil && (*ip.Interface < 0 || *ip.Interface >= len(got.Interfaces) || got.Interfaces[*ip.Interface].Name != r.Interface) {
			continue
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		bits, size := ip.Address.Mask.Size()
		if !ok || size == 0 || a.Unmap().BitLen() < bits {
			return errors.New("a result with an address that is none")
		}
		r.Addresses = append(r.Addresses, netip.PrefixFrom(a.Unmap(), bits).String())
	}
	return nil
}
