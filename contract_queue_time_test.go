package main_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// occupied starts a watchdog of one slot and takes the slot with an upgraded
// connection, which no timeout ends.
func occupied(t testing.TB, env ...string) (w *served, release func()) {
	t.Helper()
	w = startMisbehaving(t, append([]string{"max_inflight=1"}, env...)...)
	u := w.upgrade()
	return w, func() { u.conn.Close() }
}

// queue_timeout bounds the wait, and is exec_timeout where it is not set.
func TestQueueTimeout(t *testing.T) {
	for name, env := range map[string][]string{
		"given":              {"queue_timeout=100ms"},
		"by its prefix":      {"WATCHDOG_QUEUE_TIMEOUT=100ms", "queue_timeout=1h"},
		"exec_timeout":       {"exec_timeout=100ms"},
		"no exec_timeout":    {"exec_timeout=0", "queue_timeout=100ms"},
		"below exec_timeout": {"exec_timeout=1h", "queue_timeout=100ms"},
		"above exec_timeout": {"exec_timeout=50ms", "queue_timeout=100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w, release := occupied(t, append([]string{"max_queue=3"}, env...)...)
			for _, raw := range []string{
				rawGet("/status", "waiter"), rawPost("/status", "waiter", "5byte"), rawPost("/status", "waiter", numbered(1<<20)),
				rawPost("/status", "waiter", "", "Expect: 100-continue"), rawChunks("/status", "waiter", "5byte"),
			} {
				wantRefused(t, w.call(raw).answer())
			}
			w.waitDepth(0)
			release()
			w.waitSample("http_requests_in_flight", 0)
			a, err := w.tryBegun("GET", "/status", "")
			wantWhole(t, a, err, "")
			if w.saw("waiter") {
				t.Error("the handler saw a request that had waited too long")
			}
			if got, ok := w.sample(`watchdog_rejected_total{reason="queue"}`); !ok || got != 5 {
				t.Errorf("watchdog_rejected_total is %v, want 5", got)
			}
		})
	}
}

// Without a bound a request waits on.
func TestNoQueueTimeout(t *testing.T) {
	for name, env := range map[string][]string{
		"queue_timeout 0": {"queue_timeout=0", "exec_timeout=2s", "write_timeout=2s"},
		"exec_timeout 0":  {"exec_timeout=0", "write_timeout=2s"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w, release := occupied(t, append([]string{"max_queue=1"}, env...)...)
			c := w.callInLine(1, rawPost("/echo", "waiter", "5byte"))
			time.Sleep(queueWait) // longer than what bounds anything else
			c.wantSilence()
			w.waitDepth(1)
			release()
			wantWhole(t, c.answer(), nil, "5byte")
		})
	}
}

