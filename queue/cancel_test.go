package queue_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// cancel ends a call and checks what is said of it.
func (v *weir) cancel(id queue.ID) {
	v.w.t.Helper()
	call, err := v.Cancel(ctx, id)
	if err != nil || call.State != queue.Failed || call.Reason != "cancelled" || call.ID != id.String() {
		v.w.t.Errorf("cancelled, the call is %s (%s), %v", call.State, call.Reason, err)
	}
	if _, err := v.Cancel(ctx, id); !errors.Is(err, queue.ErrEnded) {
		v.w.t.Errorf("cancelled twice: %v", err)
	}
	if call := v.call(id); call.State != queue.Failed || call.Reason != "cancelled" || call.Ended.IsZero() {
		v.w.t.Errorf("then it is %s (%s)", call.State, call.Reason)
	}
}

func TestCancel(t *testing.T) {
	for name, c := range map[string]struct {
		weirs int
		// elsewhere: the weir that is asked is not the one that has the call.
		elsewhere bool
		limit     int
		before    int // calls submitted before it
		wait      time.Duration
		answer    time.Duration
		code      int
		runs      int
	}{
		"queued":                 {weirs: 1, limit: 1, before: 3, wait: time.Second, answer: time.Minute, code: 200},
		"queued, asked of two":   {weirs: 2, elsewhere: true, limit: 2, before: 5, wait: time.Second, answer: time.Minute, code: 200},
		"held for a pod":         {weirs: 1, limit: 0, wait: time.Second, code: 200},
		"running":                {weirs: 1, limit: 1, wait: 10 * time.Second, answer: time.Minute, code: 200, runs: 1},
		"running for a moment":   {weirs: 1, limit: 1, wait: time.Millisecond, answer: time.Minute, code: 200, runs: 1},
		"running elsewhere":      {weirs: 2, elsewhere: true, limit: 2, wait: 10 * time.Second, answer: time.Minute, code: 200, runs: 1},
		"just begun elsewhere":   {weirs: 2, elsewhere: true, limit: 2, wait: time.Millisecond, answer: time.Minute, code: 200, runs: 1},
		"put off":                {weirs: 1, limit: 1, wait: 500 * time.Millisecond, code: 500, runs: 1},
		"put off by another":     {weirs: 2, elsewhere: true, limit: 2, wait: 500 * time.Millisecond, code: 500, runs: 1},
		"of a function asleep":   {weirs: 1, limit: 0, before: 3, wait: time.Second, code: 200},
		"waiting here for a pod": {weirs: 1, limit: 1, before: 20, wait: 195 * time.Millisecond, answer: 10 * time.Millisecond, code: 200},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				w.weirs = c.weirs
				// One weir has them all, whichever is asked.
				f := w.function(fn, c.limit, func(s *function.Spec) {
					if c.weirs > 1 {
						s.AsyncConcurrency = 1
					}
				})
				f.answer = says(c.code)
				if c.answer > 0 {
					f.answer = takes(c.answer)
				}
				all := []*weir{w.start(0, nil)}
				if c.weirs > 1 {
					all = append(all, w.start(1, nil))
				}
				for range c.before {
					all[0].submit(fn, nil)
				}
				id := all[0].submit(fn, nil)
				time.Sleep(c.wait)
				asked := all[0]
				if c.elsewhere {
					rank := 0
					for _, r := range w.runs(fn) {
						rank = r.rank
					}
					asked = all[1-rank]
				}
				asked.cancel(id)
				time.Sleep(10 * time.Minute)
				runs, cut := 0, false
				w.pods.read(fn, func(f *fake) {
					for _, r := range f.runs {
						if r.id == id.String() {
							runs++
						}
					}
					cut = f.at[id.String()] == 0
				})
				if runs != c.runs || !cut {
					t.Errorf("it ran %d times, cut off %v", runs, cut)
				}
				for _, v := range all {
					v.want(id, queue.Failed, 0+attempts(c.code, c.runs), "cancelled")
				}
				if w.mem.Items() > 0 && c.limit > 0 {
					t.Errorf("%d calls are queued still", w.mem.Items())
				}
			})
		})
	}
}

// attempts is how many of the runs had ended when the call was cancelled.
func attempts(code, runs int) int {
	if code == 500 {
		return runs
	}
	return 0
}

// A pod hears of it at once.
func TestCancelReachesThePod(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = takes(time.Hour)
		v := w.start(0, nil)
		id, next := v.submit(fn, nil), v.submit(fn, nil)
		time.Sleep(5 * time.Second)
		v.cancel(id)
		synctest.Wait()
		v.want(next, queue.Running, 0, "")
	})
}

