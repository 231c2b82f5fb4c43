package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The cases of weir, all of whose names begin so. It runs with the local
// provider and a stack of its own.
const gatewayCases = "gateway "

// Names of the systems in front of a function, as the tables show them.
const (
	gateway = "weir"
	asking  = "asking ReverseProxy"
	// behind is added where a fwatchdog is between them and the handler.
	behind = ", fwatchdog"
)

// needsWeir says whether one of the cases that are to be run does.
func (s settings) needsWeir() bool {
	for _, c := range cases {
		if (strings.HasPrefix(c.name, gatewayCases) || strings.HasPrefix(c.name, asyncCases)) && strings.Contains(c.name, s.only) {
			return true
		}
	}
	return false
}

// startWeir starts a weir whose functions are those of a stack file's text.
func (s settings) startWeir(ctx context.Context, stack string) (*server, error) {
	dir, err := os.MkdirTemp(s.dir, "stack")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "stack.yaml")
	if err := os.WriteFile(path, []byte(stack), 0o600); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	metrics, err := freeAddr()
	if err != nil {
		return nil, err
	}
	srv, err := startServer(ctx, gateway, addr, s.quiet, []string{
		"WEIR_PROVIDER=local", "WEIR_STACK=" + path, "WEIR_FWATCHDOG=" + s.fwatchdog,
		"WEIR_LISTEN=" + addr, "WEIR_METRICS_LISTEN=" + metrics,
	}, s.weir)
	if err != nil {
		return nil, err
	}
	srv.metrics = metrics
	// It answers a moment before it knows its functions.
	if err := answers200(ctx, addr, "/healthz"); err != nil {
		srv.stop()
		return nil, fmt.Errorf("%s: /healthz: %w\n%s", gateway, err, srv.out.String())
	}
	return srv, nil
}

// fronts are the handler, and three gateways in front of it and of a fwatchdog
// in front of it: weir, one that asks its provider about each call, and one
// that asks nobody.
func fronts(ctx context.Context, s settings, g *group) []*server {
	upstream := g.add(s.own(ctx, direct, "upstream"))
	describer := g.add(s.own(ctx, "provider", "describer"))
	if g.err != nil {
		return nil
	}
	watched := g.add(s.watchdog(ctx, ours, s.fwatchdog, "mode=http", "http_upstream_url=http://"+upstream.addr))
	if g.err != nil {
		return nil
	}
	weir := g.add(s.startWeir(ctx, fmt.Sprintf("functions:\n  plain: {url: http://%s}\n  watched: {url: http://%s}\n", upstream.addr, watched.addr)))
	if g.err != nil {
		return nil
	}
	return []*server{
		upstream,
		weir,
		g.add(s.own(ctx, asking, "asker", upstream.addr, describer.addr)),
		g.add(s.own(ctx, reverseproxy, "reverseproxy", upstream.addr)),
		{name: gateway + behind, addr: weir.addr, cmd: weir.cmd},
		g.add(s.own(ctx, asking+behind, "asker", watched.addr, describer.addr)),
		g.add(s.own(ctx, reverseproxy+behind, "reverseproxy", watched.addr)),
	}
}

// called is the request that a system of fronts is sent.
func called(system *server) []byte {
	if strings.HasSuffix(system.name, behind) {
		return request("GET", "/function/watched/", "")
	}
	return request("GET", "/function/plain/", "")
}

func gatewayThroughput(ctx context.Context, s settings, r *report) error {
	seen, err := measureFronts(ctx, s, r, 32)
	if err != nil {
		return err
	}
	rates := func(name string) []float64 { return each(seen[name], result.rate) }
	r.atLeast("32 connections: requests/s, times those of a ReverseProxy that asks its provider about each", ratios(rates(gateway), rates(asking)), 2)
	r.atLeast("32 connections: requests/s, times those of a ReverseProxy that asks nobody", ratios(rates(gateway), rates(reverseproxy)), 0.9)
	for _, rival := range []string{asking, reverseproxy} {
		r.note("own CPU of a request, share of "+rival+"'s", spread(ratios(each(seen[gateway], result.cpuPerAnswer), each(seen[rival], result.cpuPerAnswer))))
		r.note("with a fwatchdog behind all: requests/s, times "+rival+"'s", spread(ratios(rates(gateway+behind), rates(rival+behind))))
	}
	return nil
}

func gatewayLatency(ctx context.Context, s settings, r *report) error {
	s.rounds *= latencyTurns
	s.time /= latencyTurns
	seen, err := measureFronts(ctx, s, r, 1)
	if err != nil {
		return err
	}
	base := each(seen[direct], result.p50)
	for _, name := range []string{gateway, asking, reverseproxy} {
		added := each(seen[name], result.p50)
		for i := range added {
			added[i] -= base[i]
		}
		r.note("1 connection: added p50, µs, "+name, spread(added))
	}
	return nil
}

// measureFronts drives all of fronts in turns. None of them may fail.
func measureFronts(ctx context.Context, s settings, r *report, conns int) (map[string][]result, error) {
	g := &group{}
	defer g.stop()
	systems := fronts(ctx, s, g)
	if g.err != nil {
		return nil, g.err
	}
	for _, path := range []string{"/function/plain/", "/function/watched/"} {
		if err := answers200(ctx, systems[1].addr, path); err != nil {
			return nil, fmt.Errorf("%s: %w", gateway, err)
		}
	}
	seen, err := turns(ctx, s, systems, s.rounds, func(system *server) load {
		return load{conns: conns, request: called(system)}
	})
	if err != nil {
		return nil, err
	}
	for _, system := range systems {
		r.figure(system.name, seen[system.name])
		for _, x := range seen[system.name] {
			if x.good == 0 || x.refused+x.failed > 0 {
				return nil, fmt.Errorf("%s: %d good, %d refused and %d failed where all should be good", system.name, x.good, x.refused, x.failed)
			}
		}
	}
	return seen, nil
}

// answers200 waits until a path is answered so.
func answers200(ctx context.Context, addr, path string) error {
	return eventually(ctx, func() error {
		a, err := get(addr, path)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("status %d", a.status)
		}
		return err
	})
}

var errNoMetric = errors.New("no such metric")

// metric reads one family of a server's metrics: the sum of its samples.
func (s *server) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	sum, err := sumOf(string(text), name)
	if err != nil {
		err = fmt.Errorf("metrics of %s: %s: %w", s.name, name, err)
	}
	return sum, err
}

func sumOf(text, name string) (sum float64, err error) {
	err = errNoMetric
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		value, bad := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if bad != nil {
			return 0, bad
		}
		sum, err = sum+value, nil
	}
	return sum, err
}
