package memory_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/memory"
	"github.com/weir-run/weir/provider/providertest"
)

func parsed(t *testing.T, name string, labels map[string]string) function.Function {
	t.Helper()
	spec, marked, faults := function.Parse(function.Sources{Kind: function.KindDeployment, Namespace: "test", Name: name, Labels: labels})
	if !marked {
		t.Fatalf("%v marks no function", labels)
	}
	return function.Function{Ref: function.Ref{Name: name, Namespace: "test"}, Kind: function.KindDeployment, Spec: spec, Faults: faults}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	for name, cfg := range map[string]memory.Config{
		"at once":      {},
		"takes a time": {AddrAfter: 2 * time.Millisecond, ReadyAfter: 3 * time.Millisecond, GoneAfter: 2 * time.Millisecond, WriteTakes: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(*testing.T) providertest.Subject { return subject(memory.New(cfg)) })
		})
	}
}

func subject(w *memory.World) providertest.Subject {
	n := 0
	return providertest.Subject{
		Namespace: "test",
		Several:   true,
		New: func(*testing.T) providertest.Provider {
			n++
			return w.Provider(fmt.Sprint("weir", n))
		},
		Make: func(t *testing.T, fn providertest.Function) {
			made := parsed(t, fn.Name, fn.Labels)
			made.Replicas = fn.Replicas
			must(t, w.Add(made))
		},
		Writes: func(_ *testing.T, ref function.Ref) (all []providertest.Write) {
			for _, one := range w.Writes() {
				if one.Ref == ref {
					all = append(all, providertest.Write{Old: one.Old, New: one.New})
				}
			}
			return all
		},
		Remove: func(t *testing.T, ref function.Ref) {
			if !w.Remove(ref) {
				t.Fatalf("%s was not there", ref)
			}
		},
		Relabel: func(t *testing.T, ref function.Ref, labels map[string]string) {
			fn, _ := w.Get(ref)
			made := parsed(t, ref.Name, labels)
			fn.Spec, fn.Faults = made.Spec, made.Faults
			must(t, w.Set(fn))
		},
		Resize: func(t *testing.T, ref function.Ref, replicas int) {
			fn, _ := w.Get(ref)
			fn.Replicas = replicas
			must(t, w.Set(fn))
		},
		Restart: func(t *testing.T, ref function.Ref, pod string) { must(t, w.Restart(ref, pod)) },
		MakeFixed: func(t *testing.T, name string) {
			must(t, w.Add(function.Function{
				Ref: function.Ref{Name: name, Namespace: "test"}, Kind: function.KindURL, Fixed: true, Replicas: 1,
				Pods: []function.Pod{{Name: name, UID: name, Addr: "127.0.0.1:1", Ready: true}},
			}))
		},
		Running: func(_ *testing.T, ref function.Ref) int {
			n := 0
			fn, _ := w.Get(ref)
			for _, p := range fn.Pods {
				if p.Ready && !p.Stopping {
					n++
				}
			}
			return n
		},
	}
}

// start runs a provider of w in a bubble until the test's context ends.
func start(t *testing.T, w *memory.World, f *fleet.Fleet) *memory.Provider {
	t.Helper()
	p := w.Provider("weir")
	ran := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ran <- p.Run(ctx, f) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ran)
	})
	<-f.Complete()
	return p
}

var hello = function.Ref{Name: "hello", Namespace: "test"}

