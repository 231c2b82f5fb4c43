package autoscaler

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// patient is a Spec of target 10 whose proportion is 1.
func patient() *function.Spec {
	return &function.Spec{Min: 1, Max: 20, Type: function.Capacity, Target: 10, Proportion: 1, ZeroAfter: 15 * time.Minute}
}

// bench steps one function through time. What Decide writes is asked for, and
// started, at once.
type bench struct {
	t     *testing.T
	now   time.Time
	spec  *function.Spec
	d     Demand
	state State
	last  Decision
}

func newBench(t *testing.T, spec *function.Spec, replicas int) *bench {
	return &bench{t: t, now: noon, spec: spec, d: Demand{
		Replicas: replicas, Started: replicas, Known: true, Complete: true, Peers: true, Created: noon.Add(-24 * time.Hour),
	}}
}

// calm is a bench whose decider has seen load for long, and is in no panic.
func calm(t *testing.T, spec *function.Spec, replicas int, load float64) *bench {
	b := newBench(t, spec, replicas)
	b.d.Running = load
	for range 150 {
		b.look(time.Second)
	}
	if b.last.Panicking || b.d.Replicas != replicas {
		t.Fatalf("not calm at %d: %+v", replicas, b.last)
	}
	return b
}

// look decides once, after a while, and writes nothing.
func (b *bench) look(after time.Duration) Decision {
	b.now = b.now.Add(after)
	b.last, b.state = Decide(b.now, b.spec, &b.d, b.state)
	return b.last
}

// step decides, and does it.
func (b *bench) step(after time.Duration) Decision {
	d := b.look(after)
	b.d.Replicas, b.d.Started = d.Replicas, d.Replicas
	return d
}

// for steps by the second.
func (b *bench) run(d time.Duration) Decision {
	for range d / time.Second {
		b.step(time.Second)
	}
	return b.last
}

func (b *bench) want(replicas int, reason Reason) {
	b.t.Helper()
	if b.last.Replicas != replicas || b.last.Reason != reason {
		b.t.Fatalf("at %s: %d for %q, want %d for %q: %s\n%+v",
			b.now.Sub(noon), b.last.Replicas, b.last.Reason, replicas, reason, b.last.Why(), b.last)
	}
}

