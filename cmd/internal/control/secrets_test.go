package control_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

func newSealed(epoch uint64, n int) *controlpb.NewVersion {
	return &controlpb.NewVersion{Id: ident.New(), Sealed: &secretspb.SealedData{Data: make([]byte, n+seal.DataOverhead), Key: make([]byte, seal.SealedKeyLen), Epoch: epoch}}
}

func (w *world) secret(name string, kind secretspb.SecretKind) (id string, err error) {
	id = ident.New()
	_, err = w.api.CreateSecret(w.t.Context(), &controlpb.CreateSecretRequest{Id: id, Spec: &secretspb.SecretSpec{Name: name, Kind: kind}, Version: newSealed(1, 7)})
	return id, err
}

// serve makes a service that is given files.
func (w *world) serve(name string, edit func(*taskpb.ContainerSpec)) (string, error) {
	sp := schedulertest.Spec(name, 1)
	edit(sp.Task.Container)
	return schedstore.CreateService(w.t.Context(), w.store, sp)
}

const (
	kindFile     = secretspb.SecretKind_SECRET_KIND_FILE
	kindRegistry = secretspb.SecretKind_SECRET_KIND_REGISTRY
)

func TestSecrets(t *testing.T) {
	w := newWorld(t)
	id, err := w.secret("db", kindFile)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.secret("db", kindFile)
	wantReason(t, err, apierr.ReasonExists, `"db" exists already`)
	_, err = w.secret("Db", kindFile)
	wantReason(t, err, apierr.ReasonInvalid, "lowercase")
	_, err = w.secret("other", 0)
	wantReason(t, err, apierr.ReasonInvalid, "use file or registry")
	create := func(v *controlpb.NewVersion) error {
		_, err := w.api.CreateSecret(t.Context(), &controlpb.CreateSecretRequest{Id: ident.New(), Spec: &secretspb.SecretSpec{Name: "new", Kind: kindFile}, Version: v})
		return err
	}
	wantReason(t, create(newSealed(1, 0)), apierr.ReasonInvalid, "the sealed data has")
	wantReason(t, create(newSealed(1, seal.MaxSecret+1)), apierr.ReasonInvalid, "the sealed data has")
	wantReason(t, create(newSealed(2, 1)), apierr.ReasonState, "epoch 1 is in force")
	wantReason(t, create(nil), apierr.ReasonInvalid, "the sealed data has")
	plain := newSealed(1, 1)
	plain.Sealed.Key = []byte("not sealed at all")
	wantReason(t, create(plain), apierr.ReasonInvalid, "the sealed key has")

	web, err := w.serve("web", func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "db"}} })
	if err != nil {
		t.Fatal(err)
	}
	rolling, err := w.serve("rolling", func(c *taskpb.ContainerSpec) {
		c.Secrets = []*taskpb.FileUse{{Source: id[:8], Target: "password", OnUpdate: taskpb.OnUpdate_ON_UPDATE_RESTART}}
	})
	if err != nil {
		t.Fatal(err)
	}
	remove := func() error {
		_, err := w.api.RemoveSecret(t.Context(), &controlpb.RemoveSecretRequest{Secret: "db"})
		return err
	}
	wantReason(t, remove(), apierr.ReasonInvalid, "in use by service")

	up, err := w.api.UpdateSecret(t.Context(), &controlpb.UpdateSecretRequest{Id: id, Version: newSealed(1, 9)})
	if err != nil || up.Version != 2 || !slices.Equal(up.Restarted, []string{"rolling"}) || up.Services != 1 {
		t.Fatalf("%v, %v", up, err)
	}
	if v := w.service(rolling).Service; v.Revision != 2 || v.Spec.Task.Force != 1 {
		t.Errorf("the tasks of rolling stay: revision %d", v.Revision)
	}
	if v := w.service(web).Service; v.Revision != 1 || v.Spec.Task.Container.Secrets[0].Source != id || v.Spec.Task.Container.Secrets[0].Target != "db" {
		t.Errorf("web is %v", v)
	}
	back, err := w.api.RollbackFile(t.Context(), &controlpb.RollbackFileRequest{Name: "db"})
	if err != nil || back.Version != 1 || len(back.Restarted) != 1 {
		t.Fatalf("%v, %v", back, err)
	}
	again, err := w.api.RollbackFile(t.Context(), &controlpb.RollbackFileRequest{Name: "db", Version: 1})
	if err != nil || again.Version != 1 || len(again.Restarted) != 0 {
		t.Errorf("back to where it is: %v, %v", again, err)
	}
	_, err = w.api.RollbackFile(t.Context(), &controlpb.RollbackFileRequest{Name: "db", Version: 7})
	wantReason(t, err, apierr.ReasonState, "it has 1, 2")
	_, err = w.api.UpdateSecret(t.Context(), &controlpb.UpdateSecretRequest{Id: ident.New(), Version: newSealed(1, 9)})
	wantReason(t, err, apierr.ReasonNotFound, "redoubt secret ls")

	got := &sink[controlpb.StreamSecretsResponse]{ctx: t.Context()}
	if err := w.api.StreamSecrets(&controlpb.StreamSecretsRequest{}, got); err != nil || len(got.pages) != 1 {
		t.Fatal(err)
	}
	if o := got.pages[0].Secrets[0]; o.Current != 1 || len(o.Versions) != 2 || o.Versions[1].Size != 9 || o.Versions[0].CreatedAt == 0 {
		t.Errorf("it is %v", o)
	}
	for _, service := range []string{web, rolling} {
		if err := schedstore.RemoveService(t.Context(), w.store, service); err != nil {
			t.Fatal(err)
		}
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	wantReason(t, remove(), apierr.ReasonNotFound, "redoubt secret ls")
}