// The time that a caller gives counts from the arrival: a request whose time
// is over is not started, and what is left of it bounds the run.
func TestCallersTimeCountsFromArrival(t *testing.T) {
	t.Run("over", func(t *testing.T) {
		parallel(t)
		w, release := occupied(t, "max_queue=2", "exec_timeout=1h")
		wantRefused(t, w.call(rawGet("/status", "late", "X-Timeout: 100ms")).answer())
		wantRefused(t, w.call(rawPost("/status", "late", "5byte", "X-Timeout: 100ms")).answer())
		w.waitDepth(0)
		release()
		w.waitSample("http_requests_in_flight", 0)
		wantStatus(t, w.do("GET", "/status", ""), 200)
		if w.saw("late") {
			t.Error("the handler saw a request whose time was over")
		}
	})
	t.Run("longer than queue_timeout", func(t *testing.T) {
		parallel(t)
		w, _ := occupied(t, "max_queue=1", "queue_timeout=100ms", "exec_timeout=1h")
		wantRefused(t, w.call(rawGet("/status", "late", "X-Timeout: 30m")).answer())
	})
	t.Run("nonsense", func(t *testing.T) {
		parallel(t)
		w, release := occupied(t, "max_queue=5")
		var callers []*caller
		for i, v := range []string{"soon", "-1s", "0s", "0", "99999999999999999999h"} {
			callers = append(callers, w.callInLine(i+1, rawGet("/status", "asks", "X-Timeout: "+v)))
		}
		release()
		for _, c := range callers {
			wantWhole(t, c.answer(), nil, "")
		}
	})
	t.Run("left", func(t *testing.T) {
		parallel(t)
		const asked, waits = 3 * time.Second, 2 * time.Second
		// The run ends early by what was waited. On a machine so busy that it
		// ends late by as much it is tried again.
		programtest.Eventually(t, "the run is shorter than what the caller gave by the wait", func() bool {
			w, release := occupied(t, "max_queue=1", "exec_timeout=1h")
			c := w.callInLine(1, rawGet("/hang", "waiter", "X-Timeout: "+asked.String()))
			time.Sleep(waits)
			release()
			a := c.answer()
			if a.StatusCode == 503 {
				return false // too busy even to start it in time
			}
			wantOwn(t, a, 504)
			took, err := strconv.ParseFloat(a.Header.Get("X-Duration-Seconds"), 64)
			if err != nil {
				t.Fatal(err)
			}
			return took < asked.Seconds()-waits.Seconds()/2
		})
	})
}

// queueLimit is read_timeout and write_timeout of the tests that wait for
// longer than that.
const (
	queueLimit = time.Second
	queueWait  = 3 * time.Second
)

// Waiting counts against neither read_timeout nor write_timeout.
func TestWaitingCutsNothing(t *testing.T) {
	parallel(t)
	w, release := occupied(t, "max_queue=20", "read_timeout="+queueLimit.String(), "write_timeout="+queueLimit.String())
	long := numbered(1 << 20)
	type waiter struct {
		name string
		*caller
		want string
	}
	var all []waiter
	add := func(name, raw, want string) {
		all = append(all, waiter{name, w.callInLine(len(all)+1, raw), want})
	}
	add("GET", rawGet("/status", "get"), "")
	add("POST without a body", rawPost("/echo", "none", ""), "")
	add("5 bytes", rawPost("/echo", "small", "5byte"), "5byte")
	add("64 KiB", rawPost("/echo", "exact", long[:64<<10]), long[:64<<10])
	add("64 KiB and one", rawPost("/echo", "exact", long[:64<<10+1]), long[:64<<10+1])
	add("1 MB", rawPost("/echo", "long", long), long)
	add("chunks", rawChunks("/echo", "chunks", long), long)
	add("HTTP/1.0", strings.Replace(rawPost("/echo", "old", long), "HTTP/1.1", "HTTP/1.0", 1), long)
	add("trailers", strings.TrimSuffix(rawChunks("/echo", "trailers", "5byte", "Trailer: X-Up"), "\r\n")+"X-Up: 42\r\n\r\n", "5byte")
	add("long with trailers", strings.TrimSuffix(rawChunks("/echo", "long-trailers", long, "Trailer: X-Up"), "\r\n")+"X-Up: 42\r\n\r\n", long)
	time.Sleep(queueWait)
	w.waitDepth(len(all))
	release()
	for _, c := range all {
		a, err := c.tryAnswer()
		if err != nil || a.err != nil || a.StatusCode != 200 || a.body != c.want {
			t.Errorf("%s: %s; want %d bytes", c.name, told(a, err), len(c.want))
		}
	}
	for _, r := range w.records() {
		if strings.HasSuffix(r.ID, "trailers") && r.Trailer.Get("X-Up") != "42" {
			t.Errorf("%s: the handler's trailers are %v", r.ID, r.Trailer)
		}
		if r.BodyErr != "" {
			t.Errorf("%s: the handler's body: %s", r.ID, r.BodyErr)
		}
	}
}

