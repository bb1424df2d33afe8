package overlay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// keeper is a netd that outlives the processes that tell it.
type keeper struct {
	mu       sync.Mutex
	note     []byte
	overlay  uint64
	ingress  uint64
	declared []*netdpb.OverlayRequest
	notes    int
}

func (k *keeper) Call(_ context.Context, req, resp proto.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := resp.(*netdpb.Response)
	switch v := req.(*netdpb.Request).GetVerb().(type) {
	case *netdpb.Request_Overlay:
		k.overlay = v.Overlay.Generation
		k.declared = append(k.declared, v.Overlay)
		out.Result = &netdpb.Response_Overlay{Overlay: &netdpb.OverlayResponse{}}
	case *netdpb.Request_Ingress:
		k.ingress = v.Ingress.Generation
		out.Result = &netdpb.Response_Ingress{Ingress: &netdpb.IngressResponse{}}
	case *netdpb.Request_OverlayState:
		out.Result = &netdpb.Response_OverlayState{OverlayState: &netdpb.OverlayStateResponse{Generation: k.overlay}}
	case *netdpb.Request_IngressState:
		out.Result = &netdpb.Response_IngressState{IngressState: &netdpb.IngressStateResponse{Generation: k.ingress}}
	case *netdpb.Request_Note:
		if v.Note.Keep != nil {
			k.note, k.notes = v.Note.Keep, k.notes+1
		}
		r := &netdpb.NoteResponse{}
		if len(k.note) > 0 {
			sum := sha256.Sum256(k.note)
			r.Sum = sum[:]
		}
		if v.Note.Read {
			r.Note = k.note
		}
		out.Result = &netdpb.Response_Note{Note: r}
	}
	return nil
}

func (k *keeper) count() (notes, declared int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.notes, len(k.declared)
}

// A process is one life of redoubtd, as far as networks go.
type process struct {
	*Manager
	mu    sync.Mutex
	peers []Node
	nodes map[string][]string
	says  map[string]map[string]bool
	end   func()
}

const (
	aSelf, aPeer       = "aaaaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaaae"
	aNet, aService     = "caaaaaaaaaaaaaaaaaaaaaaaaa", "daaaaaaaaaaaaaaaaaaaaaaaaa"
	aTask, aTask2, his = "eaaaaaaaaaaaaaaaaaaaaaaaaa", "eaaaaaaaaaaaaaaaaaaaaaaaae", "faaaaaaaaaaaaaaaaaaaaaaaaa"
	owner              = "cluster/" + aSelf
)

func begin(t *testing.T, netd *keeper, owner string, until time.Time) *process {
	t.Helper()
	p := &process{nodes: map[string][]string{}, says: map[string]map[string]bool{}}
	m, err := New(Config{Netd: netd, Named: away{}, Owner: owner, Until: func() time.Time { return until },
		Peers: func(_ Node, peers []Node) { p.mu.Lock(); defer p.mu.Unlock(); p.peers = peers },
		Share: func(network string, nodes []string) { p.mu.Lock(); defer p.mu.Unlock(); p.nodes[network] = nodes },
		Tell:  func(network string, tasks map[string]bool) { p.mu.Lock(); defer p.mu.Unlock(); p.says[network] = tasks }})
	if err != nil {
		t.Fatal(err)
	}
	p.Manager = m
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	p.end = sync.OnceFunc(func() { cancel(); <-done })
	return p
}

func (p *process) saying() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.says[aNet])
}