// TestVectors: desired = ceil(load / (target × proportion)) within the bounds.
func TestVectors(t *testing.T) {
	for _, c := range []struct {
		name               string
		running            float64
		target, proportion float64
		spec               func(*function.Spec, *Demand)
		want               int
	}{
		{"15 of 5", 15, 5, 1, nil, 3},
		{"25 of 5", 25, 5, 1, nil, 5},
		{"nothing", 0, 5, 1, nil, 1},
		{"nothing, min 3", 0, 5, 1, func(s *function.Spec, _ *Demand) { s.Min = 3 }, 3},
		{"90 of 100 at 0.7", 90, 100, 0.7, nil, 2},
		{"15 of 5 at 0.9", 15, 5, 0.9, nil, 4},
		{"90 of 100 at 0.9", 90, 100, 0.9, nil, 1},
		{"0.1 of 0.1", 0.1, 0.1, 1, nil, 1},
		{"0.3 of 0.1", 0.3, 0.1, 1, nil, 3},
		{"a target of almost nothing", 0.1, 1e-9, 1, nil, 10},
		{"max", 1000, 5, 1, nil, 20},
		{"max of one", 1000, 5, 1, func(s *function.Spec, _ *Demand) { s.Max = 1 }, 1},
		{"min = max", 1000, 5, 1, func(s *function.Spec, _ *Demand) { s.Min, s.Max = 7, 7 }, 7},
		{"the pods' own limit", 30, 0, 1, func(_ *function.Spec, d *Demand) { d.MaxInflight = 10 }, 3},
		{"no limit known", 101, 0, 1, nil, 3},
		{"limit of plain pods", 30, 0, 1, func(s *function.Spec, _ *Demand) { s.Concurrency = 6 }, 5},
		{"refused work too", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Refused = 5 }, 3},
		{"refused work at most doubles", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Refused = 1e9 }, 4},
		{"waiting in pods and gateways", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Queued, d.Held = 5, 10 }, 5},
		{"held, nothing known of the calls", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Held, d.Arrivals = 80, 1 }, 18},
		{"held, but no more than arrives", 10, 5, 1, func(_ *function.Spec, d *Demand) {
			d.Held, d.Arrivals, d.Service = 100, 300, 100*time.Millisecond
		}, 8},
		{"held, and long calls", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Held, d.Service = 20, 6*time.Second }, 6},
		{"held, and to be through with in a panic window", 1, 5, 1, func(_ *function.Spec, d *Demand) { d.Held, d.Service = 84, time.Second }, 3},
		{"backlog", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Backlog = 20 }, 6},
		{"backlog beyond what may run", 10, 5, 1, func(s *function.Spec, d *Demand) { d.Backlog, s.AsyncConcurrency = 1000, 15 }, 5},
		{"backlog, and to be through with in a panic window", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Backlog, d.Service = 60, time.Second }, 4},
		{"backlog of long calls", 10, 5, 1, func(_ *function.Spec, d *Demand) { d.Backlog, d.Service = 20, time.Minute }, 6},
		{"backlog of short calls, few at once", 10, 5, 1, func(s *function.Spec, d *Demand) {
			d.Backlog, d.Service, s.AsyncConcurrency = 600, time.Second, 5
		}, 3},
		{"queue counts every message", 10, 5, 1, func(s *function.Spec, d *Demand) {
			s.Type = function.Queue
			d.Backlog, d.Service = 60, time.Second
		}, 14},
		{"queue, few at once", 10, 5, 1, func(s *function.Spec, d *Demand) {
			s.Type, s.AsyncConcurrency = function.Queue, 10
			d.Backlog = 1000
		}, 4},
		{"backlog and rps", 0, 50, 1, func(s *function.Spec, d *Demand) { s.Type = function.RPS; d.Rate, d.Backlog = 100, 900 }, 2},
		{"queue", 10, 5, 1, func(s *function.Spec, d *Demand) { s.Type = function.Queue; d.Backlog, d.Refused = 20, 10 }, 6},
		{"queue by the pods' limit", 5, 0, 1, func(s *function.Spec, d *Demand) { s.Type = function.Queue; d.Backlog, d.MaxInflight = 20, 5 }, 5},
		{"rps", 0, 50, 0.9, func(s *function.Spec, d *Demand) { s.Type = function.RPS; d.Rate, d.Running, d.Refused = 100, 99, 99 }, 3},
		{"rps of nothing said", 0, 0, 1, func(s *function.Spec, d *Demand) { s.Type = function.RPS; d.Rate = 151 }, 4},
		{"cpu", 0, 500, 0.9, func(s *function.Spec, d *Demand) { s.Type = function.CPU; d.CPU = 1000 }, 3},
		{"cpu of nothing said", 0, 0, 1, func(s *function.Spec, d *Demand) { s.Type = function.CPU; d.CPU = 1000; d.Held = 400 }, 2},
		{"NaN", math.NaN(), 5, 1, nil, 1},
		{"without end", math.Inf(1), 5, 1, nil, 1},
		{"negative", -5, 5, 1, func(_ *function.Spec, d *Demand) { d.Refused, d.Held = -3, 10 }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := patient()
			spec.Target, spec.Proportion = c.target, c.proportion
			b := newBench(t, spec, 1)
			b.d.Running = c.running
			if c.spec != nil {
				c.spec(spec, &b.d)
			}
			if d := b.run(5 * time.Minute); d.Replicas != c.want || d.Write() {
				t.Errorf("%d replicas, want %d: %s", d.Replicas, c.want, d.Why())
			}
		})
	}
}

// TestWindowsAreAveragedOverWhatIsFilled: nothing that was not seen counts.
func TestWindowsAreAveragedOverWhatIsFilled(t *testing.T) {
	b := newBench(t, patient(), 1)
	b.d.Running = 100
	if d := b.look(0); d.Stable != 100 || d.Panic != 100 {
		t.Errorf("at once: %+v", d)
	}
	b.want(10, ReasonPanic)
	b.d.Running = 40
	b.look(time.Second)
	near := func(got, want float64) bool { return math.Abs(got-want) < 0.1 }
	if d := b.last; !near(d.Stable, 40) || !near(d.Panic, 40) {
		t.Errorf("after a second: %+v", d)
	}
	b.d.Running = 10
	for range 9 {
		b.look(time.Second)
	}
	if d := b.last; !near(d.Stable, 13) || !near(d.Panic, 10) {
		t.Errorf("after ten: %+v", d)
	}
}

