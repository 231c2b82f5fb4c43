// Package limiter admits work: a bounded number runs at once, a bounded number
// waits its turn, the rest is refused at once. It counts what runs and waits,
// and integrates both over time, so that the mean concurrency over any window
// is exact however seldom it is read.
//
// One mutex guards all of it, and is held for a few nanoseconds: nothing waits
// under it, and the clock is read before it is taken.
package limiter

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// ErrFull is what Try, Acquire and Wait return when there is no free slot and
// no room to wait for one.
var ErrFull = errors.New("limit of concurrent work reached")

// ErrOver is what Try returns when a slot is free, but as many run already as
// the caller allows.
var ErrOver = errors.New("as much runs as was allowed")

// MaxLimit is the highest limit there is, and the most that runs at once even
// when there is none. A million goroutines with a connection each need some
// 10 GB and as many descriptors.
const MaxLimit = 1<<20 - 2

// unlimited is the limit when there is none: what runs at most then.
const unlimited = MaxLimit + 1

// Limiter admits at most Limit at once, in order of arrival. Use New. All
// methods are safe for concurrent use.
//
// The invariant everything rests on: while somebody waits, running >= limit.
// A released slot is handed to the first waiter without ever being free, and
// Resize grants in the same step as it raises the limit. So whoever finds a
// slot free may have it: a newcomer cannot overtake, and a refusal never meets
// a free slot.
type Limiter struct {
	base     time.Time // all times below are nanoseconds since
	capacity int       // of the line
	pool     sync.Pool // of *waiter; not global, so that each synctest bubble has its own

	mu             sync.Mutex // guards what follows, and everything that waits
	running, limit int        // limit > 0: there is none when it is unlimited
	at             int64      // until when ran counts
	ran            area
	last           int64 // when a slot was taken last, or never
	line           line
	waited         area // until line.at
}

const never = -1

// New returns a Limiter of limit slots where queue callers may wait. A limit
// of 0 or less is none: everything is admitted and still counted. A queue of 0
// or less refuses at once. Limits over MaxLimit are MaxLimit.
func New(limit, queue int) *Limiter {
	l := &Limiter{base: time.Now(), capacity: queue, limit: bounded(limit), last: never}
	l.pool.New = func() any { return &waiter{granted: make(chan struct{}, 1)} }
	return l
}

func bounded(limit int) int {
	if limit <= 0 {
		return unlimited
	}
	return min(limit, MaxLimit)
}

// Try takes a slot if one is free, nobody waits for it, and fewer than most run
// now. It returns nil, ErrFull or ErrOver, and never waits. Every nil must be
// followed by one Release, which belongs into a defer.
func (l *Limiter) Try(most int) error { return l.try(l.clock(), most) }

// TryAt is Try for a caller that has read the clock a moment ago for purposes
// of its own, and spares a second reading.
func (l *Limiter) TryAt(now time.Time, most int) error {
	return l.try(int64(now.Sub(l.base)), most)
}

func (l *Limiter) try(now int64, most int) error {
	l.mu.Lock()
	if l.running >= l.limit {
		l.mu.Unlock()
		return ErrFull
	}
	if l.running >= most {
		l.mu.Unlock()
		return ErrOver
	}
	l.start(now)
	l.mu.Unlock()
	return nil
}

// TryAcquire takes a slot if one is free and nobody waits for it.
func (l *Limiter) TryAcquire() bool { return l.Try(math.MaxInt) == nil }

// Acquire takes a slot, waiting in line for it when there is room to wait. It
// returns nil, ErrFull, or the cause of ctx when ctx ended first. ctx is not
// looked at when a slot is free. Every nil must be followed by one Release,
// which belongs into a defer.
func (l *Limiter) Acquire(ctx context.Context) error { return l.Wait(ctx, nil) }

// Release gives a slot back, to the first who waits if anybody does. It panics
// when none is taken.
func (l *Limiter) Release() { l.release(l.clock()) }

// ReleaseAt is Release for a caller that has just read the clock.
func (l *Limiter) ReleaseAt(now time.Time) { l.release(int64(now.Sub(l.base))) }

func (l *Limiter) release(now int64) {
	l.mu.Lock()
	if l.running == 0 {
		l.mu.Unlock()
		panic("limiter: Release without Acquire")
	}
	l.advance(now)
	if l.line.len == 0 || l.running > l.limit {
		l.running--
		l.mu.Unlock()
		return
	}
	// One end and one start at the same instant: as many run on.
	l.advanceLine()
	l.last = l.at
	p := l.line.pop()
	l.mu.Unlock()
	p.granted <- struct{}{}
}

// Met reports whether the next Acquire would not get a slot at once.
func (l *Limiter) Met() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running >= l.limit
}

// Running returns how many hold a slot now.
func (l *Limiter) Running() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running
}

// Waiting returns how many stand in line now.
func (l *Limiter) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line.len
}

// Limit returns the number of slots, 0 for no limit.
func (l *Limiter) Limit() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit == unlimited {
		return 0
	}
	return l.limit
}

// Resize changes the limit; 0 or less is none. Raising it admits as many
// waiters as fit before it returns. Lowering it takes no slot away: what runs
// over the new limit runs on, and nothing new starts until it fits.
func (l *Limiter) Resize(limit int) {
	now := l.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = bounded(limit)
	for l.line.len > 0 && l.running < l.limit {
		l.start(now)
		l.advanceLine()
		l.line.pop().granted <- struct{}{} // which has room for it
	}
}

// start takes a free slot; the caller holds mu and has read the clock before.
func (l *Limiter) start(now int64) {
	l.advance(now)
	l.running++
	l.last = l.at
}

// clock is the time in nanoseconds since New, that of the bubble in a
// synctest.
func (l *Limiter) clock() int64 { return int64(time.Since(l.base)) }
