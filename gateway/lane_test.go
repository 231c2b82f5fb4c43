package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// provider is a Provider of funcs that counts what it is asked.
type provider struct {
	wake func(ctx context.Context, ref function.Ref, replicas int) error

	wakes, others atomic.Int64
	mu            sync.Mutex
	events        []function.Event
}

func (p *provider) Wake(ctx context.Context, ref function.Ref, replicas int) error {
	p.wakes.Add(1)
	if p.wake == nil {
		return nil
	}
	return p.wake(ctx, ref, replicas)
}

func (p *provider) Scale(context.Context, function.Ref, int, string) error {
	p.others.Add(1)
	return nil
}

func (p *provider) Event(_ function.Ref, e function.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
}

func (p *provider) said() []function.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// setup makes a gateway over a fleet that is complete and whose pods are what
// they are told.
func setup(t testing.TB, change func(*Config)) (*Gateway, *fleet.Fleet, *provider) {
	t.Helper()
	p := &provider{}
	cfg := Config{Fleet: fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)}), Provider: p,
		Log: slog.New(slog.DiscardHandler), Namespace: "ns"}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Fleet.Synced()
	t.Cleanup(func() { g.Close() })
	return g, cfg.Fleet, p
}

// describe is a function of so many replicas, of which so many have a pod.
func describe(name string, replicas, pods int) *function.Function {
	fn := &function.Function{Ref: function.Ref{Name: name, Namespace: "ns"}, Kind: function.KindDeployment,
		Spec: function.Spec{Min: 1, Max: 20}, Replicas: replicas}
	for i := range pods {
		pod := fmt.Sprintf("%s-%d", name, i)
		fn.Pods = append(fn.Pods, function.Pod{Name: pod, UID: pod, Addr: fmt.Sprintf("127.0.0.1:%d", 1+i), Ready: true})
	}
	return fn
}

// put makes the pods of a function started, with limits as given.
func put(f *fleet.Fleet, fn *function.Function, said fleet.Saying) *fleet.Entry {
	f.Put(fn)
	e := f.Get(fn.Ref)
	for _, p := range e.Pods() {
		p.Learn(said)
	}
	return e
}

func started(inflight, queue int) fleet.Saying {
	return fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: inflight, MaxQueue: queue}
}

var plain = fleet.Saying{State: fleet.Started, Nature: fleet.Plain, Room: true}

// caller takes places of a lane as serve does.
type caller struct {
	l *lane
	claim
}

func (c *caller) get(ctx context.Context) error {
	if err := c.l.enter(&c.claim, true); err != nil || c.place != nil {
		return err
	}
	return c.l.wait(ctx, &c.claim)
}

func (c *caller) done(how ending) { c.l.release(&c.claim, how) }

// call is a whole one.
func (c *caller) call(ctx context.Context) error {
	err := c.get(ctx)
	if err == nil {
		c.done(took)
	}
	return err
}

// must takes a place that is free.
func must(t *testing.T, l *lane) *caller {
	t.Helper()
	c := &caller{l: l}
	if err := l.enter(&c.claim, true); err != nil {
		t.Fatal(err)
	}
	if c.place == nil {
		t.Fatal("no place was free")
	}
	return c
}

// settled checks what holds whenever nobody is on the move: who waits does so
// since no pod has a place.
func settled(t *testing.T, l *lane) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry.Load()
	n := 0
	for _, q := range []*line{&l.line, &l.own} {
		last := uint64(0)
		for c := q.head; c != nil; c = c.next {
			if c.ticket <= last {
				t.Errorf("ticket %d stands behind %d", c.ticket, last)
			}
			last = c.ticket
			n++
		}
		if q.n == 0 {
			continue
		}
		if p := l.pick(e, time.Now(), q == &l.own); p != nil {
			t.Errorf("%d wait, and pod %s has a place", q.n, p.pod.About().Name)
		}
		if !l.watching {
			t.Errorf("%d wait, and nobody listens for them", q.n)
		}
	}
	if n != l.waiting() || n != l.held.n {
		t.Errorf("%d stand in line, %d are counted there, %d as held", n, l.waiting(), l.held.n)
	}
}

