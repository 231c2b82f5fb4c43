package main_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The families of the queue, and those of what runs, which do not count who
// waits.
func TestQueueMetrics(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=2", "max_queue=5", "queue_timeout=1h")
	want := func(v float64, family string, labels ...string) {
		t.Helper()
		if got, ok := value(w.families()[family], labels...); !ok || got != v {
			t.Errorf("%s%v is %v, %v; want %v", family, labels, got, ok, v)
		}
	}
	want(0, "watchdog_queue_depth")
	want(0, "watchdog_queue_depth_seconds_total")
	want(0, "queue_ratio")
	want(0, "watchdog_queue_wait_seconds")
	want(0, "watchdog_rejected_total", "queue")
	want(2, "watchdog_max_inflight")

	one, releaseOne := w.hold("one")
	two, releaseTwo := w.hold("two")
	var callers []*caller
	for i := range 5 {
		callers = append(callers, w.callInLine(i+1, rawGet("/status", fmt.Sprint("waiter", i))))
	}
	wantRefused(t, w.do("GET", "/status", "", "X-Id: refused"))
	callers[4].conn.Close()
	w.waitDepth(4)
	want(2, "http_requests_in_flight")
	want(2, "queue_ratio")
	want(1, "watchdog_rejected_total", "queue")
	want(0, "watchdog_rejected_total", "inflight")
	want(0, "watchdog_ready") // above half of max_queue
	w.wantRate("watchdog_queue_depth_seconds_total", 4)
	w.wantRate("http_requests_in_flight_seconds_total", 2)

	releaseOne()
	releaseTwo()
	for _, p := range []*pending{one, two} {
		a, err := p.wait(t)
		wantWhole(t, a, err, "there")
	}
	for _, c := range callers[:4] {
		wantStatus(t, c.answer(), 200)
	}
	w.waitDepth(0)
	w.waitSample("http_requests_in_flight", 0)
	want(0, "queue_ratio")
	want(1, "watchdog_ready")
	want(1, "watchdog_rejected_total", "queue")
	// Four waited for their slot; who left or never waited is not among them.
	want(4, "watchdog_queue_wait_seconds")
	if sum, ok := w.sample("watchdog_queue_wait_seconds_sum"); !ok || sum <= 0 {
		t.Errorf("watchdog_queue_wait_seconds sums up to %v", sum)
	}
	w.wantRate("watchdog_queue_depth_seconds_total", 0)
	for range 3 {
		wantStatus(t, w.do("GET", "/status", ""), 200)
	}
	want(4, "watchdog_queue_wait_seconds")
}

// wantRate wants an integral to have grown by exactly rate a second between
// two scrapes: what is between the instants before and after each of them.
func (w *instance) wantRate(name string, rate float64) {
	w.t.Helper()
	scrape := func() (v float64, before, after time.Time) {
		before = time.Now()
		v, ok := w.sample(name)
		if !ok {
			w.t.Fatalf("no %s", name)
		}
		return v, before, time.Now()
	}
	v1, before1, after1 := scrape()
	time.Sleep(100 * time.Millisecond) // what is measured
	v2, before2, after2 := scrape()
	least, most := rate*before2.Sub(after1).Seconds(), rate*after2.Sub(before1).Seconds()
	if grown := v2 - v1; grown < least-1e-6 || grown > most+1e-6 {
		w.t.Errorf("%s grew by %v, want %v to %v", name, grown, least, most)
	}
}

