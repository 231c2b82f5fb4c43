package autoscaler

import (
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// sleepy may sleep after 10 minutes.
func sleepy() *function.Spec {
	spec := patient()
	spec.Zero, spec.ZeroAfter = true, 10*time.Minute
	return spec
}

// idleFrom is a bench that was viewed and then had a call until a minute ago.
func idleFrom(t *testing.T) *bench {
	b := newBench(t, sleepy(), 1)
	b.d.Running = 1
	b.run(time.Hour)
	b.d.LastStart, b.d.LastEnd = b.now.Add(-time.Minute), b.now
	b.d.Running = 0
	return b
}

// asleepAfter steps until the function sleeps, and says how long that took.
func (b *bench) asleepAfter(limit time.Duration) time.Duration {
	b.t.Helper()
	for passed := time.Second; passed <= limit; passed += time.Second {
		if b.step(time.Second).Replicas == 0 {
			b.want(0, ReasonIdle)
			return passed
		}
	}
	b.t.Fatalf("awake after %s: %s %s", limit, b.last.Reason, b.last.Why())
	return 0
}

// TestSleep: after zero-after without anything, and not before.
func TestSleep(t *testing.T) {
	b := idleFrom(t)
	if took := b.asleepAfter(time.Hour); took != 10*time.Minute {
		t.Errorf("asleep after %s", took)
	}
	b.run(time.Hour)
	b.want(0, ReasonAsleep)
	if b.state.load.sums != nil || b.state.down.past != nil {
		t.Error("a sleeping function takes memory")
	}
}

// TestEverythingThatIsNotIdle: each sign of life starts the time anew.
func TestEverythingThatIsNotIdle(t *testing.T) {
	for name, live := range map[string]func(*bench){
		"running":                  func(b *bench) { b.d.Running = 0.001 },
		"refused":                  func(b *bench) { b.d.Refused = 1 },
		"queued":                   func(b *bench) { b.d.Queued = 1 },
		"held":                     func(b *bench) { b.d.Held = 0.5 },
		"backlog":                  func(b *bench) { b.d.Backlog = 1 },
		"backlog, and not known":   func(b *bench) { b.d.Backlog, b.d.Known = 1, false },
		"rate":                     func(b *bench) { b.d.Rate = 0.1 },
		"open":                     func(b *bench) { b.d.Open = 1 },
		"open, nothing else known": func(b *bench) { b.d.Open, b.d.Known = 1, false },
		"start":                    func(b *bench) { b.d.LastStart = b.now.Add(time.Second) },
		"end":                      func(b *bench) { b.d.LastEnd = b.now.Add(time.Second) },
		"wake":                     func(b *bench) { b.d.LastWake = b.now.Add(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			b := idleFrom(t)
			b.run(10*time.Minute - time.Second)
			stamps := b.d
			live(b)
			b.step(time.Second)
			if b.last.Replicas != 1 || b.last.Idle != 0 {
				t.Fatalf("%+v", b.last)
			}
			start, end, wake := b.d.LastStart, b.d.LastEnd, b.d.LastWake
			b.d = stamps
			b.d.LastStart, b.d.LastEnd, b.d.LastWake = start, end, wake
			if took := b.asleepAfter(time.Hour); took != 10*time.Minute {
				t.Errorf("asleep after %s", took)
			}
		})
	}
}

// TestLongCall: a call or a socket that is open for a day keeps it awake.
func TestLongCall(t *testing.T) {
	b := idleFrom(t)
	b.d.Open, b.d.Running = 1, 1
	b.run(24 * time.Hour)
	b.want(1, ReasonSteady)
	b.d.Open, b.d.Running = 0, 0
	if took := b.asleepAfter(time.Hour); took != 10*time.Minute {
		t.Errorf("asleep after %s", took)
	}
}

// TestNoIdleTime: one that sleeps at once does so after its last call.
func TestNoIdleTime(t *testing.T) {
	spec := sleepy()
	spec.ZeroAfter = 0
	b := newBench(t, spec, 1)
	b.d.Open = 1
	b.run(time.Minute)
	b.want(1, ReasonSteady)
	b.d.Open = 0
	b.step(time.Second)
	b.want(0, ReasonIdle)
}

// TestFirstCompleteView: a new decider does not know what happened before.
func TestFirstCompleteView(t *testing.T) {
	for name, blind := range map[string]func(*Demand){
		"sampled": func(d *Demand) { d.Complete = false },
		"a weir":  func(d *Demand) { d.Peers = false },
		"a pod":   func(d *Demand) { d.Unknown = 1 },
		"no data": func(d *Demand) { d.Known = false },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, sleepy(), 1)
			b.d.LastStart = noon.Add(-5 * time.Hour)
			whole := b.d
			blind(&b.d)
			b.run(time.Hour)
			if b.last.Replicas != 1 || b.last.ReadAll != !b.d.Complete {
				t.Fatalf("%+v", b.last)
			}
			replicas := b.d.Replicas
			b.d = whole
			b.d.Replicas = replicas
			// The tick that sees everything for the first time is the start.
			if took := b.asleepAfter(time.Hour); took != 10*time.Minute+time.Second {
				t.Errorf("asleep after %s", took)
			}
		})
	}
}

