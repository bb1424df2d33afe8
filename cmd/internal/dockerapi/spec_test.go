package dockerapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// wholeSpec has all that Docker can say, and things that it has no word for.
func wholeSpec() *schedulerpb.ServiceSpec {
	return spec.Normalize(&schedulerpb.ServiceSpec{
		Name: "web", Labels: map[string]string{"a": "b"}, Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 3}},
		EndpointMode: schedulerpb.EndpointMode_ENDPOINT_MODE_VIP, IngressConstraints: []string{"node.role==worker"},
		Update:    &schedulerpb.UpdateConfig{Parallelism: 2, DelayNs: 1e9, MonitorNs: 2e9, MaxFailureRatio: 0.25, FailureAction: schedulerpb.UpdateConfig_FAILURE_ACTION_ROLLBACK, Order: schedulerpb.UpdateConfig_ORDER_START_FIRST},
		Rollback:  &schedulerpb.UpdateConfig{Parallelism: 3, FailureAction: schedulerpb.UpdateConfig_FAILURE_ACTION_CONTINUE},
		Rebalance: &schedulerpb.RebalanceConfig{Automatic: true, PauseNs: 6e10},
		Task: &taskpb.TaskSpec{
			Container: &taskpb.ContainerSpec{
				Image: "app:1", Digest: "sha256:" + strings.Repeat("a", 64), Command: []string{"/bin/app"}, Args: []string{"-v"}, Env: []string{"A=b"}, Workdir: "/srv", User: "1:2",
				Hostname: "h", Labels: map[string]string{"c": "d"}, ReadOnly: true, StopSignal: "SIGINT", StopGraceNs: 3e9, Tty: true,
				Healthcheck: &taskpb.Healthcheck{Test: []string{"CMD", "true"}, IntervalNs: 1e9, TimeoutNs: 2e9, StartPeriodNs: 3e9, StartIntervalNs: 4e9, Retries: 5},
				Mounts: []*taskpb.Mount{{Type: taskpb.Mount_TYPE_TMPFS, Target: "/tmp", TmpfsSize: 1 << 20, TmpfsMode: 0o1777}, {Type: taskpb.Mount_TYPE_BIND, Source: "/srv", Target: "/data", ReadOnly: true},
					{Type: taskpb.Mount_TYPE_BIND, Source: "/opt", Target: "/opt", Bind: &taskpb.BindOptions{Propagation: "rprivate"}}, {Type: taskpb.Mount_TYPE_VOLUME, Target: "/cache", Volume: &taskpb.VolumeUse{Name: "cache"}},
					{Type: taskpb.Mount_TYPE_VOLUME, Target: "/db", ReadOnly: true, Volume: &taskpb.VolumeUse{Name: "db", Driver: "local", Labels: map[string]string{"e": "f"}, Options: map[string]string{"size": "1GiB"}, NoCopy: true, Subpath: "a/b"}}},
				Secrets: []*taskpb.FileUse{{Source: "s1", Target: "pw", Uid: 5, Gid: 6, Mode: 0o440, Version: 2},
					{Source: "s2", OnUpdate: taskpb.OnUpdate_ON_UPDATE_SIGNAL, Signal: "SIGHUP"}},
				Configs:      []*taskpb.FileUse{{Source: "c1", Target: "app.conf", Mode: 0o444}, {Source: "c2", Target: "/etc/app.conf", OnUpdate: taskpb.OnUpdate_ON_UPDATE_RESTART}},
				RegistryAuth: "hub", Init: true,
				Hosts:   []*taskpb.Host{{Name: "db.example", Address: "192.0.2.9"}, {Name: "six", Address: "2001:db8::1"}},
				Dns:     &taskpb.DNS{Servers: []string{"192.0.2.53"}, Search: []string{"example"}, Options: []string{"ndots:2"}},
				Ulimits: []*taskpb.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}, Sysctls: []*taskpb.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}, {Name: "net.ipv4.tcp_fin_timeout", Value: "9"}},
				CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{"CAP_CHOWN"}, Groups: []string{"staff", "7"},
				Devices: []*taskpb.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}}, Security: &taskpb.Security{Seccomp: "mine"},
			},
			Reservations: &taskpb.Resources{NanoCpus: 1e8, MemoryBytes: 1 << 20, Pids: 4}, Limits: &taskpb.Resources{NanoCpus: 1e9, MemoryBytes: 1 << 30, Pids: 100},
			Restart:     &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ON_FAILURE, DelayNs: 1e9, MaxAttempts: 3, WindowNs: 1e10},
			Preferences: []string{"spread=node.labels.zone", "spread=node.role"}, Strategy: spec.BinPack, Priority: 30,
			Constraints: []string{"node.labels.disk==ssd"}, MaxPerNode: 2, Force: 7, Platforms: []string{"linux/amd64"},
			DependsOn: []*taskpb.Dependency{{Service: "db", Condition: taskpb.Dependency_CONDITION_HEALTHY, Optional: true}},
			Ports:     []*taskpb.Port{{Published: 80, Target: 8080, PreferLocal: true, ProxyProtocol: true}, {Published: 53, Target: 53, Protocol: taskpb.Port_PROTOCOL_UDP, Mode: taskpb.Port_MODE_HOST, HostIp: "192.0.2.1"}},
			Networks:  []*taskpb.NetworkUse{{Network: "n1", Aliases: []string{"w"}}}, Identity: &taskpb.Identity{LifeNs: 1e12},
		},
	})
}