// TestStableWindow: calm demand is followed by its mean over a minute.
func TestStableWindow(t *testing.T) {
	b := calm(t, patient(), 10, 100)
	b.d.Running = 130 // not twice what 10 carry
	for second := 1; second <= 60; second++ {
		b.look(time.Second)
		stable := 100 + 30*float64(second)/60
		steep := 100 + 30*min(1, float64(second)/6)
		if d := b.last; math.Abs(d.Stable-stable) > 1e-6 || math.Abs(d.Panic-steep) > 1e-6 || d.Panicking {
			t.Fatalf("second %d: stable %g, want %g; panic %g, want %g", second, d.Stable, stable, d.Panic, steep)
		}
		b.want(int(math.Ceil(stable/10-1e-9)), ReasonLoad)
	}
}

// TestPanic: begins at twice what the started pods should carry, never
// shrinks, keeps the most it wanted, and ends a minute after its cause.
func TestPanic(t *testing.T) {
	b := calm(t, patient(), 3, 30)
	b.d.Running = 65 // six seconds of it are 65, for 7 pods of 3
	var began int
	for second := 1; ; second++ {
		b.look(time.Second)
		steep := math.Ceil((30+35*float64(second)/6)/10 - 1e-9)
		if b.last.Panicking != (steep >= 6) {
			t.Fatalf("second %d: %+v", second, b.last)
		}
		if b.last.Panicking {
			began = second
			break
		}
	}
	if began != 4 { // 30 + 35·4/6 = 53.3
		t.Errorf("panic after %d seconds", began)
	}
	b.want(6, ReasonPanic)
	b.d.Replicas = 6 // asked for, but not started: the panic goes on
	b.look(time.Second)
	b.look(time.Second)
	b.want(7, ReasonPanic)
	b.d.Replicas, b.d.Started = 7, 7
	b.d.Running = 1
	for range 59 { // 7 started pods ended its cause
		b.look(time.Second)
		b.want(7, ReasonSteady)
		if !b.last.Panicking {
			t.Fatalf("panic over at %s", b.now.Sub(noon))
		}
	}
	b.look(time.Second)
	b.want(3, ReasonLoad) // half of 7 at once
	b.step(time.Second)
	b.step(time.Second)
	b.want(1, ReasonLoad)
}

// TestPanicKeepsWhatOthersAskedFor: who raises the replicas in a panic does
// not see them lowered in it.
func TestPanicKeepsWhatOthersAskedFor(t *testing.T) {
	b := calm(t, patient(), 1, 10)
	b.d.Running = 60
	b.run(6 * time.Second)
	b.d.Replicas = 15
	b.run(10 * time.Second)
	b.want(15, ReasonSteady)
}

// TestPanicRemembersWhatWasNotWritten: a panic's most is wanted until it ends,
// also when nobody could ask for it so far.
func TestPanicRemembersWhatWasNotWritten(t *testing.T) {
	b := calm(t, patient(), 1, 10)
	b.d.Running = 60
	for range 6 {
		b.look(time.Second)
	}
	b.want(6, ReasonPanic)
	b.d.Running = 10
	for range 30 {
		b.look(time.Second)
	}
	b.want(6, ReasonPanic)
}

// TestLoadsWithoutEnd leave nothing behind that is no number.
func TestLoadsWithoutEnd(t *testing.T) {
	b := calm(t, patient(), 1, 10)
	b.d.Running, b.d.Refused, b.d.Held, b.d.Backlog = math.MaxFloat64, math.MaxFloat64, math.MaxFloat64, math.MaxFloat64
	b.step(time.Second)
	b.d.Running, b.d.Refused, b.d.Held, b.d.Backlog = 10, 0, 0, 0
	for range 3 * 60 {
		b.step(time.Second)
		if d := b.last; !(d.Load <= mostLoad*4 && d.Stable <= mostLoad*4 && d.Panic <= mostLoad*4) {
			t.Fatalf("%+v", d)
		}
	}
	b.want(1, ReasonSteady)
}

// TestRestart: a decider that has just begun keeps what is there for a minute.
func TestRestart(t *testing.T) {
	b := newBench(t, patient(), 12)
	b.d.Running = 10
	for range 60 {
		b.step(time.Second)
		b.want(12, ReasonSteady)
		if !b.last.Panicking {
			t.Fatal("not in panic")
		}
	}
	b.step(time.Second)
	b.want(6, ReasonLoad)
	b.run(2 * time.Second)
	b.want(1, ReasonLoad)
}