// A body that comes after a long wait is taken, in the time that is left to
// read it; one that never comes ends with that time.
func TestBodySentAfterTheWait(t *testing.T) {
	body := numbered(100_000)
	head := func(headers ...string) string {
		return strings.TrimSuffix(rawPost("/echo", "slow", body, headers...), body)
	}
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	for name, c := range map[string]struct {
		first string
		rest  []string
	}{
		"all of it":      {head(), []string{body[:10], body[10:70_000], body[70_000:]}},
		"the rest":       {head() + body[:10], []string{body[10:20], body[20:]}},
		"beyond 64 KiB":  {head() + body[:70_000], []string{body[70_000:70_001], body[70_001:]}},
		"chunks":         {rawHead("POST", "/echo", "slow", []string{"Transfer-Encoding: chunked"}), []string{chunk(body[:10]), chunk(body[10:]), "0\r\n\r\n"}},
		"rest of chunks": {rawHead("POST", "/echo", "slow", []string{"Transfer-Encoding: chunked"}) + chunk(body[:70_000]), []string{chunk(body[70_000:]) + "0\r\n", "\r\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w, release := occupied(t, "max_queue=1", "read_timeout=2s", "write_timeout=10s")
			caller := w.callInLine(1, c.first)
			time.Sleep(queueWait)
			release()
			w.waitDepth(0)
			for _, piece := range c.rest {
				caller.write(piece)
				time.Sleep(20 * time.Millisecond) // pieces of their own on the wire
			}
			a := caller.answer()
			wantWhole(t, a, nil, body)
			caller.wantInStep(a, rawPost("/echo", "next", "next one"), "next one")
		})
		t.Run("never "+name, func(t *testing.T) {
			parallel(t)
			w, release := occupied(t, "max_queue=1", "read_timeout="+queueLimit.String(), "write_timeout=1m", "exec_timeout=1m")
			caller := w.callInLine(1, c.first)
			time.Sleep(queueWait)
			w.waitDepth(1)
			release()
			a := caller.answer()
			wantOwn(t, a, 408)
			if !a.Close {
				t.Error("the connection is kept")
			}
			w.waitSample("http_requests_in_flight", 0)
			wantStatus(t, w.do("GET", "/status", ""), 200)
			for _, r := range w.records() {
				if r.ID == "slow" && r.BodyErr == "" {
					t.Errorf("the handler took half a body for a whole one: %+v", r)
				}
			}
		})
	}
}

// read_timeout bounds the reading of a request and nothing else: neither one
// that runs for longer, nor one that waited before.
func TestRunningLongerThanReadTimeout(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=2", "max_queue=20", "read_timeout="+queueLimit.String(), "write_timeout=20s")
	long := numbered(100_000)
	shapes := map[string]struct{ raw, want string }{
		"GET":    {rawGet("/slow?ms=1500", "slow"), "slow"},
		"small":  {rawPost("/slow?ms=1500", "slow", "5byte"), "5byte"},
		"long":   {rawPost("/slow?ms=1500", "slow", long), long},
		"chunks": {rawChunks("/slow?ms=1500", "slow", long), long},
	}
	callers := map[string]*caller{}
	for name, c := range shapes {
		callers[name+" 1"] = w.call(c.raw)
		callers[name+" 2"] = w.call(c.raw) // two run, six wait for up to three turns
	}
	for name, c := range callers {
		want := shapes[strings.Fields(name)[0]].want
		a, err := c.tryAnswer()
		if err != nil || a.err != nil || a.StatusCode != 200 || a.body != want {
			t.Errorf("%s: %s", name, told(a, err))
			continue
		}
		c.wantInStep(a, rawPost("/echo", "next", "next one"), "next one")
	}
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "slowcat 1500ms", "read_timeout="+queueLimit.String(), "write_timeout=20s")
			wantWhole(t, w.call(rawGet("/", "slow")).answer(), nil, "")
			wantWhole(t, w.call(rawPost("/", "slow", long)).answer(), nil, long)
		})
	}
}