// empty checks that nothing is left over.
func empty(t testing.TB, l *lane) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting() != 0 || l.held.n != 0 || l.running.n != 0 || l.watching || l.kept.Load() != 0 {
		t.Errorf("left over: %d in line, %d held, %d running, watching %v, %d bytes", l.line.n, l.held.n, l.running.n, l.watching, l.kept.Load())
	}
	for _, p := range l.places.all {
		if p.running.n != 0 {
			t.Errorf("pod %s still has %d", p.pod.About().Name, p.running.n)
		}
	}
}

func TestPodsAreFilledByTheirLimits(t *testing.T) {
	pods := func(t *testing.T, l *lane, n int) (names []string) {
		t.Helper()
		for range n {
			names = append(names, must(t, l).pod.About().Name)
		}
		return names
	}
	full := func(t *testing.T, l *lane) {
		t.Helper()
		c := &claim{}
		if err := l.enter(c, true); err != nil || c.place != nil {
			t.Fatalf("one more was let in: %v, %v", c.place, err)
		}
		l.quit(c)
	}
	t.Run("few at once: one pod after the other", func(t *testing.T) {
		g, f, _ := setup(t, nil)
		l := g.lane(put(f, describe("a", 2, 2), started(2, 1)))
		got := pods(t, l, 6)
		// The queues of the pods are used once nobody runs at once.
		if want := []string{"a-0", "a-0", "a-1", "a-1", "a-0", "a-1"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		full(t, l)
	})
	t.Run("more at once: in turn, without those that are full", func(t *testing.T) {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 3, 3), started(5, 0))
		e.Pods()[1].Learn(started(4, 0))
		got := pods(t, g.lane(e), 14)
		count := map[string]int{}
		for _, name := range got {
			count[name]++
		}
		if want := []string{"a-0", "a-1", "a-2", "a-0"}; !slices.Equal(got[:4], want) || count["a-0"] != 5 || count["a-1"] != 4 || count["a-2"] != 5 {
			t.Errorf("got %v", got)
		}
		full(t, g.lane(e))
	})
	t.Run("a limit is shared among gateways, rounded up", func(t *testing.T) {
		g, f, _ := setup(t, func(c *Config) { c.Gateways = func() int { return 2 } })
		l := g.lane(put(f, describe("a", 1, 1), started(5, 2)))
		pods(t, l, 4)
		full(t, l)
	})
	t.Run("a plain pod has its function's concurrency", func(t *testing.T) {
		g, f, _ := setup(t, nil)
		fn := describe("a", 2, 2)
		fn.Spec.Concurrency = 3
		l := g.lane(put(f, fn, plain))
		if got, want := pods(t, l, 6), []string{"a-0", "a-0", "a-0", "a-1", "a-1", "a-1"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		full(t, l)
	})
	t.Run("no limit: the less loaded of two", func(t *testing.T) {
		g, f, _ := setup(t, nil)
		l := g.lane(put(f, describe("a", 10, 10), plain))
		count := map[string]int{}
		for _, name := range pods(t, l, 1000) {
			count[name]++
		}
		for name, n := range count {
			// One random choice alone spreads by 3 × √100 and more.
			if n < 92 || n > 108 {
				t.Errorf("pod %s has %d of 1000, expected about 100", name, n)
			}
		}
	})
	t.Run("a pod without room is second choice", func(t *testing.T) {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 2, 2), started(2, 0))
		said := started(2, 0)
		said.Room = false
		e.Pods()[0].Learn(said)
		if got, want := pods(t, g.lane(e), 3), []string{"a-1", "a-1", "a-0"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("only started pods", func(t *testing.T) {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 3, 3), started(9, 0))
		e.Pods()[0].Learn(fleet.Saying{State: fleet.Starting})
		e.Pods()[1].Drains()
		if got, want := pods(t, g.lane(e), 2), []string{"a-2", "a-2"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		l := g.lane(put(f, describe("a", 1, 1), started(1, 0)))
		first := must(t, l)
		var order []int
		for i := range 100 {
			go func() {
				c := &caller{l: l}
				if err := c.get(t.Context()); err != nil {
					t.Error(err)
					return
				}
				order = append(order, i) // one at a time has the pod
				c.done(took)
			}()
			synctest.Wait()
		}
		first.done(took)
		synctest.Wait()
		if len(order) != 100 || !slices.IsSorted(order) {
			t.Errorf("served in the order %v", order)
		}
		empty(t, l)
	})
}

