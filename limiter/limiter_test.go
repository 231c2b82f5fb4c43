package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/limiter"
)

func TestRefusesAtOnceWithoutQueue(t *testing.T) {
	l := limiter.New(2, 0)
	for range 2 {
		if err := l.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Acquire(t.Context()); !errors.Is(err, limiter.ErrFull) {
		t.Fatalf("Acquire() = %v, want ErrFull", err)
	}
	if l.TryAcquire() || !l.Met() {
		t.Fatal("a third slot of two")
	}
	l.Release()
	if l.Met() {
		t.Fatal("Met() with a free slot")
	}
	if err := l.Acquire(t.Context()); err != nil {
		t.Fatalf("Acquire() = %v with a free slot", err)
	}
}

func TestUnlimitedCounts(t *testing.T) {
	l := limiter.New(-3, 4)
	for range 1000 {
		if err := l.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Stats(); s.Running != 1000 || l.Met() || l.Limit() != 0 {
		t.Fatalf("%+v, Met %v, Limit %d", s, l.Met(), l.Limit())
	}
	l.Resize(10) // what runs runs on
	if s := l.Stats(); s.Running != 1000 || !l.Met() || l.Limit() != 10 {
		t.Fatalf("%+v, Met %v, Limit %d", s, l.Met(), l.Limit())
	}
	for range 990 {
		l.Release()
	}
	if l.TryAcquire() {
		t.Fatal("an eleventh slot of ten")
	}
	l.Release()
	if !l.TryAcquire() {
		t.Fatal("no tenth slot")
	}
}

func TestHighestLimit(t *testing.T) {
	l := limiter.New(1<<40, 0)
	if l.Limit() != limiter.MaxLimit {
		t.Fatalf("Limit() = %d", l.Limit())
	}
	for range limiter.MaxLimit {
		if !l.TryAcquire() {
			t.Fatal("refused below the limit")
		}
	}
	if l.TryAcquire() {
		t.Fatal("admitted over the limit")
	}
	l.Resize(0)
	if !l.TryAcquire() {
		t.Fatal("refused without a limit")
	}
	if l.TryAcquire() { // the word is full: one more would spill into the limit
		t.Fatal("admitted more than can be counted")
	}
	for range limiter.MaxLimit + 1 {
		l.Release()
	}
	if s := l.Stats(); s.Running != 0 || l.Limit() != 0 {
		t.Fatalf("%+v, Limit %d", s, l.Limit())
	}
}

func TestReleaseWithoutAcquirePanics(t *testing.T) {
	l := limiter.New(1, 1)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		if s := l.Stats(); s.Running != 0 {
			t.Errorf("%d running", s.Running)
		}
	}()
	l.Release()
}

// First come, first served, and a newcomer never overtakes one who waits.
func TestHandsOverInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(1, 10)
		if !l.TryAcquire() {
			t.Fatal("refused")
		}
		var order []int
		for i := range 10 {
			go func() {
				if err := l.Acquire(t.Context()); err != nil {
					t.Error(err)
				}
				order = append(order, i) // one at a time: the slot orders them
				l.Release()
			}()
			synctest.Wait()
		}
		if err := l.Acquire(t.Context()); !errors.Is(err, limiter.ErrFull) {
			t.Errorf("Acquire() = %v with ten in line", err)
		}
		l.Release()
		if l.TryAcquire() {
			t.Error("a newcomer overtook the line")
			l.Release()
		}
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(order, want) {
			t.Errorf("served in the order %v", order)
		}
		if s := l.Stats(); s.Running != 0 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCauseOfLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(1, 1)
		gone := errors.New("client gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		if err := l.Acquire(ctx); err != nil {
			t.Fatalf("Acquire() = %v with a free slot", err)
		}
		if err := l.Acquire(ctx); !errors.Is(err, gone) {
			t.Fatalf("Acquire() = %v, want the cause", err)
		}
		late, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := l.Acquire(late); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Acquire() = %v, want a timeout", err)
		}
		if s := l.Stats(); s.Waiting != 0 || s.WaitingSeconds != 60 || s.RunningSeconds != 60 {
			t.Fatalf("%+v", s)
		}
		if !l.Met() {
			t.Fatal("a free slot")
		}
		l.Release()
		if l.Met() || !l.TryAcquire() {
			t.Fatal("the line is empty but not open")
		}
	})
}

