package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// cluster is a provider whose functions start as many pods as they are asked
// for, a while after they were asked.
type cluster struct {
	*provider
	f     *fleet.Fleet
	start time.Duration

	mu    sync.Mutex
	order []string // of the wakes
}

func newCluster(g *Gateway, f *fleet.Fleet, p *provider, start time.Duration) *cluster {
	c := &cluster{provider: p, f: f, start: start}
	p.wake = c.wakeUp
	return c
}

func (c *cluster) wakeUp(_ context.Context, ref function.Ref, replicas int) error {
	c.mu.Lock()
	c.order = append(c.order, ref.Name)
	c.mu.Unlock()
	fn := *c.f.Get(ref).Function()
	fn.Replicas = replicas
	fn.Pods = describe(ref.Name, replicas, replicas).Pods
	c.f.Put(&fn)
	go func() {
		time.Sleep(c.start)
		for _, p := range c.f.Get(ref).Pods() {
			p.Learn(started(10, 0))
		}
	}()
	return nil
}

func (c *cluster) woken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order)
}

// sleep takes a function's replicas away.
func (c *cluster) sleep(ref function.Ref) {
	fn := *c.f.Get(ref).Function()
	fn.Replicas, fn.Pods = 0, nil
	c.f.Put(&fn)
}

// calls has so many calls come at once, as serve does it, and returns how they
// ended once they have.
func calls(ctx context.Context, g *Gateway, e *fleet.Entry, n int, each time.Duration) (errs []error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			c := &caller{l: g.lane(e)}
			err := c.l.enter(&c.claim, true)
			if now := time.Now(); c.l.takesCompany(e, now) {
				g.accompany(c.l, e, now)
			}
			if err == nil && c.place == nil {
				err = c.l.wait(ctx, &c.claim)
			}
			if err == nil {
				time.Sleep(each)
				c.done(took)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errs
}

func TestOneWakePerSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 2*time.Second)
		fn := describe("a", 0, 0)
		fn.Spec.Min, fn.Spec.AtStart = 2, 3
		f.Put(fn)
		e := f.Get(fn.Ref)
		for sleep := range 3 {
			if errs := calls(t.Context(), g, e, 500, time.Millisecond); errs != nil {
				t.Fatal(errs[0])
			}
			if got := p.wakes.Load(); got != int64(sleep+1) {
				t.Errorf("after sleep %d the provider was asked %d times", sleep+1, got)
			}
			if got := e.Function().Replicas; got != 3 {
				t.Errorf("asked for %d replicas, expected max(1, min, at-start)", got)
			}
			// Warm calls ask nothing.
			if errs := calls(t.Context(), g, e, 100, 0); errs != nil {
				t.Fatal(errs[0])
			}
			c.sleep(fn.Ref)
		}
		if n := p.others.Load(); n != 0 {
			t.Errorf("%d other writes", n)
		}
		synctest.Wait()
		empty(t, g.lane(e))
		if g.lane(e).waking.busy {
			t.Error("a wake is under way still")
		}
	})
}

// Replicas that are asked for but have no pod yet are waited for.
func TestNoWakeWhereReplicasAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		f.Put(describe("a", 1, 0))
		e := f.Get(describe("a", 1, 0).Ref)
		time.AfterFunc(time.Minute, func() { put(f, describe("a", 1, 1), started(1, 0)) })
		if errs := calls(t.Context(), g, e, 10, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if got := p.wakes.Load(); got != 0 {
			t.Errorf("asked %d times", got)
		}
	})
}

// What runs elsewhere cannot be woken.
func TestAFixedFunctionIsNotWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		fn := describe("a", 0, 1)
		fn.Kind, fn.Fixed = function.KindURL, true
		e := put(f, fn, plain)
		if errs := calls(t.Context(), g, e, 10, 0); errs != nil {
			t.Fatal(errs[0])
		}
		e.Pods()[0].Lost()
		errs := calls(t.Context(), g, e, 1, 0)
		var r *refusal
		if len(errs) != 1 || !errors.As(errs[0], &r) || r.reason != "not_started" {
			t.Errorf("without anybody there: %v", errs)
		}
		if got := p.wakes.Load(); got != 0 {
			t.Errorf("asked %d times", got)
		}
	})
}