// A request that was sent away by a pod is the next one, whoever came
// meanwhile.
func TestRefusedStandInFrontAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 1, 1), started(2, 0))
		l := g.lane(e)
		one, two := must(t, l), must(t, l)
		var order []string
		wait := func(c *caller, name string, enter bool) {
			go func() {
				var err error
				if enter {
					err = c.get(t.Context())
				} else {
					err = l.wait(t.Context(), &c.claim)
				}
				if err != nil {
					t.Error(err)
				}
				order = append(order, name)
				c.done(took)
			}()
			synctest.Wait()
		}
		wait(&caller{l: l}, "three", true)
		two.done(refused)
		wait(two, "two", false)
		one.done(refused)
		wait(one, "one", false)
		if len(order) != 0 {
			t.Fatalf("%v got a pod that says that it is full", order)
		}
		settled(t, l)
		e.Pods()[0].Learn(started(2, 0))
		synctest.Wait()
		time.Sleep(time.Second)
		if want := []string{"one", "two", "three"}; !slices.Equal(order, want) {
			t.Errorf("served in the order %v, want %v", order, want)
		}
		empty(t, l)
	})
}

// After a refusal a pod is not stormed by all who wait as soon as it says that
// it has room.
func TestAFullPodIsFilledGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 1, 1), started(100, 0))
		l := g.lane(e)
		must(t, l).done(refused)
		var passed atomic.Int64
		for range 50 {
			go func() {
				c := &caller{l: l}
				if err := c.get(t.Context()); err != nil {
					t.Error(err)
				}
				passed.Add(1)
				time.Sleep(time.Minute)
				c.done(took)
			}()
		}
		synctest.Wait()
		if got := passed.Load(); got != 0 {
			t.Fatalf("%d went to a full pod", got)
		}
		e.Pods()[0].Learn(started(100, 0))
		synctest.Wait()
		if got := passed.Load(); got != 1 {
			t.Errorf("%d went at once, expected one", got)
		}
		for range 4 {
			before := passed.Load()
			time.Sleep(rampStep + time.Millisecond)
			synctest.Wait()
			if got := passed.Load(); got <= before {
				t.Errorf("after one more step still %d", got)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := passed.Load(); got != 50 {
			t.Errorf("after a second %d of 50", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		empty(t, l)
	})
}

// What a pod says of itself is a sample: one that says it is full is tried now
// and then.
func TestAFullPodIsTriedNowAndThen(t *testing.T) {
	for _, c := range []struct {
		name        string
		how         ending
		least, most int64 // of the tries in ten seconds
	}{
		// After 50, 100, 200, 400, 800, 800 … ms.
		{"refuses", refused, 10, 18},
		{"takes them after all", took, 50, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, f, _ := setup(t, nil)
				l := g.lane(put(f, describe("a", 1, 1), started(100, 0)))
				must(t, l).done(refused)
				ctx, leave := context.WithCancel(t.Context())
				var tries atomic.Int64
				for range 50 {
					go func() {
						c2 := &caller{l: l}
						for err := c2.get(ctx); err == nil; err = l.wait(ctx, &c2.claim) {
							tries.Add(1)
							if c.how == took {
								time.Sleep(time.Minute)
							}
							c2.done(c.how)
							if c.how == took {
								return
							}
						}
					}()
				}
				time.Sleep(10 * time.Second)
				if got := tries.Load(); got < c.least || got > c.most {
					t.Errorf("%d tries, expected %d to %d", got, c.least, c.most)
				}
				leave()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				empty(t, l)
			})
		})
	}
}

