package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

var ctx = context.Background()

// times are those of the runs, from start.
func (w *world) times(ref function.Ref, start time.Time) (at []time.Duration) {
	for _, r := range w.runs(ref) {
		at = append(at, r.at.Sub(start))
	}
	return at
}

func seconds(all ...float64) (at []time.Duration) {
	for _, s := range all {
		at = append(at, time.Duration(s*float64(time.Second)))
	}
	return at
}

func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		codes    []int
		rules    func(*function.Retry)
		at       []time.Duration
		state    queue.State
		reason   string
		attempts int
	}{
		"none":                     {[]int{200}, nil, seconds(0), queue.Succeeded, "", 1},
		"redirect":                 {[]int{302}, nil, seconds(0), queue.Succeeded, "", 1},
		"code that is not retried": {[]int{404}, nil, seconds(0), queue.Failed, "the function answered 404", 1},
		"second is good":           {[]int{500, 200}, nil, seconds(0, 1), queue.Succeeded, "", 2},
		"third is good":            {[]int{500, 503, 200}, nil, seconds(0, 1, 3), queue.Succeeded, "", 3},
		"then failed":              {[]int{500, 400}, nil, seconds(0, 1), queue.Failed, "the function answered 400", 2},
		"all bad":                  {[]int{500}, nil, seconds(0, 1, 3), queue.Dead, "attempts: the function answered 500", 3},
		"up to the longest":        {[]int{500}, func(r *function.Retry) { r.Attempts = 6 }, seconds(0, 1, 3, 6, 9, 12), queue.Dead, "attempts: the function answered 500", 6},
		"one attempt":              {[]int{500}, func(r *function.Retry) { r.Attempts = 1 }, seconds(0), queue.Dead, "attempts: the function answered 500", 1},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				f := w.function(fn, 1, func(s *function.Spec) {
					if c.rules != nil {
						c.rules(&s.Retry)
					}
				})
				f.answer = says(c.codes...)
				v := w.start(0, nil)
				time.Sleep(77 * time.Millisecond)
				start := time.Now()
				id := v.submit(fn, nil)
				time.Sleep(time.Minute)
				v.want(id, c.state, c.attempts, c.reason)
				if got := w.times(fn, start); !slices.Equal(got, c.at) {
					t.Errorf("it ran at %v, expected %v", got, c.at)
				}
				for i, r := range w.runs(fn) {
					if got := r.header.Get("X-Retry"); got != fmt.Sprint(i) {
						t.Errorf("run %d has X-Retry %s", i, got)
					}
				}
				if w.mem.Items() != 0 {
					t.Error("it is queued still")
				}
				letters, err := v.DeadLetters(ctx, fn, 0, 10)
				if err != nil || (len(letters) == 1) != (c.state == queue.Dead) {
					t.Errorf("there are %d dead letters, %v", len(letters), err)
				}
			})
		})
	}
}

func TestRetryIsShown(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = says(503, 200)
		v := w.start(0, nil)
		start := time.Now()
		id := v.submit(fn, nil)
		time.Sleep(500 * time.Millisecond)
		call := v.want(id, queue.Retrying, 1, "the function answered 503")
		if call.Code != 503 || !call.Next.Equal(start.Add(time.Second)) || call.MaxAttempts != 3 || !call.Ended.Equal(start) {
			t.Errorf("the call is %+v", call)
		}
		time.Sleep(time.Second)
		if call := v.want(id, queue.Succeeded, 2, ""); call.Code != 200 || !call.Next.IsZero() {
			t.Errorf("the call is %+v", call)
		}
	})
}

// The rules are those of the function as it is when an attempt has ended.
func TestRetryFollowsTheFunction(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = says(500)
		v := w.start(0, nil)
		id := v.submit(fn, nil)
		time.Sleep(500 * time.Millisecond)
		w.function(fn, 1, func(s *function.Spec) { s.Retry.Attempts = 2 })
		time.Sleep(time.Second)
		v.want(id, queue.Dead, 2, "attempts: the function answered 500")
	})
}

func TestRetryAfter(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		var after atomic.Value
		after.Store("7")
		w.function(fn, 1, nil).answer = func(*http.Request) queue.Answer {
			return queue.Answer{Status: 429, Header: http.Header{"Retry-After": {after.Load().(string)}}}
		}
		v := w.start(0, func(c *queue.Config) { c.MaxAge = time.Hour })
		start := time.Now()
		id := v.submit(fn, nil)
		time.Sleep(6 * time.Second)
		v.want(id, queue.Retrying, 1, "the function answered 429")
		after.Store("7200")
		time.Sleep(2 * time.Second)
		// It would be older than a call may be.
		v.want(id, queue.Dead, 2, "expired: the function answered 429")
		if got := w.times(fn, start); !slices.Equal(got, seconds(0, 7)) {
			t.Errorf("it ran at %v", got)
		}
	})
}

