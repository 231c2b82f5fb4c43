package queue

import (
	"hash/fnv"
	"math"
	"time"

	"github.com/weir-run/weir/fleet"
)

const (
	// placing: for so long after a call was given to the gateway, what the gateway says of its pods may not count it yet.
	placing = 5 * time.Millisecond
	// prefetchFor is for how long pods find calls here when theirs have ended,
	// and the store is asked meanwhile.
	prefetchFor = 50 * time.Millisecond
	// prefetchNever is how long calls take of which none is fetched ahead: the
	// way to the store is nothing to them, and other weirs may have pods.
	prefetchNever = 500 * time.Millisecond
	// maxPrefetch and maxHeldBytes bound what is fetched ahead for a function;
	// with more at once, as many as run.
	maxPrefetch  = 64
	maxHeldBytes = 4 << 20
)

// flow is how many calls of a function may be at its pods, and how many here.
type flow struct {
	running map[*flight]struct{}
	// limit is how many may run at once, of this weir's.
	limit int
	// grow is when to look again, for the limit may be higher than it was safe
	// to say. Since rising it could be risen.
	grow, rising time.Time
	risen        int
	// asleep: no pod had started at the last look; awoke is when one had then.
	asleep bool
	awoke  time.Time
	// mean is how long a call takes, size how large one is.
	mean time.Duration
	size float64
}

func newFlow() flow { return flow{running: map[*flight]struct{}{}, asleep: true} }

// measure sets the limit by what the gateway says. changed is closed when it
// may say something else.
func (w *flow) measure(q *Queue, e *fleet.Entry, now time.Time) (changed <-chan struct{}) {
	room, started, changed := q.pods.Room(e)
	rank, weirs := q.share()
	mine := (rank + turn(e)) % weirs
	w.grow = time.Time{}
	if started == 0 {
		// One call wakes the function, and is held until a pod has started.
		w.asleep, w.limit = true, 0
		if mine == 0 {
			w.limit = 1
		}
	} else {
		if w.asleep {
			w.asleep, w.awoke = false, now
		}
		w.follow(len(w.running)+max(0, room), w.unplaced(now), now)
	}
	if most := e.Function().Spec.AsyncConcurrency; most > 0 {
		own := most / weirs
		if mine < most%weirs {
			own++
		}
		w.limit = min(w.limit, own)
	}
	return changed
}

// follow sets the limit to high, which is what runs and what there is room for,
// though of young calls it is not known whether the room counts them. A limit
// that falls does so at once. One that rises while calls run does so when it
// was safe to for a while: a place may be free again, and its call not back.
func (w *flow) follow(high, young int, now time.Time) {
	low := high - young
	switch {
	case high <= w.limit || len(w.running) == 0:
		w.limit, w.rising = high, time.Time{}
		return
	case low <= w.limit:
		w.rising = time.Time{}
	case w.rising.IsZero():
		w.rising, w.risen = now, low
	default:
		w.risen = min(w.risen, low)
		if now.Sub(w.rising) >= placing {
			w.limit, w.rising = w.risen, time.Time{}
		}
	}
	w.grow = now.Add(placing)
	if !w.rising.IsZero() {
		w.grow = w.rising.Add(placing)
	}
}

// turn has another weir begin for each function.
func turn(e *fleet.Entry) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(e.Function().Ref.String()))
	return int(h.Sum32() >> 1)
}

// unplaced counts running calls that what the gateway says may not count: those
// that it was given a moment ago, and those that waited for a pod to start.
func (w *flow) unplaced(now time.Time) (n int) {
	since := now.Add(-placing).UnixNano()
	waking := now.Sub(w.awoke) < placing
	for f := range w.running {
		placed := f.placed.Load()
		if placed == 0 || placed > since && !f.counted.Load() || waking && placed <= w.awoke.UnixNano() {
			n++
		}
	}
	return n
}

// wanted is how many more calls should be here, given those that wait. Ahead of
// need they are fetched by the half, for each asking costs the store's time.
func (w *flow) wanted(waiting, bytes int) int {
	if w.limit == 0 {
		return 0
	}
	n := w.limit - len(w.running) - waiting
	ahead := w.ahead()
	if ahead > 0 && w.size > 0 {
		ahead = min(ahead, int(float64(maxHeldBytes-bytes)/w.size))
	}
	ahead = max(0, ahead)
	if n <= 0 && n+ahead < ahead/2 {
		return 0
	}
	return n + ahead
}

// ahead is how many calls are fetched before there is a pod for them.
func (w *flow) ahead() int {
	if w.asleep || w.mean == 0 || w.mean >= prefetchNever {
		return 0
	}
	n := math.Ceil(float64(w.limit) * float64(prefetchFor) / float64(w.mean))
	return int(min(n, float64(max(maxPrefetch, w.limit))))
}

// learn takes how long a call took.
func (w *flow) learn(took time.Duration) {
	took = max(took, time.Microsecond)
	if w.mean == 0 || w.mean >= prefetchNever && took < prefetchNever {
		w.mean = took
		return
	}
	w.mean += (took - w.mean) / 8
}

// weigh takes how large a call is.
func (w *flow) weigh(bytes int) {
	if w.size == 0 {
		w.size = float64(bytes)
		return
	}
	w.size += (float64(bytes) - w.size) / 8
}