func TestHoldIsBounded(t *testing.T) {
	reason := func(err error) string {
		var r *refusal
		if !errors.As(err, &r) {
			return fmt.Sprint(err)
		}
		if r.status == http.StatusServiceUnavailable && r.retryAfter == 0 {
			t.Errorf("%q says no Retry-After", r.text)
		}
		return r.reason
	}
	t.Run("by number", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, f, _ := setup(t, func(c *Config) { c.HoldRequests = 3 })
			l := g.lane(put(f, describe("a", 1, 1), started(1, 0)))
			first := must(t, l)
			for range 3 {
				go func() {
					c := &caller{l: l}
					if err := c.get(t.Context()); err != nil {
						t.Error(err)
					}
					c.done(took)
				}()
			}
			synctest.Wait()
			if got := reason((&caller{l: l}).get(t.Context())); got != "hold_requests" {
				t.Errorf("the fourth: %s", got)
			}
			first.done(took)
			synctest.Wait()
			empty(t, l)
		})
	})
	t.Run("by time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, f, _ := setup(t, func(c *Config) { c.HoldTime = 3 * time.Second })
			l := g.lane(put(f, describe("a", 1, 1), started(1, 0)))
			first := must(t, l)
			begin := time.Now()
			for i := range 3 {
				go func() {
					time.Sleep(time.Duration(i) * 100 * time.Millisecond)
					came := time.Now()
					got := reason((&caller{l: l}).get(t.Context()))
					if waited := time.Since(came); got != "full" || waited != 3*time.Second {
						t.Errorf("number %d: %s after %v", i, got, waited)
					}
				}()
			}
			time.Sleep(4 * time.Second)
			if time.Since(begin) > 5*time.Second {
				t.Error("the test's clock ran away")
			}
			synctest.Wait()
			first.done(took)
			empty(t, l)
		})
	})
	t.Run("by the client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, f, _ := setup(t, nil)
			l := g.lane(put(f, describe("a", 1, 1), started(1, 0)))
			first := must(t, l)
			ctx, leave := context.WithCancel(t.Context())
			for range 100 {
				go func() {
					if err := (&caller{l: l}).get(ctx); !errors.Is(err, context.Canceled) {
						t.Errorf("got %v", err)
					}
				}()
			}
			synctest.Wait()
			settled(t, l)
			leave()
			synctest.Wait()
			first.done(took)
			empty(t, l)
		})
	})
	t.Run("by the function's end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, f, _ := setup(t, nil)
			e := put(f, describe("a", 1, 1), started(1, 0))
			l := g.lane(e)
			first := must(t, l)
			go func() {
				if got := reason((&caller{l: l}).get(t.Context())); got != "gone" {
					t.Errorf("got %s", got)
				}
			}()
			synctest.Wait()
			f.Delete(e.Function().Ref)
			synctest.Wait()
			g.sweep()
			if len(g.all()) != 1 {
				t.Error("the lane was dropped while it has a call")
			}
			first.done(took)
			empty(t, l)
			g.sweep()
			if len(g.all()) != 0 {
				t.Error("the lane of a function that is gone was kept")
			}
		})
	})
	t.Run("by the gateway's end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, f, _ := setup(t, nil)
			l := g.lane(put(f, describe("a", 1, 1), started(1, 0)))
			first := must(t, l)
			go func() {
				if got := reason((&caller{l: l}).get(t.Context())); got != "stopping" {
					t.Errorf("got %s", got)
				}
			}()
			synctest.Wait()
			g.Close()
			synctest.Wait()
			first.done(took)
			empty(t, l)
		})
	})
}

