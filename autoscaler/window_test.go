package autoscaler

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestWindowAgainstIntegral: the means are those of the load itself, whatever
// the ticks; at whole seconds exactly, and otherwise but for how the load lies
// within the oldest second.
func TestWindowAgainstIntegral(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		whole := seed%2 == 0
		type part struct {
			from, to time.Duration
			load     float64
		}
		var parts []part
		var w window
		at := time.Duration(r.IntN(100)) * time.Second
		start := at
		for range 300 {
			step := time.Duration(r.IntN(4)) * time.Second
			if !whole {
				step = time.Duration(r.Int64N(int64(3 * time.Second)))
			}
			if r.IntN(50) == 0 {
				step *= 40
			}
			load := float64(r.IntN(5) * r.IntN(5))
			if len(parts) == 0 {
				step = 0
				parts = append(parts, part{at - instant, at, load})
			} else {
				parts = append(parts, part{at, at + step, load})
			}
			at += step
			w = w.record(at, load)
			for _, span := range []time.Duration{PanicWindow, StableWindow} {
				begin := max(at-span, start-instant)
				var sum float64
				for _, p := range parts {
					if p.to > begin {
						sum += p.load * (p.to - max(begin, p.from)).Seconds()
					}
				}
				want, allowed := sum/(at-begin).Seconds(), 1e-9
				if !whole {
					allowed = 16 * min(1, time.Second.Seconds()/(at-begin).Seconds())
				}
				if got := w.mean(at, span); math.Abs(got-want) > allowed {
					t.Fatalf("seed %d at %s: mean of %s is %g, want %g", seed, at, span, got, want)
				}
			}
		}
	}
}

// TestWindowOfNothing takes no memory, and neither does one whose load is long
// past.
func TestWindowOfNothing(t *testing.T) {
	var w window
	for at := range 100 {
		if w = w.record(time.Duration(at)*time.Second, 0); w.sums != nil {
			t.Fatal("memory for nothing")
		}
	}
	w = w.record(100*time.Second, 6)
	if got := w.mean(100*time.Second, PanicWindow); got != 1 {
		t.Errorf("the seconds without load do not count: %g", got)
	}
	for at := 101; w.sums != nil; at++ {
		if w = w.record(time.Duration(at)*time.Second, 0); at > 200 {
			t.Fatal("memory for nothing")
		}
	}
}

// TestDeclineAgainstHistory: the deque knows the highest count of all that
// were wanted within the window.
func TestDeclineAgainstHistory(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		span := time.Duration(1+r.IntN(120)) * time.Second
		var d decline
		var history []wanted
		var at time.Duration
		for range 300 {
			at += time.Duration(r.Int64N(int64(5 * time.Second)))
			n := r.IntN(1 + r.IntN(30))
			history = append(history, wanted{n, at})
			before, highest := d, d.highest()
			d = d.record(at, n, span)
			want := 0
			for _, h := range history {
				if at-h.at < span {
					want = max(want, h.replicas)
				}
			}
			if d.highest() != want {
				t.Fatalf("seed %d at %s: %d, want %d", seed, at, d.highest(), want)
			}
			before.record(at, 1000, span)
			before.record(at, 0, span)
			if before.highest() != highest || d.highest() != want {
				t.Fatal("a copy changed another")
			}
			if len(d.past) > 30 {
				t.Fatalf("%d entries for 30 counts", len(d.past))
			}
		}
	}
}
