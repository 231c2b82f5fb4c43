package limiter_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/limiter"
)

// turn is one call for a slot, on a clock that counts calls: from before it
// was made until it was refused or left, or until after its Release.
type turn struct {
	from, to uint64
	refused  bool
}

// storm drives a Limiter with goroutines that come, stay, panic, abort, time
// out and leave, and keeps what each saw.
type storm struct {
	l *limiter.Limiter
	// most is the bound that callers bring; 0 is none.
	most    int
	holding atomic.Int64
	highest atomic.Int64
	ticks   atomic.Uint64
	inside  atomic.Int64 // time spent surely holding a slot
	around  atomic.Int64 // and at most
	mistold atomic.Int64 // calls that were told wrongly whether they wait
}

var errBoom = errors.New("boom")

func (s *storm) visit(rng *rand.Rand) (v turn) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if rng.IntN(3) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(50))*time.Microsecond)
	}
	defer cancel()
	v.from = s.ticks.Add(1)
	defer func() { v.to = s.ticks.Add(1) }()

	called := time.Now()
	defer func() { s.around.Add(int64(time.Since(called))) }()
	if err := s.call(ctx); err != nil {
		v.refused = errors.Is(err, limiter.ErrFull) || errors.Is(err, limiter.ErrOver)
		if !v.refused && !errors.Is(err, context.DeadlineExceeded) {
			panic(err)
		}
		return v
	}
	defer s.l.Release()
	got := time.Now()
	defer func() { s.inside.Add(int64(time.Since(got))) }()
	now := s.holding.Add(1)
	defer s.holding.Add(-1)
	for old := s.highest.Load(); now > old && !s.highest.CompareAndSwap(old, now); old = s.highest.Load() {
	}

	switch rng.IntN(8) {
	case 0:
		defer func() { _ = recover() }()
		panic(errBoom)
	case 1:
		for range rng.IntN(4) {
			runtime.Gosched()
		}
	}
	return v
}

// call asks for a slot as a server does: at once, then in line.
func (s *storm) call(ctx context.Context) error {
	most := math.MaxInt
	if s.most > 0 {
		most = s.most
	}
	err := s.l.Try(most)
	if !errors.Is(err, limiter.ErrFull) {
		return err
	}
	told := 0
	err = s.l.Wait(ctx, func() { told++ })
	left := err != nil && !errors.Is(err, limiter.ErrFull)
	if told > 1 || errors.Is(err, limiter.ErrFull) && told > 0 || left && told == 0 {
		s.mistold.Add(1)
	}
	return err
}

// run lets guests goroutines pay visits visits each, some of them ending by
// Goexit with a slot in hand, and returns all turns.
func (s *storm) run(guests, visits int) []turn {
	turns := make([][]turn, guests)
	var all sync.WaitGroup
	for g := range guests {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for range visits {
				turns[g] = append(turns[g], s.visit(rng))
			}
			if g%4 > 0 {
				return
			}
			called, last := time.Now(), turn{from: s.ticks.Add(1)}
			if s.call(context.Background()) == nil {
				defer func() {
					s.around.Add(int64(time.Since(called)))
					last.to = s.ticks.Add(1)
					turns[g] = append(turns[g], last)
				}()
				defer s.l.Release()
				runtime.Goexit()
			}
		})
	}
	all.Wait()
	return slices.Concat(turns...)
}

// wronglyRefused counts the refusals at whose every moment fewer than places
// others were anywhere between their call and their end: however the calls
// are put in order, there was room.
func wronglyRefused(turns []turn, places int) (wrong int) {
	var from, to []uint64
	for _, v := range turns {
		if !v.refused {
			from, to = append(from, v.from), append(to, v.to)
		}
	}
	slices.Sort(from)
	slices.Sort(to)
	for _, v := range turns {
		begun, _ := slices.BinarySearch(from, v.to)
		ended, _ := slices.BinarySearch(to, v.from)
		if v.refused && begun-ended < places {
			wrong++
		}
	}
	return wrong
}

