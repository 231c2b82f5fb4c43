package autoscaler

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// idleProvider takes everything.
type idleProvider struct{}

func (idleProvider) Scale(context.Context, function.Ref, int, string) error    { return nil }
func (idleProvider) Spare(context.Context, function.Ref, map[string]int) error { return nil }
func (idleProvider) Event(function.Ref, function.Event)                        {}
func (idleProvider) Leads() bool                                               { return true }
func (idleProvider) Peers() []string                                           { return nil }
func (idleProvider) Read(_ context.Context, _ *fleet.Pod) (Counters, error) {
	now := time.Now()
	seconds := float64(now.UnixNano()) / 1e9
	return Counters{At: now, InFlight: 2, InFlightSeconds: 2 * seconds, Requests: 100 * seconds, MaxInflight: 5, LastStart: now}, nil
}

// BenchmarkTick looks at 10,000 functions with 50,000 pods, counters from
// memory: the processor seconds of one tick, and the memory of it all.
func BenchmarkTick(b *testing.B) {
	const functions, podsEach = 10_000, 5
	before := heap()
	f := fleet.New(fleet.Config{})
	demand := fleet.Report{Gateway: "own"}
	for i := range functions {
		fn := &function.Function{
			Ref: function.Ref{Name: fmt.Sprintf("function-%d", i), Namespace: "ns"}, Kind: function.KindDeployment,
			Spec:     function.Spec{Min: 1, Max: 20, Type: function.Capacity, Target: 4, Proportion: 1, Zero: true, ZeroAfter: time.Minute},
			Replicas: podsEach, Version: "1", Created: time.Now().Add(-time.Hour),
		}
		d := fleet.Demand{Function: fn.String(), Running: 10, Pods: map[string]fleet.PodDemand{}, LastStart: time.Now()}
		for p := range podsEach {
			name := fmt.Sprintf("%s-%d", fn.Name, p)
			fn.Pods = append(fn.Pods, function.Pod{Name: name, UID: name, Addr: "192.0.2.1:8080", Metrics: "192.0.2.1:8081", Ready: true, Created: fn.Created})
			d.Pods[name] = fleet.PodDemand{UID: name, Running: 2}
		}
		f.Put(fn)
		for _, p := range f.Get(fn.Ref).Pods() {
			p.Learn(fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 5})
		}
		demand.Functions = append(demand.Functions, d)
	}
	f.Synced()
	a := New(Config{Fleet: f, Provider: idleProvider{}, Counter: idleProvider{}, Log: slog.New(slog.DiscardHandler), Own: func() fleet.Report {
		demand.Now = time.Now()
		return demand
	}})
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	for range functionsAtOnce {
		a.busy.Go(func() {
			for j := range a.jobs {
				a.look(ctx, j)
			}
		})
	}
	defer func() { close(a.jobs); a.busy.Wait() }()
	a.tick(ctx)
	spent := processor()
	for b.Loop() {
		a.tick(ctx)
	}
	b.ReportMetric((processor()-spent).Seconds()/float64(b.N), "cpu-s/tick")
	b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
	runtime.KeepAlive(f)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