// One who leaves in the moment it is given the slot does not take it along.
func TestLeavesWhileGiven(t *testing.T) {
	l := limiter.New(1, 2)
	for range 2000 {
		if err := l.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var both sync.WaitGroup
		both.Go(func() {
			if l.Acquire(ctx) == nil {
				l.Release()
			}
		})
		for l.Stats().Waiting == 0 {
			runtime.Gosched()
		}
		both.Go(cancel)
		l.Release()
		both.Wait()
		if s := l.Stats(); s.Running != 0 || s.Waiting != 0 {
			t.Fatalf("%+v", s)
		}
	}
}

func TestResizeWakes(t *testing.T) {
	for _, to := range []int{4, 0} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := limiter.New(1, 10)
				for range 6 {
					go func() {
						if err := l.Acquire(t.Context()); err != nil {
							t.Error(err)
						}
						time.Sleep(time.Second)
						l.Release()
					}()
				}
				synctest.Wait()
				l.Resize(to)
				synctest.Wait()
				want := 6
				if to > 0 {
					want = to
				}
				if s := l.Stats(); s.Running != want || s.Waiting != 6-want {
					t.Errorf("%+v after Resize(%d)", s, to)
				}
				time.Sleep(5 * time.Second)
				if s := l.Stats(); s.Running != 0 || s.Waiting != 0 || s.RunningSeconds != 6 {
					t.Errorf("%+v in the end", s)
				}
			})
		})
	}
}

func TestIntegralsOutlastTheirBits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(0, 0)
		for range 1000 {
			l.TryAcquire()
		}
		var s limiter.Stats
		for range 20 { // of a tenth of a year, or 3e18 ns for all
			time.Sleep(3_000_000 * time.Second)
			s = l.Stats()
		}
		if s.RunningSeconds != 6e10 {
			t.Fatalf("%g slot-seconds, want 6e10", s.RunningSeconds)
		}
	})
}

func TestLastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(1, 1)
		if s := l.Stats(); !s.LastStart.IsZero() {
			t.Fatalf("started at %v before anything did", s.LastStart)
		}
		time.Sleep(time.Minute)
		l.TryAcquire()
		begun := time.Now()
		time.Sleep(time.Minute)
		if s := l.Stats(); !s.LastStart.Equal(begun) {
			t.Fatalf("started at %v, want %v", s.LastStart, begun)
		}
		go func() { _ = l.Acquire(t.Context()) }()
		synctest.Wait()
		time.Sleep(time.Minute)
		l.Release()
		given := time.Now()
		if s := l.Stats(); !s.LastStart.Equal(given) {
			t.Fatalf("handed over at %v, want %v", s.LastStart, given)
		}
		synctest.Wait()
		l.Release()
	})
}

// Whoever is told that it waits stands in line then, and not yet for long.
func TestTellsWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(1, 1)
		never := func() { t.Error("told to wait") }
		if err := l.Wait(t.Context(), never); err != nil {
			t.Fatalf("Wait() = %v with a free slot", err)
		}
		told := make(chan int, 2) // one more than there should be
		got := make(chan error)
		go func() { got <- l.Wait(t.Context(), func() { told <- l.Waiting() }) }()
		synctest.Wait()
		if len(told) != 1 {
			t.Fatalf("told %d times to wait", len(told))
		}
		if n := <-told; n != 1 {
			t.Errorf("%d in line when told", n)
		}
		if err := l.Wait(t.Context(), never); !errors.Is(err, limiter.ErrFull) {
			t.Errorf("Wait() = %v with the line full", err)
		}
		select {
		case err := <-got:
			t.Errorf("Wait() = %v with the slot taken", err)
		default:
		}
		l.Release()
		if err := <-got; err != nil || len(told) > 0 {
			t.Errorf("Wait() = %v, told %d times more", err, len(told))
		}
		l.Release()
	})
}

// The line moves on while one in it is being told.
func TestGrantsWhileTelling(t *testing.T) {
	l := limiter.New(1, 1)
	if !l.TryAcquire() {
		t.Fatal("refused")
	}
	if err := l.Wait(t.Context(), func() {
		l.Release()
		if running, waiting := l.Running(), l.Waiting(); running != 1 || waiting != 0 {
			t.Errorf("%d running, %d waiting after the slot was handed over", running, waiting)
		}
	}); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if l.Running() != 0 {
		t.Errorf("%d running", l.Running())
	}
}