// The autoscaler is told when requests begin to wait for pods that are up, and
// not of those that wait for the first.
func TestWhoWaitsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []function.Ref
		g, f, _ := setup(t, func(c *Config) { c.Kick = func(ref function.Ref) { told = append(told, ref) } })
		e := put(f, describe("a", 1, 1), started(1, 0))
		first := must(t, g.lane(e))
		for range 10 {
			go func() {
				c := &caller{l: g.lane(e)}
				if c.get(t.Context()) == nil {
					c.done(took)
				}
			}()
		}
		synctest.Wait()
		first.done(took)
		ctx, leave := context.WithCancel(t.Context())
		f.Put(describe("asleep", 1, 0))
		go func() { _ = (&caller{l: g.lane(f.Get(describe("asleep", 1, 0).Ref))}).get(ctx) }()
		synctest.Wait()
		leave()
		synctest.Wait()
		if len(told) != 1 || told[0] != e.Function().Ref {
			t.Errorf("told of %v", told)
		}
	})
}

// What a pod did with a request tells about the pod.
func TestPodsAreJudgedByWhatTheyDo(t *testing.T) {
	for how, want := range map[ending]fleet.State{unused: fleet.Started, took: fleet.Started, refused: fleet.Started,
		drains: fleet.Stopping, lost: fleet.Starting, cut: fleet.Starting} {
		g, f, _ := setup(t, nil)
		e := put(f, describe("a", 1, 1), started(5, 0))
		l := g.lane(e)
		must(t, l).done(how)
		p := e.Pods()[0]
		if p.State() != want || p.Said().Room != (how == unused || how == took) {
			t.Errorf("ending %d: %v, room %v", how, p.State(), p.Said().Room)
		}
		empty(t, l)
	}
	// A handler without watchdog may end a connection and live on.
	g, f, _ := setup(t, nil)
	e := put(f, describe("a", 1, 1), plain)
	must(t, g.lane(e)).done(cut)
	if got := e.Pods()[0].State(); got != fleet.Started {
		t.Errorf("plain: %v", got)
	}
}

// alone is a lane of one pod that is taken, whose watcher is the test itself.
func alone(t *testing.T, inflight int) (l *lane, e *fleet.Entry, with *caller) {
	g, f, _ := setup(t, nil)
	e = put(f, describe("a", 1, 1), started(inflight, 0))
	l = g.lane(e)
	with = must(t, l)
	l.watching = true
	return l, e, with
}

// A client that leaves at the very moment at which it is given a pod gives it
// back.
func TestAPodIsNotLeftWithWhoLeft(t *testing.T) {
	l, e, first := alone(t, 1)
	var one, two claim
	for _, c := range []*claim{&one, &two} {
		c.ready = make(chan struct{}, 1)
		if err := l.enter(c, true); err != nil || !l.queue(c) {
			t.Fatal("did not have to wait")
		}
	}
	first.done(took)
	if one.place == nil || two.place != nil {
		t.Fatalf("given to %v and %v", one.place, two.place)
	}
	l.quit(&one)
	if two.place == nil {
		t.Error("the next in line was not given the place")
	}
	l.release(&two, took)
	if _, _, some := l.serve(e); some {
		t.Error("somebody waits still")
	}
	empty(t, l)
}

