package queue_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// Seed 003: 30 calls of a second to a function that takes five at a time.
func TestThirtyCallsFiveAtATime(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 5, nil)
		f.answer = takes(time.Second)
		v := w.start(0, nil)
		var ids []queue.ID
		start := time.Now()
		for range 30 {
			ids = append(ids, v.submit(fn, nil))
		}
		w.until("all 30 have ended", 10*time.Second, func() bool { return w.mem.Items() == 0 })
		if took := time.Since(start); took > 6100*time.Millisecond {
			t.Errorf("30 calls took %v", took)
		}
		w.pods.read(fn, func(f *fake) {
			if f.most != 5 || len(f.runs) != 30 {
				t.Errorf("%d runs, %d at once, expected 30, 5 at once", len(f.runs), f.most)
			}
		})
		for _, id := range ids {
			v.want(id, queue.Succeeded, 1, "")
		}
	})
}

// Pods are kept busy with short calls though each way to the store takes time.
func TestShortCallsKeepPodsBusy(t *testing.T) {
	for name, limit := range map[string]int{"one": 1, "five": 5, "forty": 40} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				w.slow(2 * time.Millisecond)
				f := w.function(fn, limit, nil)
				f.answer = takes(10 * time.Millisecond)
				v := w.start(0, nil)
				n := min(200*limit, 3000)
				for range n {
					go v.submit(fn, nil)
				}
				time.Sleep(5 * time.Millisecond)
				start := time.Now()
				w.until("all have ended", time.Minute, func() bool { return w.mem.Items() == 0 })
				took := time.Since(start)
				w.pods.read(fn, func(f *fake) {
					if busy := f.busy.Seconds() / took.Seconds() / float64(limit); busy < 0.9 {
						t.Errorf("the pods were %.0f %% busy in %v", 100*busy, took)
					}
					if f.most > limit {
						t.Errorf("%d at once, the pods take %d", f.most, limit)
					}
				})
			})
		})
	}
}

// What is here and at no pod is bounded, and so is what waits in the gateway.
func TestNoMoreThanPodsTakeIsDelivered(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 3, nil)
		f.answer = takes(20 * time.Millisecond)
		v := w.start(0, nil)
		for range 500 {
			v.submit(fn, nil)
		}
		most := 0
		for i := 0; w.mem.Items() > 0; i++ {
			time.Sleep(time.Millisecond)
			// The pods' limit changes all the time.
			if i%70 == 0 {
				w.pods.change(fn, func(f *fake) { f.limit = 1 + i/70%5 })
			}
			w.pods.read(fn, func(f *fake) { most = max(most, f.held) })
			if i > 20_000 {
				t.Fatal("the calls do not end")
			}
		}
		// Where pods are fewer than a moment ago, some meet that.
		if most > 2 {
			t.Errorf("%d calls waited in the gateway", most)
		}
	})
}

func TestSleepingFunctionGetsOneCall(t *testing.T) {
	for name, weirs := range map[string]int{"one weir": 1, "three weirs": 3} {
		t.Run(name, func(t *testing.T) {
			in(t, queuetest.Config{}, func(w *world) {
				w.weirs = weirs
				f := w.function(fn, 0, nil)
				f.answer = takes(time.Second)
				var all []*weir
				for rank := range weirs {
					all = append(all, w.start(rank, nil))
				}
				for range 20 {
					all[0].submit(fn, nil)
				}
				time.Sleep(90 * time.Second)
				w.pods.read(fn, func(f *fake) {
					if f.held != 1 {
						t.Errorf("%d calls are held for a sleeping function, expected the one that wakes it", f.held)
					}
				})
				w.pods.change(fn, func(f *fake) { f.started, f.limit = 1, 6 })
				start := time.Now()
				w.until("all have ended", time.Minute, func() bool { return w.mem.Items() == 0 })
				if took := time.Since(start); took > 5500*time.Millisecond {
					t.Errorf("20 calls at 6 at once took %v once the function was awake", took)
				}
				w.pods.read(fn, func(f *fake) {
					if f.most != 6 || len(f.runs) != 20 {
						t.Errorf("%d runs, %d at once", len(f.runs), f.most)
					}
				})
			})
		})
	}
}

