package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const dockerStack = `
services:
  web:
    image: ` + image + `
    networks: [back]
    secrets: [pw]
    configs: [{source: conf, target: /etc/conf}]
    environment: {A: b}
    deploy:
      replicas: REPLICAS
      placement: {constraints: [node.role==worker]}
      update_config: {parallelism: 2, order: start-first}
  db:
    image: ` + image + `
    networks: [back]
    volumes: [data:/data]
    deploy: {mode: global, placement: {constraints: [node.role==worker]}}
networks: {back: {}}
volumes: {data: {labels: {tier: back}}}
secrets: {pw: {file: ./pw}}
configs: {conf: {file: ./conf}}
`

// TestDockerStack: a compose file is deployed, changed and removed by docker stack, and
// all that it made is gone.
func TestDockerStack(t *testing.T) {
	t.Parallel()
	c := up(t, "dockerstack", 1, 2)
	c.load()
	d := newDockerStory(t, c)
	dir := t.TempDir()
	for name, text := range map[string]string{"pw": "hunter2", "conf": "colour=red\n", "two.yml": strings.Replace(dockerStack, "REPLICAS", "2", 1), "three.yml": strings.Replace(dockerStack, "REPLICAS", "3", 1),
		"bad.yml": "services: {web: {image: " + image + ", logging: {driver: syslog}}}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deploy := "stack deploy --detach -c " + dir
	d.says(deploy+"/two.yml shop", `(?s)Creating network shop_back.*Creating secret shop_pw.*Creating config shop_conf.*Creating service shop_`)
	replicas := func(want string) {
		t.Helper()
		eventually(t, 60*time.Second, func() string {
			if out := d.says("stack services shop --format '{{.Name}} {{.Mode}} {{.Replicas}}'", ""); out != want {
				return out
			}
			return ""
		})
	}
	replicas("shop_db global 2/2\nshop_web replicated 2/2\n")
	d.says("stack ls --format '{{.Name}} {{.Services}}'", "^shop 2\n$")
	d.says("stack ps shop --filter desired-state=running --format '{{.Name}} {{.Image}} {{.CurrentState}}'", `(?m)^shop_web\.1 `+regexp.QuoteMeta(image)+` Running`)
	if out := c.ok("manager-1", "stack", "ls"); !strings.Contains(out, "shop") {
		t.Errorf("the native command sees no such stack:\n%s", out)
	}
	// The same file changes nothing; another one what it says.
	tasks := d.says("stack ps shop --quiet --no-trunc --filter desired-state=running", "")
	d.says(deploy+"/two.yml shop", `(?s)Updating service shop_`)
	if now := d.says("stack ps shop --quiet --no-trunc --filter desired-state=running", ""); now != tasks {
		t.Errorf("tasks were replaced by a file that is the same:\n%s\n%s", tasks, now)
	}
	// What a secret or config holds is replaced in place, which Docker does not do.
	for name, text := range map[string]string{"pw": "hunter3", "conf": "colour=blue\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.says(deploy+"/three.yml shop", "")
	d.says("config inspect --pretty shop_conf", "colour=blue")
	replicas("shop_db global 2/2\nshop_web replicated 3/3\n")
	d.refuses(deploy+"/bad.yml other", "LogDriver")
	d.says("volume ls --format '{{.Driver}} {{.Name}}' --filter label=com.docker.stack.namespace=shop", "^local shop_data\n$")
	d.refuses("volume rm shop_data", "volume shop_data is in use by service shop_db")
	d.says("stack rm other shop", `(?s)Removing service shop_web.*Removing secret shop_pw.*Removing config shop_conf.*Removing network shop_back`)
	for _, list := range []string{"service ls -q", "secret ls -q", "config ls -q", "stack ls --format '{{.Name}}'", "network ls -q --filter label=com.docker.stack.namespace=shop"} {
		d.says(list, "^$")
	}
	// Data is nobody's to lose by the end of a stack.
	d.says("volume inspect --format '{{.Name}} {{.Labels.tier}}' shop_data", "^shop_data back\n$")
	d.says("volume rm shop_data", "^shop_data\n$")
	d.says("volume ls -q", "^$")
}
