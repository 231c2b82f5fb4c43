package limiter_test

import (
	"math"
	"time"
)

// inside is a handler that works on slots requests at once, each for the time
// that work says when it is begun; the others wait inside, in order. No slots
// is no end of them.
type inside struct {
	s     *simulation
	slots func(at time.Duration) int
	work  func(at time.Duration, busy int) time.Duration
	busy  int
	line  []func()
}

func (h *inside) serve(done func()) {
	h.line = append(h.line, done)
	h.begin()
}

func (h *inside) begin() {
	for len(h.line) > 0 && (h.slots == nil || h.busy < h.slots(h.s.at)) {
		done := h.line[0]
		h.line = h.line[1:]
		h.busy++
		h.s.after(h.work(h.s.at, h.busy), func() {
			h.busy--
			done()
			h.begin()
		})
	}
}

func always[T any](v T) func(time.Duration) T { return func(time.Duration) T { return v } }

// slots works on n at once, for as long as work.
func slots(n int, work time.Duration) func(*simulation) handler {
	return func(s *simulation) handler {
		return &inside{s: s, slots: always(n), work: func(time.Duration, int) time.Duration { return work }}
	}
}

// free has no limit of its own.
func free(work time.Duration) func(*simulation) handler {
	return func(s *simulation) handler {
		return &inside{s: s, work: func(time.Duration, int) time.Duration { return work }}
	}
}

// doubling takes work while at most knee are in it, and twice as long for
// every width more.
func doubling(work time.Duration, knee, width int) func(*simulation) handler {
	return func(s *simulation) handler {
		return &inside{s: s, work: func(_ time.Duration, busy int) time.Duration {
			over := max(0, float64(busy-knee)/float64(width))
			return time.Duration(float64(work) * math.Exp2(over))
		}}
	}
}

// cliff takes work while at most knee are in it; with one more it is twice as
// long, and beyond that no more answers come however many are in it.
func cliff(work time.Duration, knee int) func(*simulation) handler {
	return func(s *simulation) handler {
		return &inside{s: s, work: func(_ time.Duration, busy int) time.Duration {
			if busy <= knee {
				return work
			}
			return 2 * work * time.Duration(busy) / time.Duration(knee)
		}}
	}
}

// mix takes long once in every, else short, on n slots; 0 is no end of them.
func mix(n int, short, long time.Duration, every int) func(*simulation) handler {
	return func(s *simulation) handler {
		h := &inside{s: s, work: func(time.Duration, int) time.Duration {
			if s.random.IntN(every) == 0 {
				return long
			}
			return short
		}}
		if n > 0 {
			h.slots = always(n)
		}
		return h
	}
}

// changing has a number of slots that changes.
func changing(work time.Duration, n func(time.Duration) int) func(*simulation) handler {
	return func(s *simulation) handler {
		return &inside{s: s, slots: n, work: func(time.Duration, int) time.Duration { return work }}
	}
}

// between is in from from to to, and out before and after.
func between[T any](from, to time.Duration, in, out T) func(time.Duration) T {
	return func(at time.Duration) T {
		if at >= from && at < to {
			return in
		}
		return out
	}
}

// spell takes another time from from to to.
func spell(n int, work, slow time.Duration, from, to time.Duration) func(*simulation) handler {
	return func(s *simulation) handler {
		return &inside{s: s, slots: always(n), work: func(at time.Duration, _ int) time.Duration {
			if at >= from && at < to {
				return slow
			}
			return work
		}}
	}
}
