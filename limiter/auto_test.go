package limiter_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/limiter"
)

func TestAutoStartsWithinItsBounds(t *testing.T) {
	for _, test := range []struct{ highest, want int }{
		{-1, 1}, {0, 1}, {1, 1}, {2, 2}, {1000, 4}, {1 << 40, 4},
	} {
		l := limiter.New(0, 0)
		limiter.NewAuto(l, test.highest)
		if got := l.Limit(); got != test.want {
			t.Errorf("NewAuto(l, %d) starts at %d, want %d", test.highest, got, test.want)
		}
	}
}

// Run follows what Observe, Timeout, Waited and Tripped tell it, says each
// change, and returns when its context ends, with the limit as it was last.
func TestAutoRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(0, 0)
		a := limiter.NewAuto(l, 50)
		var changes []limiter.Change
		var tripped atomic.Bool
		a.Changed = func(c limiter.Change) { changes = append(changes, c) }
		a.Tripped = tripped.Load
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { a.Run(ctx); close(ended) }()

		// work keeps every slot busy with requests of 10 ms.
		work := func(d time.Duration, timeouts bool) {
			for range d / (10 * time.Millisecond) {
				n := 0
				for l.TryAcquire() {
					n++
				}
				time.Sleep(10 * time.Millisecond)
				for range n {
					if timeouts {
						a.Timeout()
					}
					a.Observe(10 * time.Millisecond)
					l.Release()
				}
			}
			synctest.Wait()
		}
		time.Sleep(time.Hour + time.Millisecond) // from here on never when Run looks
		synctest.Wait()
		if len(changes) > 0 {
			t.Fatalf("%+v without traffic", changes)
		}
		work(10*time.Second, false)
		if l.Limit() != 50 {
			t.Fatalf("limit %d of a handler that carries all, want 50; %+v", l.Limit(), changes)
		}
		if c := changes[0]; c.From != 4 || c.To <= 4 || c.Cause != limiter.More || c.Took != 10*time.Millisecond || c.InFlight <= 0 || c.InFlight > 4.01 {
			t.Fatalf("first change %+v", c)
		}
		for i, c := range changes[1:] {
			if c.From != changes[i].To {
				t.Fatalf("change %+v follows %+v", c, changes[i])
			}
		}
		tripped.Store(true)
		work(10*time.Second, false)
		if got := l.Limit(); got > 25 || changes[len(changes)-1].Cause != limiter.Guarded {
			t.Fatalf("limit %d after 10 s of a tripped guard; %+v", got, changes[len(changes)-1])
		}
		tripped.Store(false)
		work(30*time.Second, false)
		if l.Limit() != 50 {
			t.Fatalf("limit %d after the guard cleared, want 50", l.Limit())
		}
		work(3*time.Minute, true)
		if l.Limit() > 2 { // 2 is tried now and then
			t.Fatalf("limit %d when all ends in timeouts, want 1", l.Limit())
		}
		cancel()
		<-ended
		last := l.Limit()
		work(time.Minute, false)
		if l.Limit() != last {
			t.Fatal("the limit moved after Run had returned")
		}
	})
}

// Where requests stand in line, none is refused and Observe may see every slot
// but its own given back: Waited says that the limit is in the way.
func TestAutoGrowsForThoseWhoWait(t *testing.T) {
	for _, waited := range []time.Duration{0, time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			l := limiter.New(0, 0)
			a := limiter.NewAuto(l, 50)
			ctx, cancel := context.WithCancel(t.Context())
			go a.Run(ctx)
			for range 2000 {
				for range 3 {
					l.TryAcquire()
				}
				time.Sleep(10 * time.Millisecond)
				for range 3 {
					a.Waited(waited)
					a.Observe(10 * time.Millisecond)
					l.Release()
				}
			}
			if got := l.Limit(); (got > 4) != (waited > 0) {
				t.Errorf("limit %d where requests waited %v", got, waited)
			}
			cancel()
		})
	}
}

// Everybody at once on the real clock, for the race detector: the limit stays
// within its bounds, and Run ends.
func TestAutoStorm(t *testing.T) {
	before := runtime.NumGoroutine()
	const highest = 9
	l := limiter.New(0, 100)
	a := limiter.NewAuto(l, highest)
	var tripped atomic.Bool
	a.Tripped = tripped.Load
	var changes atomic.Int32
	a.Changed = func(c limiter.Change) {
		changes.Add(1)
		if c.To < 1 || c.To > highest {
			t.Errorf("%+v", c)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	deadline := time.Now().Add(30 * time.Second)
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(i)))
			for changes.Load() < 2 && time.Now().Before(deadline) {
				began := time.Now()
				if l.Acquire(ctx) != nil {
					continue
				}
				a.Waited(time.Since(began))
				got := time.Now()
				time.Sleep(time.Duration(random.IntN(2)) * time.Millisecond)
				if random.IntN(10) == 0 {
					a.Timeout()
				}
				tripped.Store(changes.Load() > 0)
				a.Observe(time.Since(got))
				l.Release()
			}
		})
	}
	clients.Wait()
	cancel()
	running.Wait()
	if changes.Load() < 2 || l.Running() != 0 {
		t.Errorf("%d changes, %d still running", changes.Load(), l.Running())
	}
	for deadline = time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines where %d were", runtime.NumGoroutine(), before)
		}
	}
}

func TestAutoAllocatesNothing(t *testing.T) {
	a := limiter.NewAuto(limiter.New(0, 0), 10)
	if n := testing.AllocsPerRun(1000, func() {
		a.Waited(time.Millisecond)
		a.Timeout()
		a.Observe(time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What Auto costs an invocation.
func BenchmarkObserve(b *testing.B) {
	a := limiter.NewAuto(limiter.New(0, 0), 1000)
	b.ReportAllocs()
	for b.Loop() {
		a.Observe(time.Millisecond)
	}
}

func BenchmarkObserveParallel(b *testing.B) {
	a := limiter.NewAuto(limiter.New(0, 0), 1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a.Observe(time.Millisecond)
		}
	})
}
