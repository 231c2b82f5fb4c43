package limiter_test

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/weir-run/weir/limiter"
)

// rival is what the benchmarks compare: ours, the semaphore of x/sync and a
// buffered channel. The two rivals keep no count of who waits, no integral,
// and cannot bound the queue or be resized.
type rival struct {
	name    string
	try     func() bool
	acquire func(context.Context) error
	release func()
}

func rivals(limit int) []rival {
	l := limiter.New(limit, 1<<16)
	s := semaphore.NewWeighted(int64(limit))
	c := make(chan struct{}, limit)
	return []rival{
		{"limiter", l.TryAcquire, l.Acquire, l.Release},
		{
			"semaphore", func() bool { return s.TryAcquire(1) },
			func(ctx context.Context) error { return s.Acquire(ctx, 1) },
			func() { s.Release(1) },
		},
		{
			"channel",
			func() bool {
				select {
				case c <- struct{}{}:
					return true
				default:
					return false
				}
			},
			func(ctx context.Context) error {
				select {
				case c <- struct{}{}:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			},
			func() { <-c },
		},
	}
}

func each(b *testing.B, limit int, run func(*testing.B, rival)) {
	for _, r := range rivals(limit) {
		b.Run(r.name, func(b *testing.B) {
			b.ReportAllocs()
			run(b, r)
		})
	}
}

// One goroutine, a free slot: Acquire and Release.
func BenchmarkUncontended(b *testing.B) {
	ctx := context.Background()
	each(b, 100, func(b *testing.B, r rival) {
		for b.Loop() {
			_ = r.acquire(ctx)
			r.release()
		}
	})
}

// What admission adds to a request, guards and all: the watchdog has read the
// clock for its log before and after.
func BenchmarkGuarded(b *testing.B) {
	guarded := func(b *testing.B, pair func(l *limiter.Limiter, most int) error) {
		l := limiter.New(100, 0)
		var verdict atomic.Int64 // how many may run, above eight bits of reason
		verdict.Store(math.MaxInt64)
		b.ReportAllocs()
		for b.Loop() {
			if err := pair(l, int(verdict.Load()>>8)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("path", func(b *testing.B) {
		now := time.Now()
		guarded(b, func(l *limiter.Limiter, most int) error {
			err := l.TryAt(now, most)
			l.ReleaseAt(now)
			return err
		})
	})
	b.Run("own clock", func(b *testing.B) {
		guarded(b, func(l *limiter.Limiter, most int) error {
			err := l.Try(most)
			l.Release()
			return err
		})
	})
}

// Every core, slots enough for all.
func BenchmarkParallel(b *testing.B) {
	ctx := context.Background()
	each(b, 100, func(b *testing.B, r rival) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = r.acquire(ctx)
				r.release()
			}
		})
	})
}

// Every slot is taken: one refusal.
func BenchmarkRefused(b *testing.B) {
	each(b, 1, func(b *testing.B, r rival) {
		_ = r.acquire(context.Background())
		defer r.release()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = r.try()
			}
		})
	})
}

// Sixteen goroutines a core for two slots: most wait for each.
func BenchmarkWaiters(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	each(b, 2, func(b *testing.B, r rival) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = r.acquire(ctx)
				r.release()
			}
		})
	})
}

// A reading while others come and go.
func BenchmarkStats(b *testing.B) {
	l := limiter.New(100, 0)
	b.ReportAllocs()
	for b.Loop() {
		l.Stats()
	}
}
