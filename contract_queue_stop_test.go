package main_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// inLine is how many wait in the tests of a watchdog that ends.
const inLine = 20

// fill puts inLine requests of every shape in line behind a request that runs.
func (w *instance) fill() []*caller {
	w.t.Helper()
	long := numbered(1 << 20)
	var all []*caller
	for i := range inLine {
		id := fmt.Sprint("waiter", i)
		raw := rawPost("/slow?ms=1", id, "5byte")
		switch i % 4 {
		case 1:
			raw = rawPost("/slow?ms=1", id, long)
		case 2:
			raw = rawChunks("/slow?ms=1", id, long)
		case 3:
			raw = rawGet("/slow?ms=1", id)
		}
		all = append(all, w.callInLine(i+1, raw))
	}
	return all
}

// A drain serves everybody who waits, in every mode, and then exits 0.
func TestDrainServesWhoWaits(t *testing.T) {
	limits := []string{"max_inflight=1", fmt.Sprint("max_queue=", inLine), "write_timeout=1m", "exec_timeout=1m"}
	inFork := func(mode string) func(*testing.T) *instance {
		return func(t *testing.T) *instance { return startFork(t, mode, "slowcat 1ms", limits...) }
	}
	for name, begin := range map[string]func(*testing.T) *instance{
		"http":        func(t *testing.T) *instance { return startMisbehaving(t, limits...).instance },
		"streaming":   inFork("streaming"),
		"serializing": inFork("serializing"),
		"classic": func(t *testing.T) *instance {
			return startClassic(t, append(limits, "fprocess="+child(t, "fork")+" slowcat 1ms")...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := begin(t)
			release := w.occupy()
			all := w.fill()
			w.signal(syscall.SIGTERM)
			programtest.Eventually(t, "the listener is closed", func() bool {
				_, err := w.status("/_/health")
				return err != nil
			})
			w.waitDepth(inLine)
			release()
			for i, c := range all {
				a := c.answer()
				wantStatus(t, a, 200)
				if !a.Close {
					t.Errorf("waiter %d: an answer of a drain without Connection: close", i)
				}
			}
			if code := w.wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
		})
	}
}

// A request that stands in line when the listener closes is no new one, though
// its connection has carried others.
func TestDrainServesWhoWaitsOnAKeptConnection(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=1")
	c := w.call(rawPost("/echo", "before", "before"))
	wantWhole(t, c.answer(), nil, "before")
	_, release := w.hold("holder")
	c.write(rawPost("/echo", "waiter", "5byte"))
	w.waitDepth(1)
	w.signal(syscall.SIGTERM)
	programtest.Eventually(t, "the listener is closed", func() bool {
		_, err := w.status("/_/health")
		return err != nil
	})
	release()
	wantWhole(t, c.answer(), nil, "5byte")
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// While it drains and still listens, who comes may wait too.
func TestDrainLetsWaitUntilTheListenerCloses(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=2", "healthcheck_interval=1h")
	p, release := w.hold("holder")
	w.signal(syscall.SIGTERM)
	w.waitStatus("/_/ready", 503)
	first, second := w.callInLine(1, rawGet("/status", "first")), w.callInLine(2, rawPost("/echo", "second", "5byte"))
	wantRefused(t, w.call(rawGet("/status", "third")).answer())
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "there")
	wantWhole(t, first.answer(), nil, "")
	wantWhole(t, second.answer(), nil, "5byte")
}

// shutdown_timeout bounds the drain of a queue that does not move. Nobody in
// line gets anything that looks like an answer of the handler.
func TestShutdownTimeoutWithAQueue(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", fmt.Sprint("max_queue=", inLine), "shutdown_timeout=200ms", "exec_timeout=1h", "write_timeout=1h")
	w.hold("holder")
	all := w.fill()
	w.stop()
	for i, c := range all {
		if a, err := c.tryAnswer(); err == nil && a.err == nil && (a.StatusCode < 500 || a.Header.Get("X-OpenFaaS-Internal") == "") {
			t.Errorf("waiter %d: a complete-looking %d %q", i, a.StatusCode, a.body)
		}
	}
	if n := len(w.records()); n != 1 {
		t.Errorf("the handler saw %d requests, want the one that ran", n)
	}
}

