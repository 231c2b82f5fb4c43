package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The cases of asynchronous calls, all of whose names begin so. weir keeps them
// itself, on the disk that the folder for temporary files is on.
const asyncCases = "async "

// Bounds and sizes of what is put into the queue.
const (
	// asyncBody is the size of each call's body.
	asyncBody = 1 << 10
	// asyncClients call at once where as many calls as possible are sent.
	asyncClients = 64
	// leastEnqueued is in calls a second.
	leastEnqueued = 5000
	// pacedRate is the load at which the time of one is measured, pacedMost
	// what 99 of 100 may take, in milliseconds.
	pacedRate = 1000
	pacedMost = 20
	// pacedTurns of pacedTime each.
	pacedTurns = 3
	pacedTime  = 4 * time.Second
	// pacedLeave is when a client stops waiting: it counts with this time.
	pacedLeave = 10 * time.Second
)

// Functions of the stacks.
const (
	// heldFunction has one place, which its first call never leaves, so that
	// nothing of its queue is worked on.
	heldFunction = "held"
	// drainFunction takes drainWork for a call.
	drainFunction = "drain"
	// plainFunction answers at once.
	plainFunction = "plain"
)

const (
	heldPath  = "/async-function/" + heldFunction + "/hold"
	drainPath = "/async-function/" + drainFunction + "/"
)

// asyncStore is a weir that keeps calls in a folder, and can be started anew
// with what it has there.
type asyncStore struct {
	s          settings
	dir, stack string
	env        []string
}

func (s settings) asyncStore(stack string, env ...string) (*asyncStore, error) {
	dir, err := os.MkdirTemp(s.dir, "async")
	if err != nil {
		return nil, err
	}
	a := &asyncStore{s: s, dir: dir, stack: filepath.Join(dir, "stack.yaml"), env: env}
	return a, os.WriteFile(a.stack, []byte(stack), 0o600)
}

// start begins weir and waits until it takes asynchronous calls.
func (a *asyncStore) start(ctx context.Context) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	metrics, err := freeAddr()
	if err != nil {
		return nil, err
	}
	srv, err := startServer(ctx, gateway, addr, a.s.quiet, append([]string{
		"WEIR_PROVIDER=local", "WEIR_STACK=" + a.stack, "WEIR_FWATCHDOG=" + a.s.fwatchdog,
		"WEIR_LISTEN=" + addr, "WEIR_METRICS_LISTEN=" + metrics, "WEIR_DATA_DIR=" + filepath.Join(a.dir, "data"),
	}, a.env...), a.s.weir)
	if err != nil {
		return nil, err
	}
	srv.metrics = metrics
	if err := takesCalls(ctx, addr); err != nil {
		srv.stop()
		return nil, fmt.Errorf("%s: %w\n%s", gateway, err, srv.out.String())
	}
	return srv, nil
}

// takesCalls waits until weir knows its functions and has opened its store: who
// asks for a call that is not there is told so then.
func takesCalls(ctx context.Context, addr string) error {
	if err := answers200(ctx, addr, "/healthz"); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		a, err := get(addr, asyncCallPath+strings.Repeat("a", 26)+"-1")
		if err == nil && a.status == http.StatusServiceUnavailable {
			err = errors.New("the store of calls is not open")
		}
		return err
	})
}

const asyncCallPath = "/async-call/"

func asyncRequest(path string) []byte {
	// The end is what the handler with a fixed answer waits for.
	return request("POST", path, strings.Repeat("x", asyncBody-len(headEnd))+string(headEnd))
}

// heldStack has a function whose queue stands still.
func heldStack(s settings) string {
	return fmt.Sprintf(`functions:
  %s:
    fprocess: %s role handler 127.0.0.1:$PORT 1 0
    environment: {mode: http, max_inflight: 1, exec_timeout: 1h, write_timeout: 1h}
    labels: {com.openfaas.scale.min: "1", com.openfaas.scale.max: "1"}
`, heldFunction, s.self)
}

// asyncEnqueue measures 202s: of calls that stay in the queue beside calls that
// are answered at once, and of calls while others are worked on.
func asyncEnqueue(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	upstream := g.add(s.own(ctx, direct, "upstream"))
	if g.err != nil {
		return g.err
	}
	gate := filepath.Join(s.dir, "open")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		return err
	}
	store, err := s.asyncStore(heldStack(s) + fmt.Sprintf("  %s: {url: http://%s}\n", plainFunction, upstream.addr) +
		drainStack(s, drainShapes[0], gate, s.dir))
	if err != nil {
		return err
	}
	weir := g.add(store.start(ctx))
	if g.err != nil {
		return g.err
	}
	const sync = gateway + ", called at once"
	seen, err := turns(ctx, s, []*server{weir, {name: sync, addr: weir.addr, cmd: weir.cmd}}, s.rounds, func(system *server) load {
		if system.name == sync {
			return load{conns: asyncClients, request: asyncRequest("/function/" + plainFunction + "/")}
		}
		return load{conns: asyncClients, request: asyncRequest(heldPath)}
	})
	if err != nil {
		return err
	}
	for _, name := range []string{gateway, sync} {
		if err := allGood(name, seen[name]); err != nil {
			return err
		}
		r.figure(name, seen[name])
	}
	rates := each(seen[gateway], result.rate)
	r.bound(fmt.Sprintf("%d clients, 1 KiB, nothing is worked on: calls/s", asyncClients), fmt.Sprintf("≥ %d", leastEnqueued), whole0(rates), median(rates) >= leastEnqueued)
	r.note("share of the calls/s of a function that answers at once", spread(ratios(rates, each(seen[sync], result.rate))))
	if err := pacedEnqueue(ctx, r, weir.addr, heldPath, "nothing is worked on", true); err != nil {
		return err
	}
	seen, err = turns(ctx, s, []*server{weir}, s.rounds, func(*server) load {
		return load{conns: asyncClients, request: asyncRequest(drainPath)}
	})
	if err == nil {
		err = allGood(gateway, seen[gateway])
	}
	if err != nil {
		return err
	}
	r.figure(gateway+" while it drains", seen[gateway])
	rates = each(seen[gateway], result.rate)
	r.note(fmt.Sprintf("%d clients, 1 KiB, %s worked on meanwhile: calls/s", asyncClients, drainShapes[0]), whole0(rates))
	return pacedEnqueue(ctx, r, weir.addr, drainPath, drainShapes[0].String()+" worked on meanwhile", false)
}