func TestAsyncConcurrencyIsOfAllWeirs(t *testing.T) {
	for _, c := range []struct{ most, weirs int }{{1, 1}, {1, 2}, {3, 2}, {5, 3}, {2, 3}} {
		in(t, queuetest.Config{}, func(w *world) {
			w.weirs = c.weirs
			f := w.function(fn, 30, func(s *function.Spec) { s.AsyncConcurrency = c.most })
			f.answer = takes(100 * time.Millisecond)
			var all []*weir
			for rank := range c.weirs {
				all = append(all, w.start(rank, nil))
			}
			for range 60 {
				all[0].submit(fn, nil)
			}
			time.Sleep(1030 * time.Millisecond)
			w.pods.read(fn, func(f *fake) {
				n := 0
				for _, at := range f.placed {
					n += at
				}
				if n+f.held != c.most || f.most > c.most {
					t.Errorf("%d of %d weirs: %d at pods at once, %d now, %d held", c.most, c.weirs, f.most, n, f.held)
				}
			})
			w.until("all have ended", time.Minute, func() bool { return w.mem.Items() == 0 })
		})
	}
}

func TestFunctionsDoNotWaitForEachOther(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		quick, asleep, gone := function.Ref{Name: "quick", Namespace: "ns"}, function.Ref{Name: "asleep", Namespace: "ns"}, function.Ref{Name: "gone", Namespace: "ns"}
		w.function(fn, 2, nil).answer = takes(time.Hour)
		w.function(asleep, 0, nil)
		w.function(gone, 1, nil)
		w.function(quick, 1, nil)
		v := w.start(0, nil)
		for range 1000 {
			v.submit(fn, nil)
			v.submit(asleep, nil)
		}
		w.fleet.Delete(gone)
		for range 1000 {
			v.submit(gone, nil)
		}
		time.Sleep(10 * time.Second)
		start := time.Now()
		id := v.submit(quick, nil)
		synctest.Wait()
		v.want(id, queue.Succeeded, 1, "")
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// Calls that come one by one need not wait for the next look at the store,
// and those of another weir for the news of them only.
func TestCallRunsAtOnce(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.weirs = 2
		w.function(fn, 2, func(s *function.Spec) { s.AsyncConcurrency = 1 })
		all := []*weir{w.start(0, nil), w.start(1, nil)}
		for i := range 20 {
			time.Sleep(time.Duration(i) * 377 * time.Millisecond)
			id := all[i%2].submit(fn, nil)
			synctest.Wait()
			if got := all[0].call(id).State; got != queue.Succeeded {
				t.Errorf("call %d is %s at once", i, got)
			}
		}
	})
}

func TestLongCallIsNotDeliveredTwice(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 1, nil)
		f.answer = takes(10 * time.Minute)
		v, other := w.start(0, nil), w.start(0, nil)
		id := v.submit(fn, nil)
		time.Sleep(2 * time.Second)
		for _, weir := range []*weir{v, other} {
			if got := weir.call(id).State; got != queue.Running {
				t.Errorf("it is %s", got)
			}
		}
		time.Sleep(10 * time.Minute)
		v.want(id, queue.Succeeded, 1, "")
		if n := len(w.runs(fn)); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	})
}

func TestBacklog(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, nil).answer = takes(10 * time.Second)
		v := w.start(0, nil)
		other := w.start(0, func(c *queue.Config) { c.Share = func() (int, int) { return 1, 2 } })
		other.end() // it only submits
		time.Sleep(5500 * time.Millisecond)
		for range 10 {
			v.submit(fn, nil)
		}
		if got := v.Backlog(fn); got < 8 || got > 10 {
			t.Errorf("%d calls are ready at once, expected 8 to 10", got)
		}
		time.Sleep(time.Millisecond)
		if got := v.Backlog(fn); got != 8 {
			t.Errorf("%d calls are ready while two run, expected 8", got)
		}
		for range 5 {
			other.submit(fn, nil)
		}
		time.Sleep(1100 * time.Millisecond)
		if got := v.Backlog(fn); got != 13 {
			t.Errorf("%d calls are ready, expected 13", got)
		}
		time.Sleep(10 * time.Second)
		if got := v.Backlog(fn); got != 11 {
			t.Errorf("%d calls are ready, expected 11", got)
		}
		if got := v.Backlog(function.Ref{Name: "other", Namespace: "ns"}); got != 0 {
			t.Errorf("%d calls of a function that has none", got)
		}
		w.until("all have ended", 2*time.Minute, func() bool { return w.mem.Items() == 0 })
		if got := v.Backlog(fn); got != 0 {
			t.Errorf("%d calls are ready when all have ended", got)
		}
	})
}