func TestLeavesWhenTold(t *testing.T) {
	gone := errors.New("client gone")
	for _, given := range []bool{false, true} { // the slot, before it has left
		l := limiter.New(1, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		if !l.TryAcquire() {
			t.Fatal("refused")
		}
		err := l.Wait(ctx, func() {
			cancel(gone)
			if given {
				l.Release()
			}
		})
		if err == nil && given { // both had happened: either may win
			l.Release()
		} else if !errors.Is(err, gone) {
			t.Errorf("Wait() = %v, want the cause", err)
		}
		if !given {
			l.Release()
		}
		if running, waiting := l.Running(), l.Waiting(); running != 0 || waiting != 0 {
			t.Errorf("%d running, %d waiting", running, waiting)
		}
	}
}

// One who dies of being told takes no slot along, nor a place in line.
func TestPanicsWhenTold(t *testing.T) {
	for _, given := range []bool{false, true} {
		l := limiter.New(1, 1)
		if !l.TryAcquire() {
			t.Fatal("refused")
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was lost")
				}
			}()
			_ = l.Wait(t.Context(), func() {
				if given {
					l.Release()
				}
				panic("told")
			})
		}()
		if waiting := l.Waiting(); waiting != 0 {
			t.Errorf("%d waiting", waiting)
		}
		if !given {
			l.Release()
		}
		if running := l.Running(); running != 0 {
			t.Errorf("%d running", running)
		}
	}
}

func TestTryKeepsTheCallersBound(t *testing.T) {
	l := limiter.New(3, 1)
	for _, c := range []struct {
		most int
		want error
	}{{-1, limiter.ErrOver}, {0, limiter.ErrOver}, {1, nil}, {1, limiter.ErrOver}, {2, nil}, {math.MaxInt, nil}, {math.MaxInt, limiter.ErrFull}, {0, limiter.ErrFull}} {
		if err := l.Try(c.most); err != c.want {
			t.Errorf("Try(%d) = %v, want %v with %d running", c.most, err, c.want, l.Running())
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context()) // one that can end
	defer cancel()
	l, full := limiter.New(2, 4), limiter.New(1, 0)
	if !full.TryAcquire() {
		t.Fatal("refused")
	}
	for _, c := range []struct {
		name string
		run  func() bool
	}{
		{"try and release", func() bool {
			err := l.Try(1)
			l.Release()
			return err == nil
		}},
		{"acquire and release", func() bool {
			err := l.Acquire(ctx)
			l.Release()
			return err == nil
		}},
		{"refused, full", func() bool { return full.Try(5) == limiter.ErrFull }},
		{"refused, over", func() bool { return l.Try(0) == limiter.ErrOver }},
		{"refused, no room to wait", func() bool { return full.Wait(ctx, func() {}) == limiter.ErrFull }},
		{"statistics", func() bool { return l.Stats().Running == 0 }},
	} {
		good := true
		if n := testing.AllocsPerRun(1000, func() { good = c.run() && good }); n != 0 || !good {
			t.Errorf("%s: %g allocations, as expected: %v", c.name, n, good)
		}
	}
}

// Two pass one slot to and fro, so that nearly every time one of them waits.
func TestWaitingAllocatesNothing(t *testing.T) {
	l := limiter.New(1, 4)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	queued := func() {}
	var other sync.WaitGroup
	quit := make(chan struct{})
	other.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			if l.Wait(ctx, queued) == nil {
				runtime.Gosched()
				l.Release()
			}
		}
	})
	n := testing.AllocsPerRun(10_000, func() {
		if err := l.Wait(ctx, queued); err != nil {
			t.Error(err)
		}
		runtime.Gosched()
		l.Release()
	})
	close(quit)
	other.Wait()
	if n != 0 && !raceDetector { // which empties pools on purpose
		t.Errorf("%g allocations per wait", n)
	}
	if s := l.Stats(); s.WaitingSeconds == 0 {
		t.Error("nobody waited")
	}
}

// A reading of the clock that others have overtaken counts as theirs.
func TestReadingsOfTheCallerNeverGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.New(2, 0)
		early := time.Now()
		time.Sleep(time.Second)
		if l.TryAt(time.Now(), 2) != nil || l.TryAt(early, 2) != nil {
			t.Fatal("no slot")
		}
		time.Sleep(time.Second)
		l.ReleaseAt(time.Now())
		l.ReleaseAt(early)
		time.Sleep(time.Second)
		if got := l.Stats().RunningSeconds; got != 2 {
			t.Errorf("%v slot-seconds, want 2", got)
		}
	})
}
