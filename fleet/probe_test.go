package fleet

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
)

// asker answers for pods by address and notes when it was asked.
type asker struct {
	mu     sync.Mutex
	begun  time.Time
	asked  map[string][]time.Duration // since begun
	under  int
	most   int
	answer func(addr string, n int) (outcome, time.Duration)
}

func newAsker(answer func(addr string, n int) (outcome, time.Duration)) *asker {
	return &asker{begun: time.Now(), asked: map[string][]time.Duration{}, answer: answer}
}

func (a *asker) ask(ctx context.Context, q *question) outcome {
	a.mu.Lock()
	n := len(a.asked[q.addr])
	a.asked[q.addr] = append(a.asked[q.addr], time.Since(a.begun))
	a.under++
	a.most = max(a.most, a.under)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.under--
		a.mu.Unlock()
	}()
	out, after := a.answer(q.addr, n)
	if after > q.timeout {
		out, after = outcome{kind: silence, slow: true}, q.timeout
	}
	select {
	case <-ctx.Done():
	case <-time.After(after):
	}
	return out
}

func (a *asker) times(addr string) []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]time.Duration(nil), a.asked[addr]...)
}

func said(status int, body string) outcome {
	return outcome{kind: answered, answer: answer{status: status, watchdog: true, maxInflight: 4, maxQueue: 2, body: body}}
}

// probing runs a Fleet in a bubble with an asker.
func probing(t *testing.T, answer func(addr string, n int) (outcome, time.Duration), test func(*Fleet, *asker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(answer)
		f := New(Config{Probe: &Prober{ask: a.ask}})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- f.Run(ctx) }()
		test(f, a)
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

func within(t *testing.T, what string, got, low, high int) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: %d, expected %d to %d", what, got, low, high)
	}
}

// between counts the probes in a stretch of time.
func between(times []time.Duration, from, to time.Duration) int {
	n := 0
	for _, d := range times {
		if d >= from && d < to {
			n++
		}
	}
	return n
}

func TestCadenceOfOneThatDoesNotStart(t *testing.T) {
	probing(t, func(string, int) (outcome, time.Duration) { return outcome{kind: nobody}, 0 }, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		time.Sleep(5 * time.Minute)
		times := a.times("10.0.0.1:8080")
		if times[0] != 0 {
			t.Errorf("first asked after %v, expected at once", times[0])
		}
		within(t, "in the first 40 ms", between(times, 0, 40*time.Millisecond), 6, 11)
		within(t, "in the first second", between(times, 0, time.Second), 43, 66)
		within(t, "in the eleventh second", between(times, 10*time.Second, 11*time.Second), 3, 6)
		within(t, "in the third minute", between(times, 2*time.Minute, 3*time.Minute), 50, 75)
		for i := range times[1:] {
			if pause := times[i+1] - times[i]; pause < 4*time.Millisecond || pause < 20*time.Millisecond && times[i] > 200*time.Millisecond || pause > 1200*time.Millisecond {
				t.Fatalf("a pause of %v at %v", pause, times[i])
			}
		}
	})
}

// Once started it is left alone but for a look, found out when it fails, and
// asked often again.
func TestCadenceOfOneThatServes(t *testing.T) {
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		switch {
		case n < 10:
			return said(503, "starting"), time.Millisecond
		case n < 22:
			return said(200, "ready"), time.Millisecond
		}
		return outcome{kind: nobody}, 0
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		e := f.Get(refOf(1))
		for e.Started() == 0 {
			<-e.Changed()
		}
		started := time.Since(a.begun)
		if n := len(a.times("10.0.0.1:8080")); n != 11 {
			t.Errorf("started by probe %d, expected 11", n)
		}
		if s := *e.Pods()[0].Said(); s != (Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 4, MaxQueue: 2}) {
			t.Errorf("it says %+v", s)
		}
		for e.Started() != 0 {
			<-e.Changed()
		}
		lostAt := time.Since(a.begun)
		times := a.times("10.0.0.1:8080")
		within(t, "looks until it was lost", between(times, started, lostAt-1), 11, 11)
		within(t, "seconds of twelve looks", int((lostAt-started)/time.Second), 48, 72)
		time.Sleep(time.Second)
		within(t, "in the second after", between(a.times("10.0.0.1:8080"), lostAt, lostAt+time.Second), 43, 66)
		if s := e.Pods()[0].Said(); s.Nature != Watchdog || s.MaxInflight != 4 {
			t.Errorf("of a lost watchdog is known: %+v", *s)
		}
	})
}

