package autoscaler

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/gateway"
	"github.com/weir-run/weir/provider/memory"
)

// steady are the counters of a pod that has had two requests in flight for as
// long as it runs.
type steady struct{}

func (steady) Read(context.Context, *fleet.Pod) (Counters, error) {
	now := time.Now()
	seconds := float64(now.UnixNano()) / 1e9
	return Counters{At: now, InFlight: 2, InFlightSeconds: 2 * seconds, Requests: 100 * seconds, MaxInflight: 5, LastStart: now}, nil
}

// BenchmarkTick looks at 10,000 functions with 50,000 pods, counters from
// memory: the processor seconds of one tick, and what all of weir takes that
// grows with them. That is the functions as their provider has them, the Fleet
// with what its Prober keeps of each pod, the gateway, through which every pod
// was called, and the autoscaler. Nobody is dialled for probes.
func BenchmarkTick(b *testing.B) {
	const functions, each = 10_000, 5
	before := heap()
	w := newAssembly(b, functions, each, &fleet.Prober{Log: slog.New(slog.DiscardHandler)})
	b.Logf("%d functions with %d pods: %d MiB in use before the first call", functions, functions*each, (heap()-before)>>20)
	w.callAll(b, each)
	b.Logf("every pod was called: %d MiB", (heap()-before)>>20)
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	defer w.scaler.work(ctx)()
	w.scaler.tick(ctx)
	w.scaler.settle()
	spent := processor()
	for b.Loop() {
		w.scaler.tick(ctx)
		w.scaler.settle()
	}
	b.ReportMetric((processor()-spent).Seconds()/float64(b.N), "cpu-s/tick")
	if writes := len(w.world.Writes()); writes > 0 {
		b.Errorf("%d functions were scaled: what is measured is not at rest", writes)
	}
	w.scaler.decided(b, functions, each)
	w.readPeer(b)
	w.scrape(b)
	b.ReportMetric(float64(taken())/(1<<20), "MiB-taken")
	b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-in-use")
	runtime.KeepAlive(w)
}

// assembly is weir as its main puts it together, but for its listeners, with
// functions in memory.
type assembly struct {
	world    *memory.World
	provider *memory.Provider
	fleet    *fleet.Fleet
	gateway  *gateway.Gateway
	scaler   *Autoscaler
	refs     []function.Ref
}

// newAssembly has all but the autoscaler run. probe is not run either: it
// keeps what it must know of each pod.
func newAssembly(b *testing.B, functions, each int, probe *fleet.Prober) *assembly {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	says := fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 5}
	w := &assembly{fleet: fleet.New(fleet.Config{Log: log, Probe: probe})}
	w.world = memory.New(memory.Config{Serve: pods(b, each), Says: func(function.Ref) fleet.Saying { return says }})
	for i := range functions {
		ref := function.Ref{Name: fmt.Sprintf("function-%d", i), Namespace: "ns"}
		w.refs = append(w.refs, ref)
		if err := w.world.Add(function.Function{
			Ref: ref, Kind: function.KindDeployment, Replicas: each, Created: time.Now().Add(-time.Hour),
			// Two in flight in each of five pods are what five are for.
			Spec: function.Spec{Min: 1, Max: 20, Type: function.Capacity, Target: 2, Proportion: 1.1, Zero: true, ZeroAfter: time.Minute},
		}); err != nil {
			b.Fatal(err)
		}
	}
	w.provider = w.world.Provider("weir")
	var err error
	if w.gateway, err = gateway.New(gateway.Config{Fleet: w.fleet, Provider: w.provider, Log: log, Namespace: "ns"}); err != nil {
		b.Fatal(err)
	}
	w.scaler = w.newScaler()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.provider.Run(ctx, w.fleet) })
	running.Go(func() { _ = w.gateway.Run(ctx) })
	b.Cleanup(func() {
		stop()
		_ = w.gateway.Close()
		running.Wait()
	})
	<-w.fleet.Complete()
	for e := range w.fleet.All() {
		for _, pod := range e.Pods() {
			pod.Learn(says)
		}
	}
	return w
}

