package gateway

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
)

// guarded is what a pod says whose watchdog would refuse the next request for
// want of a resource.
var guarded = fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Guarded: true, MaxInflight: 10}

// A pod whose guard is tripped gets nothing, and serves those who wait as soon
// as it is not.
func TestNothingGoesToAGuardedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		e := put(f, describe("a", 2, 2), guarded)
		l := g.lane(e)
		ended := make(chan error, 1)
		c := &caller{l: l}
		go func() { ended <- c.call(t.Context()) }()
		time.Sleep(10 * time.Second)
		select {
		case err := <-ended:
			t.Fatalf("it was given a pod: %v", err)
		default:
		}
		e.Pods()[1].Learn(started(10, 0))
		synctest.Wait()
		if err := <-ended; err != nil || c.pod.About().Name != "a-1" {
			t.Errorf("%v at %v", err, c.pod)
		}
		e.Pods()[1].Learn(guarded)
		errs := calls(t.Context(), g, e, 1, 0)
		var r *refusal
		if len(errs) != 1 || !errors.As(errs[0], &r) || r.reason != "full" || !strings.Contains(r.text, "2 started") {
			t.Errorf("alone with guarded pods: %v", errs)
		}
		if n := p.wakes.Load(); n != 0 {
			t.Errorf("%d wakes", n)
		}
		empty(t, l)
	})
}

// The same with a real watchdog, which refuses whatever comes.
func TestNothingGoesToARealGuardedPod(t *testing.T) {
	w := newWorld(t, nil)
	short := watchdogPod(t, "a-0", "min_disk=100%")
	e := w.function("a", 1, short.pod)
	w.until("it is known as guarded", func() bool { return e.Pods()[0].Said().Guarded })
	answered := make(chan answer, 1)
	go func() {
		a, _ := w.do(http.MethodGet, "/a/echo", nil)
		answered <- a
	}()
	w.until("a call waits", func() bool {
		l := w.lane("a")
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.line.n == 1
	})
	other := watchdogPod(t, "a-1")
	w.function("a", 2, short.pod, other.pod)
	if a := <-answered; a.code != http.StatusOK || a.header.Get(contract.HeaderReject) != "" {
		t.Errorf("answered %d %q", a.code, a.body)
	}
	w.idle("a")
	l := w.lane("a")
	for _, p := range l.places.all {
		if name := p.pod.About().Name; p.refused != 0 || name == "a-0" && p.calls != 0 {
			t.Errorf("%s took %d calls and refused %d", name, p.calls, p.refused)
		}
	}
}
