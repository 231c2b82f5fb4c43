package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// patience is for what must happen, on a machine that is busy otherwise.
const patience = 30 * time.Second

func refOf(i int) function.Ref {
	return function.Ref{Name: fmt.Sprintf("f%d", i), Namespace: "test"}
}

func functionOf(ref function.Ref, pods ...function.Pod) *function.Function {
	return &function.Function{Ref: ref, Kind: function.KindDeployment, Replicas: len(pods), Version: "1", Pods: pods}
}

func podOf(i int) function.Pod {
	return function.Pod{Name: fmt.Sprintf("p%d", i), UID: fmt.Sprintf("u%d", i), Addr: fmt.Sprintf("10.0.0.%d:8080", i), Ready: true}
}

func TestPutDeleteAgainstModel(t *testing.T) {
	const functions, steps = 5, 4000
	random := rand.New(rand.NewPCG(1, 2))
	f := New(Config{})
	type known struct {
		entry *Entry
		fn    *function.Function
		pods  map[podKey]*Pod
	}
	model := map[function.Ref]*known{}
	var past []*known
	for step := range steps {
		ref := refOf(random.IntN(functions))
		k := model[ref]
		changed, any := (<-chan struct{})(nil), f.Changed()
		if k != nil {
			changed = k.entry.Changed()
		}
		if random.IntN(6) == 0 {
			f.Delete(ref)
			if k != nil {
				past = append(past, k)
				delete(model, ref)
			}
		} else {
			var pods []function.Pod
			for i := range 8 {
				if random.IntN(2) == 0 {
					pods = append(pods, podOf(i))
				}
			}
			random.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
			fn := functionOf(ref, pods...)
			f.Put(fn)
			if k == nil {
				k = &known{entry: f.Get(ref)}
				model[ref] = k
			}
			now := map[podKey]*Pod{}
			for i, p := range k.entry.Pods() {
				if p.About() != &fn.Pods[i] {
					t.Fatalf("step %d: pod %d is %v", step, i, p.About())
				}
				key := keyOf(p.About())
				now[key] = p
				if old := k.pods[key]; old != nil && old != p || old == nil && p.State() != Starting {
					t.Fatalf("step %d: pod %v is another one, or %v", step, key, p.State())
				}
			}
			for key, p := range k.pods {
				if now[key] == nil && p.State() != Stopping {
					t.Fatalf("step %d: %v left, and is %v", step, key, p.State())
				}
			}
			k.fn, k.pods = fn, now
		}
		if k != nil && changed != nil {
			<-changed
		}
		if k != nil {
			<-any
		}
		if f.Len() != len(model) {
			t.Fatalf("step %d: %d functions, expected %d", step, f.Len(), len(model))
		}
		for e := range f.All() {
			k := model[e.Function().Ref]
			if k == nil || k.entry != e || e.Function() != k.fn || len(e.Pods()) != len(k.fn.Pods) || e.Gone() {
				t.Fatalf("step %d: %s is not as it was put", step, e.Function().Ref)
			}
		}
	}
	for _, k := range past {
		if !k.entry.Gone() || len(k.entry.Pods()) != 0 {
			t.Fatal("a deleted function is not gone, or has pods")
		}
		for _, p := range k.pods {
			if p.State() != Stopping {
				t.Fatal("a deleted function's pod does not stop")
			}
		}
	}
}

func TestUnchangedListIsTheSame(t *testing.T) {
	f := New(Config{})
	f.Put(functionOf(refOf(1), podOf(1), podOf(2)))
	e := f.Get(refOf(1))
	before := e.Pods()
	f.Put(functionOf(refOf(1), podOf(1), podOf(2)))
	if after := e.Pods(); &after[0] != &before[0] {
		t.Error("the same pods, and another list")
	}
	f.Put(functionOf(refOf(1), podOf(2), podOf(1)))
	if after := e.Pods(); &after[0] == &before[0] || after[1] != before[0] {
		t.Error("another order, and the same list")
	}
}

func TestRestartInPlaceIsAnotherPod(t *testing.T) {
	f := New(Config{})
	a := podOf(1)
	f.Put(functionOf(refOf(1), a))
	old := f.Get(refOf(1)).Pods()[0]
	old.Learn(Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 3})
	b := a
	b.UID = "another"
	f.Put(functionOf(refOf(1), b))
	p := f.Get(refOf(1)).Pods()[0]
	if p == old || p.State() != Starting || *p.Said() != (Saying{}) || old.State() != Stopping {
		t.Errorf("a restarted pod is the old one: %t, %v, saying %+v; the old one is %v", p == old, p.State(), *p.Said(), old.State())
	}
	old.Learn(Saying{State: Started, Room: true})
	if old.State() != Stopping || old.Said().State != Stopping {
		t.Error("a pod that stops came back")
	}
}

