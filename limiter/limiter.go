// Package limiter admits work: a bounded number runs at once, a bounded number
// waits its turn, the rest is refused at once. It counts what runs and waits,
// and integrates both over time, so that the mean concurrency over any window
// is exact however seldom it is read.
//
// Admission is one compare-and-swap on one word. A mutex guards the queue
// alone; nothing that finds a free slot, or finds the queue full of nothing,
// takes it.
package limiter

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFull is what Acquire returns when there is no free slot and no room to
// wait for one.
var ErrFull = errors.New("limit of concurrent work reached")

// ErrOver is what Try returns when a slot is free, but as many run already as
// the caller allows.
var ErrOver = errors.New("as much runs as was allowed")

// MaxLimit is the highest limit there is, and the most that runs at once even
// when there is none: what the word below holds. A million goroutines with a
// connection each need some 10 GB and as many descriptors.
const MaxLimit = 1<<fieldBits - 2

// Limiter admits at most Limit at once, in order of arrival. Use New. All
// methods are safe for concurrent use.
//
// The invariant everything rests on: while somebody waits, running >= limit.
// A released slot is handed to the first waiter without ever being free, and
// Resize grants in the same step as it raises the limit. So a newcomer cannot
// overtake, and a refusal never meets a free slot.
type Limiter struct {
	state    atomic.Uint64 // a word
	books    [2]book       // see account.go
	newest   atomic.Int64  // start of the newest holder, within startGrain; never is before the first
	base     time.Time
	capacity int // of the queue

	mu      sync.Mutex // guards what follows, and everything that waits
	waiters list
	waited  integral

	reading sync.Mutex // guards what follows: one reader of the books at a time
	ran     ledger

	pool sync.Pool // of *waiter; not global, so that each synctest bubble has its own
}

// startGrain is how exactly Stats.LastStart is kept. Whoever reads it thinks
// in seconds, and writing it once per millisecond spares an atomic write per
// start.
const startGrain = int64(time.Millisecond)

const never = -startGrain

// New returns a Limiter of limit slots where queue callers may wait. A limit
// of 0 or less is none: everything is admitted and still counted. A queue of 0
// or less refuses at once. Limits over MaxLimit are MaxLimit.
func New(limit, queue int) *Limiter {
	l := &Limiter{base: time.Now(), capacity: queue}
	l.state.Store(uint64(word(0).withLimit(limit)))
	l.newest.Store(never)
	l.pool.New = func() any { return &waiter{granted: make(chan struct{}, 1)} }
	return l
}

// Try takes a slot if one is free, nobody waits for it, and fewer than most run
// now. It returns nil, ErrFull or ErrOver, and never waits. Every nil must be
// followed by one Release, which belongs into a defer.
func (l *Limiter) Try(most int) error {
	for {
		w := l.load()
		if !w.free() {
			return ErrFull
		}
		if int(w.running()) >= most {
			return ErrOver
		}
		t := l.clock()
		if l.swap(w, w.start(1)) {
			l.started(w, t, 1)
			return nil
		}
	}
}

// TryAcquire takes a slot if one is free and nobody waits for it.
func (l *Limiter) TryAcquire() bool { return l.Try(math.MaxInt) == nil }

// Acquire takes a slot, waiting in line for it when there is room to wait. It
// returns nil, ErrFull, or the cause of ctx when ctx ended first. ctx is not
// looked at when a slot is free. Every nil must be followed by one Release,
// which belongs into a defer.
func (l *Limiter) Acquire(ctx context.Context) error {
	if l.TryAcquire() {
		return nil
	}
	return l.Wait(ctx, nil)
}

// Wait is Acquire for a caller that Try has just told ErrFull. It calls
// queued, unless that is nil, once it stands in line and before it waits;
// never when it gets a slot or is refused at once.
func (l *Limiter) Wait(ctx context.Context, queued func()) error {
	if l.capacity <= 0 {
		return ErrFull
	}
	return l.wait(ctx, queued)
}

// Release gives a slot back, to the first who waits if anybody does. It panics
// when none is taken.
func (l *Limiter) Release() {
	for {
		w := l.load()
		if w.running() == 0 {
			panic("limiter: Release without Acquire")
		}
		if w.queued() {
			if l.handOver() {
				return
			}
			continue
		}
		t := l.clock()
		if l.swap(w, w.end()) {
			l.ended(w, t)
			return
		}
	}
}

// Met reports whether the next Acquire would not get a slot at once.
func (l *Limiter) Met() bool { return !l.load().free() }

// Running returns how many hold a slot now.
func (l *Limiter) Running() int { return int(l.load().running()) }

// Waiting returns how many stand in line now.
func (l *Limiter) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiters.len
}

// Limit returns the number of slots, 0 for no limit.
func (l *Limiter) Limit() int {
	limit := l.load().limit()
	if limit == unlimited {
		return 0
	}
	return int(limit)
}

// Resize changes the limit; 0 or less is none. Raising it admits as many
// waiters as fit before it returns. Lowering it takes no slot away: what runs
// over the new limit runs on, and nothing new starts until it fits.
func (l *Limiter) Resize(limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		w := l.load()
		t := l.clock()
		next := w.withLimit(limit)
		grants := 0
		if room := int(next.limit()) - int(next.running()); room > 0 {
			grants = min(room, l.waiters.len)
		}
		next = next.start(uint64(grants))
		if grants == l.waiters.len {
			next = next.withoutQueue()
		}
		if !l.swap(w, next) {
			continue
		}
		if grants > 0 {
			l.started(w, t, uint64(grants))
			l.waitedUntil(t)
		}
		for range grants {
			l.waiters.pop().granted <- struct{}{}
		}
		return
	}
}

func (l *Limiter) load() word { return word(l.state.Load()) }

func (l *Limiter) swap(old, next word) bool {
	return l.state.CompareAndSwap(uint64(old), uint64(next))
}

// clock is the time in nanoseconds since New, that of the bubble in a
// synctest.
func (l *Limiter) clock() int64 { return int64(time.Since(l.base)) }