// News is lost, and a call that runs elsewhere is cut off all the same when it
// has run for a second; one that waits there is not begun.
func TestCancelWithoutNews(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.weirs = 2
		w.function(fn, 2, func(s *function.Spec) { s.AsyncConcurrency = 1 }).answer = takes(time.Minute)
		all := []*weir{w.start(0, nil), w.start(1, nil)}
		id := all[0].submit(fn, nil)
		time.Sleep(10 * time.Millisecond)
		rank := w.runs(fn)[0].rank
		w.fails("Tell", "", -1)
		all[1-rank].cancel(id)
		time.Sleep(2 * time.Second)
		w.pods.read(fn, func(f *fake) {
			if f.at[id.String()] != 0 {
				t.Error("it runs still")
			}
		})
		all[rank].want(id, queue.Failed, 0, "cancelled")
	})
}

// What is on its way from the store when it is cancelled is not begun.
func TestCancelOnTheWay(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil)
		w.lost = func(method string, _ queue.Lane) error {
			if method == "Fetch" {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		v := w.start(0, nil)
		id := v.submit(fn, nil)
		time.Sleep(50 * time.Millisecond)
		v.cancel(id)
		time.Sleep(time.Minute)
		if n := len(w.runs(fn)); n != 0 {
			t.Errorf("it ran %d times", n)
		}
		v.want(id, queue.Failed, 0, "cancelled")
	})
}

// Without news, what another weir has cancelled is not tried again.
func TestCancelledIsNotRetried(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.weirs = 2
		w.function(fn, 2, func(s *function.Spec) { s.AsyncConcurrency = 1 }).answer = func(r *http.Request) queue.Answer {
			takes(500 * time.Millisecond)(r)
			return queue.Answer{Status: 500}
		}
		all := []*weir{w.start(0, nil), w.start(1, nil)}
		id := all[0].submit(fn, nil)
		time.Sleep(10 * time.Millisecond)
		w.fails("Tell", "", -1)
		all[1-w.runs(fn)[0].rank].cancel(id)
		time.Sleep(time.Minute)
		all[0].want(id, queue.Failed, 0, "cancelled")
		if n := len(w.runs(fn)); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	})
}

// Without news, what waits at one weir and is cancelled by another is not begun.
func TestCancelledIsNotBegunElsewhere(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.weirs = 2
		w.function(fn, 2, func(s *function.Spec) { s.AsyncConcurrency = 1 }).answer = func(r *http.Request) queue.Answer {
			if r.RequestURI == "/long" {
				return takes(700 * time.Millisecond)(r)
			}
			return takes(10 * time.Millisecond)(r)
		}
		all := []*weir{w.start(0, nil), w.start(1, nil)}
		submit := func(path string) queue.ID {
			return all[0].submit(fn, func(m *queue.Message) { m.Path = path })
		}
		for range 20 {
			submit("/")
		}
		submit("/long")
		id := submit("/")
		w.until("the long one runs", time.Second, func() bool { return len(w.runs(fn)) == 21 })
		time.Sleep(100 * time.Millisecond)
		if b, _ := w.mem.Store().Backlogs(ctx); b[queue.LaneOf(fn)].Delivered != 2 {
			t.Fatalf("the backlog is %+v: the call does not wait here", b)
		}
		w.fails("Tell", "", -1)
		all[1-w.runs(fn)[0].rank].cancel(id)
		time.Sleep(time.Minute)
		if n := len(w.runs(fn)); n != 21 {
			t.Errorf("it was begun: %d runs", n)
		}
	})
}

func TestCancelOfWhatEnds(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = takes(time.Second)
		v := w.start(0, nil)
		id := v.submit(fn, nil)
		time.Sleep(500 * time.Millisecond)
		w.slow(100 * time.Millisecond)
		time.Sleep(550 * time.Millisecond) // it is being written
		if call, err := v.Cancel(ctx, id); !errors.Is(err, queue.ErrEnded) || call.State != queue.Succeeded {
			t.Errorf("the call is %s, %v", call.State, err)
		}
		w.slow(0)
		for _, id := range []queue.ID{{Seq: 1}, {Seq: 7, Nonce: id.Nonce}, {}} {
			if _, err := v.Cancel(ctx, id); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("cancel of none: %v", err)
			}
			if _, err := v.Call(ctx, id); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("what none is at: %v", err)
			}
		}
	})
}

