package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// reading is a source whose samples the test sets.
type reading struct {
	mu      sync.Mutex
	samples []sample
	err     error
	block   chan struct{} // when not nil, read waits for it
	count   int
}

func (r *reading) reads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

func (r *reading) set(used, limit uint64) { r.levels(sample{used, limit}) }

func (r *reading) levels(s ...sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples, r.err = s, nil
}

func (r *reading) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *reading) read(dst []sample) ([]sample, error) {
	if r.block != nil {
		<-r.block
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	return append(dst, r.samples...), r.err
}

// log collects lines.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) about(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *log) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func mark(t *testing.T, text string) Mark {
	t.Helper()
	m, err := ParseUse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// guarding runs a Guard over watches in the present bubble.
func guarding(t *testing.T, load func() Load, watches ...*watch) (*Guard, *log) {
	t.Helper()
	l := new(log)
	g := &Guard{Log: l.printf, Load: load, poke: make(chan struct{}, 1)}
	g.verdict.Store(uint64(allowed(unbounded, 0, false)))
	g.groups = []*group{{guard: g, poke: g.poke, watches: watches}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { g.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return g, l
}

// settle lets samples be taken for d.
func settle(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestGuardTripsAndClears(t *testing.T) {
	for _, c := range []struct {
		resource Resource
		free     bool
		least    int // that is allowed while tripped
		// used of 1000 below, at and beyond the mark, and where it clears.
		calm, before, at, cleared uint64
	}{
		{Memory, false, 1, 100, 899, 900, 800},
		{Descriptors, false, 0, 100, 899, 900, 800},
		{Processes, false, 0, 100, 899, 900, 800},
		{Disk, true, 0, 100, 900, 901, 887}, // 100 free of 1000 is the mark, 112.5 clears
	} {
		t.Run(string(c.resource), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := new(reading)
				src.set(c.calm, 1000)
				w := &watch{resource: c.resource, what: "it", mark: mark(t, "90%"), source: src, free: c.free}
				if c.free {
					w.mark = mark(t, "10%")
				}
				g, l := guarding(t, nil, w)
				most := func(want int) {
					t.Helper()
					if v := g.Verdict(); v.Most() != want {
						t.Fatalf("most is %d, want %d, with %v", v.Most(), want, src.samples)
					}
				}
				most(unbounded)
				src.set(c.before, 1000)
				settle(time.Second)
				most(unbounded)
				src.set(c.at, 1000)
				settle(250 * time.Millisecond) // the promise
				most(c.least)
				if r := g.Verdict().Resource(); r != c.resource {
					t.Errorf("refused for %s", r)
				}
				if r, since, ok := g.Tripped(); !ok || r != c.resource || time.Since(since) > 250*time.Millisecond {
					t.Errorf("tripped: %v, %v, %v", r, since, ok)
				}
				src.set(c.cleared, 1000)
				settle(500 * time.Millisecond)
				most(c.least) // not so soon
				settle(time.Second)
				most(unbounded)
				if _, _, ok := g.Tripped(); ok {
					t.Error("still tripped")
				}
				src.set(c.at, 1000)
				settle(time.Second)
				src.set((c.cleared+c.at)/2, 1000) // between: stays as it is
				settle(10 * time.Second)
				most(c.least)
				if n := l.about("refusing"); n != 1 {
					t.Errorf("%d lines of trips within a moment:\n%s", n, l.all())
				}
			})
		})
	}
}

func TestGuardLetsTheOnlyRequestPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := new(reading)
		src.set(990, 1000)
		g, l := guarding(t, nil, &watch{resource: Memory, what: "memory", mark: mark(t, "90%"), source: src})
		settle(time.Minute)
		if v := g.Verdict(); v.Most() != 1 || v.Learning() {
			t.Errorf("most is %d", v.Most())
		}
		if n := l.about("one request at a time"); n != 1 {
			t.Errorf("said %d times:\n%s", n, l.all())
		}
	})
}

func TestGuardOfLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := new(reading)
		src.levels(sample{100, 0}, sample{500, 1000})
		w := &watch{resource: Processes, what: "it", mark: mark(t, "90%"), source: src}
		g, _ := guarding(t, nil, w)
		if got := g.Usage()[Processes]; got != 0.5 {
			t.Errorf("usage %v", got)
		}
		src.levels(sample{100, 0}, sample{950, 1000}) // full because of others
		settle(250 * time.Millisecond)
		if g.Verdict().Most() != 0 {
			t.Error("a full parent is let pass")
		}
		src.levels(sample{100, 105}, sample{950, 2000}) // limits that were changed
		settle(10 * time.Second)
		if g.Verdict().Most() != 0 || g.Usage()[Processes] < 0.95 {
			t.Error("a limit that was lowered is let pass")
		}
		src.levels(sample{100, 1050}, sample{950, 2000})
		settle(10 * time.Second)
		if g.Verdict().Most() != unbounded {
			t.Error("limits that were raised are not followed")
		}
	})
}

func TestGuardOfAnAbsoluteMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := new(reading)
		src.levels(sample{899, 0}, sample{5000, 10000}) // others' use is not ours
		g, _ := guarding(t, nil, &watch{resource: Processes, what: "it", mark: mark(t, "900"), source: src})
		settle(time.Second)
		if g.Verdict().Most() != unbounded {
			t.Error("refused below the mark")
		}
		if usage, ok := g.Usage()[Processes]; ok && usage != 0 {
			t.Errorf("a share of no limit: %v", usage)
		}
		src.set(900, 0)
		settle(250 * time.Millisecond)
		if g.Verdict().Most() != 0 {
			t.Error("let pass at the mark")
		}
	})
}

// What cannot be read refuses nobody.
func TestGuardWithoutASource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, none := new(reading), new(reading)
		none.fail(errNothing)
		src.set(950, 1000)
		g, l := guarding(t, nil,
			&watch{resource: Processes, what: "processes", mark: mark(t, "90%"), source: src},
			&watch{resource: Descriptors, what: "descriptors", mark: mark(t, "90%"), source: none})
		if g.Verdict().Most() != 0 {
			t.Fatal("did not trip")
		}
		src.fail(errors.New("pids.current: garbage"))
		settle(time.Minute)
		if g.Verdict().Most() != unbounded || len(g.Usage()) != 0 {
			t.Errorf("most %d, usage %v", g.Verdict().Most(), g.Usage())
		}
		if _, _, ok := g.Tripped(); ok {
			t.Error("tripped by what is not known")
		}
		if n := l.about("pids.current: garbage"); n != 1 {
			t.Errorf("said %d times:\n%s", n, l.all())
		}
		if l.about("descriptors") != 0 {
			t.Errorf("nothing to read was said:\n%s", l.all())
		}
		src.set(100, 1000)
		settle(time.Second)
		if got := g.Usage()[Processes]; got != 0.1 {
			t.Errorf("usage %v after it can be read again", got)
		}
		src.set(0, 0) // no limit to be a share of
		settle(time.Second)
		if g.Verdict().Most() != unbounded || len(g.Usage()) != 0 {
			t.Error("a guard without a limit is not off")
		}
	})
}

func TestGuardLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := new(reading)
		g, l := guarding(t, nil, &watch{resource: Processes, what: "it", mark: mark(t, "90%"), source: src})
		for range 100 {
			src.set(950, 1000)
			settle(1500 * time.Millisecond)
			src.set(100, 1000)
			settle(1500 * time.Millisecond)
		}
		if n := len(l.lines); n < 20 || n > 2*300/10+2 {
			t.Errorf("%d lines in five minutes of flapping", n)
		}
		_ = g
	})
}

