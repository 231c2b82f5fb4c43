package autoscaler

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
)

// queued gives a world a backlog that the test sets.
func queued(w *world) *atomic.Int64 {
	n := new(atomic.Int64)
	w.backlog = func(ref function.Ref) int {
		if ref != w.fn.Ref {
			return 1000
		}
		return int(n.Load())
	}
	return n
}

func sleeping() function.Spec {
	s := spec()
	s.Zero = true
	return s
}

// Messages that are ready to run are load, as far as they can usefully run.
func TestBacklogGrows(t *testing.T) {
	for name, row := range map[string]struct {
		change  func(*function.Spec)
		backlog int64
		want    int
	}{
		"capacity":             {func(*function.Spec) {}, 40, 8},
		"capacity, up to max":  {func(*function.Spec) {}, 1_000_000, 20},
		"few at once":          {func(s *function.Spec) { s.AsyncConcurrency = 15 }, 1_000_000, 3},
		"queue":                {func(s *function.Spec) { s.Type = function.Queue }, 40, 8},
		"queue, 0.5":           {func(s *function.Spec) { s.Type, s.Proportion = function.Queue, 0.5 }, 40, 16},
		"rps has no messages":  {func(s *function.Spec) { s.Type = function.RPS }, 40, 1},
		"none":                 {func(*function.Spec) {}, 0, 1},
		"a count out of sense": {func(*function.Spec) {}, -40, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := spec()
				row.change(&s)
				w := newWorld(t, s, 1)
				backlog := queued(w)
				w.run(func(a *Autoscaler) {
					after(5 * time.Second)
					backlog.Store(row.backlog)
					after(90 * time.Second)
					if got := w.entry().Function().Replicas; got != row.want {
						t.Errorf("%d replicas, want %d: wrote %s", got, row.want, w.wrote())
					}
					e := a.Explain(w.fn.Ref).(Explanation)
					if e.Backlog != int(max(0, row.backlog)) || (row.backlog > 0) != strings.Contains(e.Why, "async messages ready to run") {
						t.Errorf("%+v", e)
					}
				})
			})
		})
	}
}

// What the calls take is learned from those that ran: 6000 of 10 ms are done by
// ten at once within a panic window, and twenty pods would have come too late.
func TestBacklogOfShortCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.Target = 2
		w := newWorld(t, s, 1)
		backlog := queued(w)
		w.run(func(a *Autoscaler) {
			work := time.NewTicker(time.Second)
			defer work.Stop()
			for range 30 {
				<-work.C
				w.mu.Lock()
				for _, c := range w.pods { // 100 a second, of 10 ms
					c.InFlightSeconds++
					c.Requests += 100
				}
				w.mu.Unlock()
			}
			backlog.Store(6000)
			after(10 * time.Second)
			if e := a.Explain(w.fn.Ref).(Explanation); e.Load < 9.9 || e.Load > 11.1 {
				t.Errorf("load %g: %s", e.Load, e.Why)
			}
		})
	})
}

// A function with messages that are ready to run does not sleep, and its time
// begins anew with the last of them.
func TestBacklogKeepsAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sleeping(), 1)
		backlog := queued(w)
		backlog.Store(1)
		w.run(func(*Autoscaler) {
			after(time.Hour)
			if w.wrote() != "" {
				t.Fatalf("wrote %s with a message in the queue", w.wrote())
			}
			backlog.Store(0)
			after(55 * time.Second)
			if w.wrote() != "" {
				t.Fatalf("wrote %s before zero-after", w.wrote())
			}
			after(10 * time.Second)
			if w.wrote() != "1>0" {
				t.Errorf("wrote %q after the last message", w.wrote())
			}
		})
	})
}

// It is known also where no pod can be read: what cannot be read meanwhile is
// not idle, and once it can the time has not passed.
func TestBacklogWhereNoPodIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sleeping(), 1)
		backlog := queued(w)
		w.run(func(a *Autoscaler) {
			after(10 * time.Second)
			w.mu.Lock()
			counters := w.pods["f-0"]
			w.pods["f-0"] = nil
			w.mu.Unlock()
			backlog.Store(7)
			after(10 * time.Minute)
			if e := a.Explain(w.fn.Ref).(Explanation); e.Reason != ReasonNoData || e.Backlog != 7 || !strings.Contains(e.Why, "7 async messages") || e.IdleSeconds != 0 {
				t.Errorf("%+v", e)
			}
			backlog.Store(0)
			w.mu.Lock()
			w.pods["f-0"] = counters
			w.mu.Unlock()
			after(50 * time.Second)
			if w.wrote() != "" {
				t.Errorf("wrote %s", w.wrote())
			}
		})
	})
}

// A sample of the pods stands for all of them, the backlog for itself.
func TestBacklogIsNotSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.Min, s.Max = 100, 100
		w := newWorld(t, s, 100)
		backlog := queued(w)
		backlog.Store(60)
		w.load(1)
		w.run(func(a *Autoscaler) {
			after(20 * time.Second)
			if e := a.Explain(w.fn.Ref).(Explanation); e.Load < 159.9 || e.Load > 160.1 || e.Backlog != 60 {
				t.Errorf("%+v", e)
			}
		})
	})
}

// One asleep is woken by those who deliver; where that is lost, by the decider,
// and by no other weir.
func TestBacklogWakes(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*function.Spec)
		want   string
	}{
		"capacity":    {func(*function.Spec) {}, "0>8"},
		"queue":       {func(s *function.Spec) { s.Type = function.Queue }, "0>8"},
		"rps":         {func(s *function.Spec) { s.Type = function.RPS }, "0>1"},
		"one at once": {func(s *function.Spec) { s.AsyncConcurrency = 1 }, "0>1"},
		"at-start":    {func(s *function.Spec) { s.Type, s.AtStart = function.CPU, 3 }, "0>3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sleeping()
				row.change(&s)
				w := newWorld(t, s, 0)
				backlog := queued(w)
				w.run(func(a *Autoscaler) {
					after(10500 * time.Millisecond)
					backlog.Store(40)
					w.leading.Store(false)
					after(time.Minute)
					if w.wrote() != "" {
						t.Fatalf("wrote %s without the lead", w.wrote())
					}
					w.leading.Store(true)
					after(time.Second + LostWake)
					first, _, _ := strings.Cut(w.wrote(), " ")
					if first != row.want {
						t.Errorf("wrote %q, want %s first", w.wrote(), row.want)
					}
					e := a.Explain(w.fn.Ref).(Explanation)
					if len(e.Changes) == 0 || e.Changes[len(e.Changes)-1].Reason != ReasonWake {
						t.Errorf("%+v", e)
					}
				})
			})
		})
	}
}

// A message that comes between the decision to sleep and its writing keeps the
// function awake.
func TestBacklogStirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sleeping(), 1)
		var asked sync.Map
		w.backlog = func(function.Ref) int {
			// The decider asks once in a look, and once more before it writes.
			now := time.Now()
			n, _ := asked.LoadOrStore(now, new(atomic.Int64))
			if n.(*atomic.Int64).Add(1) > 1 && now.Sub(w.fn.Created) < 3*time.Minute {
				return 1
			}
			return 0
		}
		w.run(func(*Autoscaler) {
			after(3*time.Minute - time.Second)
			if w.wrote() != "" {
				t.Fatalf("wrote %s with a message in the queue", w.wrote())
			}
			after(2 * time.Second)
			if w.wrote() != "1>0" {
				t.Errorf("wrote %q", w.wrote())
			}
		})
	})
}