// Who comes between the news of a place and those who wait for it does not
// pass them.
func TestNobodyPassesWhoWaits(t *testing.T) {
	l, e, first := alone(t, 1)
	var one, two, three claim
	for _, c := range []*claim{&one, &two, &three} {
		c.ready = make(chan struct{}, 1)
	}
	if err := l.enter(&one, true); err != nil || !l.queue(&one) {
		t.Fatal("did not have to wait")
	}
	// This one has its body read before it stands in line.
	if err := l.enter(&two, false); err != nil || two.place != nil {
		t.Fatal("was given a pod")
	}
	e.Pods()[0].Learn(started(3, 0))
	if err := l.enter(&three, true); err != nil || three.place != nil {
		t.Error("who came last was given a pod first")
	}
	if !l.queue(&two) || two.place != nil {
		t.Error("who came second was given a pod first")
	}
	if _, _, some := l.serve(e); some {
		t.Error("somebody waits still")
	}
	if one.place == nil || two.place == nil || three.place != nil {
		t.Errorf("given to %v, %v, %v", one.place, two.place, three.place)
	}
	l.quit(&three)
	l.release(&one, took)
	l.release(&two, took)
	first.done(took)
	empty(t, l)
}

// One who comes back to the front of the line has the time that it had.
func TestTheFirstInLineIsRefusedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, func(c *Config) { c.HoldTime = 3 * time.Second })
		l := g.lane(put(f, describe("a", 1, 1), started(1, 0)))
		busy := must(t, l)
		begin := time.Now()
		var slow claim // its body comes slowly
		if err := l.enter(&slow, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		go func() { _ = (&caller{l: l}).get(t.Context()) }()
		time.Sleep(2400 * time.Millisecond)
		err := l.wait(t.Context(), &slow)
		var r *refusal
		if waited := time.Since(begin); !errors.As(err, &r) || waited != 3*time.Second {
			t.Errorf("%v after %v", err, waited)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		busy.done(took)
		empty(t, l)
	})
}

// A function that was taken away and put back, as by a label that was edited
// twice, keeps its calls and its counters.
func TestAFunctionThatComesBackKeepsItsLane(t *testing.T) {
	g, f, _ := setup(t, nil)
	fn := describe("a", 1, 1)
	l := g.lane(put(f, fn, started(2, 0)))
	first := must(t, l)
	f.Delete(fn.Ref)
	g.sweep()
	again := g.lane(put(f, fn, started(2, 0)))
	if again != l {
		t.Fatal("there are two lanes for one function")
	}
	must(t, l).done(took)
	if d := l.demand(time.Now()); d.Running != 1 || d.Calls != 2 || d.Pods["a-0"].Running != 1 {
		t.Errorf("%+v", d)
	}
	first.done(took)
	empty(t, l)
}

// lanesWorld drives one lane at random and watches what must always hold.
type lanesWorld struct {
	t     *testing.T
	f     *fleet.Fleet
	l     *lane
	fn    *function.Function
	limit int
	mu    sync.Mutex
	with  map[string]int
	own   map[string]int // of these, in places of the gateway's own share
	ended int
	// others were told that all places are other gateways'.
	others int
	// told is what Room said last.
	told int
}

func (w *lanesWorld) call(r *rand.Rand) {
	pause := func(most time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(most)))) }
	pause(2 * time.Second)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	if r.IntN(5) == 0 {
		ctx, cancel = context.WithTimeout(w.t.Context(), time.Duration(r.Int64N(int64(time.Second))))
	}
	defer cancel()
	c := &caller{l: w.l}
	c.own = r.IntN(2) == 0
	err := c.get(ctx)
	for try := 0; err == nil; try++ {
		name := c.pod.About().UID
		w.mu.Lock()
		w.with[name]++
		if c.own {
			w.own[name]++
			if share := w.share(c.place); w.own[name] > share {
				w.t.Errorf("pod %s has %d in the gateway's own %d places", name, w.own[name], share)
			}
		}
		if w.with[name] > w.limit {
			w.t.Errorf("pod %s has %d, and takes %d", name, w.with[name], w.limit)
		}
		w.mu.Unlock()
		pause(200 * time.Millisecond)
		how := took
		if try < 3 && r.IntN(4) == 0 {
			how = []ending{refused, refused, lost, drains, cut, unused}[r.IntN(6)]
		}
		pod := c.pod
		w.mu.Lock()
		w.with[name]--
		if c.own {
			w.own[name]--
		}
		w.mu.Unlock()
		c.done(how)
		if how == took {
			break
		}
		// As a prober would.
		go func() {
			time.Sleep(25 * time.Millisecond)
			pod.Learn(started(w.limit, 0))
		}()
		err = w.l.wait(ctx, &c.claim)
	}
	w.mu.Lock()
	w.ended++
	var own *refusal
	if errors.As(err, &own) && own.reason == "share" {
		w.others++
	}
	w.mu.Unlock()
}