// A retry whose weir is killed is neither early nor begun anew.
func TestRetrySurvivesKill(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, func(s *function.Spec) { s.Retry.MinWait, s.Retry.MaxWait = 40*time.Second, 40*time.Second }).answer = says(500)
		v := w.start(0, nil)
		start := time.Now()
		// The record is kept, and the store not told of the delay.
		w.fails("Retry", "", -1)
		id := v.submit(fn, nil)
		time.Sleep(time.Second)
		v.kill()
		w.fails("Retry", "", 0)
		next := w.start(0, nil)
		time.Sleep(30 * time.Second)
		next.want(id, queue.Retrying, 1, "the function answered 500")
		time.Sleep(2 * time.Minute)
		next.want(id, queue.Dead, 3, "attempts: the function answered 500")
		if got := w.times(fn, start); !slices.Equal(got, seconds(0, 40, 80)) {
			t.Errorf("it ran at %v", got)
		}
	})
}

func TestRefusalIsNoAttempt(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 1, nil)
		f.refuse = "the provider is away"
		v := w.start(0, func(c *queue.Config) { c.MaxAge = 10 * time.Minute })
		start := time.Now()
		id := v.submit(fn, nil)
		time.Sleep(time.Minute)
		call := v.want(id, queue.Queued, 0, "the provider is away")
		if wait := time.Until(call.Next); wait <= 0 || wait > 30*time.Second {
			t.Errorf("the next delivery is in %v", wait)
		}
		w.pods.change(fn, func(f *fake) { f.refuse = "" })
		time.Sleep(31 * time.Second)
		v.want(id, queue.Succeeded, 1, "")
		if at := w.times(fn, start); len(at) != 1 {
			t.Errorf("it ran at %v", at)
		}
	})
}

// A function that refuses everything is not asked for each of its calls.
func TestRefusingFunctionIsLeftAlone(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 0, nil)
		f.refuse = "forbidden"
		v := w.start(0, nil)
		for range 1000 {
			v.submit(fn, nil)
		}
		time.Sleep(5 * time.Minute)
		var tries int
		w.pods.read(fn, func(f *fake) { tries = f.tries })
		// Few new ones, each of them twice a minute.
		if tries > 200 {
			t.Errorf("it was asked %d times in five minutes", tries)
		}
		w.pods.change(fn, func(f *fake) { f.refuse, f.started, f.limit = "", 1, 10 })
		w.until("all have run", 3*time.Minute, func() bool { return w.mem.Items() == 0 })
	})
}

// One call that is refused holds up no other.
func TestRefusedCallDoesNotHoldUpOthers(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, nil).answer = func(r *http.Request) queue.Answer {
			a := takes(10 * time.Millisecond)(r)
			if r.RequestURI == "/bad" {
				a = queue.Answer{Status: 431, Reason: "header"}
			}
			return a
		}
		v := w.start(0, nil)
		for i := range 1000 {
			v.submit(fn, func(m *queue.Message) {
				if i%100 == 50 {
					m.Path = "/bad"
				}
			})
		}
		took := w.until("the others have run", 20*time.Second, func() bool { return w.mem.Items() == 10 })
		if took > 5700*time.Millisecond {
			t.Errorf("the others took %v", took)
		}
	})
}

func TestExpires(t *testing.T) {
	for name, prepare := range map[string]func(w *world, f *fake){
		"refused":        func(_ *world, f *fake) { f.refuse = "no" },
		"never up":       func(_ *world, f *fake) { f.started = 0 },
		"gone":           func(w *world, _ *fake) { w.fleet.Delete(fn) },
		"no room at all": func(_ *world, f *fake) { f.limit = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				f := w.function(fn, 1, nil)
				v := w.start(0, func(c *queue.Config) { c.MaxAge = 10 * time.Minute })
				prepare(w, f)
				start := time.Now()
				var ids []queue.ID
				for range 50 {
					ids = append(ids, v.submit(fn, nil))
				}
				time.Sleep(9*time.Minute + 59*time.Second)
				if letters, err := v.DeadLetters(ctx, fn, 0, 1); err != nil || len(letters) > 0 {
					t.Fatalf("%d dead letters before the time, %v", len(letters), err)
				}
				late := v.submit(fn, nil)
				w.until("all have expired", 4*time.Minute, func() bool { return w.mem.Items() == 1 })
				// What is held by the gateway is told when that has refused it.
				if took := time.Since(start); took > 10*time.Minute+holdTime+35*time.Second {
					t.Errorf("it took %v", took)
				}
				for _, id := range ids {
					call := v.call(id)
					if reason, _, _ := strings.Cut(call.Reason, ":"); call.State != queue.Dead || reason != "expired" || call.Attempts != 0 {
						t.Errorf("the call is %s (%s) after %d attempts", call.State, call.Reason, call.Attempts)
					}
				}
				if call := v.call(late); call.State != queue.Queued && call.State != queue.Running {
					t.Errorf("the young one is %s", call.State)
				}
				if len(w.runs(fn)) > 0 {
					t.Error("something has run")
				}
			})
		})
	}
}

