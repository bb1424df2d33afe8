package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// facts is what the controls of the cluster judge: one moment of the store, and who
// is connected then.
func (s *Server) facts(ctx context.Context) (*checks.Cluster, error) {
	level := s.c.Store.Level()
	f := &checks.Cluster{Level: level.Cluster, Here: level.Here, AuditLog: s.logsOf, LastBackup: s.lastBackup, Signed: s.newestCheckpoint, Witnessed: s.witnesses}
	var managers []managerFact
	records := map[string]*pkipb.Node{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		// Nobody may have written for long: then it is the leader's clock that tells
		// what has ended.
		f.Now = slices.MaxFunc([]time.Time{r.Clock(), time.Now()}, time.Time.Compare)
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		if err := authorityFacts(r, c, f); err != nil {
			return err
		}
		if err := slotFacts(r, f); err != nil {
			return err
		}
		tokenFacts(r, c, f)
		secretFacts(r, f)
		serviceFacts(r, f)
		imageFacts(r, f)
		managers = s.memberFacts(r, c, f)
		for _, m := range managers {
			records[m.GetNodeId()], _ = pkistore.Nodes.Get(r, m.GetNodeId())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.askLocked(ctx, managers)
	if s.c.Look != nil {
		f.Doors = sync.OnceValues(func() ([]checks.Door, error) { return s.doors(ctx, managers, records), nil })
	}
	skews := map[string]time.Duration{}
	if s.c.Skews != nil {
		skews = s.c.Skews()
	}
	for i := range f.Members {
		m := &f.Members[i]
		for _, fact := range managers {
			if fact.GetNodeId() == m.ID {
				m.Up, m.Locked, m.Clocked, m.ClockOff = fact.GetReachable(), fact.GetLocked(), s.c.Skews != nil && fact.GetReachable(), skews[m.ID]
			}
		}
	}
	return f, nil
}

func authorityFacts(r raftstore.Reader, c *pkipb.Cluster, f *checks.Cluster) error {
	if len(c.GetRoots()) == 0 || len(c.GetIssuers()) == 0 {
		return errors.New("the store has no CA")
	}
	for _, der := range append(slices.Clone(c.GetRoots()), c.GetIssuers()[0]) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(der)
		f.Authorities = append(f.Authorities, checks.Authority{ID: listID(hex.EncodeToString(sum[:])), Root: len(f.Authorities) < len(c.GetRoots()), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter})
	}
	f.Roots = pki.HashesOf(c.GetRoots())
	for _, e := range c.GetExposures() {
		f.Exposed = append(f.Exposed, e.GetName())
	}
	for _, u := range c.GetUnjournalled() {
		f.Alarms = append(f.Alarms, checks.Alarm{Node: cmp.Or(nodeName(r, u.GetNodeId()), u.GetNodeId()), Serial: u.GetSerial(), Source: u.GetSource(), At: time.Unix(u.GetAt(), 0)})
	}
	if rot := c.GetRotation(); rot != nil {
		f.Replacing = time.Unix(0, rot.GetBeganAt())
	}
	if e := c.GetExternal(); e != nil {
		f.External = &checks.External{URL: e.GetUrl(), Failure: e.GetFailure()}
	}
	for l := range pkistore.RevocationLists.All(r) {
		if !l.GetFormer() { // else it is the last one there is
			f.Lists = append(f.Lists, checks.RevocationList{CA: listID(l.GetId()), NextUpdate: time.Unix(l.GetNextUpdate(), 0)})
		}
	}
	return nil
}

// listID is how a CA is called by its revocation list, whose id is the SHA-256 of its
// certificate.
func listID(id string) string { return id[:min(len(id), shownHash)] }

func slotFacts(r raftstore.Reader, f *checks.Cluster) error {
	rec, ok := autolockstore.Slots.Get(r, autolockstore.RecordID)
	if !ok {
		return errors.New("the store has no slot record")
	}
	f.SlotEpoch = rec.GetSet().GetEpoch()
	for _, slot := range rec.GetSet().GetSlots() {
		kind := slot.GetKind()
		f.Slots = append(f.Slots, checks.Slot{Name: cmp.Or(slot.GetName(), "operator"), Made: time.Unix(slot.GetCreatedAt(), 0), File: kind == keydpb.SlotKind_SLOT_KIND_FILE,
			People: kind == keydpb.SlotKind_SLOT_KIND_OPERATOR || kind == keydpb.SlotKind_SLOT_KIND_SHAMIR})
	}
	return nil
}

func tokenFacts(r raftstore.Reader, c *pkipb.Cluster, f *checks.Cluster) {
	for tok := range pkistore.Tokens.All(r) {
		rec, err := profile.ParseTokenRecord(tok.GetSigned().GetRecord())
		if err != nil || !pki.Usable(tok, c, f.Now) {
			continue // nobody joins with it
		}
		t := checks.Token{ID: tok.GetId(), Manager: rec.GetRole() == profilepb.Role_ROLE_MANAGER, Minted: time.Unix(rec.GetMintedAt(), 0)}
		if at := rec.GetExpiresAt(); at != 0 {
			t.Expires = time.Unix(at, 0)
		}
		f.Tokens = append(f.Tokens, t)
	}
}

func secretFacts(r raftstore.Reader, f *checks.Cluster) {
	for sec := range secretstore.Secrets.All(r) {
		fact := checks.Secret{Name: sec.GetSpec().GetName(), Version: sec.GetCurrent()}
		for _, v := range sec.GetVersions() {
			if v.GetNumber() == sec.GetCurrent() {
				fact.Made = time.Unix(0, v.GetCreatedAt())
			}
		}
		f.Secrets = append(f.Secrets, fact)
	}
}

// serviceFacts has the networks that operators made, too: those of published ports go
// with their services.
func serviceFacts(r raftstore.Reader, f *checks.Cluster) {
	for n := range meshstore.Networks.All(r) {
		if n.GetKind() == meshpb.Kind_KIND_INGRESS {
			continue
		}
		driver := cmp.Or(n.GetSpec().GetDriver(), meshspec.Overlay)
		fact := checks.Network{Name: n.GetSpec().GetName(), Driver: driver, InMesh: meshspec.Given(driver) || driver == meshspec.NoNetwork, Denies: n.GetSpec().GetDefaultDeny()}
		for range schedstore.Services.By(r, "network", n.GetId()) {
			fact.Services++
		}
		f.Networks = append(f.Networks, fact)
	}
	for svc := range schedstore.Services.All(r) {
		task := svc.GetSpec().GetTask()
		c := task.GetContainer()
		fact := checks.Service{Name: svc.GetSpec().GetName(), Image: c.GetImage(), Digest: c.GetDigest(), ReadOnly: c.GetReadOnly(),
			MemoryBytes: task.GetLimits().GetMemoryBytes(), NanoCPUs: task.GetLimits().GetNanoCpus()}
		for _, m := range c.GetMounts() {
			if m.GetType() == taskpb.Mount_TYPE_BIND {
				fact.Mounts = append(fact.Mounts, checks.Mount{Source: m.GetSource(), ReadOnly: m.GetReadOnly()})
			}
		}
		for _, p := range task.GetPorts() {
			fact.Ports = append(fact.Ports, checks.Port{Published: p.GetPublished(), Host: p.GetHostIp()})
		}
		f.Services = append(f.Services, fact)
	}
	slices.SortFunc(f.Networks, func(a, b checks.Network) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(f.Services, func(a, b checks.Service) int { return strings.Compare(a.Name, b.Name) })
}

func imageFacts(r raftstore.Reader, f *checks.Cluster) {
	doc, ok := schedstore.ImagePolicies.Get(r, schedstore.ImagePolicyID)
	if !ok {
		return
	}
	p, err := imagepolicy.Parse(doc.GetDocument())
	if err != nil {
		f.ImagesUnread = err
		return
	}
	for _, name := range p.Rules() {
		f.ImageRules = append(f.ImageRules, checks.ImageRule{Name: name, Unsigned: slices.Contains(p.Unsigned(), name)})
	}
}

// memberFacts also gives what askLocked needs.
func (s *Server) memberFacts(r *raftstore.ReadTx, c *pkipb.Cluster, f *checks.Cluster) (managers []managerFact) {
	servers, connected, forgotten := s.c.Store.Servers(), s.connected(), pki.Forgotten(c)
	trusts := map[string][][]byte{}
	for _, ses := range s.c.Sessions() {
		trusts[ses.NodeID] = ses.Trusts
	}
	clocks, own := s.clocks(), time.Duration(0)
	if s.c.Offset != nil {
		own = s.c.Offset()
	}
	for n := range pkistore.Nodes.All(r) {
		if n.GetDenied() {
			continue
		}
		sched, _ := schedstore.Nodes.Get(r, n.GetId())
		d := sched.GetDescription()
		m := checks.Member{ID: n.GetId(), Name: n.GetName(), Manager: n.GetRole() == profilepb.Role_ROLE_MANAGER, Connected: connected[n.GetId()], Up: schedstore.Up(sched),
			Host: schedstore.HostOf(r, sched), Replaced: replacedLately(r, sched), Version: d.GetRedoubtVersion(), NotAfter: time.Unix(n.GetLeafNotAfter(), 0),
			Stale: pki.NeedsReissue(c, n), Trusts: trusts[n.GetId()]}
		m.Forgotten = m.Stale && forgotten(n)
		m.Probed = len(d.GetFeatures()) > 0
		for _, feature := range d.GetFeatures() {
			if feature.GetName() == lock.Feature && feature.GetPresent() {
				m.Lock, m.Waits = cmp.Or(feature.GetDetail(), "unknown"), feature.GetDetail() == lock.Waits
			}
		}
		for _, tasks := range schedstore.LiveOn(r, n.GetId()) {
			m.Tasks += int(tasks)
		}
		if !m.Manager {
			m.Clocked, m.ClockOff = clocks[n.GetId()] != nil, clockOff(clocks[n.GetId()], own)
			f.Members = append(f.Members, m)
			continue
		}
		fact := managerFact{ManagerStatus: managerStatus(r, n, sched, servers), zone: sched.GetLabels()[zoneLabel]}
		managers = append(managers, fact)
		m.Voter, m.Zone = fact.GetVoter(), fact.zone
		m.SlotEpoch, m.Lacks = d.GetSlotEpoch(), len(d.GetSlotsLacking())
		m.StoreKeyWrong = d.GetStoreKey().GetTrouble()
		if at := d.GetStoreKey().GetMadeAt(); at != 0 {
			m.StoreKeyMade = time.Unix(at, 0)
		}
		f.Members = append(f.Members, m)
	}
	slices.SortFunc(f.Members, func(a, b checks.Member) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	for a, nodes := range schedstore.Shared(r) {
		at := checks.Shared{Address: a.String()}
		for _, id := range nodes {
			at.Nodes = append(at.Nodes, nodeName(r, id))
		}
		slices.Sort(at.Nodes)
		f.Shared = append(f.Shared, at)
	}
	slices.SortFunc(f.Shared, func(a, b checks.Shared) int { return strings.Compare(a.Address, b.Address) })
	return managers
}