func TestServicesNameWhatThereIs(t *testing.T) {
	w := newWorld(t)
	if _, err := w.secret("db", kindFile); err != nil {
		t.Fatal(err)
	}
	if _, err := w.secret("hub", kindRegistry); err != nil {
		t.Fatal(err)
	}
	if _, err := w.config("site", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*taskpb.ContainerSpec){
		`no secret "nosuch"`:                              func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "nosuch"}} },
		`no config "db"`:                                  func(c *taskpb.ContainerSpec) { c.Configs = []*taskpb.FileUse{{Source: "db"}} },
		"secret db has no version 3":                      func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "db", Version: 3}} },
		"no container gets it":                            func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "hub"}} },
		"make one with `redoubt secret create --registry": func(c *taskpb.ContainerSpec) { c.RegistryAuth = "db" },
		"config site has no version":                      func(c *taskpb.ContainerSpec) { c.Configs = []*taskpb.FileUse{{Source: "site", Version: 2}} },
		"/run/secrets/db: give one":                       func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "db"}, {Source: "db"}} },
	} {
		_, err := w.serve("web", edit)
		if err == nil {
			t.Errorf("no error, want %q", want)
			continue
		}
		reason := apierr.ReasonInvalid
		if want[:3] == "no " && want != "no container gets it" {
			reason = apierr.ReasonNotFound
		}
		wantReason(t, err, reason, want)
	}
	if _, err := w.serve("web", func(c *taskpb.ContainerSpec) {
		c.Secrets, c.Configs, c.RegistryAuth = []*taskpb.FileUse{{Source: "db"}}, []*taskpb.FileUse{{Source: "site"}}, "hub"
	}); err != nil {
		t.Error(err)
	}
	_, err := w.api.RemoveConfig(t.Context(), &controlpb.RemoveConfigRequest{Config: "site"})
	wantReason(t, err, apierr.ReasonInvalid, "config site is in use by service web")
	_, err = w.api.RemoveSecret(t.Context(), &controlpb.RemoveSecretRequest{Secret: "hub"})
	wantReason(t, err, apierr.ReasonInvalid, "secret hub is in use by service web")
}

func TestConfigsHaveVersions(t *testing.T) {
	w := newWorld(t)
	if _, err := w.config("site", []byte("one")); err != nil {
		t.Fatal(err)
	}
	update := func(data string) (*controlpb.UpdateFileResponse, error) {
		return w.api.UpdateConfig(t.Context(), &controlpb.UpdateConfigRequest{Config: "site", Data: []byte(data)})
	}
	_, err := update("")
	wantReason(t, err, apierr.ReasonInvalid, "the config is empty")
	if r, err := update("two"); err != nil || r.Version != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	want := func(data string, current uint64) {
		t.Helper()
		r, err := w.api.GetConfigs(t.Context(), &controlpb.GetConfigsRequest{Configs: []string{"site"}})
		if err != nil || string(r.Configs[0].Spec.Data) != data || r.Configs[0].Current != current {
			t.Errorf("%v, %v", r, err)
		}
	}
	want("two", 2)
	if r, err := w.api.RollbackFile(t.Context(), &controlpb.RollbackFileRequest{Name: "site", Config: true}); err != nil || r.Version != 1 {
		t.Errorf("%v, %v", r, err)
	}
	want("one", 1)
}

// The largest config is granted to services of some size, and an update has their
// tasks replaced.
func TestLargestConfigsAreGranted(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte("a"), spec.MaxConfigBytes)
	for _, name := range []string{"site", "other"} {
		if _, err := w.config(name, data); err != nil {
			t.Fatal(err)
		}
	}
	large := func(c *taskpb.ContainerSpec) {
		c.Configs = []*taskpb.FileUse{{Source: "site", OnUpdate: taskpb.OnUpdate_ON_UPDATE_RESTART}, {Source: "other"}}
		for i := range 4 {
			c.Env = append(c.Env, fmt.Sprintf("LARGE_%d=%s", i, strings.Repeat("x", 30<<10)))
		}
	}
	for _, name := range []string{"web", "api"} {
		if _, err := w.serve(name, large); err != nil {
			t.Fatal(err)
		}
	}
	for v := range uint64(2) {
		r, err := w.api.UpdateConfig(t.Context(), &controlpb.UpdateConfigRequest{Config: "site", Data: data})
		if err != nil || r.Version != v+2 || len(r.Restarted) != int(v)+2 {
			t.Errorf("%v, %v", r, err)
		}
		if _, err := w.serve(fmt.Sprintf("more-%d", v), large); err != nil {
			t.Error(err)
		}
	}
	_, err := w.api.RemoveConfig(t.Context(), &controlpb.RemoveConfigRequest{Config: "other"})
	wantReason(t, err, apierr.ReasonInvalid, "in use")
}