// TestNoData: no decision, and no memory of what was not seen.
func TestNoData(t *testing.T) {
	b := calm(t, patient(), 5, 50)
	b.d.Known, b.d.Running = false, 1000
	for range 300 {
		b.step(time.Second)
		b.want(5, ReasonNoData)
	}
	b.d.Known, b.d.Running = true, 50
	b.step(time.Second)
	b.want(5, ReasonSteady)
	b.d.Known, b.spec.Min = false, 6
	b.step(time.Second)
	b.want(6, ReasonBounds)
}

// TestSteps: one decision shrinks to half of the started pods and grows to a
// thousand times as many.
func TestSteps(t *testing.T) {
	spec := patient()
	spec.Max = 5000
	b := calm(t, spec, 9, 90)
	b.d.Running = 0
	for range 59 {
		b.look(time.Second)
	}
	for _, want := range []int{4, 2, 1} {
		b.step(time.Second)
		b.want(want, ReasonLoad)
	}
	// Pods that have yet to end do not raise what was lowered, by whomever.
	b.d.Started = 30
	b.look(time.Second)
	b.want(1, ReasonSteady)
	b.d.Started = 1
	b.d.Running = 1e6
	b.run(6 * time.Second)
	b.want(5000, ReasonSteady)

	b = calm(t, spec, 1, 10)
	b.d.Running = 1e6
	b.look(3 * time.Second)
	b.want(1000, ReasonPanic)
	b.d.Running = math.MaxFloat64
	b.look(3 * time.Second)
	b.want(1000, ReasonPanic)
}

// TestDownWindow: shrinks to no less than was wanted within it.
func TestDownWindow(t *testing.T) {
	spec := patient()
	spec.DownWindow = 5 * time.Minute
	b := calm(t, spec, 10, 100)
	b.d.Running = 60
	b.run(5 * time.Minute)
	b.want(10, ReasonSteady) // 10 were wanted until the mean was below 90
	b.d.Running = 75
	b.run(time.Minute)
	b.want(8, ReasonSteady)
	b.d.Running = 20
	b.run(5 * time.Minute)
	b.want(8, ReasonSteady)
	b.run(time.Minute)
	b.want(2, ReasonSteady)

	// It does not hold what max no longer allows, nor a setting taken away.
	b = calm(t, spec, 10, 100)
	b.d.Running = 10
	spec.Max = 4
	b.step(time.Second)
	b.want(4, ReasonBounds)
	spec.DownWindow = 0
	b.run(2 * time.Minute)
	b.want(1, ReasonSteady)
}

// TestDownWindowHoldsThePresentCountAfterARestart: what was wanted before is
// not known, but it was at least asked for.
func TestDownWindowHoldsThePresentCountAfterARestart(t *testing.T) {
	spec := patient()
	spec.DownWindow = 5 * time.Minute
	b := newBench(t, spec, 10)
	b.run(5 * time.Minute)
	b.want(10, ReasonSteady)
	b.run(2 * time.Minute)
	b.want(1, ReasonSteady)
}

func TestBounds(t *testing.T) {
	spec := patient()
	spec.Min, spec.Max = 2, 4
	b := calm(t, spec, 2, 20)
	b.d.Replicas, b.d.Started = 1, 1
	b.look(time.Second)
	b.want(2, ReasonBounds)
	b.d.Replicas, b.d.Started = 9, 9
	b.look(time.Second)
	b.want(4, ReasonBounds)
	b.d.Replicas, b.d.Started = 0, 0
	b.look(time.Second) // it may not sleep
	b.want(2, ReasonBounds)
}

