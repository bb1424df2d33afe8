package store

import (
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// A published port of mode ingress is one service's alone, in the whole cluster,
// at the addresses that it is published on. Who has it stands in the services, in
// whose index "port" others are found; that two do not take it at the same moment
// is what the records of the table published_ports are for: whoever publishes a
// port, in either mode, or ceases to, writes the one of its number.

// Numbers that are chosen where none was asked for.
const (
	firstChosen = 30000
	lastChosen  = 32767
)

// maxPublished bounds the ports of mode ingress of a cluster, as each is a socket or
// two on every entry node.
const maxPublished = 4096

// PortKey is the key in the services' index "port", and the id in PublishedPorts,
// of a port's number and protocol.
func PortKey(p *taskpb.Port) string {
	return fmt.Sprintf("%s/%d", spec.ProtocolName(p.GetProtocol()), p.GetPublished())
}

func portKeys(t *taskpb.TaskSpec) (out []string) {
	for _, p := range t.GetPorts() {
		if k := PortKey(p); !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// publish takes a service's ports in the transaction that stores its spec, gives
// back those that it had and does not want any more, and sees that there is an
// ingress network where it is needed and no other. It returns the spec with the
// numbers that were chosen. old is the service as it was, nil for a new one.
func publish(tx *raftstore.Tx, id string, sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) (*schedulerpb.ServiceSpec, error) {
	sp, err := choose(tx, id, sp, old)
	if err != nil {
		return nil, err
	}
	was, is := old.GetSpec().GetTask(), sp.GetTask()
	if err := room(tx, id, was, is); err != nil {
		return nil, err
	}
	for _, p := range is.GetPorts() {
		if slices.ContainsFunc(was.GetPorts(), func(q *taskpb.Port) bool { return equalPlace(p, q) }) {
			continue // others were refused because of it
		}
		if err := free(tx, id, p); err != nil {
			return nil, err
		}
		if err := notManagers(tx, p); err != nil {
			return nil, err
		}
		if err := claim(tx, p); err != nil {
			return nil, err
		}
	}
	if err := unpublish(tx, id, was, portKeys(is)); err != nil {
		return nil, err
	}
	return sp, carry(tx, id, spec.HasIngress(is))
}

// equalPlace: they are published at the same place in the same mode.
func equalPlace(a, b *taskpb.Port) bool {
	return a.GetPublished() == b.GetPublished() && a.GetProtocol() == b.GetProtocol() && a.GetHostIp() == b.GetHostIp() && a.GetMode() == b.GetMode()
}

// free refuses a port that another service has. Two of mode host are placed on
// different nodes, which placement sees to.
func free(tx *raftstore.Tx, id string, p *taskpb.Port) error {
	for s := range Services.By(tx, "port", PortKey(p)) {
		if s.GetId() == id {
			continue
		}
		for _, q := range s.GetSpec().GetTask().GetPorts() {
			if spec.PortsCollide(p, q) && (spec.Ingress(p) || spec.Ingress(q)) {
				return refuse("port %d/%s is published by service %s already%s: choose another port",
					p.GetPublished(), spec.ProtocolName(p.GetProtocol()), s.GetSpec().GetName(), where(q))
			}
		}
	}
	return nil
}

// notManagers refuses a port that a manager is reached at: a node of it that starts
// anew might find the port taken by what it publishes.
func notManagers(tx *raftstore.Tx, p *taskpb.Port) error {
	if !spec.Ingress(p) || p.GetProtocol() != taskpb.Port_PROTOCOL_TCP {
		return nil
	}
	for n := range pkistore.Nodes.All(tx) {
		if q := managersPort(n); q != nil && q.Published == p.GetPublished() && !n.GetDenied() {
			return refuse("port %d/tcp is what manager %s listens on: publish another", p.GetPublished(), n.GetName())
		}
	}
	return nil
}

// managersPort is the one that a manager is reached at; nil: it is none, or reached
// at one that nobody may publish.
func managersPort(n *pkipb.Node) *taskpb.Port {
	_, text, err := net.SplitHostPort(n.GetAddress())
	if err != nil || n.GetRole() != profilepb.Role_ROLE_MANAGER {
		return nil
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if p := (&taskpb.Port{Published: uint32(number), Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS}); err == nil && spec.MayPublish(p) {
		return p
	}
	return nil
}

// CheckManager refuses, in the transaction that makes a node a manager, one that is
// reached at a port that a service has on every entry node. As there, the record of
// the number is written: of both at the same moment one runs again.
func CheckManager(tx *raftstore.Tx, n *pkipb.Node) error {
	p := managersPort(n)
	if p == nil || tx.Level() < meshstore.Level {
		return nil
	}
	for s := range Services.By(tx, "port", PortKey(p)) {
		for _, q := range spec.IngressPorts(s.GetSpec().GetTask()) {
			if spec.PortsCollide(p, q) {
				return refuse("port %d/tcp is published by service %s%s: advertise this manager at another, or remove the port there",
					p.Published, s.GetSpec().GetName(), where(q))
			}
		}
	}
	return mark(tx, PortKey(p))
}

func where(p *taskpb.Port) string {
	text := ""
	if p.GetHostIp() != "" {
		text = " at " + p.GetHostIp()
	}
	if !spec.Ingress(p) {
		text += ", in mode host"
	}
	return text
}

// claim writes the record of a port. Below the level that has such records there
// is no mode ingress and nothing that it could be in the way of.
func claim(tx *raftstore.Tx, p *taskpb.Port) error {
	if tx.Level() < meshstore.Level && !spec.Ingress(p) {
		return nil
	}
	return mark(tx, PortKey(p))
}

// room refuses ports of mode ingress beyond those that nodes answer on. One number
// counts as often as there are addresses that it is published on.
func room(tx *raftstore.Tx, id string, was, is *taskpb.TaskSpec) error {
	n := len(spec.IngressPorts(is))
	if n <= len(spec.IngressPorts(was)) || (Services.Count(tx)+1)*spec.MaxIngressPorts <= maxPublished {
		return nil
	}
	for s := range Services.All(tx) {
		if s.GetId() != id {
			n += len(spec.IngressPorts(s.GetSpec().GetTask()))
		}
	}
	if n > maxPublished {
		return refuse("that would be %d published ports, and nodes answer on %d: remove some", n, maxPublished)
	}
	return nil
}

// mark writes the record of a number.
func mark(tx *raftstore.Tx, key string) error {
	next := &schedulerpb.PublishedPort{Id: key}
	if old, ok := PublishedPorts.Get(tx, key); ok {
		next = proto.CloneOf(old)
	}
	next.Changes++
	return PublishedPorts.Put(tx, next)
}

// unpublish gives back the ports of a service but those of keep. Where others have
// one, too, its record is written as well: of two who leave it at the same moment
// one runs again, and finds that it is the last.
func unpublish(tx *raftstore.Tx, id string, was *taskpb.TaskSpec, keep []string) error {
	for _, k := range portKeys(was) {
		if slices.Contains(keep, k) || tx.Level() < meshstore.Level {
			continue
		}
		if _, ok := PublishedPorts.Get(tx, k); !ok {
			continue // it was published before there were such records
		}
		if !othersAt(tx, id, k) {
			if err := PublishedPorts.Delete(tx, k); err != nil {
				return err
			}
			continue
		}
		if err := mark(tx, k); err != nil {
			return err
		}
	}
	return nil
}

func othersAt(tx *raftstore.Tx, id, key string) bool {
	for s := range Services.By(tx, "port", key) {
		if s.GetId() != id {
			return true
		}
	}
	return false
}

// carry makes or removes a service's ingress network.
func carry(tx *raftstore.Tx, id string, wanted bool) error {
	switch there := meshstore.Ingress(tx, id) != nil; {
	case wanted && !there:
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		return meshstore.CreateIngress(tx, c.GetClusterId(), id)
	case !wanted && there:
		return meshstore.DeleteIngress(tx, id)
	}
	return nil
}

// choose gives numbers to ports that have none: the one that the service had for
// that target before, or one that nobody has.
func choose(tx *raftstore.Tx, id string, sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) (*schedulerpb.ServiceSpec, error) {
	if !slices.ContainsFunc(sp.GetTask().GetPorts(), func(p *taskpb.Port) bool { return p.GetPublished() == 0 }) {
		return sp, nil
	}
	sp = proto.CloneOf(sp)
	has := func(n uint32, protocol taskpb.Port_Protocol, t *taskpb.TaskSpec) bool {
		return slices.ContainsFunc(t.GetPorts(), func(q *taskpb.Port) bool { return q.GetPublished() == n && q.GetProtocol() == protocol })
	}
	h := fnv.New32a()
	h.Write([]byte(id)) // never fails
	start := h.Sum32()
next:
	for _, p := range sp.Task.Ports {
		if p.Published != 0 {
			continue
		}
		for _, q := range old.GetSpec().GetTask().GetPorts() {
			chosen := q.GetPublished() >= firstChosen && q.GetPublished() <= lastChosen && spec.Ingress(q)
			if chosen && q.GetTarget() == p.Target && q.GetProtocol() == p.Protocol && q.GetHostIp() == p.HostIp && !has(q.GetPublished(), p.Protocol, sp.Task) {
				p.Published = q.GetPublished()
				continue next
			}
		}
		for i := range uint32(lastChosen - firstChosen + 1) {
			n := firstChosen + (start+i)%(lastChosen-firstChosen+1)
			if has(n, p.Protocol, sp.Task) {
				continue
			}
			if !othersAt(tx, "", PortKey(&taskpb.Port{Published: n, Protocol: p.Protocol})) {
				p.Published = n
				continue next
			}
		}
		return nil, refuse("no port from %d to %d is free: say which is to be published", firstChosen, lastChosen)
	}
	return sp, nil
}

// template is a task template as far as tasks have to be replaced for it: of
// ports of mode ingress it matters whether there are any.
func template(t *taskpb.TaskSpec) *taskpb.TaskSpec {
	if !spec.HasIngress(t) {
		return t
	}
	t = proto.CloneOf(t)
	t.Ports = append(spec.HostPorts(t), &taskpb.Port{Mode: taskpb.Port_MODE_INGRESS})
	return t
}
