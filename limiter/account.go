package limiter

import (
	"math/bits"
	"time"
)

// area is the integral of a count over time, in nanoseconds of one slot. 64
// bits would hold five hours of a million slots; 128 hold whatever there will
// be.
type area struct{ high, low uint64 }

// add adds n slots for d nanoseconds.
func (a *area) add(n int, d int64) {
	high, low := bits.Mul64(uint64(n), uint64(d))
	var carry uint64
	a.low, carry = bits.Add64(a.low, low, 0)
	a.high += high + carry
}

const second = uint64(time.Second)

// seconds is the area in slot-seconds.
func (a area) seconds() float64 {
	whole, nanos := bits.Div64(a.high, a.low, second)
	return float64(whole) + float64(nanos)/float64(second)
}

// advance brings the integral of running up to now, right before running
// changes or is read. The caller holds mu, and has read the clock before it
// took mu, which is so held for less long. An event that got mu first may thus
// have read the clock later; now is then when that one happened. Each event is
// so dated within its call and never before the one it follows, which is why
// the integral is exact, never decreases, and never says that more ran than
// the limit.
func (l *Limiter) advance(now int64) {
	if now > l.at {
		l.ran.add(l.running, now-l.at)
		l.at = now
	}
}

// advanceLine brings the integral of waiting up to at, after advance and right
// before the line changes or is read.
func (l *Limiter) advanceLine() {
	l.waited.add(l.line.len, l.at-l.line.at)
	l.line.at = l.at
}

// Stats is what a Limiter has done, all of one instant.
type Stats struct {
	// Running holds a slot now, Waiting stands in line.
	Running, Waiting int
	// RunningSeconds and WaitingSeconds are the integrals of both over the
	// Limiter's life, in slot-seconds: their difference between two readings,
	// divided by the time between, is the mean. They never decrease.
	RunningSeconds, WaitingSeconds float64
	// LastStart is when a slot was taken last; zero before the first time.
	LastStart time.Time
}

// Stats reads the counts and integrals.
func (l *Limiter) Stats() Stats {
	now := time.Now()
	since := now.Sub(l.base)

	l.mu.Lock()
	l.advance(int64(since))
	l.advanceLine()
	running, waiting, ran, waited, last := l.running, l.line.len, l.ran, l.waited, l.last
	l.mu.Unlock()

	s := Stats{
		Running:        running,
		Waiting:        waiting,
		RunningSeconds: ran.seconds(),
		WaitingSeconds: waited.seconds(),
	}
	if last != never {
		// Counted back from now: base's wall clock may since have been set.
		s.LastStart = now.Add(time.Duration(last) - since)
	}
	return s
}