func TestDrain(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, nil).answer = takes(5 * time.Second)
		v := w.start(0, nil)
		var ids []queue.ID
		for range 6 {
			ids = append(ids, v.submit(fn, nil))
		}
		time.Sleep(time.Second)
		start := time.Now()
		if err := v.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 4050*time.Millisecond {
			t.Errorf("the drain took %v", took)
		}
		if got := len(w.runs(fn)); got != 2 || w.mem.Items() != 4 {
			t.Errorf("%d have run, %d are left", got, w.mem.Items())
		}
		v.end()
		next := w.start(0, nil)
		time.Sleep(10100 * time.Millisecond)
		for _, id := range ids {
			next.want(id, queue.Succeeded, 1, "")
		}
		if n := len(w.runs(fn)); n != 6 {
			t.Errorf("%d runs of 6 calls", n)
		}
	})
}

// A hurried end cuts nothing off where nothing runs, and says so.
func TestDrainOfNothing(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, nil)
		v := w.start(0, nil)
		id := v.submit(fn, nil)
		time.Sleep(time.Minute)
		v.want(id, queue.Succeeded, 1, "")
		now, cancel := context.WithCancel(context.Background())
		cancel()
		if err := v.Drain(now); err != nil {
			t.Error(err)
		}
	})
}

// What a stopping weir cuts off is there for the next at once, and no attempt.
func TestDrainThatIsCutShort(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, nil).answer = takes(time.Minute)
		v := w.start(0, nil)
		ids := []queue.ID{v.submit(fn, nil), v.submit(fn, nil)}
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := v.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		v.end()
		next := w.start(0, nil)
		synctest.Wait()
		for _, id := range ids {
			if call := next.call(id); call.State != queue.Running || call.Attempts != 0 {
				t.Errorf("the call is %s after %d attempts", call.State, call.Attempts)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, id := range ids {
			next.want(id, queue.Succeeded, 1, "")
		}
	})
}

func TestDeliveredAsSent(t *testing.T) {
	lower := strings.ToLower("X-As-Sent")
	in(t, queuetest.Config{}, func(w *world) {
		f := w.function(fn, 1, nil)
		got := make(chan *http.Request, 1)
		f.answer = func(r *http.Request) queue.Answer {
			got <- r
			return queue.Answer{Status: 201, Header: http.Header{"Content-Type": {"text/x"}}, Body: []byte("hello")}
		}
		v := w.start(0, nil)
		accepted := time.Now()
		id := v.submit(fn, func(m *queue.Message) {
			m.Method, m.Path, m.Host, m.Body = "PURGE", "/a%2Fb//?x=1;2", "example.org:81", []byte("body\x00")
			m.Header = http.Header{"X-B": {"2", "1"}, "Traceparent": {"00-1"}, lower: {"kept"}, "X-Retry": {"9"}, "X-Call-Id": {"forged"}}
			m.CallID = "trace-7"
		})
		r := <-got
		body := make([]byte, 16)
		n, _ := r.Body.Read(body)
		if r.Method != "PURGE" || r.RequestURI != "/a%2Fb//?x=1;2" || r.Host != "example.org:81" || string(body[:n]) != "body\x00" || r.ContentLength != 5 {
			t.Errorf("it came as %s %s to %s with %q (%d)", r.Method, r.RequestURI, r.Host, body[:n], r.ContentLength)
		}
		for name, want := range map[string]string{"X-Call-Id": "trace-7", "X-Retry": "0", "Traceparent": "00-1", "X-B": "2"} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s is %q, expected %q", name, got, want)
			}
		}
		if r.Header[lower] == nil || len(r.Header["X-B"]) != 2 {
			t.Errorf("the header is %v", r.Header)
		}
		if want := r.Header.Get("X-Start-Time"); want != "946684800000000000" {
			t.Errorf("X-Start-Time is %s", want)
		}
		synctest.Wait()
		call := v.want(id, queue.Succeeded, 1, "")
		if call.CallID != "trace-7" || call.Code != 201 || call.ID != id.String() || call.Function != "fn.ns" || !call.Accepted.Equal(accepted) ||
			call.Result == nil || string(call.Result.Body) != "hello" || call.Result.ContentType != "text/x" || call.Result.Size != 5 {
			t.Errorf("the call is %+v, %+v", call, call.Result)
		}
		time.Sleep(queue.DefaultResultKeep)
		if _, err := v.Call(context.Background(), id); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("after the time for results: %v", err)
		}
	})
}

func TestResultIsBounded(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = func(*http.Request) queue.Answer {
			return queue.Answer{Status: 200, Body: []byte("0123456789")}
		}
		v := w.start(0, func(c *queue.Config) { c.ResultSize = 4 })
		id := v.submit(fn, nil)
		synctest.Wait()
		if r := v.want(id, queue.Succeeded, 1, "").Result; string(r.Body) != "0123" || r.Size != 10 {
			t.Errorf("the result is %+v", r)
		}
	})
}