// The client whose request woke the function may leave at once: the others
// wait on.
func TestAWakeOutlivesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, time.Second)
		f.Put(describe("a", 0, 0))
		e := f.Get(describe("a", 0, 0).Ref)
		p.wake = func(ctx context.Context, ref function.Ref, n int) error {
			select {
			case <-time.After(time.Second):
				return c.wakeUp(ctx, ref, n)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, leave)
		if errs := calls(ctx, g, e, 1, 0); len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
			t.Fatal(errs)
		}
		if errs := calls(t.Context(), g, e, 5, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if got := p.wakes.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
	})
}

func TestAWakeThatFailsIsRepeatedWhileSomebodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, time.Second)
		f.Put(describe("a", 0, 0))
		e := f.Get(describe("a", 0, 0).Ref)
		p.wake = func(ctx context.Context, ref function.Ref, n int) error {
			if p.wakes.Load() < 5 {
				return fmt.Errorf("%w: connection refused to 10.0.0.1:6443", function.ErrUnavailable)
			}
			return c.wakeUp(ctx, ref, n)
		}
		if errs := calls(t.Context(), g, e, 100, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if got := p.wakes.Load(); got != 5 {
			t.Errorf("asked %d times", got)
		}
		warnings := 0
		for _, event := range p.said() {
			if event.Warning {
				warnings++
			}
		}
		if warnings != 1 || len(p.said()) != 2 {
			t.Errorf("Events: %+v", p.said())
		}
	})
}

// However long the provider was away, the calls that wait are not for long
// once it is back.
func TestAWakeFollowsTheProvidersReturn(t *testing.T) {
	for _, away := range []time.Duration{time.Second, 10 * time.Second, 31 * time.Second, 63500 * time.Millisecond, 100 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			g, f, p := setup(t, nil)
			c := newCluster(g, f, p, 0)
			back := time.Now().Add(away)
			p.wake = func(ctx context.Context, ref function.Ref, n int) error {
				if time.Now().Before(back) {
					return fmt.Errorf("%w: connection refused to 10.0.0.1:6443", function.ErrUnavailable)
				}
				return c.wakeUp(ctx, ref, n)
			}
			f.Put(describe("a", 0, 0))
			if errs := calls(t.Context(), g, f.Get(describe("a", 0, 0).Ref), 10, 0); errs != nil {
				t.Fatal(errs[0])
			}
			if late := time.Since(back); late > time.Second {
				t.Errorf("away for %v, and the wake came %v after its return", away, late)
			}
			if asked, most := p.wakes.Load(), int64(away/time.Second)+6; asked > most {
				t.Errorf("away for %v: asked %d times, expected at most %d", away, asked, most)
			}
		})
	}
}

func TestAProviderThatRefusesIsSaid(t *testing.T) {
	for _, c := range []struct {
		err  error
		says []string
	}{
		{fmt.Errorf("%w: deployments.apps \"a\" is forbidden: User \"x\" cannot patch", function.ErrForbidden), []string{"not allowed", "give weir the right"}},
		{fmt.Errorf("%w: dial tcp 10.0.0.1:6443: connection refused", function.ErrUnavailable), []string{"provider unavailable", "asks again"}},
		{fmt.Errorf("a.ns: %w: 64 are taken", function.ErrFull), []string{"no room for another replica", "a lower max"}},
		{errors.New("something else at 10.0.0.1"), []string{"could not"}},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, f, p := setup(t, nil)
				p.wake = func(context.Context, function.Ref, int) error { return c.err }
				f.Put(describe("a", 0, 0))
				e := f.Get(describe("a", 0, 0).Ref)
				begin := time.Now()
				errs := calls(t.Context(), g, e, 3, 0)
				if held := time.Since(begin); held != DefaultHoldTime {
					t.Errorf("held for %v", held)
				}
				for _, err := range errs {
					var r *refusal
					if !errors.As(err, &r) || r.status != 503 || r.retryAfter == 0 || r.reason != "not_woken" {
						t.Fatalf("%+v", err)
					}
					for _, want := range append(c.says, "a.ns") {
						if !strings.Contains(r.text, want) {
							t.Errorf("%q does not say %q", r.text, want)
						}
					}
					if strings.Contains(r.text, "10.0.0.1") || strings.Contains(r.text, "User") {
						t.Errorf("%q tells clients about the provider", r.text)
					}
				}
				if len(errs) != 3 || len(p.said()) != 1 || !strings.Contains(p.said()[0].Message, c.err.Error()) {
					t.Errorf("%d errors, Events %+v", len(errs), p.said())
				}
				// Nobody waits any more, and so nobody asks.
				asked := p.wakes.Load()
				time.Sleep(time.Hour)
				if got := p.wakes.Load(); got > asked+1 {
					t.Errorf("asked %d times more", got-asked)
				}
			})
		})
	}
}