// TestIdleSinceTheLatest: creation and the stamps that are found at first.
func TestIdleSinceTheLatest(t *testing.T) {
	b := newBench(t, sleepy(), 1)
	b.d.Complete = false
	b.d.Created = noon.Add(-20 * time.Minute)
	b.d.LastStart, b.d.LastEnd, b.d.LastWake = noon.Add(-9*time.Minute), noon.Add(-8*time.Minute), noon.Add(-12*time.Minute)
	if d := b.look(0); d.Idle != 8*time.Minute {
		t.Errorf("%s", d.Idle)
	}
	b = newBench(t, sleepy(), 1)
	b.d.Complete = false
	b.d.Created = noon.Add(-3 * time.Minute)
	if d := b.look(0); d.Idle != 3*time.Minute {
		t.Errorf("%s", d.Idle)
	}
}

// TestClocksOfOthers: one that is wrong by an hour neither keeps a function
// awake nor puts it to sleep.
func TestClocksOfOthers(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			b := idleFrom(t)
			b.d.LastStart = b.now.Add(off)
			b.step(time.Second)
			b.run(5 * time.Minute)
			b.d.LastStart = b.now.Add(off) // a call so short that nothing else shows it
			b.step(time.Second)
			if took := b.asleepAfter(time.Hour); took < 10*time.Minute-time.Second || took > 10*time.Minute+time.Second {
				t.Errorf("asleep after %s", took)
			}
		})
	}
}

// TestAStampThatGoesBack is that of a pod that is gone: no sign of life.
func TestAStampThatGoesBack(t *testing.T) {
	b := idleFrom(t)
	b.run(5 * time.Minute)
	b.d.LastStart = b.d.LastStart.Add(-time.Hour)
	if took := b.asleepAfter(time.Hour); took != 5*time.Minute {
		t.Errorf("asleep after %s", took)
	}
}

// TestSleepBeforeTheWindows: idleness decides, not the panic of a burst or a
// restart, nor the down-window.
func TestSleepBeforeTheWindows(t *testing.T) {
	spec := sleepy()
	spec.ZeroAfter, spec.DownWindow = 10*time.Second, time.Hour
	b := newBench(t, spec, 5)
	b.d.Running = 500
	b.run(time.Minute)
	b.d.Running = 0
	if took := b.asleepAfter(time.Minute); took != 10*time.Second {
		t.Errorf("asleep after %s", took)
	}
}

// TestMinIsMaxSleeps: the size when awake is fixed, nothing else.
func TestMinIsMaxSleeps(t *testing.T) {
	spec := sleepy()
	spec.Min, spec.Max = 4, 4
	b := newBench(t, spec, 4)
	b.d.Running = 1000
	b.run(5 * time.Minute)
	b.want(4, ReasonSteady)
	b.d.Running = 0
	b.asleepAfter(time.Hour)
	b.d.Held = 1
	b.run(LostWake + time.Second)
	b.want(4, ReasonWake)
}

// TestWakeIsHeld: what a wake asked for stays for a stable window.
func TestWakeIsHeld(t *testing.T) {
	spec := sleepy()
	spec.AtStart = 6
	b := newBench(t, spec, 0)
	b.run(time.Hour)
	b.want(0, ReasonAsleep)
	b.d.Replicas, b.d.Started, b.d.LastWake = 6, 0, b.now // the gateway's
	b.d.Running = 1
	b.look(time.Second)
	b.d.Started = 6
	b.run(59 * time.Second)
	b.want(6, ReasonSteady)
	b.run(2 * time.Second)
	b.want(1, ReasonLoad)
}

// TestBurstFromZero: the windows are empty, so that the burst is what they
// hold and one decision is enough.
func TestBurstFromZero(t *testing.T) {
	b := newBench(t, sleepy(), 0)
	b.run(time.Hour)
	// They have waited for the last of a hundred milliseconds, and their mean
	// is that of all hundred.
	b.d.Held, b.d.Open = 0.73, 73
	b.look(100 * time.Millisecond)
	b.want(0, ReasonAsleep) // whoever holds them wakes it
	b.d.Replicas = 1
	b.look(10 * time.Millisecond)
	b.want(8, ReasonPanic)
}

// TestLostWake: who holds the requests wakes; when that does not happen,
// Decide does.
func TestLostWake(t *testing.T) {
	b := newBench(t, sleepy(), 0)
	b.run(time.Hour)
	b.d.Held = 35
	b.run(LostWake)
	b.want(0, ReasonAsleep)
	b.d.Held = 0
	b.step(time.Second)
	b.d.Held = 35
	b.run(LostWake)
	b.want(0, ReasonAsleep)
	b.step(time.Second)
	b.want(4, ReasonWake)

	// Without a reading too.
	b = newBench(t, sleepy(), 0)
	b.d.Known, b.d.Open = false, 3
	b.run(LostWake + time.Second)
	b.want(1, ReasonWake)
}

