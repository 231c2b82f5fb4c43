package fleet

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"time"
)

// place is where a pod stands between probes.
type place uint8

const (
	nowhere place = iota // not to be asked unless something happens
	waiting              // until its time
	due                  // for a slot
	asking               // a probe is under way
	left                 // it is no more
)

// class is why a pod is asked. Each class has slots and a rate of its own, so
// that none waits for another.
type class uint8

const (
	// fresh: new or lost, and quick to say so. The fewest tries go first: a
	// pod that has just come does not wait for those that crash and return.
	fresh class = iota
	// stale: not started for long, or did not even refuse.
	stale
	// full: serves, without room.
	full
	// calm: serves, with room.
	calm
	classes
)

// The rates, in probes a second. A probe costs some 100 µs of CPU here and as
// much at the pod's side: with no bound, many full pods would eat a core.
const (
	freshRate = 10_000
	staleRate = 1000
	fullRate  = 2000
	calmRate  = 200
	// rateBurst is the part of a second's probes that may go at once.
	rateBurst = 20
)

// line is the pods of one class.
type line struct {
	waiting podHeap // by time
	due     podHeap // by rank
	active  int
	slots   int
	rate    float64
	tokens  float64
	filled  time.Time
}

func newLine(c class, limit int) line {
	// Half of all slots are for those that are quick and that somebody waits
	// for.
	l := line{slots: max(1, limit/8)}
	switch c {
	case fresh:
		l.slots, l.rate = max(1, limit/2), freshRate
	case stale:
		l.slots, l.rate = max(1, limit/4), staleRate
	case full:
		l.rate = fullRate
	case calm:
		l.rate = calmRate
	}
	l.waiting.less = func(a, b *watch) bool { return a.due.Before(b.due) }
	l.due.less = func(a, b *watch) bool {
		if c == fresh && a.tries != b.tries {
			return a.tries < b.tries
		}
		return a.due.Before(b.due)
	}
	return l
}

// dispatch starts what is due and may start, and returns how long nothing else
// will be. The lock is held.
func (pr *Prober) dispatch(ctx context.Context, now time.Time) time.Duration {
	next := time.Hour
	for c := range pr.lines {
		l := &pr.lines[c]
		for l.waiting.Len() > 0 && !l.waiting.pods[0].watch.due.After(now) {
			p := l.waiting.remove(0)
			p.watch.place = due
			l.due.push(p)
		}
		burst := l.rate / rateBurst
		l.tokens = min(burst, l.tokens+l.rate*now.Sub(l.filled).Seconds())
		l.filled = now
		for l.due.Len() > 0 && l.active < l.slots && l.tokens >= 1 {
			l.tokens--
			pr.start(ctx, l.due.remove(0), now)
		}
		if l.waiting.Len() > 0 {
			next = min(next, l.waiting.pods[0].watch.due.Sub(now))
		}
		if l.due.Len() > 0 && l.active < l.slots {
			next = min(next, time.Duration((1-l.tokens)/l.rate*float64(time.Second))+time.Microsecond)
		}
	}
	return max(next, 0)
}

// next is how a pod is to be asked on: why, and how long from now; asked is
// false if it is not until something happens. The lock is held.
func (pr *Prober) next(p *Pod, now time.Time) (c class, pause time.Duration, asked bool) {
	w, said, state := &p.watch, p.Said(), p.State()
	unready := said.Nature == Plain && !p.About().Ready
	switch {
	case state == Stopping, unready && state == Starting:
		return calm, 0, false
	case unready: // the provider said so while it was asked
		return fresh, 0, true
	case state == Started && w.guessed:
		return calm, max(pr.Look, guessLook), true
	case state == Started && w.misses > 0:
		return stale, 10 * pr.Interval, true
	case state == Started && said.Room:
		return calm, pr.Look, true
	case state == Started && said.Guarded && w.tries > guardedTries:
		return full, 10 * pr.Interval, true
	case state == Started:
		return full, min(fullFirst<<min(w.tries, 8), fullPause), true
	}
	// One that does not even refuse holds a slot for long: those that are
	// quick to say where they stand shall not wait behind it.
	age := now.Sub(w.since)
	if age >= freshFor || w.misses > 0 {
		return stale, pr.pause(age), true
	}
	return fresh, pr.pause(age), true
}

// pause is the time between two probes of a pod that is not started for so long:
// an eighth of that, then Interval from 200 ms on, then a fortieth.
func (pr *Prober) pause(age time.Duration) time.Duration {
	if age < freshFor {
		often := min(max(firstInterval, age/8), pr.Interval)
		return min(max(often, age/40), 10*pr.Interval)
	}
	return min(max(10*pr.Interval, age/60), 40*pr.Interval)
}

// jitter is d, a fifth more or less.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d*4/5 + rand.N(d*2/5+1)
}

// podHeap has the least pod first; each knows its index.
type podHeap struct {
	pods []*Pod
	less func(a, b *watch) bool
}

func (h *podHeap) push(p *Pod)           { heap.Push(h, p) }
func (h *podHeap) remove(index int) *Pod { return heap.Remove(h, index).(*Pod) }
func (h *podHeap) fix(index int)         { heap.Fix(h, index) }

// Len, Less, Swap, Push and Pop are heap's.
func (h *podHeap) Len() int           { return len(h.pods) }
func (h *podHeap) Less(i, j int) bool { return h.less(&h.pods[i].watch, &h.pods[j].watch) }

func (h *podHeap) Swap(i, j int) {
	h.pods[i], h.pods[j] = h.pods[j], h.pods[i]
	h.pods[i].watch.index, h.pods[j].watch.index = i, j
}

func (h *podHeap) Push(p any) {
	p.(*Pod).watch.index = len(h.pods)
	h.pods = append(h.pods, p.(*Pod))
}

func (h *podHeap) Pop() any {
	last := len(h.pods) - 1
	p := h.pods[last]
	h.pods[last] = nil
	h.pods = h.pods[:last]
	return p
}