func TestStorm(t *testing.T) {
	visits := 1500
	if testing.Short() {
		visits = 150
	}
	for _, c := range []struct {
		name               string
		limit, queue, most int
	}{
		{"one", 1, 0, 0},
		{"few", 3, 0, 0},
		{"queue", 2, 4, 0},
		{"long queue", 4, 100, 0},
		{"unlimited", 0, 0, 0},
		{"bound of its own", 8, 4, 3},
		{"bound alone", 0, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			const guests = 16
			s := &storm{l: limiter.New(c.limit, c.queue), most: c.most}
			slots, places := c.limit, c.limit+c.queue
			switch {
			case c.most > 0: // then all who ask bring that bound, and nobody waits
				slots, places = c.most, c.most
			case c.limit == 0:
				slots, places = guests, guests+1
			}
			stop := watch(t, s.l, slots)
			turns := s.run(guests, visits)
			stop()

			if n := s.highest.Load(); n > int64(slots) {
				t.Errorf("%d held one of %d slots at once", n, slots)
			}
			if n := s.mistold.Load(); n > 0 {
				t.Errorf("%d calls were told wrongly whether they wait", n)
			}
			if n := wronglyRefused(turns, places); n > 0 {
				t.Errorf("%d of %d were refused although there was room", n, len(turns))
			}
			atRest(t, s.l, c.limit)
			ran := s.l.Stats().RunningSeconds
			low, high := time.Duration(s.inside.Load()).Seconds(), time.Duration(s.around.Load()).Seconds()
			if ran < low || ran > high {
				t.Errorf("integral of running %g s, but slots were held at least %g s and at most %g s", ran, low, high)
			}
		})
	}
}

// watch reads the statistics as fast as it can until stopped: neither integral
// goes back, and no more runs, now or on the mean, than the limit.
func watch(t *testing.T, l *limiter.Limiter, limit int) (stop func()) {
	quit := make(chan struct{})
	var watching sync.WaitGroup
	for range 2 {
		watching.Go(func() {
			before := time.Now()
			last := l.Stats()
			for {
				select {
				case <-quit:
					return
				default:
				}
				next := time.Now()
				s := l.Stats()
				elapsed := time.Since(before).Seconds()
				if s.RunningSeconds < last.RunningSeconds || s.WaitingSeconds < last.WaitingSeconds {
					t.Errorf("an integral went back: %+v after %+v", s, last)
				}
				if s.Running < 0 || s.Waiting < 0 || s.LastStart.Before(last.LastStart.Add(-time.Millisecond)) {
					t.Errorf("read %+v after %+v", s, last)
				}
				// A float of some seconds has a grain far below a nanosecond.
				if ran := s.RunningSeconds - last.RunningSeconds; s.Running > limit || ran > float64(limit)*elapsed+1e-9 {
					t.Errorf("%d running, %g slot-seconds within %g s, over the limit of %d", s.Running, ran, elapsed, limit)
				}
				if s.Waiting > 0 && s.Running < limit {
					t.Errorf("%d wait while only %d of %d run", s.Waiting, s.Running, limit)
				}
				last, before = s, next
				runtime.Gosched()
			}
		})
	}
	return func() {
		close(quit)
		watching.Wait()
	}
}

// atRest checks that nothing was leaked: nothing runs or waits, the integrals
// stand, and every slot can be had.
func atRest(t *testing.T, l *limiter.Limiter, limit int) {
	t.Helper()
	s := l.Stats()
	if s.Running != 0 || s.Waiting != 0 {
		t.Errorf("after all have left: %d running, %d waiting", s.Running, s.Waiting)
	}
	if again := l.Stats(); again.RunningSeconds != s.RunningSeconds || again.WaitingSeconds != s.WaitingSeconds {
		t.Errorf("the integrals move at rest: %+v, then %+v", s, again)
	}
	for i := range limit {
		if !l.TryAcquire() {
			t.Fatalf("slot %d of %d cannot be had", i+1, limit)
		}
	}
	if limit > 0 && l.TryAcquire() {
		t.Errorf("one slot over the limit of %d", limit)
	}
	for range limit {
		l.Release()
	}
}

// While the limit moves, nobody starts over it: once what ran over a lowered
// limit has ended, never more runs until it is raised again.
func TestResizeStorm(t *testing.T) {
	l := limiter.New(8, 6)
	s := &storm{l: l}
	quit := make(chan struct{})
	var resizing sync.WaitGroup
	resizing.Go(func() {
		rng := rand.New(rand.NewPCG(1, 1))
		for {
			limit := rng.IntN(9)
			l.Resize(limit)
			if limit > 0 {
				for l.Stats().Running > limit {
					runtime.Gosched()
				}
				for range 5 {
					if n := l.Stats().Running; n > limit {
						t.Errorf("%d running under a limit of %d", n, limit)
					}
				}
			}
			select {
			case <-quit:
				return
			default:
			}
		}
	})
	visits := 1500
	if testing.Short() {
		visits = 150
	}
	s.run(16, visits)
	close(quit)
	resizing.Wait()
	l.Resize(5)
	atRest(t, l, 5)
}
