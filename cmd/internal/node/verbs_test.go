package node

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// TestRequestsDecide holds requests against what they do.
func TestRequestsDecide(t *testing.T) {
	for _, c := range []struct{ rpc, request, want string }{
		{"Control.GetStatus", ``, "cluster.status"},
		{"Control.CreateService", `spec {name: "web"}`, "service.create Service spec"},
		{"Control.CreateService", `spec {name: "web" task {container {secrets {source: "key"} secrets {source: "cert"} secrets {source: "key"} registry_auth: "pull"} networks {network: "front"}}}`,
			"service.create Service spec, secret.use Secret key, secret.use Secret cert, secret.use Secret pull, network.use Network front"},
		// A bind mount names no volume.
		{"Control.CreateService", `spec {name: "web" task {container {mounts {type: TYPE_VOLUME volume {name: "db"}} mounts {type: TYPE_BIND source: "/srv"} mounts {type: TYPE_VOLUME volume {name: "logs" labels {key: "a" value: "b"}}}}}}`,
			"service.create Service spec, volume.use Volume db, volume.use Volume logs"},
		// What is named as awaited is told of.
		{"Control.CreateService", `spec {name: "web" task {depends_on {service: "db"} depends_on {service: "cache" optional: true}}}`,
			"service.create Service spec, service.list Service db, service.list Service cache"},
		{"Volumes.PruneVolumes", `volumes: "a" volumes: "b"`, "volume.prune Volume a, volume.prune Volume b"},
		{"Volumes.CreateVolume", `spec {name: "db"}`, "volume.create Volume spec"},
		{"Control.UpdateService", `service: "web" spec {name: "api"}`, "service.update Service web, service.update Service spec"},
		{"Control.UpdateService", `service: "web" spec {name: "web" task {depends_on {service: "db"}}}`, "service.update Service web, service.update Service spec, service.list Service db"},
		{"Control.UpdateService", `service: "web" spec {name: "web" task {priority: 5}}`,
			"service.update Service web, service.prioritize Service web, service.update Service spec, service.prioritize Service spec"},
		{"Placement.RebalanceService", `service: "web"`, "service.rebalance Service web"},
		{"Placement.RebalanceService", `service: "web" stop: true`, "service.rebalance Service web"},
		{"Placement.UpdatePlacement", ``, "placement.update"},
		// To go back is judged by what is gone back to, as to change it so would be.
		{"Control.RollbackService", `service: "web" to: 3 spec {name: "web" task {container {secrets {source: "key"} registry_auth: "pull" configs {source: "conf"}} networks {network: "front"}}}`,
			"service.rollback Service web, service.rollback Service spec, secret.use Secret key, secret.use Secret pull, config.use Config conf, network.use Network front"},
		{"Control.StreamServiceHistory", `service: "web"`, "service.list Service web"},
		// To have a job run changes nothing of it.
		{"Control.BeginRun", `service: "backup"`, "service.run Service backup"},
		{"Control.SuspendService", `service: "backup" suspend: true`, "service.update Service backup"},
		{"Control.SuspendService", `service: "backup"`, "service.update Service backup"},
		{"Control.StreamRuns", `service: "backup"`, "service.list Service backup"},
		{"Control.ListServices", ``, "service.list"},
		{"Control.ListServices", `services: "web" services: "api"`, "service.list Service web, service.list Service api"},
		{"Control.RemoveNode", `node: "w1"`, "node.remove Node w1"},
		{"Control.RemoveNode", `node: "w1" compromised: true`, "node.remove Node w1, node.revoke Node w1"},
		{"Control.RemoveNode", `node: "m1" slot: {}`, "node.remove Node m1, slot.rotate"},
		{"Control.CreateToken", `role: ROLE_WORKER`, "token.create-worker"},
		{"Control.CreateToken", `role: ROLE_MANAGER`, "token.create-manager"},
		{"Control.CreateToken", `role: 77`, "token.create-worker"},
		{"Control.RotateStoreKeys", `watch: true`, "cluster.status"},
		{"Control.RotateStoreKeys", `nodes: "m1"`, "store.rotate-key Node m1"},
		{"Control.CreatePolicy", `spec {name: "p" network: "front"}`, "netpolicy.create NetworkPolicy spec, netpolicy.create Network front"},
		{"Authority.RotateCA", ``, "ca.rotate"},
		{"Authority.RotateCA", `root: true`, "ca.rotate-root"},
		{"Authority.RotateCA", `root: true only_life: true`, "ca.rotate-root, ca.update"},
		{"Authority.RotateCA", `worker_leaf_seconds: 3600`, "ca.rotate, ca.update"},
		{"Slots.SetAutolock", ``, "autolock.disable"},
		{"Slots.SetAutolock", `on: true`, "autolock.enable"},
		{"Secrets.RollbackFile", `name: "key"`, "secret.update Secret key"},
		{"Secrets.RollbackFile", `name: "app" config: true`, "config.update Config app"},
		{"Admission.DecidePending", `node: "n" approve: true`, "node.approve"},
		{"Admission.DecidePending", `node: "n"`, "node.reject"},
	} {
		service, method, _ := strings.Cut(c.rpc, ".")
		full := "/redoubt.control.v1." + service + "/" + method
		i := slices.IndexFunc(rpcs(), func(md protoreflect.MethodDescriptor) bool {
			return "/"+string(md.Parent().FullName())+"/"+string(md.Name()) == full
		})
		if i < 0 {
			t.Errorf("there is no %s", c.rpc)
			continue
		}
		mt, err := protoregistry.GlobalTypes.FindMessageByName(rpcs()[i].Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		request := mt.New().Interface()
		if err := prototext.Unmarshal([]byte(c.request), request); err != nil {
			t.Fatal(err)
		}
		acts, err := authz.ActsOf(full, request)
		if got := describeActs(acts); err != nil || got != c.want {
			t.Errorf("%s {%s}: %s, %v, want %s", c.rpc, c.request, got, err, c.want)
		}
	}
}

func describeActs(acts []authz.Act) string {
	var out []string
	for _, a := range acts {
		text := a.Verb
		switch {
		case a.Spec != nil:
			text += " " + a.Kind + " spec"
		case a.Ref != "":
			text += " " + a.Kind + " " + a.Ref
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// TestNoVerbReadsSecrets looks for the value of a secret in every answer: nobody's
// role can be more than the RPCs are.
func TestNoVerbReadsSecrets(t *testing.T) {
	for name := range authz.Verbs() {
		if noun, action, _ := strings.Cut(name, "."); noun == "secret" && !slices.Contains([]string{"create", "list", "remove", "update", "use"}, action) {
			t.Errorf("verb %s: what does it tell?", name)
		}
	}
}