// A call that runs is not expired, however long it does.
func TestRunningDoesNotExpire(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = takes(time.Hour)
		v := w.start(0, func(c *queue.Config) { c.MaxAge = time.Minute })
		id := v.submit(fn, nil)
		time.Sleep(time.Second)
		w.fleet.Delete(fn)
		time.Sleep(time.Hour)
		v.want(id, queue.Succeeded, 1, "")
	})
}

func TestRunsForTooLong(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, func(s *function.Spec) { s.Retry.Attempts = 2 }).answer = takes(time.Hour)
		v := w.start(0, func(c *queue.Config) { c.MaxRun = time.Minute })
		id := v.submit(fn, nil)
		time.Sleep(3 * time.Minute)
		if call := v.want(id, queue.Dead, 2, "attempts: it ran for longer than 1m0s"); call.Code != 504 {
			t.Errorf("the code is %d", call.Code)
		}
	})
}

// No pod takes the call in the time that a delivery may last: nobody cancelled it.
func TestWaitsForTooLong(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 0, nil)
		v := w.start(0, func(c *queue.Config) { c.MaxRun = time.Second })
		id := v.submit(fn, nil)
		time.Sleep(1100 * time.Millisecond)
		v.want(id, queue.Queued, 0, "no pod took it within 1s")
	})
}

func TestCutIsAnAttempt(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		n := 0
		w.function(fn, 1, nil).answer = func(*http.Request) queue.Answer {
			if n++; n == 1 {
				return queue.Answer{Began: true, Status: 502, Reason: "cut", Body: []byte("the pod broke off\n")}
			}
			return queue.Answer{Status: 200}
		}
		v := w.start(0, nil)
		id := v.submit(fn, nil)
		time.Sleep(500 * time.Millisecond)
		v.want(id, queue.Retrying, 1, "cut: the pod broke off")
		time.Sleep(time.Second)
		v.want(id, queue.Succeeded, 2, "")
	})
}

// The state of a call that waits says what its function lacks.
func TestRefusalIsExplained(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = func(*http.Request) queue.Answer {
			return queue.Answer{Status: 503, Reason: "not_started", Body: []byte("no replica has started:\n" + strings.Repeat("x", 1<<20))}
		}
		v := w.start(0, func(c *queue.Config) { c.MaxAge = time.Minute })
		id := v.submit(fn, nil)
		time.Sleep(500 * time.Millisecond)
		call := v.call(id)
		if call.State != queue.Queued || !strings.HasPrefix(call.Reason, "not_started: no replica has started: xxx") || len(call.Reason) > 300 {
			t.Errorf("%s: %q", call.State, call.Reason)
		}
		time.Sleep(2 * time.Minute)
		if call := v.call(id); call.State != queue.Dead || !strings.HasPrefix(call.Reason, "expired: not_started: no replica") || call.Attempts != 0 {
			t.Errorf("%s: %q after %d attempts", call.State, call.Reason, call.Attempts)
		}
	})
}