// TestFileGrants: who may read it, and where it is, also where the specification
// names it no more.
func TestFileGrants(t *testing.T) {
	w := newWorld(t)
	id, err := w.secret("db", kindFile)
	if err != nil {
		t.Fatal(err)
	}
	web, err := w.serve("web", func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "db"}} })
	if err != nil {
		t.Fatal(err)
	}
	grants := func() *controlpb.FileGrantsResponse {
		t.Helper()
		r, err := w.api.FileGrants(t.Context(), &controlpb.FileGrantsRequest{Name: "db"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := grants(); len(r.Services) != 1 || len(r.Holders) != 0 || !slices.Equal(r.Managers, []string{"manager-1"}) || r.Current != 1 {
		t.Errorf("before there are tasks: %v", r)
	}
	var version string
	if err := w.store.View(func(r *raftstore.ReadTx) error {
		o, err := secretstore.ResolveSecret(r, id)
		version = o.GetVersions()[0].GetId()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	task := ident.New()
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		return schedstore.Tasks.Put(tx, &schedulerpb.Task{Id: task, ServiceId: web, Slot: 1, Revision: 1, NodeId: w.worker, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: schedstore.Running, Files: []*taskpb.FileVersion{{ObjectId: id, VersionId: version}}}})
	})
	r := grants()
	if len(r.Holders) != 1 || r.Holders[0].TaskId != task || r.Holders[0].NodeName != "worker-1" || r.Holders[0].Version != 1 {
		t.Errorf("with a task: %v", r)
	}
	// A second task, and the specification says another place: what they have is told
	// beside it, once.
	more := ident.New()
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		return schedstore.Tasks.Put(tx, &schedulerpb.Task{Id: more, ServiceId: web, Slot: 2, Revision: 1, NodeId: w.worker, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: schedstore.Running, Files: []*taskpb.FileVersion{{ObjectId: id, VersionId: ident.New()}}}})
	})
	change := func(edit func(*taskpb.ContainerSpec)) {
		t.Helper()
		v := w.service(web)
		next := proto.CloneOf(v.Service.Spec)
		edit(next.Task.Container)
		if err := schedstore.UpdateService(t.Context(), w.store, web, v.Service.Meta.Version, next); err != nil {
			t.Fatal(err)
		}
	}
	change(func(c *taskpb.ContainerSpec) { c.Hostname = "other" })
	if r := grants(); len(r.Services) != 1 || r.Services[0].Former || len(r.Holders) != 2 {
		t.Errorf("while nothing changed of it: %v", r)
	}
	change(func(c *taskpb.ContainerSpec) { c.Secrets[0].Target = "elsewhere" })
	r = grants()
	if len(r.Services) != 2 || r.Services[0].Former || !r.Services[1].Former || r.Services[1].Use.Target != "db" || len(r.Holders) != 2 {
		t.Errorf("while the tasks have it elsewhere: %v", r)
	}
	for _, h := range r.Holders {
		if removed := h.TaskId == more; h.Removed != removed || h.Version == 0 != removed {
			t.Errorf("a holder is %v", h)
		}
	}
	change(func(c *taskpb.ContainerSpec) { c.Secrets = nil })
	if r := grants(); len(r.Services) != 1 || !r.Services[0].Former || len(r.Holders) != 2 {
		t.Errorf("while the tasks of before run: %v", r)
	}
	// Its node is lost with the second one: it has it for as long as nobody hears of it.
	state := func(to schedulerpb.NodeState) {
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			n, _ := schedstore.Nodes.Get(tx, w.worker)
			n = proto.CloneOf(n)
			n.State = to
			o, _ := schedstore.Tasks.Get(tx, more)
			o = proto.CloneOf(o)
			o.Status.State = schedstore.Orphaned
			return errors.Join(schedstore.Nodes.Put(tx, n), schedstore.Tasks.Put(tx, o))
		})
	}
	state(schedulerpb.NodeState_NODE_STATE_DOWN)
	if r := grants(); len(r.Holders) != 2 || r.Holders[0].Lost || !r.Holders[1].Lost || r.Holders[1].TaskId != more || r.Holders[1].NodeName != "worker-1" {
		t.Errorf("while its node is lost: %v", r)
	}
	state(schedulerpb.NodeState_NODE_STATE_READY)
	if r := grants(); len(r.Holders) != 1 {
		t.Errorf("when its node is back: %v", r)
	}
	_, err = w.api.RemoveSecret(t.Context(), &controlpb.RemoveSecretRequest{Secret: "db"})
	wantReason(t, err, apierr.ReasonInvalid, "still has secret db")
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error { return schedstore.Tasks.Delete(tx, task) })
	if _, err := w.api.RemoveSecret(t.Context(), &controlpb.RemoveSecretRequest{Secret: "db"}); err != nil {
		t.Error(err)
	}
}
