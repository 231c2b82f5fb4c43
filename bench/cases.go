package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"time"
)

// cases are the measurements, each with the bounds that the project has set.
var cases = []struct {
	name string
	run  func(context.Context, settings, *report) error
}{
	{"http throughput", httpThroughput},
	{"http latency", httpLatency},
	{"refusal", refusal},
	{"overload", func(ctx context.Context, s settings, r *report) error { return overload(ctx, s, r, 5*time.Millisecond) }},
	{"overload of a slower handler", func(ctx context.Context, s settings, r *report) error { return overload(ctx, s, r, slower) }},
	{"guard", guardReaction},
	{"auto limit", autoLimit},
	{"fork streaming", func(ctx context.Context, s settings, r *report) error { return fork(ctx, s, r, "streaming") }},
	{"fork serializing", func(ctx context.Context, s settings, r *report) error { return fork(ctx, s, r, "serializing") }},
	{"fork classic", func(ctx context.Context, s settings, r *report) error { return fork(ctx, s, r, "classic") }},
	{"large bodies", largeBodies},
	{"size", size},
	{"gateway throughput", gatewayThroughput},
	{"gateway latency", gatewayLatency},
	{"gateway holds", gatewayHolds},
	{"gateway wake", gatewayWake},
	{"async enqueue", asyncEnqueue},
	{"async enqueue, written through", asyncWritten},
	{"async drain", asyncDrain},
	{"async queued", asyncQueued},
}

// Names of the systems, as the tables show them.
const (
	ours         = "fwatchdog"
	theirs       = "of-watchdog"
	reverseproxy = "ReverseProxy"
	direct       = "direct"
)

// warm is driven before each turn: pools fill, and a processor that was idle
// is awake.
const warm = 100 * time.Millisecond

// turns drives every system in turn, rounds times, and lists what was seen of
// each in the order of the turns. Each round begins with another system, so
// that none always follows the same one.
func turns(ctx context.Context, s settings, systems []*server, rounds int, each func(*server) load) (map[string][]result, error) {
	seen := map[string][]result{}
	for round := range rounds {
		for i := range systems {
			system := systems[(round+i)%len(systems)]
			l := each(system)
			l.addr, l.pid = system.addr, system.pid()
			l.time, l.warm = s.time, warm
			result, err := l.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", system.name, err)
			}
			seen[system.name] = append(seen[system.name], result)
		}
	}
	return seen, nil
}

// group starts servers and stops them all.
type group struct {
	servers []*server
	err     error
}

func (g *group) add(s *server, err error) *server {
	if err != nil {
		g.err = err
		return &server{}
	}
	g.servers = append(g.servers, s)
	return s
}

func (g *group) stop() {
	for _, s := range g.servers {
		s.stop()
	}
}

// proxies are the fixed handler and everything that can stand before it.
func proxies(ctx context.Context, s settings, g *group) []*server {
	upstream := g.add(s.own(ctx, direct, "upstream"))
	if g.err != nil {
		return nil
	}
	env := []string{"mode=http", "fprocess=sleep infinity", "http_upstream_url=http://" + upstream.addr}
	list := []*server{
		upstream,
		g.add(s.watchdog(ctx, ours, s.fwatchdog, env...)),
		g.add(s.own(ctx, reverseproxy, "reverseproxy", upstream.addr)),
	}
	if s.peer != "" {
		list = append(list, g.add(s.watchdog(ctx, theirs, s.peer, env...)))
	}
	return list
}

func httpThroughput(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	systems := proxies(ctx, s, g)
	if g.err != nil {
		return g.err
	}
	seen, err := turns(ctx, s, systems, s.rounds, func(*server) load {
		return load{conns: 32, request: request("GET", "/", "")}
	})
	if err != nil {
		return err
	}
	for _, system := range systems {
		r.figure(system.name, seen[system.name])
	}
	if s.peer != "" {
		r.atLeast("32 connections: requests/s, times of-watchdog's", ratios(each(seen[ours], result.rate), each(seen[theirs], result.rate)), 2)
		r.note("own CPU of a request, share of of-watchdog's", spread(ratios(each(seen[ours], result.cpuPerAnswer), each(seen[theirs], result.cpuPerAnswer))))
	}
	r.atLeast("32 connections: requests/s, times a bare ReverseProxy's", ratios(each(seen[ours], result.rate), each(seen[reverseproxy], result.rate)), 1)
	r.note("own CPU of a request, share of ReverseProxy's", spread(ratios(each(seen[ours], result.cpuPerAnswer), each(seen[reverseproxy], result.cpuPerAnswer))))
	return nil
}