// A pod has its address and serves when the clock says so, to the moment.
func TestLifeByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memory.New(memory.Config{
			AddrAfter: 2 * time.Second, ReadyAfter: 3 * time.Second, GoneAfter: 7 * time.Second, WriteTakes: time.Second,
			Says: func(function.Ref) fleet.Saying {
				return fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 5}
			},
		})
		must(t, w.Add(function.Function{Ref: hello}))
		f := fleet.New(fleet.Config{})
		p := start(t, w, f)
		at := time.Now()
		must(t, p.Wake(t.Context(), hello, 2))
		e := f.Get(hello)
		told := func(after time.Duration, pods, addressed, started int) {
			t.Helper()
			time.Sleep(time.Until(at.Add(after)))
			synctest.Wait()
			addrs := map[string]bool{}
			for _, p := range e.Pods() {
				if a := p.About().Addr; a != "" {
					addrs[a] = true
				}
			}
			if len(e.Pods()) != pods || len(addrs) != addressed || e.Started() != started {
				t.Errorf("after %v: %d pods, %d addresses, %d started; expected %d, %d, %d", after, len(e.Pods()), len(addrs), e.Started(), pods, addressed, started)
			}
		}
		told(time.Second, 2, 0, 0)
		told(3*time.Second-1, 2, 0, 0)
		told(3*time.Second, 2, 2, 0)
		told(6*time.Second-1, 2, 2, 0)
		told(6*time.Second, 2, 2, 2)
		if s := e.Pods()[0].Said(); s.MaxInflight != 5 {
			t.Errorf("a pod says %+v", *s)
		}
		must(t, w.SetReady(hello, e.Pods()[0].About().Name, false))
		told(7*time.Second, 2, 2, 1)
		must(t, w.SetReady(hello, e.Pods()[0].About().Name, true))
		told(8*time.Second, 2, 2, 2)
		must(t, w.Restart(hello, e.Pods()[0].About().Name))
		told(9*time.Second, 2, 1, 1)
		told(13*time.Second, 2, 2, 2)
		must(t, p.Scale(t.Context(), hello, 0, e.Function().Version)) // takes a second
		told(14*time.Second, 2, 2, 0)
		told(21*time.Second-1, 2, 2, 0)
		told(21*time.Second, 0, 0, 0)
		want := []memory.Write{
			{At: at.Add(time.Second), Ref: hello, Old: 0, New: 2, By: "weir"},
			{At: at.Add(14 * time.Second), Ref: hello, Old: 2, New: 0, By: "weir"},
		}
		if got := w.Writes(); !slices.Equal(got, want) {
			t.Errorf("written: %v\nexpected %v", got, want)
		}
	})
}

// What is not ready goes first, and a StatefulSet's last one, whatever is busy.
func TestWhoGoesFirst(t *testing.T) {
	for _, c := range []struct {
		kind string
		want []string // names that stay
	}{
		{function.KindDeployment, []string{"hello-2", "hello-3"}},
		{function.KindStatefulSet, []string{"hello-0", "hello-1"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := memory.New(memory.Config{})
			must(t, w.Add(function.Function{Ref: hello, Kind: c.kind, Replicas: 4}))
			f := fleet.New(fleet.Config{})
			p := start(t, w, f)
			var names []string
			for _, pod := range f.Get(hello).Pods() {
				names = append(names, pod.About().Name)
			}
			must(t, w.SetReady(hello, names[0], false))
			must(t, p.Spare(t.Context(), hello, map[string]int{names[0]: 9, names[1]: 2, names[2]: 1}))
			must(t, p.Scale(t.Context(), hello, 2, ""))
			time.Sleep(time.Second)
			var stay []string
			for _, pod := range f.Get(hello).Pods() {
				stay = append(stay, pod.About().Name)
			}
			if !slices.Equal(stay, c.want) {
				t.Errorf("of the %s's %v stay %v, expected %v", c.kind, names, stay, c.want)
			}
		})
	}
}

func TestRefusedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := function.ErrForbidden
		w := memory.New(memory.Config{Refuse: func(function.Ref) error { return refuse }, WriteTakes: time.Minute})
		must(t, w.Add(function.Function{Ref: hello}))
		p := start(t, w, fleet.New(fleet.Config{}))
		if err := p.Wake(t.Context(), hello, 1); !errors.Is(err, function.ErrForbidden) {
			t.Errorf("Wake: %v", err)
		}
		refuse = nil
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Scale(ctx, hello, 1, ""); !errors.Is(err, function.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Scale that takes longer than its context: %v", err)
		}
		if err := p.Scale(t.Context(), hello, memory.MaxReplicas+1, ""); err == nil {
			t.Error("more replicas than there may be are taken")
		}
		if n := len(w.Writes()); n != 0 {
			t.Errorf("%d writes", n)
		}
		if err := w.Add(function.Function{Ref: hello}); !errors.Is(err, memory.ErrExists) {
			t.Errorf("Add of one that is there: %v", err)
		}
		if err := p.Run(t.Context(), fleet.New(fleet.Config{})); err == nil {
			t.Error("a second Run returned nil")
		}
		for range 3000 {
			p.Event(hello, function.Event{Reason: "Test"})
		}
		p.Event(hello, function.Event{Reason: "Last"})
		if all := w.Events(); len(all) > 1000 || all[len(all)-1] != (memory.Event{Event: function.Event{Reason: "Last"}, Ref: hello, By: "weir"}) {
			t.Errorf("%d events, the last %+v", len(all), all[len(all)-1])
		}
		if got := w.Provider("a", "10.0.0.1:8082").Peers(); !slices.Equal(got, []string{"10.0.0.1:8082"}) {
			t.Errorf("peers %v", got)
		}
	})
}