func TestCadenceOfOneWithoutRoom(t *testing.T) {
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		if n > 0 && n < 101 {
			return said(429, "max_inflight reached"), time.Millisecond
		}
		return said(200, "ready"), time.Millisecond
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		time.Sleep(time.Second)
		p := f.Get(refOf(1)).Pods()[0]
		if n := len(a.times("10.0.0.1:8080")); n != 1 {
			t.Fatalf("asked %d times in the first second of one that serves", n)
		}
		begin := time.Since(a.begun)
		p.Full()
		if p.Said().Room || p.State() != Started {
			t.Fatal("room after a refusal, or not started")
		}
		for !p.Said().Room {
			<-p.Entry().Changed()
		}
		times := a.times("10.0.0.1:8080")[1:]
		if first := times[0] - begin; first < 5*time.Millisecond || first > 15*time.Millisecond {
			t.Errorf("asked %v after a refusal, expected about 10 ms", first)
		}
		if took := times[len(times)-1] - begin; len(times) != 101 || took < 4*time.Second || took > 6*time.Second {
			t.Errorf("asked %d times in %v without room, expected 101 in about 5 s", len(times), took)
		}
	})
}

// One that lacks a resource gets it back in a moment, or not for long.
func TestCadenceOfOneThatIsGuarded(t *testing.T) {
	probing(t, func(string, int) (outcome, time.Duration) {
		return said(503, "disk: past its mark"), time.Millisecond
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		time.Sleep(time.Minute)
		times := a.times("10.0.0.1:8080")
		within(t, "in the first five seconds", between(times, 0, 5*time.Second), 85, 125)
		within(t, "in the last ten of a minute", between(times, 50*time.Second, time.Minute), 33, 50)
	})
}

// However many requests meet something at once: it is asked at most every
// 10 ms, but it is asked.
func TestManyRefusals(t *testing.T) {
	probing(t, func(_ string, n int) (outcome, time.Duration) { return said(429, ""), 2 * time.Millisecond }, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		synctest.Wait()
		p := f.Get(refOf(1)).Pods()[0]
		for range 10_000 {
			p.Full()
			time.Sleep(100 * time.Microsecond)
		}
		within(t, "probes in a second of refusals", len(a.times("10.0.0.1:8080")), 18, 101)
		n := len(a.times("10.0.0.1:8080"))
		for range 10_000 {
			p.Lost()
			time.Sleep(100 * time.Microsecond)
		}
		within(t, "probes in a second of refused connections", len(a.times("10.0.0.1:8080"))-n, 18, 101)
	})
}

// An answer to a question from before a refusal says nothing about it.
func TestOldAnswersAreNotBelieved(t *testing.T) {
	probing(t, func(_ string, n int) (outcome, time.Duration) { return said(200, "ready"), 100 * time.Millisecond }, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		time.Sleep(50 * time.Millisecond)
		p := f.Get(refOf(1)).Pods()[0]
		p.Lost()
		time.Sleep(60 * time.Millisecond) // the first answer has come
		if p.State() != Starting {
			t.Error("an answer from before the loss is believed")
		}
		time.Sleep(100 * time.Millisecond)
		if p.State() != Started {
			t.Error("an answer from after the loss is not believed")
		}
		// Doubts without end do not hide the answers for good.
		for range 100 {
			p.Full()
			time.Sleep(10 * time.Millisecond)
			if p.Said().Room {
				return
			}
		}
		t.Error("a pod that answers 200 has had no room for a second")
	})
}

func TestOneMissedAnswerIsNoLoss(t *testing.T) {
	misses := map[int]bool{1: true, 3: true, 4: true}
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		if misses[n] {
			return outcome{}, time.Hour
		}
		return said(200, "ready"), time.Millisecond
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		e := f.Get(refOf(1))
		for e.Started() == 0 {
			<-e.Changed()
		}
		for e.Started() == 1 {
			<-e.Changed()
		}
		if n := len(a.times("10.0.0.1:8080")); n != 5 {
			t.Errorf("lost with probe %d, expected 5: the first one that missed twice in a row", n)
		}
		for e.Started() == 0 {
			<-e.Changed()
		}
	})
}

func TestPlainPods(t *testing.T) {
	there := true
	var mu sync.Mutex
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !there:
			return outcome{kind: nobody}, 0
		case n == 0:
			return outcome{kind: answered, answer: answer{status: 404}}, time.Millisecond
		}
		return outcome{kind: open}, 0
	}, func(f *Fleet, a *asker) {
		put := func(isReady bool) {
			about := podOf(1)
			about.Ready = isReady
			f.Put(functionOf(refOf(1), about))
		}
		put(false)
		time.Sleep(time.Minute)
		p := f.Get(refOf(1)).Pods()[0]
		if s := *p.Said(); s != (Saying{Nature: Plain}) {
			t.Fatalf("a plain pod that is not ready says %+v", s)
		}
		if n := len(a.times("10.0.0.1:8080")); n != 1 {
			t.Errorf("asked %d times, expected once: what it is is known, and the rest is the provider's to say", n)
		}
		put(true)
		time.Sleep(100 * time.Millisecond)
		if s := *p.Said(); s != (Saying{Nature: Plain, State: Started, Room: true}) {
			t.Errorf("a plain pod that is ready says %+v", s)
		}
		put(false)
		if p.State() != Starting || p.Said().Room {
			t.Error("started though the provider says that it is not ready")
		}
		put(true)
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		there = false
		mu.Unlock()
		time.Sleep(10 * time.Second)
		if p.State() != Starting {
			t.Error("started though its port refuses")
		}
		mu.Lock()
		there = true
		mu.Unlock()
		time.Sleep(2 * time.Second)
		if p.State() != Started {
			t.Error("not started though its port opens")
		}
	})
}

