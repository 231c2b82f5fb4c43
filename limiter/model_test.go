package limiter

import (
	"context"
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// model is what a Limiter must do, written without regard for speed: one
// goroutine, a slice for the line, the integrals summed step by step.
type model struct {
	limit, capacity int
	running         int
	line            []*caller
	ran, waited     time.Duration
	last            time.Time
}

type caller struct {
	leave context.CancelCauseFunc
	got   chan error
}

var errLeft = errors.New("left")

func (m *model) free() bool { return m.limit <= 0 || m.running < m.limit }

func (m *model) pass(d time.Duration) {
	m.ran += d * time.Duration(m.running)
	m.waited += d * time.Duration(len(m.line))
}

// admit starts all in line that may start now, and returns them.
func (m *model) admit() (granted []*caller) {
	for len(m.line) > 0 && m.free() {
		granted = append(granted, m.line[0])
		m.line = m.line[1:]
		m.start()
	}
	return granted
}

func (m *model) start() {
	m.running++
	m.last = time.Now()
}

// A million random steps in a bubble, where time stands still unless a step
// moves it: after each, the Limiter and the model agree on who got a slot, who
// was refused, who waits in which order, and on both integrals to the
// nanosecond.
func TestModel(t *testing.T) {
	steps := 1_000_000
	if testing.Short() {
		steps = 50_000
	}
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			limit, capacity := []int{3, 1, 0, 7}[seed], []int{5, 0, 2, 40}[seed]
			d := &drive{
				T: t, rng: rng, l: New(limit, capacity),
				m: model{limit: limit, capacity: capacity},
			}
			for range steps / 4 {
				d.step()
			}
			d.finish()
		})
	}
}

type drive struct {
	*testing.T
	rng *rand.Rand
	l   *Limiter
	m   model
}

func (d *drive) step() {
	switch n := d.rng.IntN(100); {
	case n < 10:
		pass := time.Duration(d.rng.IntN(3_000_000))
		time.Sleep(pass)
		d.m.pass(pass)
	case n < 42:
		d.acquire()
	case n < 55:
		d.try()
	case n < 87:
		d.release()
	case n < 93:
		d.leave()
	case n < 96:
		d.resize()
	default:
		d.compare()
	}
	if met := d.l.Met(); met != !d.m.free() {
		d.Fatalf("Met() = %v with %d of %d running, %d waiting", met, d.m.running, d.m.limit, len(d.m.line))
	}
	if running, waiting := d.l.Running(), d.l.Waiting(); running != d.m.running || waiting != len(d.m.line) {
		d.Fatalf("Running() = %d, Waiting() = %d; want %d, %d", running, waiting, d.m.running, len(d.m.line))
	}
}

// acquire calls Acquire or Wait, which differ in that Wait tells when it
// waits.
func (d *drive) acquire() {
	told, ahead := 0, len(d.m.line)
	queued := func() {
		told++
		if n := d.l.Waiting(); n != ahead+1 {
			d.Errorf("%d in line when told to be the next after %d", n, ahead)
		}
	}
	call, tells := d.l.Acquire, 0
	if d.rng.IntN(2) == 0 {
		call, tells = func(ctx context.Context) error { return d.l.Wait(ctx, queued) }, 1
	}
	switch {
	case d.m.free():
		if err := call(context.Background()); err != nil {
			d.Fatalf("%v with %d of %d running", err, d.m.running, d.m.limit)
		}
		d.m.start()
		tells = 0
	case len(d.m.line) >= d.m.capacity:
		if err := call(context.Background()); !errors.Is(err, ErrFull) {
			d.Fatalf("%v, want ErrFull with %d of %d running, %d of %d waiting",
				err, d.m.running, d.m.limit, len(d.m.line), d.m.capacity)
		}
		tells = 0
	default:
		ctx, cancel := context.WithCancelCause(context.Background())
		c := &caller{leave: cancel, got: make(chan error, 1)}
		go func() { c.got <- call(ctx) }()
		synctest.Wait()
		d.m.line = append(d.m.line, c)
		d.nobodyGot()
	}
	if told != tells {
		d.Fatalf("told %d times that it waits, want %d", told, tells)
	}
}

func (d *drive) try() {
	most := d.rng.IntN(12) - 1
	var want error
	switch {
	case !d.m.free():
		want = ErrFull
	case d.m.running >= most:
		want = ErrOver
	}
	if got := d.l.Try(most); got != want {
		d.Fatalf("Try(%d) = %v, want %v with %d of %d running, %d waiting", most, got, want, d.m.running, d.m.limit, len(d.m.line))
	}
	if want == nil {
		d.m.start()
	}
}

func (d *drive) release() {
	if d.m.running == 0 {
		return
	}
	d.l.Release()
	d.m.running--
	d.granted(d.m.admit())
}

func (d *drive) leave() {
	if len(d.m.line) == 0 {
		return
	}
	i := d.rng.IntN(len(d.m.line))
	c := d.m.line[i]
	d.m.line = slices.Delete(d.m.line, i, i+1)
	c.leave(errLeft)
	synctest.Wait()
	if err := d.outcome(c); !errors.Is(err, errLeft) {
		d.Fatalf("Acquire() = %v for one that left", err)
	}
	d.nobodyGot()
}

func (d *drive) resize() {
	limit := d.rng.IntN(10) - 1
	d.l.Resize(limit)
	d.m.limit = limit
	d.granted(d.m.admit())
	if got := d.l.Limit(); got != max(0, limit) {
		d.Fatalf("Limit() = %d after Resize(%d)", got, limit)
	}
}

func (d *drive) granted(callers []*caller) {
	if len(callers) > 0 {
		synctest.Wait()
	}
	for _, c := range callers {
		if err := d.outcome(c); err != nil {
			d.Fatalf("Acquire() = %v for the next in line", err)
		}
		c.leave(nil) // too late to matter
	}
	d.nobodyGot()
}

func (d *drive) outcome(c *caller) error {
	select {
	case err := <-c.got:
		return err
	default:
		d.Fatal("Acquire still waits for one that should be through")
		return nil
	}
}

func (d *drive) nobodyGot() {
	for i, c := range d.m.line {
		if len(c.got) > 0 {
			d.Fatalf("Acquire() = %v for number %d in line", <-c.got, i)
		}
	}
}

func (d *drive) compare() {
	s := d.l.Stats()
	if s.Running != d.m.running || s.Waiting != len(d.m.line) {
		d.Fatalf("running %d, waiting %d; want %d, %d", s.Running, s.Waiting, d.m.running, len(d.m.line))
	}
	if ran := d.l.ran.duration(); ran != d.m.ran {
		d.Fatalf("integral of running %v, want %v", ran, d.m.ran)
	}
	if waited := d.l.waited.duration(); waited != d.m.waited {
		d.Fatalf("integral of waiting %v, want %v", waited, d.m.waited)
	}
	if !s.LastStart.Equal(d.m.last) {
		d.Fatalf("last start %v, want %v", s.LastStart, d.m.last)
	}
}

func (a area) duration() time.Duration {
	seconds, nanos := bits.Div64(a.high, a.low, second)
	return time.Duration(seconds)*time.Second + time.Duration(nanos)
}

func (d *drive) finish() {
	for _, c := range d.m.line {
		c.leave(errLeft)
	}
	synctest.Wait()
	d.m.line = nil
	for ; d.m.running > 0; d.m.running-- {
		d.l.Release()
	}
	d.compare()
	time.Sleep(time.Hour) // nothing runs: the integrals stand still
	d.compare()
}
