package queue

import (
	"testing"
	"time"
)

// TestWanted: a place that is free has a call fetched at once; those ahead of
// need come once half of them is gone.
func TestWanted(t *testing.T) {
	const kib = 1 << 10
	for _, c := range []struct {
		limit, running, waiting, bytes, want int
		mean                                 time.Duration
	}{
		{limit: 0, want: 0},
		{limit: 5, want: 5},
		{limit: 5, running: 5, want: 0},
		{limit: 10, want: 60, mean: 10 * time.Millisecond},
		{limit: 10, running: 9, want: 51, mean: 10 * time.Millisecond},
		{limit: 10, running: 10, waiting: 50, want: 0, mean: 10 * time.Millisecond},
		{limit: 10, running: 10, waiting: 49, want: 0, mean: 10 * time.Millisecond},
		{limit: 10, running: 10, waiting: 26, want: 0, mean: 10 * time.Millisecond},
		{limit: 10, running: 10, waiting: 25, want: 25, mean: 10 * time.Millisecond},
		{limit: 10, running: 10, waiting: 0, want: 50, mean: 10 * time.Millisecond},
		{limit: 2, running: 2, waiting: 0, want: 1, mean: 400 * time.Millisecond}, // one ahead
		{limit: 2, running: 2, waiting: 1, want: 0, mean: 400 * time.Millisecond},
		{limit: 2, running: 1, waiting: 0, want: 2, mean: 400 * time.Millisecond},
		{limit: 2, running: 2, waiting: 0, want: 0, mean: prefetchNever},
		{limit: 10, running: 10, waiting: 20, bytes: maxHeldBytes, want: 0, mean: 10 * time.Millisecond},
		{limit: 10, running: 9, waiting: 20, bytes: 2 * maxHeldBytes, want: 0, mean: 10 * time.Millisecond},
	} {
		w := flow{running: map[*flight]struct{}{}, limit: c.limit, mean: c.mean, size: kib}
		for range c.running {
			w.running[&flight{}] = struct{}{}
		}
		if got := max(0, w.wanted(c.waiting, c.bytes)); got != c.want {
			t.Errorf("%+v: %d wanted", c, got)
		}
	}
}