func TestUndecodable(t *testing.T) {
	other := (&queue.Message{Function: function.Ref{Name: "other", Namespace: "ns"}, Method: "GET", Path: "/", Accepted: time.Now()}).Encode()
	late := (&queue.Message{Function: fn, Method: "GET", Path: "/", Accepted: time.Unix(1<<40, 0)}).Encode()
	for name, data := range map[string][]byte{"garbage": []byte("garbage"), "empty": {}, "of another function": other, "of another age": late} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				w.function(fn, 1, nil)
				v := w.start(0, nil)
				if _, _, err := w.mem.Store().Put(ctx, queue.LaneOf(fn), data, ""); err != nil {
					t.Fatal(err)
				}
				id := v.submit(fn, nil)
				time.Sleep(2 * time.Second)
				v.want(id, queue.Succeeded, 1, "")
				letters, err := v.DeadLetters(ctx, function.Ref{}, 0, 10)
				if err != nil || len(letters) != 1 || !strings.HasPrefix(letters[0].Reason, "undecodable: ") || letters[0].Function != "fn.ns" || letters[0].BodySize != len(data) {
					t.Fatalf("the dead letters are %+v, %v", letters, err)
				}
				dead, _ := queue.ParseID(letters[0].ID)
				d, err := v.DeadLetter(ctx, dead)
				if err != nil || string(d.Body) != string(data) {
					t.Errorf("the dead letter is %+v, %v", d, err)
				}
				if _, err := v.Resend(ctx, dead); !errors.Is(err, queue.ErrUndecodable) {
					t.Errorf("sent again: %v", err)
				}
				if w.mem.Items() != 0 {
					t.Error("it is queued still")
				}
			})
		})
	}
}

func TestDeadLetters(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		other := function.Ref{Name: "other", Namespace: "ns"}
		for _, ref := range []function.Ref{fn, other} {
			w.function(ref, 1, func(s *function.Spec) { s.Retry.Attempts = 1 }).answer = func(*http.Request) queue.Answer {
				return queue.Answer{Status: 500, Body: []byte("why not")}
			}
		}
		v := w.start(0, nil)
		var ids []queue.ID
		for i := range 6 {
			ids = append(ids, v.submit([]function.Ref{fn, other}[i%2], func(m *queue.Message) {
				m.Body, m.Path, m.Host, m.Header = []byte("the body"), "/x?y", "h", http.Header{"X-A": {"b"}}
			}))
			synctest.Wait()
		}
		list := func(ref function.Ref, after uint64, n int) (got []string, last uint64) {
			letters, err := v.DeadLetters(ctx, ref, after, n)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range letters {
				if d.Header != nil || d.Body != nil || d.BodySize != 8 || d.Result == nil || d.Result.Body != nil || d.State != queue.Dead || d.Path != "/x?y" {
					t.Errorf("a list has %+v", d)
				}
				got, last = append(got, d.ID), d.Place
			}
			return got, last
		}
		text := func(of ...int) (want []string) {
			for _, i := range of {
				want = append(want, ids[i].String())
			}
			return want
		}
		first, last := list(function.Ref{}, 0, 4)
		second, end := list(function.Ref{}, last, 4)
		none, _ := list(function.Ref{}, end, 4)
		of, _ := list(other, 0, 10)
		if !slices.Equal(first, text(0, 1, 2, 3)) || !slices.Equal(second, text(4, 5)) || len(none) > 0 || !slices.Equal(of, text(1, 3, 5)) {
			t.Errorf("the lists are %v, %v, %v, of one %v", first, second, none, of)
		}
		d, err := v.DeadLetter(ctx, ids[0])
		if err != nil || string(d.Body) != "the body" || d.Header.Get("X-A") != "b" || string(d.Result.Body) != "why not" || d.Code != 500 || d.Host != "h" || d.Method != "POST" {
			t.Errorf("the letter is %+v, %v", d, err)
		}
		if err := v.Drop(ctx, ids[1]); err != nil {
			t.Error(err)
		}
		for _, id := range []queue.ID{ids[1], {Seq: 1}} {
			if err := v.Drop(ctx, id); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("dropped twice: %v", err)
			}
			if _, err := v.Resend(ctx, id); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("sent again: %v", err)
			}
		}
		time.Sleep(2 * queue.DefaultResultKeep)
		v.want(ids[0], queue.Dead, 1, "attempts: the function answered 500")
		if _, err := v.Cancel(ctx, ids[0]); !errors.Is(err, queue.ErrEnded) {
			t.Errorf("cancel: %v", err)
		}
	})
}