func keptView() *View {
	addr := func(b byte) Addrs { return Addrs{netip.AddrFrom4([4]byte{10, 200, 0, b})} }
	return &View{Self: Node{ID: aSelf, Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Pools: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/13")},
		Reach: mesh.Reach{Nodes: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Published: []portname.Port{{Number: 80}, {UDP: true, Number: 53}}},
		Peers: map[string]Node{aPeer: {ID: aPeer, Mesh: netip.MustParsePrefix("198.18.0.2/15"), Underlay: "192.0.2.2:7946"}},
		Networks: map[string]*Network{aNet: {ID: aNet, Name: "back", Kind: meshpb.Kind_KIND_OVERLAY, VNI: 4096,
			Subnets: []Subnet{{netip.MustParsePrefix("10.200.0.0/24"), netip.MustParseAddr("10.200.0.1")}},
			Endpoints: map[string]Endpoint{aTask: {Service: aService, Node: aSelf, Addrs: addr(10), Serving: true},
				aTask2: {Service: aService, Node: aSelf, Addrs: addr(11), Serving: true}, his: {Service: aService, Node: aPeer, Addrs: addr(12), Serving: true}},
			Services: map[string]Service{aService: {Name: "web", VIPs: addr(200)}},
			Rules:    []Rule{{ID: "p/0", From: "web", To: "web", Protocol: 6, First: 80, Last: 80}}}}}
}

func keptTasks() []Task {
	var out []Task
	for i, id := range []string{aTask, aTask2} {
		out = append(out, Task{ID: id, ServiceID: aService, ServiceName: "web", Netns: id, Serving: true, Bridged: true,
			Attachments: []Attachment{{Network: aNet, Addrs: Addrs{netip.AddrFrom4([4]byte{10, 200, 0, byte(10 + i)})}}}})
	}
	return out
}

// lived is what a process leaves behind that knew all of it.
func lived(t *testing.T) *keeper {
	t.Helper()
	netd := &keeper{}
	p := begin(t, netd, owner, time.Now().Add(time.Hour))
	p.SetView(keptView())
	p.SetTasks(keptTasks())
	p.SetNamespaces([]string{aNet}, nil)
	time.Sleep(3 * noteEvery)
	synctest.Wait()
	p.end()
	if notes, declared := netd.count(); notes == 0 || notes > 2 || declared == 0 {
		t.Fatalf("netd was given %d notes and %d declarations", notes, declared)
	}
	return netd
}

// A process that begins without managers goes on where the former one ended: with
// its peers, and with what it says of its tasks.
func TestKnownWithoutManagers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		netd := lived(t)
		_, before := netd.count()
		p := begin(t, netd, owner, time.Now().Add(time.Hour))
		defer p.end()
		synctest.Wait()
		if len(p.peers) != 1 || p.peers[0].Underlay != "192.0.2.2:7946" || !slices.Equal(p.nodes[aNet], []string{aSelf, aPeer}) {
			t.Fatalf("peers %v, nodes %v", p.peers, p.nodes)
		}
		if got := p.saying(); !maps.Equal(got, map[string]bool{aTask: true, aTask2: true}) {
			t.Errorf("it says %v", got)
		}
		netd.mu.Lock()
		last := netd.declared[len(netd.declared)-1]
		netd.mu.Unlock()
		if len(netd.declared) != before+1 || last.Base != 0 || len(last.Networks) != 1 || len(last.Networks[0].Endpoints) != 3 {
			t.Errorf("netd was told %v", last)
		}
		// A task fails, another is gone: known at once, and taken back when it is sound.
		p.Seen(map[string]bool{aTask: false})
		if got := p.saying(); !maps.Equal(got, map[string]bool{aTask: false, aTask2: false}) {
			t.Errorf("after they failed it says %v", got)
		}
		p.Seen(map[string]bool{aTask: true})
		if got := p.saying(); !maps.Equal(got, map[string]bool{aTask: true, aTask2: false}) {
			t.Errorf("it says %v", got)
		}
		p.Heard(aPeer, aNet, map[string]bool{his: false})
		synctest.Wait()
		p.Manager.mu.Lock()
		if p.view.Networks[aNet].Endpoints[his].Serving {
			t.Error("the other's word counts for nothing")
		}
		p.Manager.mu.Unlock()
		// It can be started once more.
		time.Sleep(3 * noteEvery)
		p.end()
		q := begin(t, netd, owner, time.Now().Add(time.Hour))
		defer q.end()
		synctest.Wait()
		if got := q.saying(); !maps.Equal(got, map[string]bool{aTask: true, aTask2: false}) {
			t.Errorf("the third process says %v", got)
		}
		// A manager's word is all there is.
		v := keptView()
		v.Peers = map[string]Node{}
		delete(v.Networks[aNet].Endpoints, his)
		q.SetView(v)
		q.SetTasks(keptTasks()[:1])
		q.Seen(map[string]bool{aTask: false})
		synctest.Wait()
		if len(q.peers) != 0 || !q.saying()[aTask] {
			t.Errorf("peers %v, says %v", q.peers, q.saying())
		}
	})
}