// A pod that only takes connections is plain, and is asked again now and then:
// it may have been a watchdog without CPU.
func TestSilentPods(t *testing.T) {
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		if n < 8 {
			return outcome{}, time.Hour
		}
		return said(200, "ready"), 0
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		p := f.Get(refOf(1)).Pods()[0]
		time.Sleep(20 * time.Second)
		if s := p.Said(); s.Nature != Plain || s.State != Started {
			t.Fatalf("a ready pod that takes connections and answers nothing says %+v", *s)
		}
		n := len(a.times("10.0.0.1:8080"))
		within(t, "probes until then", n, 3, 4)
		time.Sleep(10 * time.Minute)
		if s := p.Said(); s.Nature != Watchdog || s.State != Started {
			t.Errorf("a watchdog that answers at last says %+v", *s)
		}
	})
}

func TestStoppingPodsAreNotAsked(t *testing.T) {
	probing(t, func(addr string, n int) (outcome, time.Duration) {
		if addr == "10.0.0.1:8080" {
			return said(503, "draining"), 0
		}
		return said(200, "ready"), 0
	}, func(f *Fleet, a *asker) {
		two, three, four := podOf(2), podOf(3), podOf(4)
		two.Stopping = true
		four.Addr = ""
		f.Put(functionOf(refOf(1), podOf(1), two, three, four))
		time.Sleep(time.Second)
		pods := f.Get(refOf(1)).Pods()
		if pods[0].State() != Stopping {
			t.Error("a pod that says that it drains is not stopping")
		}
		pods[2].Drains()
		time.Sleep(time.Minute)
		f.Put(functionOf(refOf(1), podOf(1), two, three, four))
		pods[0].Lost()
		time.Sleep(time.Minute)
		for addr, want := range map[string]int{"10.0.0.1:8080": 1, "10.0.0.2:8080": 0, "10.0.0.3:8080": 1, "": 0} {
			if n := len(a.times(addr)); n != want {
				t.Errorf("%q was asked %d times, expected %d", addr, n, want)
			}
		}
	})
}

// A pod that goes while it is asked stays gone, and the next one at its address
// is asked for itself.
func TestLeavesWhileItIsAsked(t *testing.T) {
	probing(t, func(string, int) (outcome, time.Duration) { return said(200, "ready"), 100 * time.Millisecond }, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		e := f.Get(refOf(1))
		old := e.Pods()[0]
		time.Sleep(50 * time.Millisecond)
		next := podOf(1)
		next.UID = "next"
		f.Put(functionOf(refOf(1), next))
		time.Sleep(75 * time.Millisecond) // the first answer has come
		if old.State() != Stopping || e.Started() != 0 {
			t.Errorf("the one that left is %v, and %d are started", old.State(), e.Started())
		}
		time.Sleep(time.Second)
		if old.State() != Stopping || e.Started() != 1 || len(a.times("10.0.0.1:8080")) != 2 {
			t.Errorf("the one that left is %v, %d are started, and the address was asked %d times", old.State(), e.Started(), len(a.times("10.0.0.1:8080")))
		}
	})
}

// That weir cannot ask says nothing of a pod.
func TestOwnWantIsNoLoss(t *testing.T) {
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		if n > 0 {
			return outcome{err: syscall.EMFILE}, 0
		}
		return said(200, "ready"), 0
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		time.Sleep(time.Minute)
		p := f.Get(refOf(1)).Pods()[0]
		if p.State() != Started || !p.Said().Room {
			t.Errorf("it says %+v", *p.Said())
		}
		p.Lost()
		time.Sleep(time.Second)
		if p.State() != Starting {
			t.Errorf("%v though nobody heard of it since it was lost", p.State())
		}
	})
}