// When the handler dies, everybody in line is told so with a whole 502, and
// the watchdog exits as the handler did.
func TestCrashWhileOthersWait(t *testing.T) {
	for name, crash := range map[string]struct {
		path string
		code int
	}{"exit 3": {"/exit?code=3", 3}, "exit 0": {"/exit?code=0", 0}, "killed": {"/hang", 137}} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=2", fmt.Sprint("max_queue=", inLine), "exec_timeout=1h", "write_timeout=1h", "read_timeout=1h")
			held, _ := w.hold("holder")
			// It dies once its body is whole.
			culprit := w.call(rawHead("POST", crash.path, "culprit", []string{"Transfer-Encoding: chunked"}))
			w.waitSample("http_requests_in_flight", 2)
			all := w.fill()
			culprit.write("0\r\n\r\n")
			if crash.code == 137 {
				programtest.Eventually(t, "the handler has both requests", func() bool { return w.saw("culprit") })
				for _, p := range descendants(w.pid) {
					p.kill()
				}
			}
			for i, c := range all {
				a, err := c.tryAnswer()
				if err != nil {
					t.Errorf("waiter %d: no answer: %v", i, err)
					continue
				}
				wantOwn(t, a, 502)
				if strings.Contains(a.body, "before a slot was free") { // else it got one of those that died
					wantHandlerRefused(t, a)
				}
			}
			wantMayHaveBegun(t, culprit.answer())
			a, err := held.wait(t)
			if err != nil {
				t.Fatal(err)
			}
			wantMayHaveBegun(t, a)
			if code := w.wait(); code != crash.code {
				t.Errorf("exit code %d, want the handler's %d", code, crash.code)
			}
			if n := len(w.records()); n != 2 {
				t.Errorf("the handler saw %d requests, want the two that ran", n)
			}
		})
	}
}

// A second TERM ends a drain at once, whoever waits.
func TestSecondTermWithAQueue(t *testing.T) {
	for name, interval := range map[string]string{"still listening": "1h", "closed": "1ms"} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", fmt.Sprint("max_queue=", inLine), "healthcheck_interval="+interval,
				"shutdown_timeout=1h", "exec_timeout=1h", "write_timeout=1h")
			w.hold("holder")
			all := w.fill()
			handler := descendants(w.pid)
			w.signal(syscall.SIGTERM)
			w.waitStatusOrClosed("/_/health", 503)
			w.signal(syscall.SIGTERM)
			if code := w.wait(); code != 128+int(syscall.SIGKILL) {
				t.Errorf("exit code %d, want %d", code, 128+int(syscall.SIGKILL))
			}
			for i, c := range all {
				if a, err := c.tryAnswer(); err == nil && a.err == nil && a.StatusCode < 500 {
					t.Errorf("waiter %d: a complete-looking %d %q", i, a.StatusCode, a.body)
				}
			}
			wantAllDead(t, handler)
		})
	}
}

// Before the handler listens requests are held: as many as may run and wait,
// where that is bounded, at most the larger of that and a thousand.
func TestEarlyRequestsAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ inflight, queue, held int }{
		"no limit":       {0, 0, 1000},
		"a short queue":  {2, 3, 5},
		"a long queue":   {1, 1100, 1101},
		"many may run":   {1100, 0, 1100},
		"both are large": {600, 500, 1100},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			gate := filepath.Join(t.TempDir(), "gate")
			w := launchHTTP(t, child(t, "http"), "GATE="+gate, "exec_timeout=1h", "write_timeout=1h", "read_timeout=1h",
				"max_memory=off", // which lets only some begin at once
				"max_inflight="+strconv.Itoa(c.inflight), "max_queue="+strconv.Itoa(c.queue))
			w.waitHealthy()
			var clients sync.WaitGroup
			var ok, refused atomic.Int64
			more := c.held + 10
			conns := make([]*caller, more)
			for i := range conns {
				conns[i] = w.call(rawGet("/status", "early", "Connection: close"))
			}
			for _, one := range conns {
				clients.Go(func() {
					a, err := one.tryAnswer()
					switch {
					case err == nil && a.StatusCode == 200:
						ok.Add(1)
					case err == nil && (a.StatusCode == 503 || a.StatusCode == 429 && c.queue == 0) &&
						a.Header.Get("X-Watchdog-Reject") != "" && a.Header.Get("Retry-After") != "":
						refused.Add(1)
					default:
						t.Errorf("an early request: %s", told(a, err))
					}
				})
			}
			programtest.Eventually(t, "those over the bound are refused", func() bool { return int(refused.Load()) >= more-c.held })
			if n := ok.Load(); n != 0 {
				t.Errorf("%d answers before the handler listens", n)
			}
			if got, err := w.status("/_/ready"); err != nil || got != 503 {
				t.Errorf("ready %d %v before the handler listens, want 503", got, err)
			}
			touch(t, gate)
			done := make(chan struct{})
			go func() { clients.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(programtest.Patience):
				t.Fatal("not all are answered")
			}
			if int(ok.Load()) != c.held || int(refused.Load()) != more-c.held {
				t.Errorf("%d held and %d refused, want %d and %d", ok.Load(), refused.Load(), c.held, more-c.held)
			}
			if strings.Contains(w.stderr.String(), "panic") {
				t.Error("a panic in the log")
			}
			w.waitReady()
		})
	}
}
