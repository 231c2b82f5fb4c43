package autoscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// world is a cluster of one function, in the time of a bubble.
type world struct {
	t     *testing.T
	fleet *fleet.Fleet
	fn    function.Function

	mu      sync.Mutex
	pods    map[string]*Counters // by name; a nil one cannot be read
	reads   map[string]int
	report  fleet.Report
	writes  []string
	events  []function.Event
	spared  []map[string]int
	scale   func(ctx context.Context, replicas int, version string) error // nil: it works
	backlog func(function.Ref) int
	version int
	leading atomic.Bool
}

func newWorld(t *testing.T, spec function.Spec, pods int) *world {
	w := &world{t: t, fleet: fleet.New(fleet.Config{}), pods: map[string]*Counters{}, reads: map[string]int{}}
	w.leading.Store(true)
	w.report.Gateway = "own"
	w.fn = function.Function{Ref: function.Ref{Name: "f", Namespace: "ns"}, Kind: function.KindDeployment, Spec: spec, Created: time.Now()}
	w.set(pods)
	w.fleet.Synced()
	return w
}

// set makes pods as the provider would, all started, and known by a first
// reading of zeros.
func (w *world) set(replicas int) {
	w.mu.Lock()
	w.version++
	fn := w.fn
	fn.Replicas, fn.Version = replicas, fmt.Sprint(w.version)
	for i := range replicas {
		name := fmt.Sprintf("f-%d", i)
		if _, ok := w.pods[name]; !ok {
			w.pods[name] = &Counters{MaxInflight: 10}
		}
		fn.Pods = append(fn.Pods, function.Pod{Name: name, UID: name, Metrics: name, Ready: true, Created: time.Now()})
	}
	w.mu.Unlock()
	w.fleet.Put(&fn)
	for _, p := range w.entry().Pods() {
		p.Learn(fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 10})
	}
}

func (w *world) entry() *fleet.Entry { return w.fleet.Get(w.fn.Ref) }

// run has an Autoscaler decide until the test's body returns.
func (w *world) run(body func(a *Autoscaler)) {
	a := New(Config{Fleet: w.fleet, Provider: w, Counter: w, Own: w.own, Backlog: w.backlog, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(w.t.Context())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	body(a)
	stop()
	if err := <-ended; err != nil {
		w.t.Error(err)
	}
}

func (w *world) own() fleet.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.report
	r.Now = time.Now()
	r.Functions = append([]fleet.Demand(nil), w.report.Functions...)
	return r
}

func (w *world) Read(ctx context.Context, pod *fleet.Pod) (Counters, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := pod.About().Name
	w.reads[name]++
	c := w.pods[name]
	if c == nil {
		return Counters{}, errors.New("no answer")
	}
	now := *c
	now.At = time.Now()
	if !c.LastStart.IsZero() {
		now.LastStart = c.LastStart.Add(time.Duration(w.reads[name]%3) * 128) // as a float of seconds is read
	}
	now.InFlightSeconds += c.InFlight * time.Since(w.fn.Created).Seconds()
	return now, nil
}

func (w *world) Scale(ctx context.Context, ref function.Ref, replicas int, version string) error {
	w.mu.Lock()
	scale, now := w.scale, fmt.Sprint(w.version)
	w.mu.Unlock()
	if scale != nil {
		if err := scale(ctx, replicas, version); err != nil {
			return err
		}
	}
	if version != now {
		return fmt.Errorf("%s: %w", ref, function.ErrConflict)
	}
	w.mu.Lock()
	w.writes = append(w.writes, fmt.Sprintf("%d>%d", w.entry().Function().Replicas, replicas))
	w.mu.Unlock()
	w.set(replicas)
	return nil
}

func (w *world) Spare(_ context.Context, _ function.Ref, busy map[string]int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spared = append(w.spared, busy)
	return nil
}

func (w *world) Event(_ function.Ref, e function.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) Leads() bool     { return w.leading.Load() }
func (w *world) Peers() []string { return nil }

func (w *world) wrote() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.writes, " ")
}

// load sets what goes on in every pod.
func (w *world) load(inFlight float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.pods {
		// The integral is kept: it counts from the creation.
		age := time.Since(w.fn.Created).Seconds()
		c.InFlightSeconds += (c.InFlight - inFlight) * age
		c.InFlight = inFlight
	}
}

func spec() function.Spec {
	return function.Spec{Min: 1, Max: 20, Type: function.Capacity, Target: 5, Proportion: 1, ZeroAfter: time.Minute}
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestLoopFollowsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, spec(), 1)
		w.run(func(a *Autoscaler) {
			after(5 * time.Second)
			if w.wrote() != "" {
				t.Fatalf("wrote %s without load", w.wrote())
			}
			w.load(10)
			after(10 * time.Second)
			first := w.wrote()
			if !strings.HasPrefix(first, "1>2") {
				t.Fatalf("10 in flight, target 5: wrote %q", first)
			}
			e := a.Explain(w.fn.Ref).(Explanation)
			if len(e.Changes) == 0 || e.Changes[len(e.Changes)-1].From != 1 || !strings.Contains(e.Changes[0].Why, "5 to each replica") || !e.Leading {
				t.Errorf("%+v", e)
			}
			if len(w.events) != len(w.writes) || w.events[0].Reason != "ScaledUp" {
				t.Errorf("events: %+v", w.events)
			}
			w.load(0)
			after(5 * time.Minute)
			if got := w.entry().Function().Replicas; got != 1 {
				t.Errorf("without load: %d replicas, wrote %s", got, w.wrote())
			}
			if len(w.spared) == 0 {
				t.Error("shrunk without a word on the busy pods")
			}
		})
	})
}

func TestLoopPutsToSleepOnlyWhatIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.Zero = true
		w := newWorld(t, s, 1)
		w.load(1)
		w.run(func(a *Autoscaler) {
			after(10 * time.Minute)
			if w.wrote() != "" {
				t.Fatalf("a long call was under way: %s", w.wrote())
			}
			w.load(0)
			w.mu.Lock()
			w.pods["f-0"].LastStart = time.Now()
			w.mu.Unlock()
			after(50 * time.Second)
			if w.wrote() != "" {
				t.Fatalf("before zero-after: %s", w.wrote())
			}
			after(30 * time.Second)
			if w.wrote() != "1>0" {
				t.Errorf("idle for zero-after: %q", w.wrote())
			}
		})
	})
}

// A pod that cannot be read forbids every decrease, and is no load.
func TestLoopDoesNotShrinkBlindly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.Zero = true
		w := newWorld(t, s, 3)
		w.mu.Lock()
		w.pods["f-1"] = nil
		w.mu.Unlock()
		w.run(func(a *Autoscaler) {
			after(10 * time.Minute)
			if w.wrote() != "" {
				t.Errorf("wrote %s", w.wrote())
			}
			if e := a.Explain(w.fn.Ref).(Explanation); e.Reason != ReasonUnknown && e.Reason != ReasonIncomplete {
				t.Errorf("%+v", e)
			}
		})
	})
}

func TestLoopHeedsTheLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, spec(), 1)
		w.load(50)
		w.leading.Store(false)
		w.run(func(a *Autoscaler) {
			after(time.Minute)
			if w.wrote() != "" || len(w.reads) != 0 {
				t.Fatalf("wrote %q and read %v without the lead", w.wrote(), w.reads)
			}
			w.leading.Store(true)
			after(15 * time.Second)
			if w.wrote() == "" {
				t.Error("does not decide with the lead")
			}
		})
	})
}

// A lead that is lost in mid-write, a conflict, a provider that hangs: none
// stops the loop, and what could not be written is decided anew.
func TestLoopOutlivesFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, spec(), 1)
		w.load(10)
		var faults atomic.Int32
		w.scale = func(ctx context.Context, _ int, _ string) error {
			switch faults.Add(1) {
			case 1:
				return fmt.Errorf("f: %w", function.ErrConflict)
			case 2:
				<-ctx.Done()
				return ctx.Err()
			case 3, 4, 5:
				return fmt.Errorf("f: %w: patch deployments/scale", function.ErrForbidden)
			}
			return nil
		}
		w.run(func(a *Autoscaler) {
			after(2 * time.Minute)
			if !strings.HasPrefix(w.wrote(), "1>2") {
				t.Errorf("wrote %q after %d faults", w.wrote(), faults.Load())
			}
			warned := 0
			for _, e := range w.events {
				if e.Warning {
					warned++
				}
			}
			if warned != 1 {
				t.Errorf("%d warnings for one fault that lasted 3 s: %+v", warned, w.events)
			}
		})
	})
}

// What is held at the gateway grows a function at once by a kick, without the
// next tick.
func TestKick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, spec(), 1)
		w.run(func(a *Autoscaler) {
			after(10500 * time.Millisecond)
			w.mu.Lock()
			w.report.Functions = []fleet.Demand{{Function: "f.ns", Held: 1000, LastStart: time.Now()}}
			w.mu.Unlock()
			a.Kick(w.fn.Ref)
			a.Kick(function.Ref{Name: "other", Namespace: "ns"})
			after(time.Millisecond)
			if !strings.HasPrefix(w.wrote(), "1>") {
				t.Errorf("wrote %q", w.wrote())
			}
		})
	})
}

// Of many pods a few are read, but all of them before any decrease.
func TestSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.Max = 200
		w := newWorld(t, s, 100)
		w.load(5)
		w.run(func(a *Autoscaler) {
			after(3100 * time.Millisecond)
			w.mu.Lock()
			total := 0
			for _, n := range w.reads {
				total += n
			}
			w.mu.Unlock()
			if want := 3*sampleSize(100) + 100; total > want {
				t.Errorf("%d readings in 3 ticks, expected at most %d", total, want)
			}
			w.load(0.5)
			after(3 * time.Minute)
			if got := w.entry().Function().Replicas; got >= 100 {
				t.Errorf("%d replicas of a tenth of the load", got)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.reads) < 100 {
				t.Errorf("shrunk with %d of 100 pods ever read", len(w.reads))
			}
		})
	})
}

func TestSampleSize(t *testing.T) {
	for pods, want := range map[int]int{0: 0, 1: 1, 3: 3, 4: 4, 10: 7, 50: 12, 1000: 16, 100000: 16} {
		if got := sampleSize(pods); got != want {
			t.Errorf("of %d pods %d are read, expected %d", pods, got, want)
		}
	}
}