// Bad settings of the queue end the start with 1, each named with its value
// and what was expected, all at once.
func TestBadQueueSettings(t *testing.T) {
	for name, bad := range map[string][]string{
		"queue without limit":    {"max_queue=4"},
		"queue with limit 0":     {"max_queue=4", "max_inflight=0"},
		"negative queue":         {"max_queue=-1", "max_inflight=1"},
		"no number":              {"max_queue=lots", "max_inflight=1"},
		"number with a rest":     {"max_queue=4x", "max_inflight=1"},
		"beyond every number":    {"max_queue=99999999999999999999", "max_inflight=1"},
		"negative ready_queue":   {"ready_queue=-1", "max_inflight=1", "max_queue=4"},
		"ready over max":         {"ready_queue=5", "max_inflight=1", "max_queue=4"},
		"ready without queue":    {"ready_queue=5", "max_inflight=1"},
		"ready no number":        {"ready_queue=half", "max_inflight=1", "max_queue=4"},
		"negative timeout":       {"queue_timeout=-1s", "max_inflight=1", "max_queue=4"},
		"timeout without a unit": {"queue_timeout=5 minutes", "max_inflight=1", "max_queue=4"},
		"auto of none":           {"max_inflight=auto:0"},
		"auto of less":           {"max_inflight=auto:-3"},
		"auto of nonsense":       {"max_inflight=auto:x"},
		"auto of nothing":        {"max_inflight=auto:"},
		"automatic":              {"max_inflight=automatic"},
		"by its prefix":          {"WATCHDOG_MAX_QUEUE=lots", "max_inflight=1", "max_queue=4"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := launch(t, fwatchdog(t), append([]string{"fprocess=cat"}, bad...)...)
			if code := w.wait(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			wantFault(t, w.stderr.String(), bad[0])
			if _, err := os.Stat(w.lock()); err == nil {
				t.Error("the lock file is there")
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		parallel(t)
		bad := []string{"max_inflight=auto:0", "max_queue=-1", "ready_queue=x", "queue_timeout=-1s", "log_level=loud",
			"max_memory=120%", "max_fds=-1", "max_pids=many", "min_disk=-1", "stuck_timeout=never"}
		w := launch(t, fwatchdog(t), append([]string{"fprocess=cat"}, bad...)...)
		if code := w.wait(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
		for _, b := range bad {
			wantFault(t, w.stderr.String(), b)
		}
	})
}

// wantFault wants one line that names a setting, its value and what was
// expected.
func wantFault(t testing.TB, log, bad string) {
	t.Helper()
	name, value, _ := strings.Cut(bad, "=")
	for line := range strings.Lines(log) {
		if _, rest, ok := strings.Cut(line, name); ok && strings.Contains(rest, value) && strings.Contains(rest, "expected ") {
			return
		}
	}
	t.Errorf("no line names %s, %q and what was expected:\n%s", name, value, log)
}

// Good ones are taken, in both spellings, and told by /_/ready.
func TestQueueSettings(t *testing.T) {
	for name, c := range map[string]struct {
		env             []string
		inflight, queue string
	}{
		"none":            {nil, "0", "0"},
		"limit":           {[]string{"max_inflight=3"}, "3", "0"},
		"limit below 0":   {[]string{"max_inflight=-1"}, "0", "0"},
		"queue":           {[]string{"max_inflight=3", "max_queue=7"}, "3", "7"},
		"no queue":        {[]string{"max_inflight=3", "max_queue=0", "ready_queue=0"}, "3", "0"},
		"ready_queue 0":   {[]string{"max_inflight=3", "max_queue=7", "ready_queue=0"}, "3", "7"},
		"ready_queue all": {[]string{"max_inflight=3", "max_queue=7", "ready_queue=7"}, "3", "7"},
		"prefix":          {[]string{"max_inflight=1", "WATCHDOG_MAX_INFLIGHT=4", "max_queue=1", "WATCHDOG_MAX_QUEUE=9"}, "4", "9"},
		"upper case":      {[]string{"MAX_QUEUE=lots", "READY_QUEUE=x", "QUEUE_TIMEOUT=y"}, "0", "0"},
		"timeout 0":       {[]string{"max_inflight=1", "max_queue=1", "queue_timeout=0"}, "1", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := start(t, append([]string{"fprocess=cat"}, c.env...)...)
			a := w.do("GET", "/_/ready", "")
			wantStatus(t, a, 200)
			if inflight, queue := a.Header.Get("X-Watchdog-Max-Inflight"), a.Header.Get("X-Watchdog-Max-Queue"); inflight != c.inflight || queue != c.queue {
				t.Errorf("/_/ready says %q and %q, want %s and %s", inflight, queue, c.inflight, c.queue)
			}
			wantWhole(t, w.do("POST", "/", "5byte"), nil, "5byte")
		})
	}
}