// A disk that does not answer delays neither the other guards nor the end.
func TestGuardOfADeadDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &reading{block: make(chan struct{})}
		src := new(reading)
		src.set(950, 1000)
		g := &Guard{poke: make(chan struct{}, 1)}
		g.groups = []*group{
			{guard: g, poke: g.poke, watches: []*watch{{resource: Processes, mark: mark(t, "90%"), source: src}}},
			{guard: g, watches: []*watch{{resource: Disk, mark: mark(t, "1%"), free: true, source: dead}}},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { g.Run(ctx); close(done) }()
		settle(time.Second)
		if g.Verdict().Most() != 0 {
			t.Error("the others wait for the disk")
		}
		cancel()
		settle(2 * stuckSystemCall)
		select {
		case <-done:
		default:
			t.Error("Run waits for the disk")
		}
		close(dead.block)
	})
}

func TestGuardAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := new(reading)
		src.set(100, 1000)
		g, _ := guarding(t, nil, &watch{resource: Processes, what: "it", mark: mark(t, "90%"), source: src})
		start, reads := time.Now(), src.reads()
		for range 10 {
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if err := g.Await(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		if took := time.Since(start); took < 9*askedPause || took > 10*askedPause {
			t.Errorf("ten samples on demand took %s", took)
		}
		if n := src.reads() - reads; n != 10 {
			t.Errorf("%d samples for ten rounds of requests", n)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if err := g.Await(ctx); err != gone && err != nil {
			t.Error(err)
		}
	})
}

// Use that grows fast is looked at more often.
func TestGuardLooksCloserNearTheMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, running := new(reading), new(atomic.Int64)
		running.Store(3)
		src.set(0, 100_000)
		guarding(t, func() Load { return Load{Running: int(running.Load())} }, &watch{resource: Processes, what: "it", mark: mark(t, "90%"), source: src})
		count := func() int {
			before := src.reads()
			settle(time.Second)
			return src.reads() - before
		}
		if n := count(); n != 10 {
			t.Errorf("%d samples a second with work", n)
		}
		running.Store(0)
		settle(time.Second)
		if n := count(); n != 5 {
			t.Errorf("%d samples a second without", n)
		}
		src.set(86_000, 100_000)
		settle(time.Second)
		before := src.reads()
		for used := uint64(86_000); used < 90_000; used += 10 {
			src.set(used, 100_000)
			time.Sleep(time.Millisecond)
		}
		if n := src.reads() - before; n < 4 {
			t.Errorf("%d samples in 400 ms on the way to the mark", n)
		}
	})
}

func TestVerdict(t *testing.T) {
	for _, most := range []int{0, 1, 5, 1 << 20, unbounded} {
		for i, r := range Resources {
			for _, learning := range []bool{false, true} {
				v := allowed(most, i, learning)
				if v.Most() != most || v.Resource() != r || v.Learning() != learning {
					t.Errorf("%d %s %v became %d %s %v", most, r, learning, v.Most(), v.Resource(), v.Learning())
				}
			}
		}
	}
	if !slices.Contains(Resources, Verdict(0).Resource()) {
		t.Error("the zero verdict names nothing")
	}
}

// With every guard off nothing is sampled and nothing refused.
func TestGuardOff(t *testing.T) {
	g := New(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { g.Run(ctx); close(done) }()
	if err := g.Await(ctx); err != nil {
		t.Error(err)
	}
	if v := g.Verdict(); v.Most() != unbounded {
		t.Errorf("most is %d", v.Most())
	}
	cancel()
	<-done
}

// What is off or not sampled yet has no say.
func TestGuardsThatAreOffRefuseNothing(t *testing.T) {
	for _, cfg := range []Config{
		{Memory: mark(t, "100%")},
		{Disk: Mark{absolute: 1}, DiskPath: t.TempDir()},
	} {
		g := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { g.Run(ctx); close(done) }()
		for len(g.Usage()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if v := g.Verdict(); v.Most() == 0 || v.Resource() == Disk && cfg.Disk.Off() {
			t.Errorf("refused for %s", v.Resource())
		}
		cancel()
		<-done
	}
}
