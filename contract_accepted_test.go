package main_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// accepted is how many connections hold a request that came while the watchdog
// did not run, so that it learns of them and of its end at once.
const accepted = 100

// acceptedRequests lets a request come on new connections, or on kept ones,
// while the watchdog is stopped, has it told of its end, and goes on.
func (w *served) acceptedRequests(kept bool, end func()) []*caller {
	w.t.Helper()
	all := make([]*caller, accepted)
	if kept {
		for i := range all {
			all[i] = w.call(rawPost("/echo", fmt.Sprint("before", i), "before"))
			wantWhole(w.t, all[i].answer(), nil, "before")
		}
	}
	w.freeze()
	for i := range all {
		if all[i] == nil {
			all[i] = w.call("")
		}
		all[i].write(rawPost("/echo", fmt.Sprint("accepted", i), "5byte"))
	}
	end()
	w.thaw()
	return all
}

// What was accepted and not yet read when the handler died, or a drain had
// nothing else to wait for, got no answer.
func TestAcceptedRequestsAreAnswered(t *testing.T) {
	for _, kept := range []bool{false, true} {
		on := map[bool]string{false: "new", true: "kept"}[kept]
		t.Run("dead handler, "+on, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t)
			all := w.acceptedRequests(kept, w.killHandler)
			for i, c := range all {
				a, err := c.tryAnswer()
				if err != nil {
					t.Errorf("request %d: no answer: %v", i, err)
					continue
				}
				wantHandlerRefused(t, a)
			}
			if code := w.wait(); code != 137 {
				t.Errorf("exit code %d, want 137", code)
			}
		})
		t.Run("drain, "+on, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t)
			all := w.acceptedRequests(kept, func() { w.signal(syscall.SIGTERM) })
			for i, c := range all {
				a, err := c.tryAnswer()
				if err != nil {
					t.Errorf("request %d: no answer: %v", i, err)
					continue
				}
				wantDrained(t, a)
			}
			if code := w.wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
		})
	}
}

// wantDrained fails unless a is what the handler answers to 5byte, or a whole
// refusal for the drain.
func wantDrained(t testing.TB, a answer) {
	t.Helper()
	if a.StatusCode == 200 {
		wantWhole(t, a, nil, "5byte")
	} else if wantOwn(t, a, 503); a.Header.Get("X-Watchdog-Reject") != "draining" {
		t.Errorf("X-Watchdog-Reject %q, want draining: %s", a.Header.Get("X-Watchdog-Reject"), a.body)
	}
}

// A drain waits for the rest of a request that has begun to come, on a new
// connection and on a kept one, and not for ever.
func TestDrainWaitsForTheRestOfAHead(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(map[bool]string{false: "new", true: "kept"}[kept], func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "read_timeout=1h")
			c, never := w.call(""), w.call("")
			if kept {
				for _, c := range []*caller{c, never} {
					c.write(rawGet("/status", "before"))
					wantStatus(t, c.answer(), 200)
				}
			}
			head := rawPost("/echo", "slow", "5byte")
			c.write(head[:10])
			never.write(head[:10])
			w.signal(syscall.SIGTERM)
			programtest.Eventually(t, "the listener is closed", func() bool {
				_, err := w.status("/_/health")
				return err != nil
			})
			c.write(head[10:])
			wantDrained(t, c.answer())
			if code := w.wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
		})
	}
}
