package compose

import "strings"

// Key is one that a compose file may have, and what becomes of it. In its path * is
// any name and [] each of a list.
type Key struct{ Path, Note string }

// Keys are all that are understood; what is below one of them is understood with it.
// docs/operations.md has the same table.
var Keys = []Key{
	{"version", "says nothing any more, and is passed over"},
	{"name", "the name on the command line is the stack's"},
	{"include", "files of this machine alone"},
	{"x-redoubt-policy.*.network", "network policy: the network that it is for"},
	{"x-redoubt-policy.*.allow", "network policy: rules, as of `policy create --allow`; names of the file's services are the stack's"},

	{"services.*.image", ""},
	{"services.*.command", "the image's arguments (CMD)"},
	{"services.*.entrypoint", "the image's command (ENTRYPOINT)"},
	{"services.*.environment", "a name alone has the value of the variable; values may be templates, as may hostname and sources of mounts"},
	{"services.*.env_file[].path", ""},
	{"services.*.env_file[].required", ""},
	{"services.*.extends", "files of this machine alone"},
	{"services.*.profiles", ""},
	{"services.*.working_dir", ""},
	{"services.*.user", ""},
	{"services.*.hostname", ""},
	{"services.*.labels", "of the containers"},
	{"services.*.stop_signal", ""},
	{"services.*.stop_grace_period", ""},
	{"services.*.read_only", ""},
	{"services.*.tty", ""},
	{"services.*.tmpfs", "with size= and mode="},
	{"services.*.restart", "where there is no deploy.restart_policy"},
	{"services.*.scale", "as deploy.replicas"},
	{"services.*.cpus", "as deploy.resources.limits.cpus"},
	{"services.*.mem_limit", "as deploy.resources.limits.memory"},
	{"services.*.mem_reservation", "as deploy.resources.reservations.memory"},
	{"services.*.pids_limit", "as deploy.resources.limits.pids"},
	{"services.*.expose", "says what is so: services on a network reach each other's ports, where no policy is in the way"},
	{"services.*.init", ""},
	{"services.*.group_add", ""},
	{"services.*.cap_add", "the node must allow it"},
	{"services.*.cap_drop", ""},
	{"services.*.security_opt", "seccomp=PROFILE, seccomp=default, seccomp=unconfined; no-new-privileges always holds"},
	{"services.*.ulimits", ""},
	{"services.*.sysctls", "of the container's own network"},
	{"services.*.devices[].source", "the node must allow it"},
	{"services.*.devices[].target", ""},
	{"services.*.devices[].permissions", ""},
	{"services.*.extra_hosts", ""},
	{"services.*.dns", ""},
	{"services.*.dns_search", ""},
	{"services.*.dns_opt", ""},
	{"services.*.depends_on.*.condition", "tasks wait, also those that are begun later; service_completed_successfully needs a restart policy that lets it end"},
	{"services.*.depends_on.*.required", "false: waited for only where it is there and can still come so far"},
	{"services.*.healthcheck.test", ""},
	{"services.*.healthcheck.interval", ""},
	{"services.*.healthcheck.timeout", ""},
	{"services.*.healthcheck.retries", ""},
	{"services.*.healthcheck.start_period", ""},
	{"services.*.healthcheck.start_interval", ""},
	{"services.*.healthcheck.disable", ""},
	{"services.*.ports[].target", ""},
	{"services.*.ports[].published", "none: the cluster chooses"},
	{"services.*.ports[].protocol", "tcp or udp"},
	{"services.*.ports[].mode", "ingress or host"},
	{"services.*.ports[].host_ip", ""},
	{"services.*.ports[].x-redoubt-prefer-local", "true: as `--publish …,prefer-local`"},
	{"services.*.ports[].x-redoubt-proxy-protocol", "v2: as `--publish …,proxy-protocol=v2`"},
	{"services.*.networks.*.aliases", "beside the service's name, which is one"},
	{"services.*.volumes[].type", "volume, bind or tmpfs"},
	{"services.*.volumes[].source", "a volume's name, or of a bind: on the node; ./ is the project's directory on the deployer's machine"},
	{"services.*.volumes[].target", ""},
	{"services.*.volumes[].read_only", ""},
	{"services.*.volumes[].volume.nocopy", ""},
	{"services.*.volumes[].volume.subpath", ""},
	{"services.*.volumes[].bind.propagation", "rprivate"},
	{"services.*.volumes[].bind.create_host_path", "no directory is made on a node: what is not there is an error there"},
	{"services.*.volumes[].tmpfs.size", ""},
	{"services.*.volumes[].tmpfs.mode", ""},
	{"services.*.secrets[].source", ""},
	{"services.*.secrets[].target", "default /run/secrets/<source>"},
	{"services.*.secrets[].uid", ""},
	{"services.*.secrets[].gid", ""},
	{"services.*.secrets[].mode", "default 0400"},
	{"services.*.secrets[].x-redoubt-on-update", "none, restart or a signal, as SIGHUP"},
	{"services.*.secrets[].x-redoubt-version", "number of the one version that is granted"},
	{"services.*.configs[].source", ""},
	{"services.*.configs[].target", "default /<source>"},
	{"services.*.configs[].uid", ""},
	{"services.*.configs[].gid", ""},
	{"services.*.configs[].mode", "default 0444"},
	{"services.*.configs[].x-redoubt-on-update", "as of secrets"},
	{"services.*.configs[].x-redoubt-version", "as of secrets"},
	{"services.*.deploy.mode", "replicated, global, replicated-job or global-job"},
	{"services.*.deploy.replicas", "of a job: how many of its tasks are to complete"},
	{"services.*.deploy.endpoint_mode", "vip or dnsrr"},
	{"services.*.deploy.labels", "of the service"},
	{"services.*.deploy.placement.constraints", ""},
	{"services.*.deploy.placement.max_replicas_per_node", ""},
	{"services.*.deploy.placement.preferences[].spread", "as `--placement-pref spread=…`, the widest first"},
	{"services.*.deploy.resources.limits.cpus", ""},
	{"services.*.deploy.resources.limits.memory", ""},
	{"services.*.deploy.resources.limits.pids", ""},
	{"services.*.deploy.resources.reservations.cpus", ""},
	{"services.*.deploy.resources.reservations.memory", ""},
	{"services.*.deploy.update_config.parallelism", "default 1; 0: all at once"},
	{"services.*.deploy.update_config.delay", ""},
	{"services.*.deploy.update_config.monitor", ""},
	{"services.*.deploy.update_config.max_failure_ratio", ""},
	{"services.*.deploy.update_config.failure_action", "pause, continue or rollback"},
	{"services.*.deploy.update_config.order", "stop-first or start-first"},
	{"services.*.deploy.rollback_config.parallelism", "default 1; 0: all at once"},
	{"services.*.deploy.rollback_config.delay", ""},
	{"services.*.deploy.rollback_config.monitor", ""},
	{"services.*.deploy.rollback_config.max_failure_ratio", ""},
	{"services.*.deploy.rollback_config.failure_action", "pause or continue"},
	{"services.*.deploy.rollback_config.order", "stop-first or start-first"},
	{"services.*.deploy.restart_policy.condition", "any, on-failure or none"},
	{"services.*.deploy.restart_policy.delay", ""},
	{"services.*.deploy.restart_policy.max_attempts", ""},
	{"services.*.deploy.restart_policy.window", ""},
	{"services.*.x-redoubt-max-concurrent", "of a job: as `--max-concurrent`"},
	{"services.*.x-redoubt-schedule.expression", "of a job: as `--schedule`"},
	{"services.*.x-redoubt-schedule.time_zone", "as `--time-zone`"},
	{"services.*.x-redoubt-schedule.concurrency", "forbid, allow or replace"},
	{"services.*.x-redoubt-schedule.keep", "how many runs are kept"},
	{"services.*.x-redoubt-schedule.start_within", "how late a run may begin"},
	{"services.*.x-redoubt-identity.none", "true: as `--no-identity`"},
	{"services.*.x-redoubt-identity.life", "as `--identity-life`"},
	{"services.*.x-redoubt-identity.files", "a directory, as `--identity-files`"},
	{"services.*.x-redoubt-identity.signal", "as `--identity-signal`"},
	{"services.*.x-redoubt-registry-auth", "secret of kind registry, as `--registry-auth`"},
	{"services.*.x-redoubt-ingress-constraints", "a list, as `--ingress-constraint`"},
	{"services.*.x-redoubt-placement.strategy", "spread or bin-pack, as `--placement-strategy`"},
	{"services.*.x-redoubt-placement.priority", "as `--priority`"},
	{"services.*.x-redoubt-placement.rebalance", "auto or manual, as `--rebalance`"},
	{"services.*.x-redoubt-placement.rebalance-pause", "as `--rebalance-pause`"},

	{"networks.*.name", ""},
	{"networks.*.external", "it is there already"},
	{"networks.*.driver", "one of `network create`"},
	{"networks.*.driver_opts", ""},
	{"networks.*.internal", ""},
	{"networks.*.attachable", ""},
	{"networks.*.enable_ipv6", ""},
	{"networks.*.labels", ""},
	{"networks.*.ipam.driver", "default"},
	{"networks.*.ipam.config[].subnet", ""},
	{"networks.*.ipam.config[].gateway", ""},
	{"networks.*.ipam.config[].ip_range", ""},
	{"networks.*.x-redoubt-default-deny", "true: as `network create --default-deny`"},

	{"volumes.*.name", ""},
	{"volumes.*.external", "it is there already"},
	{"volumes.*.driver", "local"},
	{"volumes.*.driver_opts", "as `volume create --opt`"},
	{"volumes.*.labels", ""},

	{"secrets.*.name", ""},
	{"secrets.*.external", "it is there already"},
	{"secrets.*.file", ""},
	{"secrets.*.environment", "name of a variable"},
	{"secrets.*.labels", ""},
	{"secrets.*.x-redoubt-keep", "how many versions are kept"},
	{"configs.*.name", ""},
	{"configs.*.external", "it is there already"},
	{"configs.*.file", ""},
	{"configs.*.environment", "name of a variable"},
	{"configs.*.content", ""},
	{"configs.*.labels", ""},
	{"configs.*.template_driver", "golang: as `config create --template`"},
	{"configs.*.x-redoubt-keep", "how many versions are kept"},
}