// With real addresses and a Prober pods are what answers there.
func TestRealAddresses(t *testing.T) {
	served := 0
	var stopped []string
	w := memory.New(memory.Config{Serve: func(_ function.Ref, pod string) (string, string, func()) {
		served++
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Watchdog-Max-Inflight", "6")
			_, _ = io.WriteString(w, "ready")
		}))
		addr := server.Listener.Addr().String()
		return addr, addr, func() {
			stopped = append(stopped, pod)
			server.Close()
		}
	}})
	must(t, w.Add(function.Function{Ref: hello}))
	f := fleet.New(fleet.Config{Probe: &fleet.Prober{}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error, 2)
	p := w.Provider("weir")
	go func() { ran <- f.Run(ctx) }()
	go func() { ran <- p.Run(ctx, f) }()
	<-f.Complete()
	must(t, p.Wake(ctx, hello, 3))
	until := func(what string, n func() int, want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); n() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d, expected %d", what, n(), want)
			}
		}
	}
	e := f.Get(hello)
	until("started", e.Started, 3)
	if s := e.Pods()[0].Said(); s.MaxInflight != 6 || s.Nature != fleet.Watchdog {
		t.Errorf("a pod says %+v", *s)
	}
	must(t, p.Scale(ctx, hello, 0, ""))
	until("pods", func() int { return len(e.Pods()) }, 0)
	cancel()
	must(t, <-ran)
	must(t, <-ran)
	if served != 3 || len(stopped) != 3 {
		t.Errorf("%d served, %d stopped", served, len(stopped))
	}
}

// Ten thousand functions with fifty thousand pods fit, and waking one more
// among them changes nothing but it.
func TestManyFunctions(t *testing.T) {
	const functions, each = 10_000, 5
	synctest.Test(t, func(t *testing.T) {
		inUse := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := inUse()
		w := memory.New(memory.Config{AddrAfter: time.Second, ReadyAfter: time.Second})
		for i := range functions {
			must(t, w.Add(function.Function{Ref: function.Ref{Name: fmt.Sprintf("f%d", i), Namespace: "test"}, Replicas: each}))
		}
		must(t, w.Add(function.Function{Ref: hello}))
		f := fleet.New(fleet.Config{})
		p := start(t, w, f)
		time.Sleep(time.Minute)
		synctest.Wait()
		started := 0
		for e := range f.All() {
			started += e.Started()
		}
		if started != functions*each {
			t.Errorf("%d pods started, expected %d", started, functions*each)
		}
		if used := (inUse() - before) >> 20; used > 300 {
			t.Errorf("%d MiB are used, expected at most 300 of the 500 that weir may take", used)
		} else {
			t.Logf("%d functions with %d pods, in the World and in the Fleet: %d MiB", functions, functions*each, used)
		}
		other := f.Get(function.Ref{Name: "f1", Namespace: "test"}).Changed()
		must(t, p.Wake(t.Context(), hello, 1))
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.Get(hello).Started() != 1 {
			t.Error("the one is not woken")
		}
		select {
		case <-other:
			t.Error("another function was said to change")
		default:
		}
		if writes := w.Writes(); len(writes) != 1 || !strings.HasPrefix(writes[0].By, "weir") {
			t.Errorf("written: %v", writes)
		}
		runtime.KeepAlive(w)
	})
}
