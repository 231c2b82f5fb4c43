package limiter

import (
	"context"
	"sync/atomic"
	"time"
)

// Auto finds the limit of a Limiter that nobody knows. It looks for the
// smallest limit beyond which more work at once brings no more answers: once
// in a while it tries a little more, or a little less, and keeps what the
// answers that came out say is better (auto_climb.go; docs/decisions/0010). Use
// NewAuto, set the fields, then Run. It is the only one that may resize its
// Limiter.
type Auto struct {
	// Changed, when not nil, is called by Run's goroutine after each change
	// of the limit, trials included: some in a second at the start, some in a
	// minute later. It must not block.
	Changed func(Change)
	// Tripped, when not nil, is asked by Run's goroutine every autoTick
	// whether a guard refuses work now.
	Tripped func() bool

	l     *Limiter
	climb climber

	// The path adds, Run takes away. ends counts invocations in its low half
	// and those that ended at a full limit in its high half.
	_       [64]byte // a line of their own: Run writes what is above
	ends    atomic.Uint64
	lost    atomic.Uint64
	took    atomic.Int64  // nanoseconds
	squares atomic.Uint64 // of squareUnit
	pressed atomic.Bool
}

// Change is one change of the limit.
type Change struct {
	From, To int
	Cause    Cause
	// InFlight is the mean number in flight while From was the limit, as far
	// as it was looked at; Took is the mean time of an invocation then, and
	// for each good answer where some are lost.
	InFlight float64
	Took     time.Duration
}

// Cause is why the limit changed.
type Cause string

const (
	// More and Less are trials: the limit is raised, or lowered, to see what
	// becomes of the answers.
	More Cause = "more on trial"
	Less Cause = "less on trial"
	// Back ends a trial that was no better.
	Back Cause = "back from trial"
	// Guarded is less because a guard refuses work.
	Guarded Cause = "guard tripped"
)

const (
	// autoTick is how often Run looks: a tenth of the shortest window, so that
	// a trial that does harm ends long before its window does.
	autoTick = 100 * time.Millisecond
	// squareUnit is the unit of the times whose squares are summed. It is
	// enough for time that matters beside a window, and ten thousand hours
	// still fit.
	squareUnit = 100 * time.Microsecond
	// longestTook bounds what a single invocation adds to the squares.
	longestTook = time.Hour
	// autoStart is the limit before anything is known. A handler that does
	// one thing at a time is not buried by it, and one that carries anything
	// is given hundreds after three windows.
	autoStart = 4
)

// NewAuto returns an Auto for l and resizes l to where it starts. The limit
// never is over highest, nor under 1.
func NewAuto(l *Limiter, highest int) *Auto {
	highest = min(max(highest, 1), MaxLimit)
	a := &Auto{l: l, climb: newClimber(min(autoStart, highest), highest)}
	l.Resize(a.climb.limit)
	return a
}

// Observe is told of each invocation that ends, before its slot is released,
// and how long it held the slot. It allocates nothing.
func (a *Auto) Observe(took time.Duration) {
	end := uint64(1)
	if a.l.Met() {
		end |= 1 << 32
	}
	a.took.Add(int64(took))
	n := uint64(min(max(took, 0), longestTook) / squareUnit)
	a.squares.Add(n * n)
	a.ends.Add(end)
}

// Timeout is told, besides Observe, of an invocation whose time limit ended
// it: it held a slot and brought nothing.
func (a *Auto) Timeout() { a.lost.Add(1) }

// Waited is told of a request that stood in line for d before it got its slot:
// the limit was reached, whatever Observe saw. How long says nothing about the
// limit, since all that a smaller one would spare a request inside it would
// wait outside.
func (a *Auto) Waited(d time.Duration) {
	if d > 0 && !a.pressed.Load() {
		a.pressed.Store(true)
	}
}

// Run moves the limit until ctx ends, and leaves it where it is then.
func (a *Auto) Run(ctx context.Context) {
	tick := time.NewTicker(autoTick)
	defer tick.Stop()
	at, ran := time.Now(), a.l.Stats().RunningSeconds
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, total := time.Now(), a.l.Stats().RunningSeconds
		seen := a.seen()
		seen.time, seen.ran = now.Sub(at).Seconds(), total-ran
		at, ran = now, total
		a.apply(a.climb.tick(seen, a.Tripped != nil && a.Tripped()))
	}
}

// seen takes what ended since it was called last. An invocation that ends
// meanwhile may be counted in part now and in part the next time.
func (a *Auto) seen() point {
	ends := a.ends.Swap(0)
	p := point{
		ended:   float64(ends & (1<<32 - 1)),
		full:    float64(ends >> 32),
		lost:    float64(a.lost.Swap(0)),
		took:    time.Duration(a.took.Swap(0)).Seconds(),
		squares: float64(a.squares.Swap(0)) * squareUnit.Seconds() * squareUnit.Seconds(),
	}
	if a.pressed.Swap(false) {
		p.full = max(p.full, 1)
	}
	return p
}

func (a *Auto) apply(m move) {
	from := a.l.Limit()
	if m.limit == from {
		return
	}
	a.l.Resize(m.limit)
	if a.Changed != nil {
		a.Changed(Change{
			From: from, To: m.limit, Cause: m.cause,
			InFlight: m.seen.inFlight(),
			Took:     time.Duration(m.seen.cost() * float64(time.Second)),
		})
	}
}