const (
	notYet  = "not there yet"
	nowhere = "means nothing in a cluster: "
)

// why says of keys that are not understood what people will want to know.
var why = map[string]string{
	"services.*.depends_on.*.restart":                            notYet + ": what runs goes on when the other one is replaced; redoubt service update --force replaces it",
	"services.*.deploy.resources.reservations.generic_resources": notYet,
	"services.*.deploy.resources.reservations.devices":           notYet,
	"services.*.build":          nowhere + "build the image, push it, and name it by image",
	"services.*.container_name": nowhere + "a service has as many containers as it has tasks; other services reach it by its name",
	"services.*.links":          nowhere + "services on the same network reach each other by name",
	"services.*.external_links": nowhere + "services on the same network reach each other by name",
	"services.*.network_mode":   nowhere + "name networks, or publish a port with mode: host",
	"services.*.privileged":     "no container has all privileges: name capabilities by cap_add, and devices",
	"services.*.pull_policy":    "an image's digest is resolved once, and nodes get exactly that",
	"services.*.volumes_from":   nowhere + "containers are on different nodes",
	"services.*.logging":        "every node keeps its containers' output: see redoubt service logs",
	"services.*.stdin_open":     nowhere + "nobody is at a service's terminal",
	"services.*.develop":        nowhere + "it is for docker compose watch",
	"services.*.attach":         nowhere + "it is for docker compose up",
}

// harmless are keys that say what is so anyway where they are false.
var harmless = map[string]bool{
	"services.*.privileged": true, "services.*.stdin_open": true, "services.*.oom_kill_disable": true,
	"services.*.use_api_socket": true, "services.*.depends_on.*.restart": true,
}

// tree are the keys as a tree: * and [] are children, too. A leaf is understood with
// all that is in it.
type tree map[string]tree

var understood = func() tree {
	root := tree{}
	for _, k := range Keys {
		at := root
		for _, part := range parts(k.Path) {
			if at[part] == nil {
				at[part] = tree{}
			}
			at = at[part]
		}
	}
	return root
}()

// parts are those of a.*.b[].c: a, *, b, [], c.
func parts(path string) []string { return strings.Split(strings.ReplaceAll(path, "[]", ".[]"), ".") }
