package compose

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// read loads a file and makes a stack of it. What is wrong or not supported is returned.
func read(t *testing.T, o Options) (*Read, []Problem) {
	t.Helper()
	o.Stack = "shop"
	r, err := Load(t.Context(), o)
	var e *Error
	switch {
	case errors.As(err, &e):
		return nil, e.Problems
	case err != nil:
		return nil, []Problem{{Text: err.Error()}}
	}
	if len(r.Unsupported) > 0 {
		return r, r.Unsupported
	}
	s, err := r.Stack()
	if errors.As(err, &e) {
		return r, e.Problems
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Wipe()
	return r, nil
}

// put writes files below a fresh directory, which becomes the working directory.
func put(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// TestBroken: each file is broken in one way, and the one error names the file, the line
// and the key.
func TestBroken(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"not YAML", "services:\n  web: [\n", "compose.yml:2: it is not YAML: "},
		{"a tab", "services:\n\tweb: {}\n", "compose.yml:2: it is not YAML: "},
		{"a list", "- services\n", "compose.yml:1: top-level object must be a mapping"},
		{"empty", "", "compose.yml: empty compose file"},
		{"a key twice", "services:\n  web:\n    image: a\n    image: b\n", "compose.yml:4: services.web.image: the key is there twice, first in line 3"},
		{"a key that is a number", "services:\n  web:\n    image: a\n    labels:\n      1: x\n", "compose.yml:5: services.web.labels.1: a key is text"},
		{"an alias of nothing", "services:\n  web: *nobody\n", "compose.yml:2: it is not YAML: "},
		{"an alias within itself", "x-a: &a\n  b: *a\nservices: {web: {image: a}}\n", "compose.yml:2: x-a.b: *a stands within what it stands for"},
		{"unknown at the top", "servces:\n  web: {image: a}\n", "compose.yml:1: servces: "},
		{"unknown in a service", "services:\n  web:\n    image: a\n    imagge: b\n", "compose.yml:4: services.web.imagge: "},
		{"unknown in deploy", "services:\n  web:\n    image: a\n    deploy:\n      replica: 2\n", "compose.yml:5: services.web.deploy.replica: "},
		{"unknown in a port", "services:\n  web:\n    image: a\n    ports:\n      - target: 80\n        publish: 80\n", "compose.yml:6: services.web.ports.0.publish: "},
		{"unknown extension of ours", "services:\n  web:\n    image: a\n    x-redoubt-magic: 1\n", "compose.yml:4: services.web.x-redoubt-magic: is not supported: there is no such extension"},
		{"a service of the wrong kind", "services:\n  web: nginx\n", "compose.yml:2: services.web: must be a mapping"},
		{"ports of the wrong kind", "services:\n  web:\n    image: a\n    ports: 80\n", "compose.yml:4: services.web.ports: must be a array"},
		{"no image", "services:\n  web:\n    user: me\n", `compose.yml:2: services.web: service "web" has neither an image nor a build context`},
		{"a bad image", "services:\n  web:\n    user: me\n    image: Nginx!\n", `compose.yml:4: services.web.image: image "Nginx!" is not a reference`},
		{"a bad port", "services:\n  web:\n    image: a\n    ports:\n      - 99999:80\n", "compose.yml"},
		{"a range in the long form", "services:\n  web:\n    image: a\n    ports:\n      - target: 80\n        published: 80-90\n", `compose.yml:6: services.web.ports.0.published: "80-90" is no port`},
		{"a protocol of others", "services:\n  web:\n    image: a\n    ports:\n      - 80:80\n      - target: 81\n        protocol: sctp\n", `compose.yml:7: services.web.ports.1.protocol: there is no protocol "sctp"`},
		{"a port of the cluster's", "services:\n  web:\n    image: a\n    ports: ['2377:80']\n", "compose.yml:4: services.web.ports: port 2377/tcp is what managers listen on"},
		{"a network that is nowhere", "services:\n  web:\n    image: a\n    networks:\n      - front\n", `compose.yml:5: services.web.networks.front: service "web" refers to undefined network front`},
		{"a secret that is nowhere", "services:\n  web:\n    image: a\n    secrets:\n      - source: tok\n", `services.web.secrets.tok: service "web" refers to undefined secret tok`},
		{"a secret without a source", "services:\n  web: {image: a, secrets: [tok]}\nsecrets:\n  tok: {labels: {a: b}}\n", "compose.yml:4: secrets.tok: one of file|environment must be set"},
		{"a secret of two", "services:\n  web: {image: a, secrets: [tok]}\nsecrets:\n  tok:\n    file: a\n    environment: B\n", "compose.yml:4: secrets.tok: file|environment attributes are mutually exclusive"},
		{"a secret whose file is not there", "services:\n  web: {image: a, secrets: [tok]}\nsecrets:\n  tok:\n    file: ./nothing\n", "compose.yml:5: secrets.tok.file: nothing cannot be read: no such file"},
		{"a secret that is a device", "services:\n  web: {image: a, secrets: [tok]}\nsecrets:\n  tok:\n    file: /dev/zero\n", "compose.yml:5: secrets.tok.file: /dev/zero cannot be read: it is no regular file"},
		{"a secret of a variable that is not set", "services:\n  web: {image: a, secrets: [tok]}\nsecrets:\n  tok:\n    environment: NOBODY\n", "compose.yml:5: secrets.tok.environment: the variable NOBODY is not set"},
		{"a config that is empty", "services:\n  web: {image: a, configs: [c]}\nconfigs:\n  c:\n    content: ''\n", "compose.yml:4: configs.c: it holds nothing"},
		{"a bad template", "services:\n  web: {image: a, configs: [c]}\nconfigs:\n  c:\n    template_driver: golang\n    content: '{{range .}}{{end}}'\n", "compose.yml:4: configs.c: "},
		{"a bad mode of a file", "services:\n  web:\n    image: a\n    configs:\n      - source: c\n        mode: 07777\nconfigs:\n  c: {content: x}\n", "compose.yml:6: services.web.configs.0.mode: "},
		{"a bad owner of a file", "services:\n  web:\n    image: a\n    configs:\n      - source: c\n        uid: me\nconfigs:\n  c: {content: x}\n", `compose.yml:6: services.web.configs.0.uid: "me" is no number`},
		{"a duration without a unit", "services:\n  web:\n    image: a\n    healthcheck:\n      test: [CMD, a]\n      interval: 5\n", "compose.yml:6: services.web.healthcheck.interval: must be a string"},
		{"a healthcheck of no kind", "services:\n  web:\n    image: a\n    healthcheck:\n      test: [curl]\n", `compose.yml:5: services.web.healthcheck.test: a list begins with "CMD", "CMD-SHELL" or "NONE"`},
		{"an interval that is too short", "services:\n  web:\n    image: a\n    healthcheck: {test: [CMD, a], interval: 1ms}\n", "compose.yml:4: services.web.healthcheck: "},
		{"replicas below zero", "services:\n  web:\n    image: a\n    deploy:\n      replicas: -1\n", "compose.yml:5: services.web.deploy.replicas: "},
		{"replicas of two minds", "services:\n  web:\n    image: a\n    scale: 2\n    deploy:\n      replicas: 3\n", "compose.yml:2: services.web: can't set distinct values on 'scale' and 'deploy.replicas'"},
		{"a global service with replicas", "services:\n  web:\n    image: a\n    deploy:\n      mode: global\n      replicas: 3\n", "compose.yml:6: services.web.deploy.replicas: a global service runs once on every node"},
		{"a mode of others", "services:\n  web:\n    image: a\n    deploy:\n      mode: some\n", `compose.yml:5: services.web.deploy.mode: there is no mode "some"`},
		{"a global job with replicas", "services:\n  web:\n    image: a\n    deploy:\n      mode: global-job\n      replicas: 3\n", "compose.yml:6: services.web.deploy.replicas: a global-job service runs once on every node"},
		{"a job that goes on", "services:\n  web:\n    image: a\n    deploy:\n      mode: replicated-job\n      restart_policy:\n        condition: any\n", "compose.yml:6: services.web.deploy.restart_policy: restart condition is any: a job that completed is not run again"},
		{"a job that is updated little by little", "services:\n  web:\n    image: a\n    deploy:\n      mode: replicated-job\n      update_config: {parallelism: 2}\n", "compose.yml:6: services.web.deploy.update_config: update settings are for services that go on"},
		{"a job with ports", "services:\n  web:\n    image: a\n    ports: ['80:80']\n    deploy:\n      mode: replicated-job\n", "compose.yml:4: services.web.ports: a job cannot publish ports in mode ingress"},
		{"a schedule of no job", "services:\n  web:\n    image: a\n    x-redoubt-schedule:\n      expression: '@daily'\n", "compose.yml:4: services.web.x-redoubt-schedule: a schedule is for jobs"},
		{"a schedule that is none", "services:\n  web:\n    image: a\n    deploy: {mode: global-job}\n    x-redoubt-schedule:\n      expression: '61 * * * *'\n", `compose.yml:5: services.web.x-redoubt-schedule: schedule "61 * * * *": minute "61"`},
		{"a schedule in a zone that is nowhere", "services:\n  web:\n    image: a\n    deploy: {mode: global-job}\n    x-redoubt-schedule: {expression: '@daily', time_zone: Mars/Olympus}\n", `compose.yml:5: services.web.x-redoubt-schedule: time zone "Mars/Olympus" is unknown`},
		{"a schedule of another kind", "services:\n  web:\n    image: a\n    deploy: {mode: global-job}\n    x-redoubt-schedule: '@daily'\n", "compose.yml:5: services.web.x-redoubt-schedule: it is of another kind: write a mapping"},
		{"a schedule with a word of others", "services:\n  web:\n    image: a\n    deploy: {mode: global-job}\n    x-redoubt-schedule:\n      expression: '@daily'\n      concurrency: maybe\n", `compose.yml:7: services.web.x-redoubt-schedule.concurrency: "maybe": use forbid, allow or replace`},
		{"at a time, of no job", "services:\n  web:\n    image: a\n    x-redoubt-max-concurrent: 2\n", "compose.yml:4: services.web.x-redoubt-max-concurrent: it is for deploy.mode replicated-job"},
		{"an action of others", "services:\n  web:\n    image: a\n    deploy:\n      update_config:\n        failure_action: weep\n", `compose.yml:6: services.web.deploy.update_config.failure_action: there is no action "weep"`},
		{"a ratio that is none", "services:\n  web:\n    image: a\n    deploy:\n      update_config: {max_failure_ratio: 2}\n", "compose.yml:5: services.web.deploy.update_config: update max failure ratio is 2"},
		{"a rollback that rolls back", "services:\n  web:\n    image: a\n    deploy:\n      rollback_config: {failure_action: rollback}\n", "compose.yml:5: services.web.deploy.rollback_config: "},
		{"a preference that is none", "services:\n  web:\n    image: a\n    deploy:\n      placement:\n        preferences: [{spread: engine.labels.zone}]\n", "compose.yml:6: services.web.deploy.placement.preferences"},
		{"a priority out of bounds", "services:\n  web:\n    image: a\n    x-redoubt-placement:\n      priority: 1001\n", "compose.yml:5: services.web.x-redoubt-placement.priority: priority is 1001"},
		{"a negative priority", "services:\n  web:\n    image: a\n    x-redoubt-placement:\n      priority: -1\n", "compose.yml:5: services.web.x-redoubt-placement.priority: -1: use 0 to 1000"},
		{"a strategy that is none", "services:\n  web:\n    image: a\n    x-redoubt-placement:\n      strategy: random\n", "compose.yml:5: services.web.x-redoubt-placement.strategy: \"random\": use spread or bin-pack"},
		{"packed by nothing", "services:\n  web:\n    image: a\n    x-redoubt-placement:\n      strategy: bin-pack\n", "compose.yml:5: services.web.x-redoubt-placement.strategy: strategy bin-pack fills nodes by what is reserved"},
		{"a pause of nothing", "services:\n  web:\n    image: a\n    x-redoubt-placement:\n      rebalance-pause: 1m\n", "compose.yml:5: services.web.x-redoubt-placement.rebalance-pause: it is for rebalance: auto"},
		{"preferences of a global service", "services:\n  web:\n    image: a\n    deploy:\n      mode: global\n      placement:\n        preferences: [{spread: node.labels.zone}]\n", "compose.yml:5: services.web.deploy.mode: a global service runs on every node"},
		{"generic resources", "services:\n  web:\n    image: a\n    deploy:\n      resources:\n        reservations:\n          generic_resources: [{discrete_resource_spec: {kind: gpu, value: 1}}]\n", "compose.yml:7: services.web.deploy.resources.reservations.generic_resources: is not supported: not there yet"},
		{"a constraint that is none", "services:\n  web:\n    image: a\n    deploy:\n      placement:\n        constraints: [disk]\n", "compose.yml:6: services.web.deploy.placement.constraints: "},
		{"a restart policy of others", "services:\n  web:\n    image: a\n    restart: sometimes\n", `compose.yml:4: services.web.restart: "sometimes": use always`},
		{"a condition of others", "services:\n  web:\n    image: a\n    deploy:\n      restart_policy:\n        condition: maybe\n", `compose.yml:6: services.web.deploy.restart_policy.condition: there is no condition "maybe"`},
		{"a variable that must be set", "services:\n  web:\n    image: ${IMAGE:?name one}\n", "compose.yml:3: services.web.image: required variable IMAGE is missing a value: name one"},
		{"a variable without an end", "services:\n  web:\n    image: ${IMAGE\n", "compose.yml:3: services.web.image: "},
		{"a service that is no name", "services:\n  Web:\n    image: a\n", "compose.yml:2: services.Web: name \"Web\": only lowercase letters"},
		{"a volume without a name", "services:\n  web:\n    image: a\n    volumes:\n      - /srv:/srv\n      - /data\n", "compose.yml:6: services.web.volumes.1: is not supported: a volume without a name"},
		{"a volume that is nowhere", "services:\n  web:\n    image: a\n    volumes:\n      - data:/data\n", "undefined volume data"},
		{"a volume of elsewhere", "services:\n  web:\n    image: a\n    volumes: [data:/data]\nvolumes:\n  data:\n    driver_opts: {type: nfs}\n", "compose.yml:6: volumes.data: volume shop_data: the option type mounts something of elsewhere"},
		{"a driver of others", "services:\n  web:\n    image: a\n    volumes: [data:/data]\nvolumes:\n  data: {driver: nfs}\n", `compose.yml:6: volumes.data: volume shop_data: there is no volume driver "nfs"`},
		{"an external volume with a label", "services:\n  web:\n    image: a\n    volumes: [data:/data]\nvolumes:\n  data: {external: true, labels: {a: b}}\n", "volumes.data"},
		{"a subpath that leads out", "services:\n  web:\n    image: a\n    volumes:\n      - {type: volume, source: data, target: /data, volume: {subpath: ../x}}\nvolumes: {data: }\n", "compose.yml:4: services.web.volumes: mount /data: subpath"},
		{"a bind of a volume", "services:\n  web:\n    image: a\n    volumes:\n      - {type: volume, source: data, target: /data, bind: {propagation: rprivate}}\nvolumes: {data: }\n", "compose.yml:5: services.web.volumes.0.bind: it is for type bind"},
		{"a bind that is shared", "services:\n  web:\n    image: a\n    volumes:\n      - {type: bind, source: /a, target: /data, bind: {propagation: rshared}}\n", "compose.yml:4: services.web.volumes: mount /data: the propagation can be rprivate alone"},
		{"a volume and start-first", "services:\n  web:\n    image: a\n    volumes: [data:/data]\n    deploy: {update_config: {order: start-first}}\nvolumes: {data: }\n", "compose.yml:4: services.web.volumes: volume shop_data: with order start-first"},
		{"a mount at nothing", "services:\n  web:\n    image: a\n    tmpfs: tmp\n", `compose.yml:4: services.web.tmpfs: mount target "tmp" is not absolute`},
		{"a tmpfs with an option of others", "services:\n  web:\n    image: a\n    tmpfs: ['/tmp:uid=5']\n", "compose.yml:4: services.web.tmpfs.0: the option uid is not supported"},
		{"two mounts at one place", "services:\n  web:\n    image: a\n    tmpfs: [/tmp]\n    volumes:\n      - /srv:/tmp\n", "compose.yml:6: services.web.volumes.0: target /tmp already mounted"},
		{"a build", "services:\n  web:\n    image: a\n    build: .\n", "compose.yml:4: services.web.build: is not supported: means nothing in a cluster"},
		{"a capability that is none", "services:\n  web:\n    image: a\n    cap_add: [FLY]\n", "compose.yml:4: services.web.cap_add: "},
		{"a ulimit that is none", "services:\n  web:\n    image: a\n    ulimits: {sadness: 3}\n", "compose.yml:4: services.web.ulimits: "},
		{"a sysctl of the node", "services:\n  web:\n    image: a\n    sysctls: {kernel.panic: 1}\n", "compose.yml:4: services.web.sysctls: "},
		{"a security option of others", "services:\n  web:\n    image: a\n    security_opt:\n      - apparmor=x\n", `compose.yml:5: services.web.security_opt.0: "apparmor=x": use seccomp`},
		{"a resolver that is none", "services:\n  web:\n    image: a\n    dns: one\n", "compose.yml:4: services.web.dns: "},
		{"a privileged one", "services:\n  web:\n    image: a\n    privileged: true\n", "compose.yml:4: services.web.privileged: is not supported: no container has all privileges"},
		{"the node's network", "services:\n  web:\n    image: a\n    network_mode: host\n", "compose.yml:4: services.web.network_mode: is not supported"},
		{"depends_on and restart", "services:\n  web:\n    image: a\n    depends_on:\n      db:\n        condition: service_started\n        restart: true\n  db: {image: a}\n", "compose.yml:7: services.web.depends_on.db.restart: is not supported: not there yet"},
		{"depends_on of no kind", "services:\n  web:\n    image: a\n    depends_on:\n      db: {condition: service_lucky}\n  db: {image: a}\n", "compose.yml:5: services.web.depends_on.db.condition: "},
		{"depends_on what is not there", "services:\n  web:\n    image: a\n    depends_on:\n      - db\n", "compose.yml:5: services.web.depends_on.db: "},
		{"depends_on itself", "services:\n  web:\n    image: a\n    depends_on: [web]\n", "compose.yml:4: services.web.depends_on.web: dependency cycle detected: web -> web"},
		{"depends_on in a circle", "services:\n  a:\n    image: a\n    depends_on: [b]\n  b:\n    image: a\n    depends_on: [a]\n", "dependency cycle detected: "},
		{"depends_on nobody", "services:\n  web: {image: a}\n  db:\n    image: a\n    extends: nobody\n", `compose.yml:5: services.db.extends: cannot extend service "db"`},
		{"extends in a circle", "services:\n  a: {image: a, extends: b}\n  b: {image: a, extends: a}\n", "Circular reference"},
		{"a file that is not there", "services:\n  a: {image: a, extends: {file: other.yml, service: b}}\n", "compose.yml:2: services.a.extends.file: other.yml: it cannot be read: no such file"},
		{"a device as a file", "include:\n  - /dev/zero\nservices: {a: {image: a}}\n", "compose.yml:2: include: /dev/zero: it cannot be read: it is no regular file"},
		{"a device of variables", "include:\n  - path: part.yml\n    env_file: /dev/zero\nservices: {a: {image: a}}\n", "compose.yml:3: include.env_file: /dev/zero: it cannot be read: it is no regular file"},
		{"a pipe of variables", "include:\n  - piped/part.yml\nservices: {a: {image: a}}\n", "compose.yml:2: include: piped/.env: it cannot be read: it is no regular file"},
		{"variables that lead elsewhere", "include:\n  - nested/part.yml\nservices: {a: {image: a}}\n", "nested/part.yml:1: include: a file that is not named on the command line names others without variables"},
		{"a file of elsewhere", "include:\n  - https://example.com/compose.yml\nservices: {a: {image: a}}\n", `compose.yml:2: include: "https://example.com/compose.yml" is not on this machine`},
		{"a repository of elsewhere", "services:\n  a:\n    extends:\n      file: git@example.com:a/b.git\n      service: b\n", `compose.yml:4: services.a.extends.file: "git@example.com:a/b.git" is not on this machine`},
		{"an env_file that is not there", "services:\n  web:\n    image: a\n    env_file:\n      - nothing.env\n", "compose.yml:5: services.web.env_file.0: nothing.env cannot be read: no such file"},
		{"an env_file that is a device", "services:\n  web:\n    image: a\n    env_file: /dev/zero\n", "compose.yml:4: services.web.env_file.0: /dev/zero cannot be read: it is no regular file"},
		{"a subnet that is none", "services:\n  web: {image: a, networks: [n]}\nnetworks:\n  n:\n    ipam:\n      config: [{subnet: 10.0.0.0}]\n", "compose.yml:4: networks.n: "},
		{"a driver of others", "services:\n  web: {image: a, networks: [n]}\nnetworks:\n  n:\n    driver: weave\n", "compose.yml:5: networks.n.driver: is not supported: driver weave is not there"},
		{"an address of one's own", "services:\n  web:\n    image: a\n    networks:\n      n:\n        ipv4_address: 10.0.0.9\nnetworks: {n: }\n", "compose.yml:6: services.web.networks.n.ipv4_address: is not supported"},
		{"an external network that is made", "services:\n  web: {image: a, networks: [n]}\nnetworks:\n  n:\n    external: true\n    driver: bridge\n", "compose.yml:6: networks.n.driver: it is external, and there already"},
		{"a policy without a network", "services:\n  web: {image: a}\nx-redoubt-policy:\n  p:\n    allow: ['service:web->service:web']\n", "compose.yml:4: x-redoubt-policy.p: the policy is of no network"},
		{"a rule that is none", "services:\n  web: {image: a}\nx-redoubt-policy:\n  p:\n    network: default\n    allow:\n      - web to db\n", `compose.yml:7: x-redoubt-policy.p.allow.0: rule "web to db"`},
		{"an identity of another kind", "services:\n  web:\n    image: a\n    x-redoubt-identity:\n      none: maybe\n", "compose.yml:5: services.web.x-redoubt-identity.none: it is of another kind: write true or false"},
		{"an environment variable that is none", "services:\n  web:\n    image: a\n    environment:\n      - '1=2'\n", "compose.yml:4: services.web.environment: environment variable 1"},
		{"no services", "networks: {a: }\n", "compose.yml:1: there is no service in it"},
		{"nothing of the profile", "services:\n  web: {image: a, profiles: [debug]}\n", "there is no service in it, or none of these profiles"},
	} {
		t.Run(c.name, func(t *testing.T) {
			put(t, map[string]string{"compose.yml": c.text, "part.yml": "services: {b: {image: b}}\n", "piped/part.yml": "services: {b: {image: b}}\n",
				"nested/part.yml": "include: ['${SOMEWHERE:-/dev/zero}']\n", "nested/.env": "SOMEWHERE=/dev/zero\n"})
			if err := syscall.Mkfifo("piped/.env", 0o600); err != nil {
				t.Fatal(err)
			}
			_, ps := read(t, Options{})
			if len(ps) == 0 {
				t.Fatal("it was taken")
			}
			found := false
			for _, p := range ps {
				found = found || strings.Contains(p.String(), c.want)
			}
			if !found {
				t.Errorf("%v\nwant %s", ps, c.want)
			}
		})
	}
}