// share is what of the pod is the gateway's own.
func (w *lanesWorld) share(p *place) int {
	rank, gateways := w.l.g.cfg.Share()
	return exactShare(w.limit, gateways, rank+p.turnOf(gateways))
}

// ask asks for room as a queue does.
func (w *lanesWorld) ask() {
	for {
		room, _, changed := w.l.g.Room(w.l.entry.Load())
		w.mu.Lock()
		w.told = room
		w.mu.Unlock()
		select {
		case <-changed:
		case <-w.t.Context().Done():
			return
		}
	}
}

// roomy checks that who asked for room knows of all that there is: a pod that
// refused has more bit by bit.
func (w *lanesWorld) roomy() {
	w.t.Helper()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	for _, p := range w.l.places.all {
		if p.bounded {
			return
		}
	}
	now, _ := w.l.capacity(w.l.entry.Load(), time.Now())
	if w.mu.Lock(); now.room > w.told {
		w.t.Errorf("there is room for %d, and who asked was told %d", now.room, w.told)
	}
	w.mu.Unlock()
}

// change adds and removes pods, and always leaves one.
func (w *lanesWorld) change(r *rand.Rand, serial int) {
	fn := *w.fn
	fn.Pods = nil
	for _, p := range w.fn.Pods {
		if r.IntN(4) > 0 {
			fn.Pods = append(fn.Pods, p)
		}
	}
	for len(fn.Pods) < 3 {
		name := fmt.Sprintf("new-%d-%d", serial, len(fn.Pods))
		fn.Pods = append(fn.Pods, function.Pod{Name: name, UID: name, Addr: "127.0.0.1:1"})
	}
	w.fn = &fn
	w.f.Put(&fn)
	for _, p := range w.f.Get(fn.Ref).Pods() {
		starts := time.Duration(r.Int64N(int64(100 * time.Millisecond)))
		go func() {
			time.Sleep(starts)
			p.Learn(started(w.limit, 0))
		}()
	}
}

func TestLaneAtRandom(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const calls = 400
				r := rand.New(rand.NewPCG(seed, 4))
				gateways := 1 + r.IntN(3)
				rank := r.IntN(gateways)
				g, f, _ := setup(t, func(c *Config) { c.Share = func() (int, int) { return rank, gateways } })
				fn := describe("a", 3, 3)
				w := &lanesWorld{t: t, f: f, fn: fn, limit: 1 + r.IntN(6), with: map[string]int{}, own: map[string]int{}}
				w.l = g.lane(put(f, fn, started(w.limit, 0)))
				go w.ask()
				for range calls {
					go w.call(rand.New(rand.NewPCG(r.Uint64(), 1)))
				}
				for i := range 40 {
					time.Sleep(50 * time.Millisecond)
					w.change(r, i)
					synctest.Wait()
					settled(t, w.l)
					w.roomy()
				}
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if w.ended != calls {
					t.Errorf("%d of %d calls ended", w.ended, calls)
				}
				if w.others > 0 && w.limit >= gateways {
					t.Errorf("%d were told that no place is this gateway's", w.others)
				}
				empty(t, w.l)
			})
		})
	}
}