// TestRoundTrip: a specification that is read and written back is the same, also in what
// Docker has no word for. So an update of one thing changes that alone.
func TestRoundTrip(t *testing.T) {
	smallest := spec.Normalize(&schedulerpb.ServiceSpec{Name: "a", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "a"}}})
	global := proto.CloneOf(smallest)
	global.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	global.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
	empty := proto.CloneOf(smallest)
	empty.Task.Limits, empty.Task.Reservations = &taskpb.Resources{}, &taskpb.Resources{}
	open := proto.CloneOf(smallest)
	open.Task.Container.Security = &taskpb.Security{Seccomp: unconfined}
	templated := proto.CloneOf(smallest)
	templated.Task.Container.Env, templated.Task.Container.Templated = []string{"N={{.Node.Hostname}}"}, true
	written := proto.CloneOf(templated)
	written.Task.Container.Templated = false
	job, all, globalJob := proto.CloneOf(smallest), proto.CloneOf(smallest), proto.CloneOf(smallest)
	job.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{MaxConcurrent: 2, TotalCompletions: 7}}
	job.Schedule = &schedulerpb.Schedule{Expression: "30 2 * * *", TimeZone: "Europe/Berlin", Keep: 3}
	all.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{TotalCompletions: 7}}
	globalJob.Mode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	job, all, globalJob = spec.Normalize(job), spec.Normalize(all), spec.Normalize(globalJob)
	for _, want := range []*schedulerpb.ServiceSpec{wholeSpec(), smallest, global, empty, open, templated, written, job, all, globalJob} {
		data, err := json.Marshal(toService(want, func(id string) string { return "name-of-" + id }))
		if err != nil {
			t.Fatal(err)
		}
		var in serviceSpec
		if err := strictjson.Decode(data, &in); err != nil {
			t.Fatal(err)
		}
		got, err := fromService(&in, want)
		if err != nil {
			t.Fatal(err)
		}
		if got = spec.Normalize(got); !proto.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}