func TestSendAgain(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 1, func(s *function.Spec) { s.Retry.Attempts = 1 })
		f.answer = says(500, 200)
		v := w.start(0, nil)
		id := v.submit(fn, func(m *queue.Message) { m.Body = []byte("the body") })
		time.Sleep(26 * time.Hour)
		v.want(id, queue.Dead, 1, "attempts: the function answered 500")
		// The letter is there until the new call is.
		w.fails("Put", "", 1)
		if _, err := v.Resend(ctx, id); !errors.Is(err, queue.ErrAway) {
			t.Errorf("with the store away: %v", err)
		}
		w.fails("Unbury", "", 1)
		again, err := v.Resend(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		call := v.want(again, queue.Succeeded, 1, "")
		if call.Resent != id.String() || call.CallID != id.String() || again == id {
			t.Errorf("the new call is %+v", call)
		}
		// Asked again, for the letter is still there, it is the same call.
		if twice, err := v.Resend(ctx, id); err != nil || twice != again {
			t.Errorf("asked twice it is %s, %v, expected %s", twice, err, again)
		}
		if _, err := v.DeadLetter(ctx, id); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("the letter is there: %v", err)
		}
		if n := len(w.runs(fn)); n != 2 {
			t.Errorf("%d runs", n)
		}
		w.pods.change(fn, func(f *fake) { f.answer = says(500) })
		gone := v.submit(fn, nil)
		synctest.Wait()
		w.fleet.Delete(fn)
		if _, err := v.Resend(ctx, gone); !errors.Is(err, function.ErrNotFound) {
			t.Errorf("to nobody: %v", err)
		}
	})
}

// Nothing is called again because the store is slow to take what came of it.
func TestOutcomeIsWrittenBeforeTheCallLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		method   string
		code     int
		callback bool
	}{
		"record":   {"Save", 200, false},
		"ack":      {"Ack", 200, false},
		"letter":   {"Bury", 500, false},
		"callback": {"Put", 200, true},
		"retry":    {"Retry", 500, false},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				w.function(fn, 1, func(s *function.Spec) {
					s.Retry.Attempts = 1
					if c.method == "Retry" {
						s.Retry.Attempts = 2
					}
				}).answer = says(c.code)
				v := w.start(0, func(c *queue.Config) { c.Callbacks.Own = []string{"weir"} })
				id := v.submit(fn, func(m *queue.Message) {
					if c.callback {
						m.Callback = "http://127.0.0.1:1/refused"
					}
				})
				lane := queue.Lane("")
				if c.callback {
					lane = queue.Callbacks
				}
				w.fails(c.method, lane, -1)
				time.Sleep(50 * time.Second) // more than three leases
				if got := len(w.runs(fn)); got != 1 && c.method != "Retry" {
					t.Errorf("it ran %d times", got)
				}
				w.fails(c.method, lane, 0)
				time.Sleep(30 * time.Second)
				if call := v.call(id); !call.State.Ended() {
					t.Errorf("it is %s (%s)", call.State, call.Reason)
				}
				runs := 1
				if c.method == "Retry" {
					runs = 2
				}
				if got := len(w.runs(fn)); got != runs {
					t.Errorf("it ran %d times in the end", got)
				}
			})
		})
	}
}

// Killed after the outcome is written, and before the call has left, it is
// not called again.
func TestEndedCallIsOnlyAcknowledged(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil)
		v := w.start(0, nil)
		w.fails("Ack", "", -1)
		id := v.submit(fn, nil)
		time.Sleep(time.Second)
		v.kill()
		w.fails("Ack", "", 0)
		next := w.start(0, nil)
		time.Sleep(20 * time.Second)
		next.want(id, queue.Succeeded, 1, "")
		if got := len(w.runs(fn)); got != 1 || w.mem.Items() != 0 {
			t.Errorf("%d runs, %d items", got, w.mem.Items())
		}
	})
}

// It is called again where the store was killed too, and has forgotten that it
// had delivered it. What was written of it stays.
func TestEndedCallKeepsItsOutcome(t *testing.T) {
	for name, takesAgain := range map[string]time.Duration{"short": 500 * time.Millisecond, "long": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				f := w.function(fn, 1, nil)
				v := w.start(0, nil)
				w.fails("Ack", "", -1)
				id := v.submit(fn, nil)
				time.Sleep(time.Second)
				v.kill()
				w.fails("Ack", "", 0)
				w.mem.ForgetTimes()
				f.answer = takes(takesAgain)
				next := w.start(0, nil)
				time.Sleep(time.Minute)
				next.want(id, queue.Succeeded, 1, "")
				if got := len(w.runs(fn)); got != 2 || w.mem.Items() != 0 {
					t.Errorf("%d runs, %d items", got, w.mem.Items())
				}
			})
		})
	}
}

func TestCallsOfAKilledWeirRunAgain(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, nil).answer = takes(time.Minute)
		v := w.start(0, nil)
		ids := []queue.ID{v.submit(fn, nil), v.submit(fn, nil), v.submit(fn, nil)}
		time.Sleep(2 * time.Second)
		v.kill()
		next := w.start(0, nil)
		time.Sleep(3 * time.Minute)
		for _, id := range ids {
			next.want(id, queue.Succeeded, 1, "")
		}
	})
}