// A function that is put to sleep while requests wait is woken again.
func TestPutToSleepWhileRequestsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 10*time.Second)
		f.Put(describe("a", 0, 0))
		e := f.Get(describe("a", 0, 0).Ref)
		time.AfterFunc(5*time.Second, func() { c.sleep(e.Function().Ref) })
		begin := time.Now()
		if errs := calls(t.Context(), g, e, 10, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if got := p.wakes.Load(); got != 2 {
			t.Errorf("asked %d times", got)
		}
		if took := time.Since(begin); took > 16*time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Minute)
	})
}

// Where the provider took the replicas and does not show them it is asked
// again, which costs it nothing if they are there.
func TestAWakeThatIsNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 0)
		p.wake = func(ctx context.Context, ref function.Ref, n int) error {
			if p.wakes.Load() < 3 {
				return nil
			}
			return c.wakeUp(ctx, ref, n)
		}
		f.Put(describe("a", 0, 0))
		if errs := calls(t.Context(), g, f.Get(describe("a", 0, 0).Ref), 10, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if got := p.wakes.Load(); got != 3 {
			t.Errorf("asked %d times", got)
		}
	})
}

// A function that was put to sleep before the one who asked for its replicas
// has looked is woken by the next call, which waits for nothing else: its
// replicas were not late, but gone again.
func TestPutToSleepBeforeItsWakeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 0)
		p.wake = func(ctx context.Context, ref function.Ref, n int) error {
			err := c.wakeUp(ctx, ref, n)
			time.Sleep(wakeShown / 10) // the answer is on its way
			return err
		}
		f.Put(describe("a", 0, 0))
		e := f.Get(describe("a", 0, 0).Ref)
		for sleep := range 3 {
			begin := time.Now()
			if errs := calls(t.Context(), g, e, 10, 0); errs != nil {
				t.Fatal(errs[0])
			}
			if took := time.Since(begin); took >= wakeShown {
				t.Errorf("call %d took %v", sleep, took)
			}
			c.sleep(e.Function().Ref)
		}
		time.Sleep(time.Minute)
		if got := p.wakes.Load(); got != 3 {
			t.Errorf("asked %d times", got)
		}
	})
}

func TestDependenciesAreWokenAndWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 0)
		on := func(name string, others ...string) *fleet.Entry {
			fn := describe(name, 0, 0)
			for _, other := range others {
				fn.Spec.DependsOn = append(fn.Spec.DependsOn, function.Ref{Name: other, Namespace: "ns"})
			}
			f.Put(fn)
			return f.Get(fn.Ref)
		}
		db := on("db")
		on("queue", "db")
		a := on("a", "a", "queue", "missing", "db")
		var late sync.Once
		p.wake = func(ctx context.Context, ref function.Ref, n int) error {
			if ref.Name != "queue" {
				return c.wakeUp(ctx, ref, n)
			}
			late.Do(func() {
				time.AfterFunc(20*time.Second, func() { _ = c.wakeUp(ctx, ref, n) })
			})
			return nil
		}
		begin := time.Now()
		first := make(chan []error)
		go func() { first <- calls(t.Context(), g, a, 10, 0) }()
		time.Sleep(10 * time.Second)
		if got := c.woken(); !slices.Contains(got, "a") || !slices.Contains(got, "db") || a.Started() != 1 {
			t.Errorf("after ten seconds %v were woken, %d pods started", got, a.Started())
		}
		// Whoever comes while it waits waits too.
		if errs := calls(t.Context(), g, a, 10, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if took := time.Since(begin); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("it went on after %v, its dependency came after 20s", took)
		}
		if errs := <-first; errs != nil {
			t.Fatal(errs[0])
		}
		// A dependency that ends later is woken by the next call, which does
		// not wait for it.
		before := len(c.woken())
		c.start = time.Hour
		c.sleep(db.Function().Ref)
		time.Sleep(companyEvery)
		begin = time.Now()
		if errs := calls(t.Context(), g, a, 1, 0); errs != nil {
			t.Fatal(errs[0])
		}
		synctest.Wait()
		if took := time.Since(begin); took != 0 {
			t.Errorf("waited %v", took)
		}
		if got := c.woken()[before:]; !slices.Equal(got, []string{"db"}) {
			t.Errorf("woken: %v", got)
		}
		// Calls of a keep those that it needs awake: its last is theirs.
		if got := g.lane(db).demand(time.Now()).LastWake; !got.Equal(begin) {
			t.Errorf("the dependency was last wanted at %v, not %v", got, begin)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
	})
}

func TestADependencyThatDoesNotStartIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		fn := describe("a", 1, 1)
		fn.Spec.DependsOn = []function.Ref{{Name: "db", Namespace: "ns"}}
		f.Put(describe("db", 1, 1))
		e := put(f, fn, started(1, 0))
		errs := calls(t.Context(), g, e, 1, 0)
		var r *refusal
		if len(errs) != 1 || !errors.As(errs[0], &r) || r.reason != "dependency" || !strings.Contains(r.text, "db.ns") {
			t.Errorf("%v", errs)
		}
	})
}

// Before the provider has shown everything a dependency that is not there may
// only not have been shown.
func TestADependencyIsWaitedForUntilAllIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fleet.New(fleet.Config{})
		g, err := New(Config{Fleet: f, Provider: &provider{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		fn := describe("a", 1, 1)
		fn.Spec.DependsOn = []function.Ref{{Name: "db", Namespace: "ns"}}
		e := put(f, fn, started(1, 0))
		begin := time.Now()
		time.AfterFunc(time.Minute, func() { put(f, describe("db", 1, 1), started(1, 0)) })
		if errs := calls(t.Context(), g, e, 1, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("waited %v", took)
		}
	})
}

func TestStartWithAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 0)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- g.Run(ctx) }()
		for i := range 50 {
			fn := describe(fmt.Sprintf("f%d", i), 0, 0)
			fn.Spec.StartWithAny = i >= 48
			f.Put(fn)
		}
		time.Sleep(time.Second)
		if errs := calls(t.Context(), g, f.Get(describe("f7", 0, 0).Ref), 10, 0); errs != nil {
			t.Fatal(errs[0])
		}
		synctest.Wait()
		got := c.woken()
		slices.Sort(got)
		if want := []string{"f48", "f49", "f7"}; !slices.Equal(got, want) {
			t.Errorf("woken: %v, want %v", got, want)
		}
		// They stay awake while any function is called.
		time.Sleep(time.Minute)
		begin := time.Now()
		if errs := calls(t.Context(), g, f.Get(describe("f7", 0, 0).Ref), 1, 0); errs != nil {
			t.Fatal(errs[0])
		}
		if got := g.lane(f.Get(describe("f48", 0, 0).Ref)).demand(begin).LastWake; !got.Equal(begin) {
			t.Errorf("last wanted at %v, not %v", got, begin)
		}
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

// wake, which the API calls, needs no request to go on.
func TestAWakeWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		c := newCluster(g, f, p, 0)
		f.Put(describe("db", 0, 0))
		fn := describe("a", 0, 0)
		fn.Spec.DependsOn = []function.Ref{{Name: "db", Namespace: "ns"}}
		f.Put(fn)
		for range 10 {
			g.wake(f.Get(fn.Ref))
		}
		synctest.Wait()
		got := c.woken()
		slices.Sort(got)
		if want := []string{"a", "db"}; !slices.Equal(got, want) || p.wakes.Load() != 2 {
			t.Errorf("woken: %v, want %v", got, want)
		}
		if d := g.lane(f.Get(fn.Ref)).demand(time.Now()); d.LastWake.IsZero() || d.Calls != 0 {
			t.Errorf("%+v", d)
		}
	})
}

// Of functions that depend on each other one does not wait; its owner is told.
func TestACircleOfDependencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, p := setup(t, nil)
		newCluster(g, f, p, time.Second)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- g.Run(ctx) }()
		for from, to := range map[string]string{"a": "b", "b": "a"} {
			fn := describe(from, 0, 0)
			fn.Spec.DependsOn = []function.Ref{{Name: to, Namespace: "ns"}}
			f.Put(fn)
		}
		time.Sleep(time.Second)
		a, b := f.Get(function.Ref{Name: "a", Namespace: "ns"}), f.Get(function.Ref{Name: "b", Namespace: "ns"})
		if g.ignores(a.Function().Ref, b.Function().Ref) == g.ignores(b.Function().Ref, a.Function().Ref) {
			t.Error("not one of the two is ignored")
		}
		told := 0
		for _, event := range p.said() {
			if event.Reason == "DependencyIgnored" {
				told++
			}
		}
		if told != 1 {
			t.Errorf("Events: %+v", p.said())
		}
		for _, e := range []*fleet.Entry{a, b} {
			if errs := calls(t.Context(), g, e, 5, 0); errs != nil {
				t.Fatal(errs[0])
			}
		}
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}