// latencyTurns are many and short, since a median settles fast and a machine's
// clock speed does not.
const latencyTurns = 3

func httpLatency(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	systems := proxies(ctx, s, g)
	if g.err != nil {
		return g.err
	}
	rounds := s.rounds * latencyTurns
	s.time /= latencyTurns
	seen, err := turns(ctx, s, systems, rounds, func(*server) load {
		return load{conns: 1, request: request("GET", "/", "")}
	})
	if err != nil {
		return err
	}
	added := func(name string) []float64 {
		p50s, base := each(seen[name], result.p50), each(seen[direct], result.p50)
		for i := range p50s {
			p50s[i] -= base[i]
		}
		return p50s
	}
	for _, system := range systems {
		r.figure(system.name, seen[system.name])
	}
	r.atMost("1 connection: added p50, share of what ReverseProxy adds", ratios(added(ours), added(reverseproxy)), 0.7)
	if s.peer != "" {
		r.note("added p50, share of what of-watchdog adds", spread(ratios(added(ours), added(theirs))))
	}
	return nil
}

func refusal(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	handler := g.add(s.own(ctx, "handler", "handler", "1", "0"))
	if g.err != nil {
		return g.err
	}
	env := []string{"mode=http", "fprocess=sleep infinity", "http_upstream_url=http://" + handler.addr, "max_inflight=1",
		"exec_timeout=10m", "write_timeout=10m"}
	full := []*server{g.add(s.watchdog(ctx, ours, s.fwatchdog, env...))}
	if s.peer != "" {
		full = append(full, g.add(s.watchdog(ctx, theirs, s.peer, env...)))
	}
	if g.err != nil {
		return g.err
	}
	for _, watchdog := range full {
		conn, err := hold(watchdog.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", watchdog.name, err)
		}
		defer conn.Close()
	}
	answer, err := refusedBy(full[0].addr)
	if err != nil {
		return err
	}
	const bare = "bare net/http"
	systems := append(full, g.add(s.own(ctx, bare, "refuser", string(answer))))
	if g.err != nil {
		return g.err
	}
	seen, err := turns(ctx, s, systems, s.rounds, func(*server) load {
		return load{conns: 8, request: request("GET", "/", "")}
	})
	if err != nil {
		return err
	}
	for _, system := range systems {
		r.figure(system.name, seen[system.name])
	}
	for _, x := range seen[ours] {
		if x.good+x.failed > 0 || x.refused == 0 {
			return fmt.Errorf("%d refused, %d good and %d failed where all should be refused", x.refused, x.good, x.failed)
		}
	}
	r.atMost("CPU of a 429, times that of a bare handler", ratios(each(seen[ours], result.cpuPerAnswer), each(seen[bare], result.cpuPerAnswer)), 1.5)
	if s.peer != "" {
		r.note("CPU of a 429, share of of-watchdog's", spread(ratios(each(seen[ours], result.cpuPerAnswer), each(seen[theirs], result.cpuPerAnswer))))
	}
	return nil
}

// hold takes the one slot of a watchdog until the connection is closed.
func hold(addr string) (net.Conn, error) {
	for began := time.Now(); time.Since(began) < startTimeout; {
		conn, err := net.Dial("tcp4", addr)
		if err != nil {
			return nil, err
		}
		if _, err := conn.Write(request("GET", "/hold", "")); err != nil {
			conn.Close()
			return nil, err
		}
		// The question may overtake what was sent before it, and take the
		// slot; then this is tried again.
		time.Sleep(20 * time.Millisecond)
		if a, err := get(addr, "/"); err == nil && a.status == http.StatusTooManyRequests {
			return conn, nil
		}
		conn.Close()
	}
	return nil, fmt.Errorf("no refusal while the one slot is taken")
}

// refusedBy is a refusal, head and body, byte for byte.
func refusedBy(addr string) ([]byte, error) {
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests {
		return nil, fmt.Errorf("status %d where 429 was due", resp.StatusCode)
	}
	return httputil.DumpResponse(resp, true)
}

// overloadSlots are the real slots of the handler of the overload cases.
const overloadSlots = 8