// A function that is woken does not wait for ten thousand others that hang,
// crash or are full.
func TestWakeAmongMany(t *testing.T) {
	probing(t, func(addr string, n int) (outcome, time.Duration) {
		switch addr[:2] {
		case "ha":
			return outcome{}, time.Hour
		case "re":
			return outcome{kind: nobody}, time.Millisecond
		case "fu":
			return said(429, ""), 5 * time.Millisecond
		}
		return said(200, "ready"), time.Millisecond
	}, func(f *Fleet, a *asker) {
		for i := range 10_000 {
			about := podOf(i)
			about.Addr = []string{"hangs", "refuses", "full"}[i%3]
			f.Put(functionOf(refOf(i), about))
		}
		time.Sleep(11 * time.Second)
		for round := range 3 {
			about := podOf(-1 - round)
			ref := function.Ref{Name: "woken", Namespace: "test"}
			at := time.Now()
			f.Put(functionOf(ref, about))
			e := f.Get(ref)
			for e.Started() == 0 {
				<-e.Changed()
			}
			if took := time.Since(at); took > 50*time.Millisecond {
				t.Errorf("round %d: found to be started after %v, expected within 50 ms", round, took)
			}
			f.Delete(ref)
			time.Sleep(time.Second)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.most > DefaultLimit {
			t.Errorf("%d probes at once, expected at most %d", a.most, DefaultLimit)
		}
	})
}

// Nor for thousands that came a moment before it, more than can be asked as
// often as they should be.
func TestWakeWhileManyStart(t *testing.T) {
	probing(t, func(addr string, n int) (outcome, time.Duration) {
		if addr == "starts" {
			return outcome{kind: nobody}, time.Millisecond
		}
		return said(200, "ready"), time.Millisecond
	}, func(f *Fleet, a *asker) {
		for i := range 5000 {
			about := podOf(i)
			about.Addr = "starts"
			f.Put(functionOf(refOf(i), about))
		}
		time.Sleep(2 * time.Second)
		at := time.Now()
		f.Put(functionOf(refOf(-1), podOf(-1)))
		e := f.Get(refOf(-1))
		for e.Started() == 0 {
			<-e.Changed()
		}
		if took := time.Since(at); took > 20*time.Millisecond {
			t.Errorf("found to be started after %v, expected within 20 ms", took)
		}
		within(t, "probes in two seconds", len(a.times("starts")), 18_000, 22_000)
	})
}

// The looks at pods that serve are bounded in all.
func TestLooksAreBounded(t *testing.T) {
	probing(t, func(string, int) (outcome, time.Duration) { return said(200, "ready"), time.Millisecond }, func(f *Fleet, a *asker) {
		for i := range 5000 {
			f.Put(functionOf(refOf(i), podOf(i)))
		}
		time.Sleep(10 * time.Second)
		count := func() (n int) {
			for i := range 5000 {
				n += len(a.times(podOf(i).Addr))
			}
			return n
		}
		before := count()
		time.Sleep(time.Minute)
		within(t, "looks in a minute", count()-before, 11_000, 12_100)
		for i := range 5000 {
			if n := len(a.times(podOf(i).Addr)); n < 2 || n > 5 {
				t.Fatalf("one was asked %d times in 70 s, others 3 or 4 times", n)
			}
		}
	})
}

// Pods put before Run are asked when it runs, and none after it.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(func(string, int) (outcome, time.Duration) { return outcome{kind: nobody}, 0 })
		f := New(Config{Probe: &Prober{ask: a.ask}})
		f.Put(functionOf(refOf(1), podOf(1)))
		time.Sleep(time.Second)
		if len(a.asked) != 0 {
			t.Error("asked before Run")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
		n := len(a.times("10.0.0.1:8080"))
		within(t, "asked while it ran", n, 24, 50)
		f.Put(functionOf(refOf(2), podOf(2)))
		f.Get(refOf(1)).Pods()[0].Lost()
		f.Delete(refOf(1))
		time.Sleep(time.Second)
		if len(a.times("10.0.0.1:8080")) != n || len(a.times("10.0.0.2:8080")) != 0 {
			t.Error("asked after Run")
		}
	})
}

// Why nobody is at an address is known until somebody is.
func TestUnreached(t *testing.T) {
	refused := syscall.ECONNREFUSED
	probing(t, func(_ string, n int) (outcome, time.Duration) {
		if n < 5 {
			return outcome{kind: nobody, err: refused}, 0
		}
		return said(200, ""), 0
	}, func(f *Fleet, a *asker) {
		f.Put(functionOf(refOf(1), podOf(1)))
		p := f.Get(refOf(1)).Pods()[0]
		if got := p.Unreached(); got != "" {
			t.Errorf("before it was asked: %q", got)
		}
		time.Sleep(5 * time.Millisecond)
		if got := p.Unreached(); got != refused.Error() {
			t.Errorf("with nobody there: %q", got)
		}
		time.Sleep(time.Minute)
		if got := p.Unreached(); got != "" || p.State() != Started {
			t.Errorf("with a watchdog there: %q, %s", got, p.State())
		}
	})
}
