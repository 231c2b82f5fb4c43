package limiter

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"
)

// The integral of running over time is running·now − Σ starts + Σ ends. The
// sums live outside the word, so a reader could see the one without the
// other. Therefore there are two books, and the word says which one is open.
// A reader turns the open one in the same swap that fixes running and the
// time of reading; later events go to the other book, and the reader waits
// for the few that were swapped in but not yet entered. Nobody waits for the
// reader.
//
// The time of an event is read between loading the word and swapping it. The
// swap fails if any event came between, so times are ordered as the events
// are: the integral is exact, never decreases, and never says that more ran
// than the limit. (Only 2^22 further events inside one such gap, to the one,
// could date an event early, by the length of the gap.)

// book is one side's sum of start times less end times, modulo 2^64, and how
// many events of the word have been entered in it.
type book struct {
	sum     atomic.Uint64
	entered atomic.Uint64
}

// started enters n starts that the swap away from w made at t.
func (l *Limiter) started(w word, t int64, n uint64) {
	l.touch(t)
	b := &l.books[w.side()]
	b.sum.Add(n * uint64(t))
	b.entered.Add(n)
}

// touch notes a start at t.
func (l *Limiter) touch(t int64) {
	for old := l.newest.Load(); t-old >= startGrain; old = l.newest.Load() {
		if l.newest.CompareAndSwap(old, t) {
			return
		}
	}
}

// ended enters one end that the swap away from w made at t.
func (l *Limiter) ended(w word, t int64) {
	b := &l.books[w.side()]
	b.sum.Add(-uint64(t))
	b.entered.Add(1)
}

// ledger is what the readers know of the books.
type ledger struct {
	events uint64    // the word's count after the last turn
	due    [2]uint64 // events that each book must have
	closed [2]uint64 // each book's sum when it was closed last
	raw    uint64    // the integral at the last reading, modulo 2^64 ns (584 slot-years)
	total  integral
}

// integral is a sum of slot-time that outlasts 64 bits of nanoseconds: a
// thousand slots fill those within a year.
type integral struct{ seconds, nanos uint64 }

const second = uint64(time.Second)

// add adds n slots for the time of nanos.
func (i *integral) add(n, nanos uint64) {
	high, low := bits.Mul64(n, nanos)
	low, carry := bits.Add64(low, i.nanos, 0)
	more, rest := bits.Div64(high+carry, low, second)
	i.seconds, i.nanos = i.seconds+more, rest
}

func (i integral) float() float64 {
	return float64(i.seconds) + float64(i.nanos)/float64(second)
}

// Stats is what a Limiter has done, all of one instant.
type Stats struct {
	// Running holds a slot now, Waiting stands in line.
	Running, Waiting int
	// RunningSeconds and WaitingSeconds are the integrals of both over the
	// Limiter's life, in slot-seconds: their difference between two readings,
	// divided by the time between, is the mean. They never decrease.
	RunningSeconds, WaitingSeconds float64
	// LastStart is when a slot was taken last, within a millisecond; zero
	// before the first time.
	LastStart time.Time
}

// Stats reads the counts and integrals. It delays nobody who finds a free
// slot, and itself waits at most for those that are being admitted or leave at
// this moment.
func (l *Limiter) Stats() Stats {
	l.reading.Lock()
	defer l.reading.Unlock()

	l.mu.Lock()
	w, t := l.turnBooks()
	l.waitedUntil(t)
	waiting, waited := l.waiters.len, l.waited
	l.mu.Unlock()

	l.ran.close(&l.books[w.side()], w, t)
	s := Stats{
		Running:        int(w.running()),
		Waiting:        waiting,
		RunningSeconds: l.ran.total.float(),
		WaitingSeconds: waited.float(),
	}
	if last := l.newest.Load(); last != never {
		// Counted back from now: base's wall clock may since have been set.
		now := time.Now()
		s.LastStart = now.Add(time.Duration(last) - now.Sub(l.base))
	}
	return s
}

// turnBooks opens the other book. It returns the word it turned and when.
func (l *Limiter) turnBooks() (word, int64) {
	for {
		w := l.load()
		t := l.clock()
		if l.swap(w, w.turn()) {
			l.books[w.side()].entered.Add(1)
			return w, t
		}
	}
}

// close waits until every event before the turn is in b, the book that was
// open until then, and brings the total up to t.
func (a *ledger) close(b *book, w word, t int64) {
	side := w.side()
	events := (w.events() + 1) & eventMask
	a.due[side] += (events - a.events) & eventMask
	a.events = events
	for (b.entered.Load()-a.due[side])&eventMask != 0 {
		runtime.Gosched()
	}
	a.closed[side] = b.sum.Load()
	raw := w.running()*uint64(t) - a.closed[0] - a.closed[1]
	a.total.add(1, raw-a.raw)
	a.raw = raw
}

// waitedUntil brings the integral of waiting up to t; the caller holds mu and
// changes the number of waiters, if at all, right after.
func (l *Limiter) waitedUntil(t int64) {
	l.waited.add(uint64(l.waiters.len), uint64(t-l.waiters.since))
	l.waiters.since = t
}