// TestDecreaseNeedsToKnow: what forbids one, and what each says.
func TestDecreaseNeedsToKnow(t *testing.T) {
	for _, c := range []struct {
		reason Reason
		change func(*Demand)
	}{
		{ReasonIncomplete, func(d *Demand) { d.Complete = false }},
		{ReasonUnknown, func(d *Demand) { d.Unknown = 2 }},
		{ReasonUnknown, func(d *Demand) { d.Unknown, d.Complete = 1, false }}, // no use in asking again
		{ReasonPeers, func(d *Demand) { d.Peers = false }},
		{ReasonUnready, func(d *Demand) { d.Unready = true }},
	} {
		t.Run(string(c.reason), func(t *testing.T) {
			spec := patient()
			spec.Zero = true
			b := calm(t, spec, 8, 80)
			b.d.Running = 20
			b.d.Busy = []string{"f-1", "f-2"}
			for range 90 {
				b.look(time.Second)
			}
			b.want(4, ReasonLoad)
			if !slices.Equal(b.last.Spare, b.d.Busy) {
				t.Errorf("spares %v", b.last.Spare)
			}
			knows := b.d
			c.change(&b.d)
			b.look(time.Second)
			b.want(8, c.reason)
			if b.last.Wanted != 4 || b.last.Spare != nil || b.last.ReadAll != (c.reason == ReasonIncomplete) {
				t.Errorf("%+v", b.last)
			}
			// Growth asks for none of that.
			b.d.Running = 5000
			b.look(time.Second)
			b.want(20, ReasonPanic)

			b.d = knows
			b.d.Running, b.d.Replicas, b.d.Started = 0, 8, 8
			b.look(time.Second)
			c.change(&b.d)
			b.look(time.Hour)
			b.want(8, c.reason)
			b.d.Complete, b.d.Unknown, b.d.Peers, b.d.Unready = true, 0, true, false
			b.look(time.Second)
			b.want(0, ReasonIdle)
		})
	}
}

// TestAgainWithTheSameState: a decision that asks for a complete read is made
// anew from the State that went in.
func TestAgainWithTheSameState(t *testing.T) {
	b := calm(t, patient(), 8, 80)
	b.d.Running = 20
	for range 90 {
		b.look(time.Second)
	}
	b.d.Complete = false
	first, _ := Decide(b.now, b.spec, &b.d, b.state)
	complete := b.d
	complete.Complete = true
	again, _ := Decide(b.now, b.spec, &complete, b.state)
	if !first.ReadAll || first.Write() || again.Replicas != 4 || again.ReadAll {
		t.Errorf("%+v\n%+v", first, again)
	}
}

func TestAutoscaledAndFixed(t *testing.T) {
	spec := patient()
	spec.Zero = true
	b := newBench(t, spec, 3)
	b.d.Autoscaled, b.d.Running = true, 1e6
	b.run(2 * time.Minute)
	b.want(3, ReasonAutoscaled)
	b.d.Running = 0
	b.run(14 * time.Minute)
	b.want(3, ReasonAutoscaled)
	b.run(2 * time.Minute)
	b.want(0, ReasonAsleep)
	b.d.Held = 1000
	b.run(LostWake)
	b.want(0, ReasonAsleep)
	b.step(time.Second)
	b.want(1, ReasonWake)

	b = newBench(t, spec, 1)
	b.d.Fixed, b.d.Running = true, 1e6
	b.run(time.Minute)
	b.want(1, ReasonFixed)
	b.d.Running = 0
	b.run(time.Hour)
	b.want(1, ReasonFixed)
}

// TestClocks: windows and panics do not move when the clock on the wall does.
func TestClocks(t *testing.T) {
	b := calm(t, patient(), 5, 50)
	b.d.Running = 130
	b.look(0)
	b.want(5, ReasonSteady) // no time passed: nothing is known of it
	b.look(-24 * time.Hour)
	b.want(5, ReasonSteady)
	b.look(2 * time.Second)
	if b.last.Panicking || math.Abs(b.last.Panic-(50+80./3)) > 1e-6 {
		t.Errorf("two seconds after the clock was set back a day: %+v", b.last)
	}
	b.look(3 * time.Hour) // nobody looked for long: the mean holds for it
	b.want(13, ReasonPanic)
	if b.last.Stable != 130 {
		t.Errorf("%+v", b.last)
	}
}

func TestReasonsAreAllAndHaveWords(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons {
		d := Decision{Reason: r, Type: function.Capacity, From: 3, Wanted: 2, Load: 12.5, Stable: 11, Panic: 12, Target: 5, Started: 3, Floor: 1, Max: 20, Unknown: 1, IdleAfter: time.Minute}
		why := d.Why()
		if seen[r] || r == "" || why == "" || strings.Contains(why, "%!") || strings.ContainsAny(string(r), " _\n") {
			t.Errorf("%q: %s", r, why)
		}
		seen[r] = true
	}
	b := calm(t, patient(), 3, 30)
	b.d.Running = 65
	b.look(6 * time.Second)
	const want = "65 calls at once (mean of 1m0s 33.5, of 6s 65), 10 to each replica: 7 of 1 to 20, 3 started, in panic"
	if got := b.last.Why(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
