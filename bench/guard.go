package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/bench/cage"
)

// The guard case: in a container of guardLimit, a process beside the handler
// takes memory until it is guardStep below the mark, and then twice that, at
// once.
const (
	guardLimit  = 256 << 20
	guardMark   = guardLimit * 9 / 10
	guardStep   = 8 << 20
	guardRounds = 20
	maxReaction = 250 * time.Millisecond
	// guardWarm light requests teach the watchdog that its handler takes next
	// to nothing, so that it is the mark that it reacts to.
	guardWarm = 5000
)

func guardReaction(ctx context.Context, s settings, r *report) error {
	var took []float64
	for range guardRounds {
		one, err := guardRound(ctx, s)
		if errors.Is(err, cage.ErrUnavailable) {
			r.note("not measured", err.Error())
			return nil
		}
		if err != nil {
			return err
		}
		took = append(took, float64(one.Microseconds())/1000)
	}
	worst := quantile(took, 1)
	r.bound("from the mark in a real memory cgroup to 503 of /_/ready, slowest of "+strconv.Itoa(guardRounds),
		fmt.Sprintf("≤ %d ms", maxReaction.Milliseconds()), fmt.Sprintf("%.0f ms (median %.0f)", worst, median(took)),
		worst <= float64(maxReaction.Milliseconds()))
	return nil
}

// guardRound measures once, with a fresh watchdog: it would learn from the
// round before.
func guardRound(ctx context.Context, s settings) (took time.Duration, err error) {
	c, err := cage.New(cage.Limits{Memory: guardLimit})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	g := &group{}
	defer g.stop()
	watchdog, ballast := g.add(s.cagedWatchdog(ctx, c)), g.add(s.cagedBallast(ctx, c))
	if g.err != nil {
		return 0, g.err
	}
	client := &http.Client{Timeout: startTimeout}
	defer client.CloseIdleConnections()
	m := &guarded{client: client, watchdog: watchdog, ballast: ballast}
	if err := m.approach(ctx); err != nil {
		return 0, err
	}
	release, err := m.hold(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	// At any time between two samples.
	time.Sleep(rand.N(maxReaction))
	if code, err := m.status("/_/ready"); err != nil || code != http.StatusOK {
		return 0, fmt.Errorf("readiness is %d, %w, before the mark", code, err)
	}
	began := time.Now()
	if err := m.take(2 * guardStep); err != nil {
		return 0, err
	}
	for time.Since(began) < startTimeout {
		code, err := m.status("/_/ready")
		if err != nil {
			return 0, err
		}
		if code == http.StatusServiceUnavailable {
			return time.Since(began), nil
		}
		time.Sleep(time.Millisecond)
	}
	return 0, fmt.Errorf("no reaction in %v", startTimeout)
}

// cagedWatchdog starts a watchdog and its handler inside c.
func (s settings) cagedWatchdog(ctx context.Context, c *cage.Cage) (*server, error) {
	var addrs, ports [3]string
	for i := range addrs {
		var err error
		if addrs[i], err = freeAddr(); err != nil {
			return nil, err
		}
		_, ports[i], _ = strings.Cut(addrs[i], ":")
	}
	env := []string{
		"mode=http", "fprocess=" + strings.Join(s.role("handler", addrs[2], "1", "0s"), " "), "http_upstream_url=http://" + addrs[2],
		"port=" + ports[0], "metrics_port=" + ports[1], "healthcheck_interval=1ms", "suppress_lock=true",
		"exec_timeout=10m", "write_timeout=10m",
	}
	srv, err := startServer(ctx, ours, addrs[0], s.quiet, env, c.Argv(s.fwatchdog)...)
	if err == nil {
		srv.metrics = addrs[1]
	}
	return srv, err
}

func (s settings) cagedBallast(ctx context.Context, c *cage.Cage) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return startServer(ctx, "ballast", addr, s.quiet, nil, c.Argv(s.role("ballast", addr)...)...)
}

// ballast takes memory for good: POST /?bytes=N answers when so much more is
// in use.
func ballast(addr string, _ []string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("bytes"))
		if n == 0 {
			return
		}
		// Nothing unmaps it.
		_, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}))
}

// guarded are the two processes of a round.
type guarded struct {
	client            *http.Client
	watchdog, ballast *server
}

func (m *guarded) status(path string) (int, error) {
	resp, err := m.client.Get("http://" + m.watchdog.addr + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (m *guarded) take(bytes int64) error {
	resp, err := m.client.Post(fmt.Sprintf("http://%s/?bytes=%d", m.ballast.addr, bytes), "", nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ballast: status %d", resp.StatusCode)
	}
	return nil
}

// usage is what the watchdog says is in use, in bytes.
func (m *guarded) usage() (int64, error) {
	resp, err := m.client.Get("http://" + m.watchdog.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), `watchdog_resource_usage_ratio{resource="memory"} `)
	if !ok {
		return 0, errors.New("no ratio of memory in the metrics")
	}
	number, _, _ := strings.Cut(rest, "\n")
	ratio, err := strconv.ParseFloat(number, 64)
	return int64(ratio * guardLimit), err
}

// approach fills the container to guardStep below the mark, with nothing in
// flight, and waits until the watchdog has seen it.
func (m *guarded) approach(ctx context.Context) error {
	light := load{addr: m.watchdog.addr, conns: 4, request: request("GET", "/", ""), pid: m.watchdog.pid(), time: warm}
	for sent := 0; sent < guardWarm; {
		x, err := light.run(ctx)
		if err != nil {
			return err
		}
		if x.good == 0 {
			return errors.New("no light request is served")
		}
		sent += x.good
	}
	for began := time.Now(); time.Since(began) < startTimeout; time.Sleep(maxReaction) {
		used, err := m.usage()
		if err != nil {
			return err
		}
		missing := guardMark - guardStep - used
		if missing < guardStep/2 && missing > -guardStep/2 {
			return nil
		}
		if missing > 0 {
			if err := m.take(missing); err != nil {
				return err
			}
		}
	}
	return errors.New("the container does not fill")
}

// hold keeps one request in flight, for a watchdog never refuses the only one,
// and waits until it is ready for another. The function it returns lets go.
func (m *guarded) hold(ctx context.Context) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+m.watchdog.addr+"/hold", nil)
	if err != nil {
		return nil, err
	}
	resp, err := m.client.Do(req) // its head comes at once
	if err != nil {
		return nil, err
	}
	for began := time.Now(); time.Since(began) < startTimeout; time.Sleep(time.Millisecond) {
		if code, err := m.status("/_/ready"); err == nil && code == http.StatusOK {
			return func() { cancel(); resp.Body.Close() }, nil
		}
	}
	resp.Body.Close()
	return nil, errors.New("not ready for a second request below the mark")
}