// What is not surely the last that this member knew is not believed.
func TestKeptIsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		owner string
		until time.Duration
		do    func(*keeper)
	}{
		"another member":  {"cluster/other", time.Hour, func(*keeper) {}},
		"a certificate":   {owner, 0, func(*keeper) {}},
		"told more":       {owner, time.Hour, func(k *keeper) { k.overlay++ }},
		"told more ports": {owner, time.Hour, func(k *keeper) { k.ingress++ }},
		"restarted":       {owner, time.Hour, func(k *keeper) { k.overlay, k.ingress, k.note = 0, 0, nil }},
		"a peer went":     {owner, time.Hour, func(k *keeper) { k.note = nil }},
		"cut off":         {owner, time.Hour, func(k *keeper) { k.note = k.note[:len(k.note)/2] }},
		"damaged":         {owner, time.Hour, func(k *keeper) { k.note = bytes.Repeat([]byte{1}, 100) }},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				netd := lived(t)
				c.do(netd)
				_, before := netd.count()
				p := begin(t, netd, c.owner, time.Now().Add(c.until))
				defer p.end()
				p.Seen(map[string]bool{aTask: true})
				time.Sleep(5 * noteEvery)
				synctest.Wait()
				if _, declared := netd.count(); len(p.peers)+len(p.nodes)+len(p.says) > 0 || declared != before {
					t.Errorf("peers %v, nodes %v, says %v, %d declarations", p.peers, p.nodes, p.says, declared-before)
				}
			})
		})
	}
}

// A manager that speaks first is not talked over.
func TestManagerSpeaksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		netd := lived(t)
		p := begin(t, netd, owner, time.Now().Add(time.Hour))
		defer p.end()
		v := keptView()
		v.Peers, v.Networks = map[string]Node{}, map[string]*Network{}
		p.SetView(v)
		time.Sleep(3 * noteEvery)
		synctest.Wait()
		if len(p.peers)+len(p.nodes) > 0 {
			t.Errorf("peers %v, nodes %v", p.peers, p.nodes)
		}
	})
}

// What is kept is what JSON sees: all of it, or the next process would know less than
// it believes.
func TestAllIsKept(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Map, reflect.Pointer, reflect.Slice, reflect.Array:
			walk(typ.Elem())
		case reflect.Interface, reflect.Func, reflect.Chan:
			t.Errorf("%s cannot be kept", typ)
		case reflect.Struct:
			if seen[typ] || typ.PkgPath() != reflect.TypeFor[View]().PkgPath() {
				return // netip's are texts
			}
			seen[typ] = true
			for i := range typ.NumField() {
				f := typ.Field(i)
				if !f.IsExported() || f.Tag.Get("json") != "" {
					t.Errorf("%s.%s is not kept as it is", typ, f.Name)
				}
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[kept]())
	if len(seen) < 8 {
		t.Errorf("only %v were looked at", seen)
	}
}

func FuzzKept(f *testing.F) {
	k := &kept{Layout: layout(), Owner: owner, Overlay: 1, Ingress: 2, View: keptView(), Tasks: keptTasks(), Made: []string{aNet}}
	b, err := k.encode()
	if err != nil {
		f.Fatal(err)
	}
	if got, err := parseKept(b, owner); err != nil || !reflect.DeepEqual(got, k) {
		f.Fatalf("%v, %v\nwant %v", got, err, k)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseKept(b, owner)
		if err != nil {
			return
		}
		again, err := k.encode()
		if err != nil {
			t.Fatal(err)
		}
		if other, err := parseKept(again, owner); err != nil || !reflect.DeepEqual(k, other) {
			t.Fatalf("%v\n%v, %v", k, other, err)
		}
	})
}
