package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDependsOn: a service of a compose file has no container until another one is
// healthy and a third has done its work, and says so; it is not waited for once that is
// so, also by the same deployment again. A circle is refused, and what runs goes on when
// what it depends on is gone.
func TestDependsOn(t *testing.T) {
	t.Parallel()
	c := up(t, "depends", 1, 1)
	const m, image = "manager-1", "redoubt.test/probe:1"
	c.lab("load", checkedImage(t, image, "/probe"))
	file, err := filepath.Abs(filepath.Join("testdata", "waits.yml"))
	if err != nil {
		t.Fatal(err)
	}
	deploy := []string{"stack", "deploy", "-c", file, "--profile", "some", "--timeout", "40s", "shop"}
	c.ok(m, append(deploy[:len(deploy)-1:len(deploy)-1], "--detach", "shop")...)

	eventually(t, 30*time.Second, func() string {
		web, migrate := c.tasks(m, "shop_web"), c.tasks(m, "shop_migrate")
		if len(web) != 1 || web[0].Node != "" || len(migrate) != 1 || migrate[0].State != "complete" || !strings.HasPrefix(web[0].Message, "waits for shop_db to be healthy (") {
			return "it waits: " + c.ok(m, "service", "ps", "--no-trunc")
		}
		return ""
	})
	if got := c.ok(m, "service", "explain", "shop_web.1"); !strings.Contains(got, "shop_web.1 waits for shop_db to be healthy (it is starting)\n") || !strings.Contains(got, "redoubt service explain shop_db") {
		t.Error(got)
	}
	c.ok(m, "service", "exec", "shop_db", "/probe", "touch", "/ok")
	c.ok(m, deploy...)
	web := c.tasks(m, "shop_web")
	if len(web) != 1 || web[0].State != "running" {
		t.Errorf("it does not run: %v", web)
	}
	c.refused(m, 1, "services would wait for each other for ever: shop_db → shop_web → shop_db", nil, "service", "update", "--depends-on-add", "shop_web", "shop_db")

	c.ok(m, "service", "rm", "shop_db")
	c.ok(m, "service", "update", "--detach", "--force", "shop_web")
	eventually(t, 30*time.Second, func() string {
		for _, task := range c.tasks(m, "shop_web") {
			if task.Message == "waits for shop_db to be healthy (there is no such service)" {
				return ""
			}
		}
		return "a new one does not wait: " + c.ok(m, "service", "ps", "--no-trunc")
	})
	c.ok(m, "service", "update", "--detach", "--depends-on-rm", "shop_db", "shop_web")
	eventually(t, 30*time.Second, func() string {
		if len(c.serving("shop_web")) != 1 {
			return "it waits for nothing, and does not run: " + c.ok(m, "service", "ps", "--no-trunc")
		}
		return ""
	})
}