// Whatever happens at the same moment, a call that is said to be cancelled
// does not run afterwards.
func TestCancelRacesTheStart(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.slow(time.Millisecond)
		f := w.function(fn, 4, nil)
		f.answer = takes(10 * time.Millisecond)
		v := w.start(0, nil)
		for i := range 200 {
			id := v.submit(fn, nil)
			time.Sleep(time.Duration(i%40) * 500 * time.Microsecond)
			call, err := v.Cancel(ctx, id)
			now := time.Now()
			switch {
			case errors.Is(err, queue.ErrEnded):
				if call.State != queue.Succeeded {
					t.Errorf("it had ended as %s", call.State)
				}
			case err != nil:
				t.Errorf("Cancel: %v", err)
			default:
				time.Sleep(50 * time.Millisecond)
				for _, r := range w.runs(fn) {
					if r.id == id.String() && !r.at.Before(now) {
						t.Errorf("call %d was begun after it was cancelled", i)
					}
				}
				v.want(id, queue.Failed, 0, "cancelled")
			}
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 1, nil)
		other := function.Ref{Name: "other", Namespace: "ns"}
		w.function(other, 1, nil)
		v, second := w.start(0, nil), w.start(0, nil)
		submit := func(v *weir, ref function.Ref, key string) (queue.ID, bool) {
			t.Helper()
			id, duplicate, err := v.Submit(ctx, &queue.Message{Function: ref, Method: "POST", Path: "/"}, key)
			if err != nil {
				t.Fatal(err)
			}
			return id, duplicate
		}
		first, duplicate := submit(v, fn, "key")
		if duplicate {
			t.Error("the first is a duplicate")
		}
		// While it is new, when it has ended, and long after that.
		for _, wait := range []time.Duration{0, time.Second, 10 * time.Minute, 45 * time.Minute} {
			time.Sleep(wait)
			for _, v := range []*weir{v, second} {
				if id, duplicate := submit(v, fn, "key"); id != first || !duplicate {
					t.Errorf("after %v it is %s, %v, expected %s, true", wait, id, duplicate, first)
				}
			}
		}
		if n := len(w.runs(fn)); n != 1 {
			t.Errorf("%d runs", n)
		}
		if id, duplicate := submit(v, other, "key"); id == first || duplicate {
			t.Error("the key is one of all functions")
		}
		if id, duplicate := submit(v, fn, "another"); id == first || duplicate {
			t.Error("another key is the same call")
		}
		time.Sleep(10 * time.Minute)
		late, duplicate := submit(v, fn, "key")
		if duplicate || late == first {
			t.Error("it is known after the window")
		}
		_ = f
	})
}

func TestIdempotencyKeyOfAQueuedCall(t *testing.T) {
	in(t, queuetest.Config{Window: time.Minute}, func(w *world) {
		w.function(fn, 0, nil)
		v := w.start(0, nil)
		m := func() *queue.Message { return &queue.Message{Function: fn, Method: "POST", Path: "/"} }
		// Not known to whom the store answered too late, it is put once.
		w.fails("Save", "", 1)
		if _, _, err := v.Submit(ctx, m(), "key"); !errors.Is(err, queue.ErrAway) {
			t.Errorf("with the store away: %v", err)
		}
		first, _, err := v.Submit(ctx, m(), "key")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute) // longer than the store itself knows
		if id, duplicate, err := v.Submit(ctx, m(), "key"); err != nil || !duplicate || id != first {
			t.Errorf("it is %s, %v, %v, expected %s", id, duplicate, err, first)
		}
		if n := w.mem.Items(); n != 1 {
			t.Errorf("%d items", n)
		}
	})
}

func TestSubmitFails(t *testing.T) {
	in(t, queuetest.Config{MaxData: 64 << 10, MaxItems: 2}, func(w *world) {
		w.function(fn, 0, nil)
		v := w.start(0, nil)
		submit := func(body int, key string) error {
			_, _, err := v.Submit(ctx, &queue.Message{Function: fn, Method: "POST", Path: "/", Body: make([]byte, body)}, key)
			return err
		}
		for _, key := range []string{"", "key"} {
			if err := submit(64<<10, key); !errors.Is(err, queue.ErrTooLarge) {
				t.Errorf("too large: %v", err)
			}
			w.fails("Put", "", 1)
			if err := submit(1, key); !errors.Is(err, queue.ErrAway) {
				t.Errorf("away: %v", err)
			}
			w.fails("Put", "", 0)
			if err := submit(50<<10, key); err != nil {
				t.Errorf("large: %v", err)
			}
		}
		if err := submit(1, ""); !errors.Is(err, queue.ErrFull) {
			t.Errorf("full: %v", err)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, _, err := v.Submit(gone, &queue.Message{Function: fn}, ""); err == nil {
			t.Error("it was taken from somebody who had left")
		}
		if got := v.Backlog(fn); got > 2 {
			t.Errorf("%d calls are ready, there are two", got)
		}
	})
}

// What is as large as can be fits among the dead letters, with whatever was
// answered.
func TestLargestCallDies(t *testing.T) {
	in(t, queuetest.Config{MaxData: 64 << 10}, func(w *world) {
		w.function(fn, 1, func(s *function.Spec) { s.Retry.Attempts = 1 }).answer = says(500)
		v := w.start(0, nil)
		id := v.submit(fn, func(m *queue.Message) { m.Body = make([]byte, 55<<10) })
		synctest.Wait()
		v.want(id, queue.Dead, 1, "attempts: the function answered 500")
		if d, err := v.DeadLetter(ctx, id); err != nil || len(d.Body) != 55<<10 {
			t.Errorf("the letter has %d bytes, %v", len(d.Body), err)
		}
	})
}