// TestSleepingStaysAsleep: a new decider does not wake what sleeps.
func TestSleepingStaysAsleep(t *testing.T) {
	b := newBench(t, sleepy(), 0)
	b.d.LastEnd = noon.Add(-time.Second)
	b.look(0)
	b.want(0, ReasonAsleep)
	b.run(time.Hour)
	b.want(0, ReasonAsleep)
	if d := b.last; d.ReadAll {
		t.Errorf("%+v", d)
	}
}

// TestWokenByHand: the idle time begins when the function is asked for.
func TestWokenByHand(t *testing.T) {
	b := newBench(t, sleepy(), 0)
	b.run(time.Hour)
	b.d.Replicas, b.d.Started = 1, 1
	b.look(time.Second)
	if took := b.asleepAfter(time.Hour); took != 10*time.Minute {
		t.Errorf("asleep after %s", took)
	}
}

func TestSchedule(t *testing.T) {
	spec := sleepy()
	spec.AtStart = 3
	spec.Schedule = &function.Schedule{
		Location: time.UTC,
		WakeUp:   []function.TimeOfDay{function.TimeOfDay(13 * time.Hour)},
		IdleFrom: []function.IdleFrom{
			{At: 0, After: 10 * time.Minute},
			{At: function.TimeOfDay(13 * time.Hour), After: 2 * time.Hour},
			{At: function.TimeOfDay(20 * time.Hour), After: time.Minute},
		},
	}
	b := newBench(t, spec, 0)
	b.run(time.Hour - time.Second)
	b.want(0, ReasonAsleep)
	b.step(time.Second)
	b.want(3, ReasonSchedule)
	// Two hours, by the idle time of the afternoon, from when it was up.
	b.run(2 * time.Hour)
	if b.last.Replicas == 0 {
		t.Fatalf("asleep too early: %s", b.last.Why())
	}
	b.step(time.Second)
	b.want(0, ReasonIdle)
	// Once a day, whatever the idle time is by then.
	b.run(5 * time.Hour)
	b.want(0, ReasonAsleep)
	b.run(17*time.Hour - 2*time.Second)
	b.want(0, ReasonAsleep)
	b.run(time.Hour)
	b.want(1, ReasonSteady)

	// A function that was awake at the time stays it as if it was called.
	b = newBench(t, spec, 1)
	b.now = noon.Add(55 * time.Minute)
	b.d.Created = noon.Add(-time.Hour)
	b.run(10 * time.Minute)
	if d := b.last; d.Idle != 5*time.Minute || d.IdleAfter != 2*time.Hour {
		t.Errorf("%+v", d)
	}

	// A decider that begins after the time does what the one before it did
	// not, unless it is too late.
	for _, c := range []struct {
		hour   int
		want   int
		reason Reason
	}{{14, 3, ReasonSchedule}, {16, 0, ReasonAsleep}} {
		b = newBench(t, spec, 0)
		b.now = noon.Add(time.Duration(c.hour-12) * time.Hour)
		b.look(0)
		b.want(c.want, c.reason)
	}

	// Put to sleep by hand, it sleeps.
	b = newBench(t, spec, 0)
	b.run(time.Hour + time.Minute)
	b.d.Replicas, b.d.Started = 0, 0
	b.run(time.Minute)
	b.want(0, ReasonAsleep)
}

// TestSleepOfManyPods: pods that no sample holds are read before a function is
// put to sleep, and what they did long ago is no news then. Their function
// would never sleep while there are more pods than a sample takes.
func TestSleepOfManyPods(t *testing.T) {
	b := newBench(t, sleepy(), 10)
	b.spec.Min = 10
	first, last := noon.Add(5*time.Second), noon.Add(10*time.Second)
	reads, untold := 0, 1.0
	step := func() {
		before := b.state
		b.d.Complete, b.d.LastStart, b.d.Rate = false, first, 0
		if b.now.Before(last) {
			b.d.Running = 1
		} else {
			b.d.Running = 0
		}
		if !b.look(time.Second).ReadAll {
			return
		}
		// The others had a call after those of the sample, and no reading since.
		reads++
		b.now, b.state = b.now.Add(-time.Second), before
		b.d.Complete, b.d.LastStart, b.d.Rate = true, last, untold
		if !b.now.Before(last) {
			untold = 0
		}
		b.look(time.Second)
	}
	for b.now.Sub(last) < time.Hour && (b.now == noon || b.last.Replicas > 0) {
		step()
	}
	b.want(0, ReasonIdle)
	if took := b.now.Sub(last); took > 10*time.Minute+2*time.Second {
		t.Errorf("asleep %s after the last call", took)
	}
	if reads > 4 {
		t.Errorf("all pods were read %d times", reads)
	}
}
