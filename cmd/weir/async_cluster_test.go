package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// cluster is three NATS servers.
type cluster struct {
	t       testing.TB
	servers []*natsServer
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	var routes, ports []string
	for range 3 {
		ports = append(ports, programtest.FreeAddr(t))
		routes = append(routes, "nats://"+ports[len(ports)-1])
	}
	c := &cluster{t: t}
	for i, at := range ports {
		c.servers = append(c.servers, newNats(t, fmt.Sprintf("n%d", i+1),
			fmt.Sprintf("cluster { name: three, listen: %q, routes: [%s] }", at, strings.Join(routes, ", "))))
	}
	return c
}

func (c *cluster) urls() string {
	var all []string
	for _, s := range c.servers {
		all = append(all, s.url)
	}
	return strings.Join(all, ",")
}

// group is what a server says of a stream: who leads it, and who follows with
// all of it.
type group struct {
	Leader   string
	Replicas []struct {
		Name             string
		Current, Offline bool
	}
}

// groups are those of all streams, as far as they are known.
func (c *cluster) groups() map[string]group {
	found := map[string]group{}
	for _, s := range c.servers {
		if s.Over() {
			continue
		}
		response, err := client.Get(s.monitor + "/jsz?streams=true")
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		var said struct {
			Accounts []struct {
				Streams []struct {
					Name    string `json:"name"`
					Cluster *group `json:"cluster"`
				} `json:"stream_detail"`
			} `json:"account_details"`
		}
		if response.StatusCode != http.StatusOK || json.Unmarshal(text, &said) != nil {
			continue
		}
		for _, account := range said.Accounts {
			for _, stream := range account.Streams {
				// What the leader says has the others' state.
				if g := stream.Cluster; g != nil && (g.Leader == s.name || found[stream.Name].Leader == "") {
					found[stream.Name] = *g
				}
			}
		}
	}
	return found
}

// whole waits until each stream is on all three.
func (c *cluster) whole() map[string]group {
	c.t.Helper()
	var all map[string]group
	programtest.Eventually(c.t, "each stream is on all three servers", func() bool {
		all = c.groups()
		for _, g := range all {
			ok := g.Leader != "" && len(g.Replicas) == 2
			for _, r := range g.Replicas {
				ok = ok && r.Current && !r.Offline
			}
			if !ok {
				return false
			}
		}
		return len(all) >= 3
	})
	return all
}

// tell logs what the servers say of streams and consumers.
func (c *cluster) tell() {
	for _, s := range c.servers {
		if s.Over() {
			continue
		}
		response, err := client.Get(s.monitor + "/jsz?streams=true&consumers=true")
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		c.t.Logf("%s: %s", s.name, text)
	}
}

// elsewhere is a stack whose functions are one fwatchdog, which no weir started.
func (s *siege) elsewhere() string {
	s.t.Helper()
	port := programtest.FreePort(s.t)
	w := programtest.StartWatchdog(s.t, "mode=http", "fprocess="+programtest.Build(s.t, "testdata/children/ledger"), "LEDGER="+s.ledger,
		fmt.Sprintf("PORT=%d", port), fmt.Sprintf("upstream_url=http://127.0.0.1:%d", port), "max_inflight=20", "exec_timeout=10m", "write_timeout=10m", "read_timeout=10m")
	w.Ready()
	var b strings.Builder
	b.WriteString("functions:\n")
	for name, attempts := range map[string]string{"sure": "20", "poor": "2"} {
		fmt.Fprintf(&b, "  %s:\n    url: %s\n    annotations:\n      %s\n      com.openfaas.retry.attempts: %q\n", name, w.URL, strings.Join(soon[:2], "\n      "), attempts)
	}
	return b.String()
}

// TestCluster: three NATS servers, two weirs, and one fwatchdog to which both
// deliver. The server that leads the stream of calls is killed, and one that
// does not, and a weir, all under load.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSiege(t)
	stack := s.elsewhere()
	settings := []string{"WEIR_NATS_URL=" + c.urls(), "WEIR_NATS_REPLICAS=3", "WEIR_ASYNC_MAX_STORE=1Gi"}
	one, _ := s.weir(stack, settings...)
	two, k := s.weir(stack, settings...)
	t.Cleanup(func() {
		if t.Failed() {
			c.tell()
		}
	})
	streams := c.whole()
	queue := ""
	for name := range streams {
		if strings.HasSuffix(name, "-queue") {
			queue = name
		}
	}
	if streams[queue].Leader == "" {
		t.Fatalf("no stream of calls among %v", streams)
	}
	s.send()
	for i := range asyncRounds(t, 3) {
		s.goesOn(20)
		all := c.whole()
		leader := all[queue].Leader
		victim := slices.IndexFunc(c.servers, func(n *natsServer) bool { return (n.name == leader) == (i%3 == 0) })
		if i%3 == 2 {
			step, n := round(i/3, byImportance())
			s.killWeir(two, k, step, n)
			continue
		}
		t.Logf("%s is killed; %s leads", c.servers[victim].name, leader)
		c.servers[victim].Signal(syscall.SIGKILL)
		c.servers[victim].Wait()
		s.goesOn(20)
		c.servers[victim].start()
	}
	s.goesOn(20)
	s.over()
	for i, p := range []*program{one, two} {
		if n := p.metric(`weir_async_deliveries_total{function_name="sure.default"}`); n == 0 {
			t.Errorf("weir %d has delivered nothing", i+1)
		}
	}
}