func (w *assembly) newScaler() *Autoscaler {
	return New(Config{Fleet: w.fleet, Provider: w.provider, Counter: steady{}, Own: w.gateway.Report, Log: slog.New(slog.DiscardHandler)})
}

// pods serves what all functions' pods answer, those of each function on as
// many listeners: a single one would run out of ports for connections, which
// it does not keep.
func pods(b *testing.B, listeners int) func(function.Ref, string) (string, string, func()) {
	b.Helper()
	var addrs []string
	for range listeners {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
		})}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(l) }()
		b.Cleanup(func() { _ = server.Close(); <-served })
	}
	n := 0
	return func(function.Ref, string) (addr, metrics string, stop func()) {
		n++
		return addrs[n%listeners], addrs[n%listeners], func() {}
	}
}

// callAll calls every function so many times.
func (w *assembly) callAll(b *testing.B, times int) {
	b.Helper()
	handler := w.gateway.Handler()
	calls := make(chan string)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for path := range calls {
				answer := httptest.NewRecorder()
				handler.ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
				if answer.Code != http.StatusOK {
					b.Errorf("%s: %d %s", path, answer.Code, answer.Body)
				}
			}
		})
	}
	for range times {
		for _, ref := range w.refs {
			calls <- "/function/" + ref.Name + "/"
		}
	}
	close(calls)
	all.Wait()
}

// scrape reads weir's own metrics, as Prometheus would.
func (w *assembly) scrape(b *testing.B) {
	b.Helper()
	server := httptest.NewServer(w.gateway.MetricsHandler(w.scaler.Metrics()...))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, resp.Body)
	b.Logf("weir's own metrics: %s, %d MiB, %v", resp.Status, n>>20, err)
}

// readPeer reads what the gateway carries as another weir would that decides:
// its ticks cost that much more for each weir there is beside it.
func (w *assembly) readPeer(b *testing.B) {
	b.Helper()
	mux := http.NewServeMux()
	mux.Handle(contract.DemandPath, w.gateway.DemandHandler())
	server := httptest.NewServer(mux)
	defer server.Close()
	read := func() float64 {
		spent := processor()
		reports, complete, err := w.scaler.peers.read(b.Context(), []string{server.Listener.Addr().String()})
		if err != nil || !complete || len(reports) != 1 || len(reports[0].Functions) != len(w.refs) {
			b.Errorf("read of another weir: %d reports, complete %v, %v", len(reports), complete, err)
		}
		return (processor() - spent).Seconds()
	}
	b.ReportMetric(read(), "cpu-s/peer-whole") // once a minute
	// The functions are not called meanwhile; what was called a few seconds ago
	// is said once more.
	for range 8 {
		time.Sleep(time.Second)
		b.ReportMetric(read(), "cpu-s/peer")
	}
}

// work starts what Run does beside its ticks; what it returns ends that.
func (a *Autoscaler) work(ctx context.Context) (end func()) {
	for range functionsAtOnce {
		a.busy.Go(func() {
			for j := range a.jobs {
				a.look(ctx, j)
			}
		})
	}
	return func() { close(a.jobs); a.busy.Wait() }
}

// settle waits until no function is being looked at any more.
func (a *Autoscaler) settle() {
	a.mu.Lock()
	all := slices.Collect(maps.Values(a.functions))
	a.mu.Unlock()
	for _, t := range all {
		for looking := true; looking; {
			t.mu.Lock()
			looking = t.looking
			t.mu.Unlock()
			if looking {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
}

// decided checks that the last tick has looked at so many functions, and found
// every pod up and two requests in flight in each.
func (a *Autoscaler) decided(b *testing.B, functions, each int) {
	b.Helper()
	good := 0
	for _, t := range a.functions {
		if d := t.last; d.Started == each && d.Unknown == 0 && math.Abs(d.Stable-float64(2*each)) < 0.1 {
			good++
		} else {
			b.Logf("%s: %+v", t.ref, d)
		}
	}
	if good != functions {
		b.Errorf("%d of %d functions were decided on by what their pods counted", good, functions)
	}
}

// heap is what is in use, after what is garbage was collected.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// taken is what this process has of the system's memory at this moment,
// garbage included.
func taken() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys - m.HeapReleased
}

func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
