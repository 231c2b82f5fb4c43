package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// Bodies of the memory case. What the small one needs is what the program
// needs; a large one may add a little of the collector's slack.
const (
	smallBody   = 16 << 20
	largeBody   = 1 << 30
	bodySlack   = 8 << 20
	bodyTimeout = 2 * time.Minute
)

func largeBodies(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	handler := g.add(s.own(ctx, "handler", "handler", "1", "0"))
	if g.err != nil {
		return g.err
	}
	streaming := g.add(s.watchdog(ctx, ours, s.fwatchdog, "mode=streaming", "fprocess=cat", "exec_timeout=0", "write_timeout=10m", "read_timeout=10m"))
	proxy := g.add(s.watchdog(ctx, ours, s.fwatchdog, "mode=http", "fprocess=sleep infinity", "http_upstream_url=http://"+handler.addr,
		"exec_timeout=0", "write_timeout=10m", "read_timeout=10m"))
	if g.err != nil {
		return g.err
	}
	for _, c := range []struct {
		what     string
		server   *server
		transfer func(context.Context, string, int64) error
	}{
		{"streaming, cat: 1 GiB in and out at once", streaming, echo},
		{"http: 1 GiB in", proxy, upload},
		{"http: 1 GiB out", proxy, download},
	} {
		ctx, cancel := context.WithTimeout(ctx, bodyTimeout)
		small, _, err := peak(ctx, c.server, smallBody, c.transfer)
		if err != nil {
			cancel()
			return fmt.Errorf("%s: %w", c.what, err)
		}
		large, took, err := peak(ctx, c.server, largeBody, c.transfer)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		r.bound(c.what+": peak resident memory over that of 16 MiB", fmt.Sprintf("≤ %d MiB", bodySlack>>20),
			fmt.Sprintf("%.1f MiB (%.1f in all; %.0f MiB/s)", mib(large-small), mib(large), mib(largeBody)/took.Seconds()), large-small <= bodySlack)
	}
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// peak is the server's resident memory at its highest, during all so far.
func peak(ctx context.Context, s *server, n int64, transfer func(context.Context, string, int64) error) (int64, time.Duration, error) {
	began := time.Now()
	if err := transfer(ctx, s.addr, n); err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	high, err := s.memory("VmHWM")
	return high, took, err
}

func upload(ctx context.Context, addr string, n int64) error {
	_, err := exchange(ctx, "POST", "http://"+addr+"/sink", n)
	return err
}

func download(ctx context.Context, addr string, n int64) error {
	return whole(exchange(ctx, "GET", fmt.Sprintf("http://%s/bytes?n=%d", addr, n), 0))(n)
}

func echo(ctx context.Context, addr string, n int64) error {
	return whole(exchange(ctx, "POST", "http://"+addr+"/", n))(n)
}

// whole checks the length of an answer.
func whole(got int64, err error) func(want int64) error {
	return func(want int64) error {
		if err == nil && got != want {
			return fmt.Errorf("answer of %d bytes where %d were due", got, want)
		}
		return err
	}
}

// exchange sends n bytes and reads the answer, both at once, and returns the
// length of the answer.
func exchange(ctx context.Context, method, url string, n int64) (int64, error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	var body io.Reader
	if n > 0 {
		body = io.LimitReader(zeros{}, n)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, err
	}
	if n > 0 {
		req.ContentLength = n
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.Copy(io.Discard, bufio.NewReader(resp.Body))
}

// Bounds of the program itself: its file, and its resident memory when a
// handler is up, its metrics were read once, and two seconds have passed.
const (
	maxBinary   = 10_500_000
	maxIdle     = 10 << 20
	idleSeconds = 2
)

func size(ctx context.Context, s settings, r *report) error {
	info, err := os.Stat(s.fwatchdog)
	if err != nil {
		return err
	}
	r.bound("stripped binary", "≤ 10.5 MB", fmt.Sprintf("%.2f MB", float64(info.Size())/1e6), info.Size() <= maxBinary)
	g := &group{}
	defer g.stop()
	watchdog := g.add(s.watchdogWithChild(ctx, ours, s.fwatchdog))
	if g.err != nil {
		return g.err
	}
	resp, err := http.Get("http://" + watchdog.metrics + "/metrics")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	select {
	case <-time.After(idleSeconds * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	idle, err := watchdog.memory("VmRSS")
	if err != nil {
		return err
	}
	r.bound("idle resident memory, http mode", "≤ 10 MiB", fmt.Sprintf("%.1f MiB", mib(idle)), idle <= maxIdle)
	return nil
}

// watchdogWithChild starts a watchdog whose handler is its own child.
func (s settings) watchdogWithChild(ctx context.Context, name, path string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return s.watchdog(ctx, name, path, "mode=http", "fprocess="+s.self+" role upstream "+addr, "http_upstream_url=http://"+addr)
}