// asyncWritten is the same where each call is on the disk before its 202: what
// the disk does is measured.
func asyncWritten(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	store, err := s.asyncStore(heldStack(s), "WEIR_NATS_SYNC=always")
	if err != nil {
		return err
	}
	weir := g.add(store.start(ctx))
	if g.err != nil {
		return g.err
	}
	seen, err := turns(ctx, s, []*server{weir}, s.rounds, func(*server) load {
		return load{conns: asyncClients, request: asyncRequest(heldPath)}
	})
	if err != nil {
		return err
	}
	for _, x := range seen[gateway] {
		// A disk that is busy may write nothing for as long as a turn.
		if x.refused+x.failed > 0 {
			return fmt.Errorf("%d good, %d refused and %d failed where all should be good", x.good, x.refused, x.failed)
		}
	}
	r.figure(gateway+", written through", seen[gateway])
	r.note(fmt.Sprintf("%d clients, 1 KiB: calls/s", asyncClients), whole0(each(seen[gateway], result.rate)))
	one, err := load{addr: weir.addr, conns: 1, request: asyncRequest(heldPath), warm: warm, time: pacedTime}.run(ctx)
	if err != nil {
		return err
	}
	r.note("1 client: p50 and p99 of a 202, ms", fmt.Sprintf("%.2f, %.2f", one.p50()/1e3, micros(one.latencies, 0.99)/1e3))
	return pacedEnqueue(ctx, r, weir.addr, heldPath, "nothing is worked on", false)
}

// pacedEnqueue measures how long a 202 takes at pacedRate.
func pacedEnqueue(ctx context.Context, r *report, addr, path, with string, bounded bool) error {
	var p50s, p99s []float64
	answered, due := 0, 0
	for range pacedTurns {
		x, err := openLoad{addr: addr, request: asyncRequest(path), rate: pacedRate, warm: time.Second, time: pacedTime,
			good: pacedLeave, leave: pacedLeave, conns: 4 * asyncClients}.run(ctx)
		if err != nil {
			return err
		}
		if x.failed+x.allRefused() > 0 {
			return fmt.Errorf("at %d calls a second %d of %d failed and %d were refused", pacedRate, x.failed, x.due, x.allRefused())
		}
		answered, due = answered+x.good, due+x.due
		p50s, p99s = append(p50s, at(x.admitted, 0.5)), append(p99s, at(x.admitted, 0.99))
	}
	r.note(fmt.Sprintf("%d calls/s, %s: p50 of a 202, ms", pacedRate, with), spread(p50s))
	what := fmt.Sprintf("%d calls/s, %s: p99 of a 202, ms", pacedRate, with)
	switch {
	case bounded:
		r.bound(what, fmt.Sprintf("≤ %d", pacedMost), spread(p99s), median(p99s) <= pacedMost && answered == due)
	default:
		r.note(what, spread(p99s))
	}
	if answered < due {
		r.note(fmt.Sprintf("%d calls/s, %s: answered", pacedRate, with), fmt.Sprintf("%d of %d", answered, due))
	}
	return nil
}

func allGood(name string, all []result) error {
	for _, x := range all {
		if x.good == 0 || x.refused+x.failed > 0 {
			return fmt.Errorf("%s: %d good, %d refused and %d failed where all should be good", name, x.good, x.refused, x.failed)
		}
	}
	return nil
}

// whole0 is spread of numbers that are large.
func whole0(values []float64) string {
	return fmt.Sprintf("%.0f (%.0f to %.0f)", median(values), quantile(values, 0.25), quantile(values, 0.75))
}

// queueUp has exactly n calls kept, and returns their IDs.
func queueUp(ctx context.Context, addr, path string, n int) ([]string, error) {
	transport := &http.Transport{MaxConnsPerHost: asyncClients, MaxIdleConnsPerHost: asyncClients}
	defer transport.CloseIdleConnections()
	ids := make([]string, n)
	body := strings.Repeat("x", asyncBody)
	var next atomic.Int64
	var all sync.WaitGroup
	var fault atomic.Pointer[error]
	for range min(n, asyncClients) {
		all.Go(func() {
			for fault.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				id, err := queueOne(ctx, transport, "http://"+addr+path, body)
				if err != nil {
					fault.CompareAndSwap(nil, &err)
					return
				}
				ids[i] = id
			}
		})
	}
	all.Wait()
	if err := fault.Load(); err != nil {
		return nil, *err
	}
	return ids, nil
}

func queueOne(ctx context.Context, transport *http.Transport, url, body string) (id string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	id, ok := strings.CutPrefix(resp.Header.Get("Location"), asyncCallPath)
	if resp.StatusCode != http.StatusAccepted || !ok {
		return "", fmt.Errorf("asynchronous call: %s, Location %q", resp.Status, resp.Header.Get("Location"))
	}
	return id, nil
}

// kill ends a server as a crash does.
func (s *server) kill() {
	_ = unix.Kill(s.pid(), unix.SIGKILL)
	s.stop()
}