// TestNothingIsIgnored sets each field of a service that Docker has, one at a time: it
// changes what is made, or it is refused by its name.
func TestNothingIsIgnored(t *testing.T) {
	const minimal = `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"app:1"}}}`
	read := func() *serviceSpec {
		in := &serviceSpec{}
		if err := strictjson.Decode([]byte(minimal), in); err != nil {
			t.Fatal(err)
		}
		return in
	}
	base, err := fromService(read(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// What says nothing here that is not so anyway.
	same := []string{"TaskTemplate.ContainerSpec.Privileges.NoNewPrivileges", "Mode.Replicated", "Mode.Replicated.Replicas"}
	var paths int
	var walk func(typ reflect.Type, path []string, at func(*serviceSpec) reflect.Value)
	try := func(path []string, set func(*serviceSpec)) {
		paths++
		in := read()
		set(in)
		name := strings.Join(path, ".")
		out, err := fromService(in, nil)
		if err == nil && proto.Equal(out, base) && !slices.Contains(same, name) {
			t.Errorf("%s is ignored", name)
		}
		if err != nil && !strings.ContainsAny(err.Error(), "ABCDEFGHIJKLMNOPQRSTUVWXYZ") && !strings.Contains(err.Error(), "mount") {
			t.Errorf("%s: the refusal names nothing: %v", name, err)
		}
	}
	walk = func(typ reflect.Type, path []string, at func(*serviceSpec) reflect.Value) {
		switch typ.Kind() {
		case reflect.Struct:
			if n := typ.NumField(); n > 0 && !typ.Field(0).IsExported() {
				return // an address: as part of a list below
			}
			for i := range typ.NumField() {
				f := typ.Field(i)
				p := append(slices.Clone(path), f.Name)
				if f.Anonymous {
					p = path
				}
				walk(f.Type, p, func(s *serviceSpec) reflect.Value { return at(s).Field(i) })
			}
		case reflect.Pointer:
			walk(typ.Elem(), path, func(s *serviceSpec) reflect.Value {
				v := at(s)
				if v.IsNil() {
					v.Set(reflect.New(typ.Elem()))
				}
				return v.Elem()
			})
		case reflect.Slice:
			try(path, func(s *serviceSpec) {
				e := reflect.New(typ.Elem()).Elem()
				if e.Kind() == reflect.Pointer {
					e.Set(reflect.New(typ.Elem().Elem()))
				}
				at(s).Set(reflect.Append(reflect.MakeSlice(typ, 0, 1), e))
			})
		case reflect.Map:
			try(path, func(s *serviceSpec) {
				m := reflect.MakeMap(typ)
				m.SetMapIndex(reflect.ValueOf("k").Convert(typ.Key()), reflect.New(typ.Elem()).Elem())
				at(s).Set(m)
			})
		default:
			try(path, func(s *serviceSpec) { at(s).Set(some(typ)) })
		}
	}
	walk(reflect.TypeFor[serviceSpec](), nil, func(s *serviceSpec) reflect.Value { return reflect.ValueOf(s).Elem() })
	if paths < 80 {
		t.Errorf("only %d fields were tried", paths)
	}
}

// some is a value other than nothing.
func some(typ reflect.Type) reflect.Value {
	v := reflect.New(typ).Elem()
	switch typ.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("other")
	case reflect.Float32, reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	default:
		panic(fmt.Sprint("no value of ", typ))
	}
	return v
}

// TestRefusedFields: some of them, as the command sends them.
func TestRefusedFields(t *testing.T) {
	for body, want := range map[string]string{
		`"Hosts":["db.example"]`: "write an address and a name",
		`"Ulimits":[null]`:       "Ulimits has an empty one",
		`"Privileges":{"Seccomp":{"Mode":"custom","Profile":"e30="}}`: "Seccomp.Mode",
		`"OpenStdin":true`: "OpenStdin",
		`"Privileges":{"SELinuxContext":{"Disable":true}}`:                                               "SELinuxContext.Disable",
		`"Mounts":[{"Type":"volume","Target":"/b"}]`:                                                     "a volume without a name",
		`"Mounts":[{"Type":"image","Source":"a","Target":"/b"}]`:                                         `mount of type "image"`,
		`"Mounts":[{"Type":"volume","Source":"a","Target":"/b","BindOptions":{"Propagation":"shared"}}]`: "Mounts.BindOptions.Propagation",
		`"Mounts":[{"Type":"bind","Source":"/a","Target":"/b","VolumeOptions":{"NoCopy":true}}]`:         "Mounts.VolumeOptions.NoCopy",
		`"Mounts":[{"Type":"bind","BindOptions":{"NonRecursive":true}}]`:                                 "Mounts.BindOptions.NonRecursive",
		`"Secrets":[{"SecretID":"a"}]`:                                                                   "no File",
		`"Secrets":[{"SecretID":"a","File":{"Name":"a","UID":"x"}}]`:                                     "is no number",
		`"Configs":[{"ConfigID":"a","Runtime":{}}]`:                                                      "no File",
		`"Healthcheck":{"Retries":-1}`:                                                                   "Retries",
	} {
		var in serviceSpec
		if err := strictjson.Decode([]byte(`{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"app:1",`+body+`}}}`), &in); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if _, err := fromService(&in, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}

// FuzzService: whatever is sent is translated or refused.
func FuzzService(f *testing.F) {
	f.Add([]byte(webSpec))
	data, _ := json.Marshal(toService(wholeSpec(), func(id string) string { return id }))
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		var in serviceSpec
		if strictjson.Decode(data, &in) != nil {
			return
		}
		out, err := fromService(&in, wholeSpec())
		if err != nil {
			return
		}
		// What was taken is told back as it is.
		again, err := json.Marshal(toService(out, func(id string) string { return id }))
		if err != nil {
			t.Fatal(err)
		}
		var in2 serviceSpec
		if err := strictjson.Decode(again, &in2); err != nil {
			t.Fatal(err)
		}
		if _, err := fromService(&in2, out); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

// TestJobs: what Docker leaves out of a job, and what it is told of its runs.
func TestJobs(t *testing.T) {
	for body, want := range map[string]string{
		`{"ReplicatedJob":{}}`:                                       "max_concurrent:1 total_completions:1",
		`{"ReplicatedJob":{"MaxConcurrent":3}}`:                      "max_concurrent:3 total_completions:3",
		`{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":5}}`: "max_concurrent:2 total_completions:5",
		`{"ReplicatedJob":{},"Global":{}}`:                           "several at once",
		`{"GlobalJob":{},"ReplicatedJob":{}}`:                        "several at once",
	} {
		var in serviceSpec
		if err := strictjson.Decode([]byte(`{"Name":"job","Mode":`+body+`,"TaskTemplate":{"ContainerSpec":{"Image":"app:1"}}}`), &in); err != nil {
			t.Fatal(err)
		}
		sp, err := fromService(&in, nil)
		got := strings.Join(strings.Fields(fmt.Sprint(sp.GetReplicatedJob(), err)), " ")
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s", body, got)
		}
	}
	sp := &schedulerpb.ServiceSpec{Name: "job", Mode: &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}, Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "a"}}}
	v := &controlpb.ServiceView{Service: &schedulerpb.Service{Id: "j", Spec: sp}, Running: 1, Wanted: 2, Runs: []*schedulerpb.ServiceRun{
		{Number: 3, BeganAt: 1, EndedAt: 2, Completed: 4, Wanted: 4}, {Number: 4, BeganAt: 3, Completed: 2, Wanted: 4}, {Number: 5, DueAt: 4}}}
	svc := toServiceView(v, nil, true)
	if svc.JobStatus == nil || svc.JobStatus.JobIteration.Index != 4 || svc.JobStatus.LastExecution.UnixNano() != 3 || *svc.ServiceStatus != (swarm.ServiceStatus{RunningTasks: 1, DesiredTasks: 4, CompletedTasks: 2}) {
		t.Errorf("%v, %v", svc.JobStatus, svc.ServiceStatus)
	}
	v.Runs = nil
	if svc := toServiceView(v, nil, false); svc.JobStatus == nil {
		t.Error("a job that never ran has no status: the command relies on it")
	}
	w := &taskWords{services: map[string]serviceWords{}}
	task := w.task(&controlpb.TaskView{Task: &schedulerpb.Task{Id: "t", Slot: 1, Iteration: 4}})
	if task.JobIteration == nil || task.JobIteration.Index != 4 || task.Slot != 0 {
		t.Errorf("%v, slot %d", task.JobIteration, task.Slot)
	}
}
