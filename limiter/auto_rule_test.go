package limiter_test

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/limiter"
)

// gradient is the usual rule, which holds the latency of a window against a
// long average of it: what Auto is measured beside, and why it is another
// (docs/decisions/0010).
type gradient struct {
	l       *limiter.Limiter
	highest int
	ended   atomic.Int64
	took    atomic.Int64
	lost    atomic.Int64
	full    atomic.Int64
}

func newGradient(l *limiter.Limiter, highest int) controller {
	l.Resize(20)
	return &gradient{l: l, highest: highest}
}

func (g *gradient) Observe(took time.Duration) {
	g.ended.Add(1)
	g.took.Add(int64(took))
	if g.l.Met() {
		g.full.Add(1)
	}
}

func (g *gradient) Timeout() { g.lost.Add(1) }

func (g *gradient) Run(ctx context.Context) {
	limit, long := 20.0, 0.0
	ran := 0.0
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		if g.ended.Load() < 10 {
			continue
		}
		total := g.l.Stats().RunningSeconds
		inFlight := total - ran
		ran = total
		short := float64(g.took.Swap(0)) / float64(g.ended.Swap(0))
		full := g.full.Swap(0) > 0
		if long == 0 {
			long = short
		}
		long += 0.05 * (short - long)
		if long > 2*short {
			long *= 0.95
		}
		switch slope := max(0.5, min(1, 1.5*long/short)); {
		case g.lost.Swap(0) > 0:
			limit *= 0.9
		case inFlight < limit/2:
		default:
			next := 0.8*limit + 0.2*(limit*slope+max(1, math.Sqrt(limit)))
			if next < limit || full {
				limit = next
			}
		}
		limit = max(1, min(limit, float64(g.highest)))
		g.l.Resize(int(limit))
	}
}

// The control: the same simulations tell the rules apart.
func TestUsualRuleMisses(t *testing.T) {
	simulated(t)
	for i, of := range []figures{
		{rate: 792, p99: 10 * milli}, {rate: 796, p99: 20 * milli}, {rate: 985, p99: 2 * second},
	} {
		test := demanded[i]
		f := test.with(simulation{rule: newGradient}).run(t).figures(settled, 90*second)
		if t.Logf("%s: %v", test.name, f); f.keeps(of, goodputShare, latencyTimes) {
			t.Errorf("%s: %v keeps the bounds too", test.name, f)
		}
	}
}