// A pod that the provider says is stopping is so at once, whatever it says.
func TestStoppingIsTheProvidersWord(t *testing.T) {
	f := New(Config{})
	f.Put(functionOf(refOf(1), podOf(1)))
	e := f.Get(refOf(1))
	p := e.Pods()[0]
	p.Learn(Saying{State: Started, Room: true})
	if e.Started() != 1 {
		t.Fatal("not started")
	}
	changed := e.Changed()
	a := podOf(1)
	a.Stopping = true
	f.Put(functionOf(refOf(1), a))
	<-changed
	if e.Started() != 0 || p.State() != Stopping || e.Pods()[0] != p {
		t.Errorf("%d started, %v, the same: %t", e.Started(), p.State(), e.Pods()[0] == p)
	}
}

// Many write, and everybody who waits sees the last word: nobody sleeps over it.
func TestWaitersMissNothing(t *testing.T) {
	for round := range 200 {
		f := New(Config{})
		f.Put(functionOf(refOf(1), podOf(1)))
		e := f.Get(refOf(1))
		p := e.Pods()[0]
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var waiters, writers sync.WaitGroup
		wait := func(what string, changed func() <-chan struct{}, seen func() bool) {
			waiters.Go(func() {
				for {
					next := changed()
					if seen() {
						return
					}
					select {
					case <-next:
					case <-ctx.Done():
						t.Errorf("round %d: %s is missed", round, what)
						return
					}
				}
			})
		}
		for range 4 {
			wait("what the pod says", e.Changed, func() bool { return p.Said().MaxInflight == 9 })
			wait("the fleet's change", f.Changed, func() bool { return p.Said().MaxInflight == 9 })
			wait("the function's change", e.Changed, func() bool { return e.Function().Replicas == 9 })
			wait("the end", e.Changed, e.Gone)
		}
		writers.Go(func() {
			for i := range 10 {
				p.Learn(Saying{State: Started, MaxInflight: i})
			}
		})
		writers.Go(func() {
			for i := range 10 {
				fn := functionOf(refOf(1), podOf(1))
				fn.Replicas = i
				f.Put(fn)
			}
		})
		writers.Go(func() { p.Full(); p.Lost() })
		writers.Wait()
		f.Delete(refOf(1))
		waiters.Wait()
		cancel()
	}
}

// Everything at once, for the race detector, and with a Prober.
func TestAllAtOnce(t *testing.T) {
	pr := &Prober{Interval: time.Millisecond, Look: time.Millisecond, ask: func(context.Context, *question) outcome {
		switch rand.IntN(4) {
		case 0:
			return outcome{kind: nobody}
		case 1:
			return outcome{kind: silence, slow: true}
		case 2:
			return outcome{kind: answered, answer: answer{status: 200, watchdog: true}}
		}
		return outcome{kind: answered, answer: answer{status: 429, watchdog: true}}
	}}
	f := New(Config{Probe: pr})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 3000 {
				ref := refOf(rand.IntN(4))
				e := f.Get(ref)
				switch n := rand.IntN(10); {
				case n == 0:
					f.Delete(ref)
				case n < 5 || e == nil:
					var pods []function.Pod
					for i := range 6 {
						if a := podOf(i); rand.IntN(2) == 0 {
							a.Ready, a.Stopping = rand.IntN(2) == 0, rand.IntN(8) == 0
							pods = append(pods, a)
						}
					}
					f.Put(functionOf(ref, pods...))
				default:
					for _, p := range e.Pods() {
						[]func(){p.Full, p.Lost, p.Drains, func() { p.Learn(Saying{State: Started}) }}[rand.IntN(4)]()
						_ = p.State()
					}
					_, _ = e.Started(), slices.Collect(f.All())
				}
			}
		})
	}
	all.Wait()
	for i := range 4 {
		f.Delete(refOf(i))
	}
	pr.mu.Lock()
	for c := range pr.lines {
		if n := pr.lines[c].waiting.Len() + pr.lines[c].due.Len(); n != 0 {
			t.Errorf("%d pods are to be asked though none exists", n)
		}
	}
	pr.mu.Unlock()
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	for c := range pr.lines {
		if pr.lines[c].active != 0 {
			t.Errorf("%d probes are under way after Run", pr.lines[c].active)
		}
	}
}

func TestSyncedOnce(t *testing.T) {
	f := New(Config{})
	select {
	case <-f.Complete():
		t.Fatal("complete before Synced")
	default:
	}
	f.Synced()
	f.Synced()
	<-f.Complete()
}