// slower is what a request takes where refusals are timed. Ten times the
// capacity of a handler with requests of 5 ms is more than two processors and
// the load on them can carry: what is seen of a refusal then is how long it
// waits for one of them.
const slower = 20 * time.Millisecond

// overload offers ten times what the handler can take: ten clients for each of
// its slots, and one that was refused is back after the time of a request. A
// refusal is worth that much only if it comes at once.
func overload(ctx context.Context, s settings, r *report, work time.Duration) error {
	g := &group{}
	defer g.stop()
	handler := g.add(s.own(ctx, direct, "handler", fmt.Sprint(overloadSlots), work.String()))
	if g.err != nil {
		return g.err
	}
	env := []string{"mode=http", "fprocess=sleep infinity", "http_upstream_url=http://" + handler.addr,
		fmt.Sprintf("max_inflight=%d", overloadSlots)}
	const queued = ours + " with a queue"
	systems := []*server{
		handler,
		g.add(s.watchdog(ctx, ours, s.fwatchdog, env...)),
		g.add(s.watchdog(ctx, queued, s.fwatchdog, append(env, fmt.Sprintf("max_queue=%d", overloadSlots))...)),
	}
	if s.peer != "" {
		systems = append(systems, g.add(s.watchdog(ctx, theirs, s.peer, env...)))
	}
	if g.err != nil {
		return g.err
	}
	seen, err := turns(ctx, s, systems, s.rounds, func(system *server) load {
		conns := overloadSlots
		if system != handler {
			conns *= 10
		}
		return load{conns: conns, request: request("GET", "/work", ""), pause: work}
	})
	if err != nil {
		return err
	}
	for _, system := range systems {
		r.figure(system.name, seen[system.name])
	}
	peak := each(seen[direct], result.rate)
	for _, c := range []struct{ name, with string }{{ours, ""}, {queued, ", with a queue"}} {
		for _, x := range seen[c.name] {
			if x.refused == 0 || x.failed > 0 {
				return fmt.Errorf("%s: %d refused, %d good and %d failed", c.name, x.refused, x.good, x.failed)
			}
		}
		r.atLeast("goodput at ten times the limit"+c.with+", share of the handler's peak", ratios(each(seen[c.name], result.rate), peak), 0.9)
		if p99 := each(seen[c.name], result.refusalP99); work >= slower {
			r.atMost("p99 of a refusal"+c.with+", ms", p99, 1)
		} else {
			r.note("p99 of a refusal"+c.with+", ms", spread(p99))
		}
	}
	if s.peer != "" {
		r.note("of-watchdog's share of the same peak", spread(ratios(each(seen[theirs], result.rate), peak)))
	}
	return nil
}

// fork compares a process per request with os/exec's, once with a program that
// does nothing and once with one that copies its input.
func fork(ctx context.Context, s settings, r *report, mode string) error {
	const bare = "bare os/exec"
	peer, peerName, bareMode := s.peer, theirs, mode
	if mode == "classic" {
		peer, peerName, bareMode = s.classic, "classic-watchdog", "serializing"
	}
	for _, program := range []struct{ command, body string }{{"true", ""}, {"cat", "hello, hello, hello\n"}} {
		g := &group{}
		env := []string{"mode=" + mode, "fprocess=" + program.command, "cgi_headers=true"}
		systems := []*server{
			g.add(s.watchdog(ctx, ours, s.fwatchdog, env...)),
			g.add(s.own(ctx, bare, "forker", bareMode, program.command)),
		}
		if peer != "" {
			systems = append(systems, g.add(s.watchdog(ctx, peerName, peer, env...)))
		}
		if g.err != nil {
			g.stop()
			return g.err
		}
		method := "GET"
		if program.body != "" {
			method = "POST"
		}
		seen, err := turns(ctx, s, systems, s.rounds, func(*server) load {
			return load{conns: 4, request: request(method, "/", program.body)}
		})
		g.stop()
		if err != nil {
			return err
		}
		for _, system := range systems {
			r.figure(system.name+" "+program.command, seen[system.name])
		}
		r.atLeast(program.command+": requests/s, share of bare os/exec's", ratios(each(seen[ours], result.rate), each(seen[bare], result.rate)), 0.95)
		if peer != "" {
			r.note(program.command+": requests/s, times "+peerName+"'s", spread(ratios(each(seen[ours], result.rate), each(seen[peerName], result.rate))))
		}
	}
	return nil
}
