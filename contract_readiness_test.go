package main_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// readinessLine is a line of the log that tells of readiness.
var readinessLine = regexp.MustCompile(`(?mi)^.*\bready\b.*$`)

func (w *instance) readinessLines() []string {
	return readinessLine.FindAllString(w.stderr.String(), -1)
}

// Readiness turns with what waits, says why, and comes back; liveness stays.
func TestReadinessTurnsWithTheQueue(t *testing.T) {
	for _, c := range []struct {
		env            string
		inflight       int
		queue, readyAt int
	}{
		{"", 1, 4, 2}, // half of max_queue
		{"ready_queue=0", 1, 2, 0},
		{"ready_queue=3", 2, 3, 3},
	} {
		t.Run(fmt.Sprintf("%d of %d %s", c.readyAt, c.queue, c.env), func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, fmt.Sprint("max_inflight=", c.inflight), fmt.Sprint("max_queue=", c.queue), c.env)
			var releases []func()
			for i := range c.inflight {
				_, release := w.hold(fmt.Sprint("holder", i))
				releases = append(releases, release)
			}
			var callers []*caller
			check := func(waiting int) {
				t.Helper()
				a := w.do("GET", "/_/ready", "")
				want, gauge := 200, 1.0
				if waiting > c.readyAt {
					want, gauge = 429, 0
					for _, part := range []string{strconv.Itoa(waiting), "ready_queue", strconv.Itoa(c.readyAt)} {
						if !strings.Contains(a.body, part) {
							t.Errorf("body %q of /_/ready does not say %q", a.body, part)
						}
					}
				}
				wantStatus(t, a, want)
				if strings.Count(strings.TrimSpace(a.body), "\n") != 0 {
					t.Errorf("body %q is not one line", a.body)
				}
				if got := w.do("HEAD", "/_/ready", ""); got.StatusCode != want || got.body != "" {
					t.Errorf("HEAD /_/ready: %d %q, want %d", got.StatusCode, got.body, want)
				}
				if got, ok := w.sample("watchdog_ready"); !ok || got != gauge {
					t.Errorf("watchdog_ready is %v, want %v", got, gauge)
				}
				if got := w.do("GET", "/_/health", ""); got.StatusCode != 200 {
					t.Errorf("health %d %q with %d waiting", got.StatusCode, got.body, waiting)
				}
				if _, err := os.Stat(w.lock()); err != nil {
					t.Errorf("the lock file: %v", err)
				}
			}
			check(0)
			for i := range c.queue {
				callers = append(callers, w.callInLine(i+1, rawGet("/status", fmt.Sprint("waiter", i))))
				check(i + 1)
			}
			wantRefused(t, w.do("GET", "/status", ""))
			check(c.queue)
			for waiting := c.queue - 1; waiting >= c.readyAt; waiting-- {
				callers[waiting].conn.Close()
				w.waitDepth(waiting)
				check(waiting)
			}
			for _, release := range releases {
				release()
			}
			w.waitReady()
		})
	}
}

// Each turn has a line in the log with its reason, whether anybody asks or
// not, and only one.
func TestReadinessIsLogged(t *testing.T) {
	for _, asked := range []bool{false, true} {
		t.Run(fmt.Sprint("asked ", asked), func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=4", "ready_queue=1")
			probe := func() {
				for range 20 {
					if asked {
						w.do("GET", "/_/ready", "")
					}
				}
			}
			lines := func(n int) []string {
				t.Helper()
				var all []string
				programtest.Eventually(t, fmt.Sprint(n, " lines tell of readiness"), func() bool {
					all = w.readinessLines()
					return len(all) >= n
				})
				if len(all) != n {
					t.Fatalf("%d lines tell of readiness, want %d: %q", len(all), n, all)
				}
				return all
			}
			probe()
			before := len(w.readinessLines()) // that it is ready at all may be told
			for round := range 2 {
				_, release := w.hold(fmt.Sprint("holder", round))
				var callers []*caller
				for i := range 3 {
					callers = append(callers, w.callInLine(i+1, rawGet("/status", "waiter")))
				}
				probe()
				all := lines(before + 2*round + 1)
				if last := all[len(all)-1]; !strings.Contains(last, "ready_queue") {
					t.Errorf("the line %q does not say why", last)
				}
				release()
				for _, c := range callers {
					c.answer()
				}
				w.waitReady()
				probe()
				lines(before + 2*round + 2)
			}
		})
	}
}

// Without a queue it is the limit that turns readiness, and says so.
func TestReadinessTurnsAtTheLimit(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1")
	before := len(w.readinessLines())
	_, release := w.hold("one")
	a := w.do("GET", "/_/ready", "")
	wantStatus(t, a, 429)
	if !strings.Contains(a.body, "max_inflight") {
		t.Errorf("body %q of /_/ready does not say why", a.body)
	}
	programtest.Eventually(t, "the log says why", func() bool {
		all := w.readinessLines()
		return len(all) == before+1 && strings.Contains(all[before], "max_inflight")
	})
	release()
	w.waitReady()
	programtest.Eventually(t, "the log says that it is over", func() bool { return len(w.readinessLines()) == before+2 })
}

// Readiness that turns with every request does not flood the log.
func TestReadinessThatFlapsDoesNotFloodTheLog(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=2", "ready_queue=0")
	begin := time.Now()
	const turns = 100
	for i := range turns {
		p, release := w.hold(fmt.Sprint("holder", i))
		c := w.callInLine(1, rawGet("/status", "waiter"))
		w.waitStatus("/_/ready", 429)
		release()
		p.wait(t)
		wantStatus(t, c.answer(), 200)
		w.waitStatus("/_/ready", 200)
	}
	// At most one line each way a second is no flood.
	if n, most := len(w.readinessLines()), 2*int(time.Since(begin).Seconds()+2); n > most {
		t.Errorf("%d lines tell of %d turns of readiness in %v, want at most %d", n, turns, time.Since(begin), most)
	}
}

// Retry-After says about how long it takes until there is room: more for a
// handler that takes long, and more behind a queue.
func TestRetryAfterGrowsWithTheServiceTime(t *testing.T) {
	after := func(w *served, status int) int {
		t.Helper()
		a := w.do("GET", "/status", "", "X-Id: refused")
		wantStatus(t, a, status)
		s, err := strconv.Atoi(a.Header.Get("Retry-After"))
		if err != nil || s < 1 {
			t.Errorf("Retry-After %q, want whole seconds, at least 1", a.Header.Get("Retry-After"))
		}
		return s
	}
	t.Run("fast", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t, "max_inflight=1")
		for range 20 {
			w.do("GET", "/status", "")
		}
		w.hold("holder")
		if s := after(w, 429); s != 1 {
			t.Errorf("Retry-After %d of a handler that takes milliseconds, want 1", s)
		}
	})
	for name, c := range map[string]struct {
		env    []string
		status int
	}{
		"no queue":       {nil, 429},
		"queue":          {[]string{"max_queue=3"}, 503},
		"waited in vain": {[]string{"max_queue=3", "queue_timeout=100ms"}, 503},
	} {
		t.Run("slow, "+name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, append([]string{"max_inflight=1"}, c.env...)...)
			wantWhole(t, w.do("GET", "/slow?ms=3000", ""), nil, "slow")
			w.waitSample("http_requests_in_flight", 0)
			w.hold("holder")
			if len(c.env) == 1 {
				for i := range 3 {
					w.callInLine(i+1, rawGet("/status", "waiter"))
				}
			}
			if s := after(w, c.status); s < 3 {
				t.Errorf("Retry-After %d of a handler that takes 3 s, want at least 3", s)
			}
		})
	}
}
