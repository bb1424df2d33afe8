package e2e

import (
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/meshload"
)

// rates asks one container on worker-2 as fast as it answers: from a container on
// worker-1 by its address on the overlay, and from outside by the port that
// worker-1 publishes, in turn; and its like with the PROXY protocol.
func (s *loadStory) rates(client taskJSON, rounds int) {
	const m = "manager-1"
	s.ok(m, "service", "create", "--name", "one", "--network", "back", "--publish", "8081:80", "--constraint", "node.hostname==worker-2", image)
	one := s.tasks(m, "one")[0]
	s.ok(m, "service", "create", "--name", "headed", "--publish", "published=8086,target=80,proxy-protocol=v2", "--constraint", "node.hostname==worker-2", image, "--proxy-protocol")
	headed := "http://" + s.host("worker-1").Address + ":8086/"
	o := &overlayStory{cluster: s.cluster}
	direct, through := "http://"+o.address(one, "back")+"/", "http://"+s.host("worker-1").Address+":8081/"
	ask := func(from *taskJSON, url string) *meshload.Report {
		r := s.ask(from, "-url", url, "-clients", "32", "-kept", "-for", "5s", "-timeout", "20s").wait()
		if r.Failed > 0 {
			s.t.Errorf("%s: %d of %d failed: %v", url, r.Failed, r.Sent, r.Causes)
		}
		return r
	}
	var ratios, relayed []float64
	for range rounds {
		d, p, h := ask(&client, direct), ask(nil, through), ask(nil, headed)
		relayed = append(relayed, h.RequestsPerSecond/p.RequestsPerSecond)
		s.t.Logf("with the PROXY protocol %.0f/s (p50 %v): %.2f of that without", h.RequestsPerSecond, h.P50.Round(10*time.Microsecond), relayed[len(relayed)-1])
		ratios = append(ratios, p.RequestsPerSecond/d.RequestsPerSecond)
		s.t.Logf("across the overlay %.0f/s (p50 %v), by the published port %.0f/s (p50 %v): %.2f", d.RequestsPerSecond, d.P50.Round(10*time.Microsecond),
			p.RequestsPerSecond, p.P50.Round(10*time.Microsecond), ratios[len(ratios)-1])
	}
	slices.Sort(ratios)
	slices.Sort(relayed)
	s.t.Logf("ratio with the PROXY protocol, n=%d: median %.2f, %.2f to %.2f", rounds, relayed[rounds/2], relayed[0], relayed[rounds-1])
	s.t.Logf("ratio, n=%d: median %.2f, %.2f to %.2f", rounds, ratios[rounds/2], ratios[0], ratios[rounds-1])
}
