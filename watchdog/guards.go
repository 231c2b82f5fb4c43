package watchdog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/limiter"
	"github.com/weir-run/weir/limiter/guard"
)

// guards is what keeps the function from running out of something, with what
// the watchdog remembers for it.
type guards struct {
	*guard.Guard
	limiter *limiter.Limiter
	gate    *gate // nil unless the handler has to start
	// stuckAfter is stuck_timeout; 0 is off.
	stuckAfter time.Duration

	finished atomic.Uint64 // invocations that ended
	held     atomic.Int64  // requests that wait for the guard to learn
	busy     atomic.Int64  // when more than one was in flight last, in unix nanoseconds
}

func (w *Watchdog) newGuards() *guards {
	g := &guards{
		Guard: guard.New(guard.Config{
			Memory: w.cfg.MaxMemory, Descriptors: w.cfg.MaxFds, Processes: w.cfg.MaxPids,
			Disk: w.cfg.MinDisk, DiskPath: w.cfg.DiskPath,
		}),
		limiter: w.limiter, stuckAfter: w.cfg.StuckTimeout,
	}
	g.Log = w.lines.printf
	g.Handler = func() int { return int(w.childPID.Load()) }
	g.Load = func() guard.Load {
		running := g.running()
		if running > 1 {
			g.busy.Store(time.Now().UnixNano())
		}
		return guard.Load{Running: running, Finished: g.finished.Load()}
	}
	return g
}

// guard starts what watches the resources and what moves an automatic limit,
// and returns what ends both. The first samples are taken when it returns.
func (w *Watchdog) guard() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.guards.Run(ctx) })
	if w.auto != nil {
		running.Go(func() { w.auto.Run(ctx) })
	}
	first, done := context.WithTimeout(ctx, firstSample)
	defer done()
	_ = w.guards.Await(first)
	return func() {
		cancel()
		running.Wait()
	}
}

// newAuto is what moves the limit when max_inflight is auto, else nil.
func (w *Watchdog) newAuto() *limiter.Auto {
	if !w.cfg.AutoInflight {
		return nil
	}
	a := limiter.NewAuto(w.limiter, w.cfg.MaxInflight)
	a.Tripped = func() bool {
		_, _, tripped := w.guards.Tripped()
		return tripped
	}
	if w.cfg.LogDebug {
		a.Changed = func(c limiter.Change) {
			w.lines.printf("max_inflight: %d, was %d: %s; %.1f were in flight, one took %s", c.To, c.From, c.Cause, c.InFlight, c.Took.Round(time.Microsecond))
		}
	}
	return a
}

// firstSample bounds the wait for the first sample, which takes less than a
// millisecond.
const firstSample = 100 * time.Millisecond

// Bounds of holding requests while the guard learns what one takes: as long as
// a client finds a cold start normal, and as many as wait for a handler that
// starts.
const (
	learnTime = 2 * time.Second
	maxHeld   = minEarly
)

// running is how many the handler has.
func (g *guards) running() int {
	n := g.limiter.Running()
	if g.gate != nil {
		n -= int(g.gate.early.Load())
	}
	return max(0, n)
}

// try takes a free slot if the guards let one more run: nil,
// limiter.ErrFull, limiter.ErrOver, or context.Canceled for a client that left
// meanwhile.
func (g *guards) try(ctx context.Context, now time.Time) error {
	if g.gate != nil && !g.gate.opened.Load() {
		return g.limiter.TryAt(now, math.MaxInt) // asked when the gate opens
	}
	v := g.Verdict()
	err := g.limiter.TryAt(now, v.Most())
	if err == limiter.ErrOver && v.Learning() {
		err = g.attempt(ctx, g.limiter.Try)
	}
	return err
}

// attempt asks admit with the number of requests that may run, until the
// answer is not limiter.ErrOver. While the guard knows too little to let more
// run, the request is held for the samples that tell more.
func (g *guards) attempt(ctx context.Context, admit func(most int) error) error {
	v := g.Verdict()
	err := admit(v.Most())
	if err != limiter.ErrOver || !v.Learning() {
		return err
	}
	if g.held.Add(1) > maxHeld {
		g.held.Add(-1)
		return err
	}
	defer g.held.Add(-1)
	patience, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	for err == limiter.ErrOver && v.Learning() {
		if g.Await(patience) != nil {
			if ctx.Err() != nil {
				return context.Canceled
			}
			return err
		}
		v = g.Verdict()
		err = admit(v.Most())
	}
	return err
}

// confirm asks the guards about a slot that was granted after a wait, and
// gives it back when they do not let it be used: nil, limiter.ErrOver, or
// context.Canceled.
func (g *guards) confirm(ctx context.Context) error {
	if g.running() <= g.Verdict().Most() {
		return nil
	}
	g.limiter.Release()
	err := g.try(ctx, time.Now())
	if errors.Is(err, limiter.ErrFull) { // somebody else has the slot now
		return limiter.ErrOver
	}
	return err
}

// full says why the next request would not run, "" when it would.
func (g *guards) full() string {
	v := g.Verdict()
	if g.running() < v.Most() {
		return ""
	}
	if v.Learning() {
		return fmt.Sprintf("%s: too little is known yet of what a request takes", v.Resource())
	}
	if r, _, ok := g.Tripped(); ok && r == v.Resource() {
		return fmt.Sprintf("%s: past its mark", r)
	}
	return fmt.Sprintf("%s: too little left for one more request", v.Resource())
}

// refusal is the answer to a request that the guards do not let run.
func (g *guards) refusal() (reason guard.Resource, body string) {
	r := g.Verdict().Resource()
	return r, fmt.Sprintf("Too little %s left to take more requests; try again, or elsewhere.\n", nouns[r])
}

var nouns = map[guard.Resource]string{
	guard.Memory: "memory", guard.Descriptors: "file descriptors", guard.Processes: "processes", guard.Disk: "disk",
}

// spare reports whether a request may wait: what waits takes descriptors, and
// its body may be written to disk.
func (g *guards) spare() bool {
	v := g.Verdict()
	return v.Most() > 0 || v.Resource() != guard.Descriptors && v.Resource() != guard.Disk
}

// stuck is why liveness fails: a guard has been tripped for stuck_timeout, and
// at most one request was in flight for as long. It is not load then that uses
// up the resource, and only a new start gives it back.
func (w *Watchdog) stuck() string {
	g := w.guards
	if g.stuckAfter <= 0 {
		return ""
	}
	r, since, ok := g.Tripped()
	if !ok {
		return ""
	}
	if busy := time.Unix(0, g.busy.Load()); busy.After(since) {
		since = busy
	}
	if time.Since(since) < g.stuckAfter {
		return ""
	}
	return fmt.Sprintf("stuck: %s past its mark for %s with at most one request in flight", r, g.stuckAfter)
}
