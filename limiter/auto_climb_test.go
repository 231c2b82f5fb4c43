package limiter

import (
	"math/rand/v2"
	"testing"
)

// curve is a handler as climber sees it: what a request takes in seconds when
// so many are in flight, and the share that brings nothing.
type curve struct {
	took func(inFlight float64) float64
	lost func(inFlight float64) float64
	// load is the most that clients have in flight.
	load float64
}

// seen is a tick of a tenth of a second with limit slots.
func (c curve) seen(limit int) point {
	n := min(float64(limit), c.load)
	if n == 0 {
		return point{time: 0.1}
	}
	took := c.took(n)
	ended := n / took * 0.1
	p := point{time: 0.1, ran: n * 0.1, ended: ended, took: ended * took, squares: ended * took * took}
	if c.load >= float64(limit) {
		p.full = ended
	}
	if c.lost != nil {
		p.lost = ended * c.lost(n)
	}
	return p
}

// climb runs c for so many seconds and returns the best known limit.
func (c *climber) climb(seconds int, h curve, tripped bool) int {
	limit := c.stay().limit
	for range seconds * 10 {
		limit = c.tick(h.seen(limit), tripped).limit
	}
	return c.limit
}

// full is n slots of 10 ms; the rest waits inside.
func full(n float64) func(float64) float64 {
	return func(inFlight float64) float64 { return 0.01 * max(1, inFlight/n) }
}

func TestClimb(t *testing.T) {
	const many = 1e6
	tests := []struct {
		name    string
		start   int
		handler curve
		seconds int
		// The best known limit is between these.
		least, most int
	}{
		{"eight slots", 4, curve{took: full(8), load: many}, 15, 8, 10},
		{"eight slots from far above", 200, curve{took: full(8), load: many}, 30, 8, 10},
		{"one slot", 4, curve{took: full(1), load: many}, 15, 1, 1},
		{"a hundred slots", 4, curve{took: full(100), load: many}, 15, 100, 125},
		{"no end", 4, curve{took: full(many), load: many}, 8, 200, 200},
		{"no end, from the floor", 1, curve{took: full(many), load: many}, 10, 200, 200},
		{"limit not reached", 50, curve{took: full(8), load: 20}, 60, 50, 50},
		{"no traffic", 50, curve{took: full(8)}, 60, 50, 50},
		{"grows only as it is reached", 4, curve{took: full(many), load: 30}, 60, 31, 64},
		{"less comes out beyond sixteen", 4, curve{took: func(n float64) float64 {
			return 0.02 * max(1, n*n/256)
		}, load: many}, 20, 14, 18},
		{"timeouts beyond eight", 64, curve{took: full(many), load: many, lost: func(n float64) float64 {
			return max(0, 1-8/n)
		}}, 30, 8, 10},
		{"timeouts whatever the limit", 64, curve{took: full(many), load: many, lost: func(float64) float64 {
			return 0.2
		}}, 30, 200, 200},
		{"timeouts alone", 64, curve{took: full(8), load: many, lost: func(float64) float64 { return 1 }}, 30, 1, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newClimber(test.start, 200)
			if got := c.climb(test.seconds, test.handler, false); got < test.least || got > test.most {
				t.Errorf("limit %d after %d s, want %d to %d", got, test.seconds, test.least, test.most)
			}
		})
	}
}

func TestClimbFollows(t *testing.T) {
	const many = 1e6
	c := newClimber(4, 200)
	for _, now := range []struct {
		name        string
		handler     curve
		seconds     int
		least, most int
	}{
		{"eight slots", curve{took: full(8), load: many}, 60, 8, 10},
		{"ten times slower", curve{took: func(n float64) float64 { return 10 * full(8)(n) }, load: many}, 60, 8, 10},
		{"as before", curve{took: full(8), load: many}, 60, 8, 10},
		{"nobody comes", curve{took: full(8)}, 3600, 8, 10},
		{"two slots", curve{took: full(2), load: many}, 20, 2, 3},
		{"sixteen slots", curve{took: full(16), load: many}, 30, 15, 20},
	} {
		if got := c.climb(now.seconds, now.handler, false); got < now.least || got > now.most {
			t.Fatalf("%s: limit %d, want %d to %d", now.name, got, now.least, now.most)
		}
	}
}

func TestGuardShrinks(t *testing.T) {
	h := curve{took: full(1000), load: 1000}
	c := newClimber(100, 200)
	if got := c.climb(5, h, true); got < 57 || got > 64 { // 90, 81, 72, 64, 57
		t.Errorf("limit %d after 5 s with a guard tripped, want some 60", got)
	}
	if got := c.climb(100, h, true); got != 1 {
		t.Errorf("limit %d after a long time with a guard tripped, want 1", got)
	}
	if got := c.climb(30, h, false); got != 200 {
		t.Errorf("limit %d after the guard cleared, want 200", got)
	}
	calm := newClimber(100, 200)
	if got := calm.climb(60, curve{took: full(1000), load: 20}, true); got != 100 {
		t.Errorf("limit %d with a guard tripped that few in flight did not trip, want 100", got)
	}
}

// A trial that costs answers ends in tenths of a second; one that costs
// nothing, or too few to be sure, is looked at for its whole window.
func TestRuinousTrialEndsEarly(t *testing.T) {
	steep := func(n float64) float64 { return 0.02 * max(1, n*n/64) }
	for _, test := range []struct {
		name        string
		took        func(float64) float64
		least, most int // ticks
	}{
		{"ruinous", steep, 1, 2},
		{"full", full(8), 10, 12},
	} {
		h, c := curve{took: test.took, load: 1000}, newClimber(8, 200)
		ticks := 0
		for limit := 8; ticks < 100; {
			m := c.tick(h.seen(limit), false)
			if limit != 8 {
				ticks++
			}
			if limit = m.limit; m.cause == Back {
				break
			}
		}
		if ticks < test.least || ticks > test.most {
			t.Errorf("%s: the trial ended after %d ticks, want %d to %d", test.name, ticks, test.least, test.most)
		}
	}
}

// Whatever is seen, the limit stays within its bounds; and while nothing ends
// and nothing refuses, it stays where it is.
func TestClimbBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	some := func() float64 {
		switch random.IntN(4) {
		case 0:
			return 0
		case 1:
			return random.Float64()
		case 2:
			return float64(random.IntN(1000))
		}
		return random.ExpFloat64() * 1e6
	}
	for range 300 {
		highest := 1 + random.IntN(1+random.IntN(MaxLimit))
		c := newClimber(1+random.IntN(highest), highest)
		for range 1000 {
			p := point{
				time: random.Float64(), ran: some(), ended: some(), full: some(),
				lost: some(), took: some(), squares: some(),
			}
			m := c.tick(p, random.IntN(50) == 0)
			if m.limit < 1 || m.limit > highest || c.limit < 1 || c.limit > highest {
				t.Fatalf("limit %d (best %d) of at most %d after %+v", m.limit, c.limit, highest, p)
			}
		}
		c.trial, c.settle = 0, 0
		c.seen = point{}
		still := c.limit
		for range 1000 {
			if m := c.tick(point{time: 0.1}, false); m.limit != still {
				t.Fatalf("limit %d became %d without traffic", still, m.limit)
			}
		}
	}
}
