package main_test

import (
	"testing"
	"time"

	"github.com/weir-run/weir/bench/cage"
	"github.com/weir-run/weir/test/programtest"
)

// The load of the memory tests: a request takes 50 MiB for half a second, and
// far more of them come than the limit has room for.
const (
	mib       = 1 << 20
	greedy    = "/take?mib=50&ms=500"
	memLimit  = 256 * mib
	hammering = 50 * time.Millisecond
)

var greedyCrowd = crowd{clients: 100, path: greedy, time: 20 * time.Second, pause: hammering, want: "taken", reasons: "memory"}

// brief is the same load for as long as a variant needs.
func brief(c crowd) crowd {
	c.time = 6 * time.Second
	return c
}

// Under a load that no limit describes the kernel has nothing to kill: what
// does not fit is refused, and what fits runs.
func TestMemoryGuardKeepsTheKernelAway(t *testing.T) {
	load := greedyCrowd
	if testing.Short() {
		load = brief(load)
	}
	w := startCaged(t, memLimit, child(t, "hog"))
	y := load.run(w.instance)
	y.fair(t)
	w.survived()
	if y.mean < 2 {
		t.Errorf("%.2f in flight on average, want at least 2", y.mean)
	}
	if y.refused["memory"] == 0 {
		t.Error("nothing was refused: this is no load")
	}
	if n, _ := w.sample(`watchdog_rejected_total{reason="memory"}`); int(n) != y.refused["memory"] {
		t.Errorf("watchdog_rejected_total is %v, clients saw %d", n, y.refused["memory"])
	}
	programtest.Eventually(t, "ready again", func() bool { got, err := w.status("/_/ready"); return err == nil && got == 200 })
	wantWhole(t, w.do("GET", greedy, ""), nil, "taken")
	w.stop()
}

// The control: without the guard the same load is the handler's death.
func TestWithoutMemoryGuardTheKernelKills(t *testing.T) {
	w := startCaged(t, memLimit, child(t, "hog"), "max_memory=off")
	load := brief(greedyCrowd)
	t.Log(load.run(w.instance))
	w.died()
}

// A hundred at once meet a watchdog that knows nothing of the handler yet.
func TestMemoryGuardCold(t *testing.T) {
	for range 3 {
		w := startCaged(t, memLimit, child(t, "hog"))
		load := greedyCrowd
		load.time = 2 * time.Second
		y := load.run(w.instance)
		y.fair(t)
		w.survived()
	}
}

// variant is the greedy load in another form.
type variant struct {
	name string
	path string                      // greedy
	env  func(t testing.TB) []string // the hog that serves HTTP
	fork bool
	cpu  float64 // processors; 0 is all there are
	mean float64 // in flight, at least
}

func (v variant) run(t *testing.T) {
	load := brief(greedyCrowd)
	if v.path != "" {
		load.path = v.path
	}
	env := []string{"fprocess=" + child(t, "hog")}
	if v.env != nil {
		env = append(env, v.env(t)...)
	}
	w := launchCaged(t, cage.Limits{Memory: memLimit, CPU: v.cpu}, env...)
	w.waitReady()
	if !v.fork {
		w.waitHandler()
	}
	y := load.run(w.instance)
	y.fair(t)
	w.survived()
	if y.mean < v.mean {
		t.Errorf("%.2f in flight on average, want at least %.1f", y.mean, v.mean)
	}
}

// What takes the memory, and how, makes no difference to the guard.
func TestMemoryGuardVariants(t *testing.T) {
	for _, v := range []variant{
		{name: "Python", mean: 1.5, env: func(t testing.TB) []string {
			return []string{"fprocess=" + interpreter(t, "python3") + " '" + child(t, "hog.py") + "'"}
		}},
		{name: "slow ramp", mean: 1.5, path: "/take?mib=50&ramp=1s"},
		{name: "streaming", mean: 1.5, fork: true, env: func(t testing.TB) []string {
			return []string{"mode=streaming", "fprocess=" + child(t, "hog") + " mib=50&ms=500"}
		}},
	} {
		t.Run(v.name, v.run)
	}
}

// Work that weighs nothing is served, from the first burst on: fifty clients,
// 5 MiB in all, a limit of 128 MiB.
func TestMemoryGuardLetsLightWorkThrough(t *testing.T) {
	w := startCaged(t, 128*mib, child(t, "hog"))
	load := crowd{clients: 50, path: "/take?kib=100&ms=20", pause: 10 * time.Millisecond, want: "taken", reasons: "memory"}
	first := load.run(w.instance)
	first.fair(t)
	load.time = 3 * time.Second
	y := load.run(w.instance)
	y.fair(t)
	w.survived()
	// A burst may be held back while the watchdog learns; a tenth of it is
	// more than that.
	if n := first.refused["memory"]; n > 5*load.clients {
		t.Errorf("%d refusals of a first burst of %d", n, load.clients)
	}
	if n := y.refused["memory"]; n > y.good/100 {
		t.Errorf("%d refused of %d that weigh nothing", n, y.good+n)
	}
}

// A handler that keeps more than the mark for itself is not cut off: it is
// served one request at a time, and the log says so once.
func TestMemoryGuardNeverBlocksTheOnlyRequest(t *testing.T) {
	w := startCaged(t, 128*mib, child(t, "hog"))
	w.keep(118) // 90 % are 115.2
	programtest.Eventually(t, "the ratio is above the mark", func() bool {
		v, ok := w.sample(`watchdog_resource_usage_ratio{resource="memory"}`)
		return ok && v > 0.9
	})
	p, release := w.holdOne()
	programtest.Eventually(t, "a second request is refused", func() bool {
		a := w.do("GET", "/take?kib=1", "")
		return a.StatusCode == 503 && a.Header.Get("X-Watchdog-Reject") == "memory"
	})
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "waited")
	load := crowd{clients: 4, path: "/take?kib=1&ms=20", time: 3 * time.Second, pause: 5 * time.Millisecond, want: "taken", reasons: "memory"}
	y := load.run(w.instance)
	y.fair(t)
	w.survived()
	if y.good < 10 || y.mean > 1.01 {
		t.Errorf("%d served, %.2f in flight on average; want one after the other", y.good, y.mean)
	}
	if n := w.lines("memory", "one"); n != 1 {
		t.Errorf("%d lines say that it is served one at a time, want 1:\n%s", n, programtest.Clip(w.stderr.String()))
	}
	w.keep(0)
	programtest.Eventually(t, "the ratio is below the mark again", func() bool {
		v, ok := w.sample(`watchdog_resource_usage_ratio{resource="memory"}`)
		return ok && v < 0.5
	})
	_, one := w.holdOne()
	_, two := w.holdOne()
	one()
	two()
}
