package limiter_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/limiter"
)

// What Auto promises, beside the best fixed limit: after settled, so much of
// its goodput, and no more than so many times its p99.
const (
	settled      = 30 * time.Second
	goodputShare = 0.9
	latencyTimes = 2.0
)

const (
	second = time.Second
	milli  = time.Millisecond
)

// fixedLimits are what Auto is held against.
var fixedLimits = []int{1, 4, 8, 12, 16, 32, 64, 200}

type bounds struct {
	name string
	simulation
	// parts are when the handler or the load changes: each part is held
	// against its own best limit, from settled after its begin.
	parts []time.Duration
	// after is from when the bounds apply, settled when 0.
	after time.Duration
}

func (b bounds) with(s simulation) *simulation {
	s.highest, s.handler, s.clients, s.rate, s.timeout, s.length = 200, b.handler, b.clients, b.rate, b.timeout, b.length
	s.seed = b.seed
	if s.length == 0 {
		s.length = 90 * second
	}
	return &s
}

// best is the fixed limit of the most good answers between from and to; of
// those within a hundredth of that, the one of the lowest p99.
func best(runs map[int]*simulation, from, to time.Duration) (best figures, limit int) {
	for _, n := range fixedLimits {
		f := runs[n].figures(from, to)
		if f.rate > 1.01*best.rate || f.rate >= 0.99*best.rate && f.p99 < best.p99 {
			best, limit = f, n
		}
	}
	return best, limit
}

func (b bounds) fixed(t *testing.T) map[int]*simulation {
	runs := map[int]*simulation{}
	for _, n := range fixedLimits {
		runs[n] = b.with(simulation{limit: n}).run(t)
	}
	return runs
}

func (f figures) keeps(best figures, share, times float64) bool {
	return f.rate >= share*best.rate && float64(f.p99) <= times*float64(best.p99)
}

// hold runs Auto and holds each part against the best fixed limit of the same
// time.
func (b bounds) hold(t *testing.T) {
	t.Parallel()
	got, fixed := b.with(simulation{}).run(t), b.fixed(t)
	parts, after := append(b.parts, got.length), settled
	if b.after > 0 {
		after = b.after
	}
	from := time.Duration(0)
	for _, to := range parts {
		best, limit := best(fixed, from+after, to)
		f := got.figures(from+after, to)
		verdict := "from %v: best fixed limit %d: %v; auto: %v: %.2f of the goodput, %.2f times the p99"
		args := []any{from, limit, best, f, f.rate / best.rate, float64(f.p99) / float64(best.p99)}
		if !f.keeps(best, goodputShare, latencyTimes) {
			t.Errorf(verdict+"\n%s", append(args, got.path())...)
		} else {
			t.Logf(verdict, args...)
		}
		from = to
	}
}

// simulated skips what takes too long. The race detector would find nothing:
// Run and the simulation take turns.
func simulated(t *testing.T) {
	t.Helper()
	if raceDetector || testing.Short() {
		t.Skip("a simulation of hours of clock time, far slower under the race detector")
	}
}

// demanded are the handlers that auto must find the limit of.
var demanded = []bounds{
	{name: "eight slots", simulation: simulation{handler: slots(8, 10*milli), clients: always(100)}},
	{name: "doubles past sixteen", simulation: simulation{handler: doubling(20*milli, 16, 8), clients: always(100)}},
	{name: "mix", simulation: simulation{handler: mix(0, 5*milli, 2*second, 10), clients: always(200)}},
	{name: "slow minute", simulation: simulation{
		handler: spell(8, 10*milli, 100*milli, 60*second, 120*second), clients: always(100), length: 180 * second,
	}, parts: []time.Duration{60 * second, 120 * second}},
}

func TestAutoKeepsItsBounds(t *testing.T) {
	simulated(t)
	for _, test := range demanded {
		t.Run(test.name, test.hold)
	}
}

