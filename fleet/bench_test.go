package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAtRest is what 10,000 functions with 50,000 pods cost while nothing
// happens: memory for each, and CPU for each second. Probes are answered from
// memory, so that it is the Prober's own part.
func BenchmarkAtRest(b *testing.B) {
	const functions, each = 10_000, 5
	pr := &Prober{ask: func(context.Context, *question) outcome {
		return outcome{kind: answered, answer: answer{status: 200, watchdog: true, maxInflight: 4}}
	}}
	known := make([]*function.Function, functions)
	bare := inUse()
	for i := range known {
		pods := make([]function.Pod, each)
		for j := range pods {
			pods[j] = podOf(i*each + j)
			pods[j].Metrics = fmt.Sprintf("10.0.0.%d:8081", i*each+j)
		}
		known[i] = functionOf(refOf(i), pods...)
	}
	provider := inUse()
	goroutines := runtime.NumGoroutine()
	f := runFleet(b, pr)
	begin, used := time.Now(), cpu(b)
	for _, fn := range known {
		f.Put(fn)
	}
	for e := range f.All() {
		until(b, e, "started", func() bool { return e.Started() == each })
	}
	b.Logf("all %d pods known after %v, with %v of CPU", functions*each, time.Since(begin), cpu(b)-used)
	time.Sleep(DefaultLook * 3 / 2) // until the looks have found their pace
	after := inUse()
	b.Logf("%d goroutines more; per pod of the provider's own %d B, per pod of the Fleet %d B; %d MiB in all", runtime.NumGoroutine()-goroutines,
		(provider-bare)/(functions*each), (after-provider)/(functions*each), (after-bare)>>20)
	b.ResetTimer()
	used, begin = cpu(b), time.Now()
	for range b.N {
		time.Sleep(time.Second)
	}
	b.ReportMetric(float64(cpu(b)-used)/1e6/time.Since(begin).Seconds(), "cpu-ms/s")
	runtime.KeepAlive(known)
}

// BenchmarkFound is how long a pod serves before it is found to: a port opens
// some time after the provider told its address, as when a container starts.
func BenchmarkFound(b *testing.B) {
	b.Run("soon", func(b *testing.B) { found(b, 10*time.Millisecond, 60*time.Millisecond) })
	b.Run("later", func(b *testing.B) { found(b, 200*time.Millisecond, 400*time.Millisecond) })
}

// found has ports open between so early and so late.
func found(b *testing.B, early, late time.Duration) {
	f := runFleet(b, &Prober{})
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		ref := refOf(n)
		f.Put(functionOf(ref, function.Pod{UID: fmt.Sprint(n), Addr: addr}))
		e := f.Get(ref)
		time.Sleep(early + rand.N(late-early))
		if l, err = net.Listen("tcp", addr); err != nil {
			b.Fatal(err)
		}
		at := time.Now()
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Watchdog-Max-Inflight", "1")
		})}
		go func() { _ = server.Serve(l) }()
		for changed := e.Changed(); e.Started() == 0; changed = e.Changed() {
			if e.Started() == 0 {
				<-changed
			}
		}
		took = append(took, time.Since(at))
		f.Delete(ref)
		_ = server.Close()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "median-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1e3, "worst-ms")
}

// BenchmarkStart is what pods cost in their first second that all come at once
// and do not listen yet: CPU for each.
func BenchmarkStart(b *testing.B) {
	for _, pods := range []int{1, 20, 1000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			f := runFleet(b, &Prober{})
			var used time.Duration
			for b.Loop() {
				fn := functionOf(refOf(1))
				for i := range pods {
					l, err := net.Listen("tcp", fmt.Sprintf("127.0.%d.%d:0", i/200, 1+i%200))
					if err != nil {
						b.Fatal(err)
					}
					fn.Pods = append(fn.Pods, function.Pod{Name: fmt.Sprint(i), UID: fmt.Sprint(i), Addr: l.Addr().String()})
					_ = l.Close()
				}
				before := cpu(b)
				f.Put(fn)
				time.Sleep(time.Second)
				used += cpu(b) - before
				f.Delete(fn.Ref)
			}
			b.ReportMetric(float64(used.Microseconds())/float64(b.N)/float64(pods), "cpu-µs/pod")
		})
	}
}

// BenchmarkPut is one change of a function with five pods.
func BenchmarkPut(b *testing.B) {
	f := New(Config{Probe: &Prober{ask: func(context.Context, *question) outcome { return outcome{} }}})
	pods := []function.Pod{podOf(1), podOf(2), podOf(3), podOf(4), podOf(5)}
	one, two := functionOf(refOf(1), pods...), functionOf(refOf(1), pods...)
	b.ReportAllocs()
	for b.Loop() {
		f.Put(one)
		f.Put(two)
	}
}

// BenchmarkStarted is what a reader pays for the state of five pods.
func BenchmarkStarted(b *testing.B) {
	f := New(Config{})
	f.Put(functionOf(refOf(1), podOf(1), podOf(2), podOf(3), podOf(4), podOf(5)))
	e := f.Get(refOf(1))
	for b.Loop() {
		_ = e.Started()
	}
}