// harder is more of what handlers and loads do.
var harder = []bounds{
	{name: "one slot", simulation: simulation{handler: slots(1, 10*milli), clients: always(64)}},
	{name: "fifty slots", simulation: simulation{handler: slots(50, 50*milli), clients: always(200)}},
	{name: "half comes out past sixteen", simulation: simulation{handler: cliff(20*milli, 16), clients: always(100)}},
	{name: "no limit of its own", simulation: simulation{handler: free(20 * milli), clients: always(64)}},
	{name: "0.2 ms", simulation: simulation{handler: free(milli / 5), clients: always(2), length: 40 * second}},
	{name: "half are slow", simulation: simulation{handler: mix(0, 5*milli, 2*second, 2), clients: always(200)}},
	{name: "mix on 32 slots", simulation: simulation{
		handler: mix(32, 5*milli, 2*second, 10), clients: always(100), length: 150 * second,
	}, after: 60 * second},
	{name: "5 s", simulation: simulation{handler: free(5 * second), clients: always(100), length: 180 * second}, after: 60 * second},
	{name: "5 s on four slots", simulation: simulation{
		handler: slots(4, 5*second), clients: always(64), length: 420 * second, // a trial takes half a minute
	}, after: 90 * second},
	{name: "1 s on one slot", simulation: simulation{
		handler: slots(1, second), clients: always(64), length: 240 * second,
	}, after: 120 * second},
	{name: "capacity halves and doubles", simulation: simulation{
		handler: changing(10*milli, between(60*second, 120*second, 4, 8)), clients: always(100), length: 180 * second,
	}, parts: []time.Duration{60 * second, 120 * second}},
	{name: "capacity doubles and halves", simulation: simulation{
		handler: changing(10*milli, between(60*second, 120*second, 16, 8)), clients: always(100), length: 180 * second,
	}, parts: []time.Duration{60 * second, 120 * second}},
	{name: "one slot for a minute", simulation: simulation{
		handler: changing(10*milli, between(60*second, 120*second, 1, 8)), clients: always(100), length: 180 * second,
	}, parts: []time.Duration{60 * second, 120 * second}},
	{name: "load stops and returns", simulation: simulation{
		handler: slots(8, 10*milli), clients: between(40*second, 3600*second, 0, 100), length: 3640 * second,
	}, parts: []time.Duration{3600 * second}, after: 10 * second},
	{name: "half the capacity offered", simulation: simulation{handler: slots(8, 10*milli), rate: always(400.)}},
	{name: "a little too much offered", simulation: simulation{handler: slots(8, 10*milli), rate: always(960.)}},
	{name: "ten times too much offered", simulation: simulation{handler: doubling(20*milli, 16, 8), rate: always(8000.)}},
	{name: "timeouts", simulation: simulation{handler: slots(8, 100*milli), clients: always(100), timeout: 300 * milli}},
}

func TestAutoKeepsItsBoundsHarder(t *testing.T) {
	simulated(t)
	for _, test := range harder {
		t.Run(test.name, test.hold)
	}
}

// With a queue in front somebody always waits, however large the limit is:
// that makes no smaller limit better.
func TestAutoBehindAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 100
		l := limiter.New(0, clients)
		a := limiter.NewAuto(l, 200)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { a.Run(ctx) })
		handler := limiter.New(8, clients)
		answers := make([]int, clients)
		from, to := time.Now().Add(settled), time.Now().Add(2*settled)
		for i := range clients {
			running.Go(func() {
				for ctx.Err() == nil {
					came := time.Now()
					if l.Acquire(ctx) != nil {
						return
					}
					a.Waited(time.Since(came))
					began := time.Now()
					if handler.Acquire(ctx) == nil {
						time.Sleep(10 * milli)
						handler.Release()
					}
					if now := time.Now(); now.After(from) && now.Before(to) {
						answers[i]++
					}
					a.Observe(time.Since(began))
					l.Release()
				}
			})
		}
		time.Sleep(2*settled + 5*milli)
		cancel()
		running.Wait()
		sum := 0
		for _, n := range answers {
			sum += n
		}
		if rate := float64(sum) / settled.Seconds(); rate < goodputShare*800 {
			t.Errorf("%.0f answers a second, want %.0f", rate, goodputShare*800)
		}
		if got := l.Limit(); got < 8 || got > 16 {
			t.Errorf("limit %d, want 8 to 16", got)
		}
	})
}
