package autoscaler

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// source deals out the numbers that a life is made of.
type source interface{ IntN(n int) int }

// bytesSource deals from fuzzed bytes, and zeros when they are used up.
type bytesSource struct{ left []byte }

func (b *bytesSource) IntN(n int) int {
	var v uint16
	if len(b.left) >= 2 {
		v, b.left = binary.LittleEndian.Uint16(b.left), b.left[2:]
	}
	return int(v) % n
}

func anySpec(r source) *function.Spec {
	s := &function.Spec{
		Min: 1 + r.IntN(4), AtStart: r.IntN(6), Zero: r.IntN(3) > 0,
		ZeroAfter:  time.Duration(1+r.IntN(200)) * time.Second,
		Type:       []function.ScaleType{function.Capacity, function.RPS, function.CPU, function.Queue}[r.IntN(4)],
		Target:     float64(r.IntN(20)),
		Proportion: float64(1+r.IntN(10)) / 10,
	}
	s.Max = s.Min + r.IntN(30)
	if r.IntN(3) == 0 {
		s.DownWindow = time.Duration(r.IntN(200)) * time.Second
	}
	if r.IntN(3) == 0 {
		s.Schedule = &function.Schedule{Location: time.UTC,
			WakeUp:   []function.TimeOfDay{function.TimeOfDay(time.Duration(12*60+r.IntN(10)) * time.Minute)},
			IdleFrom: []function.IdleFrom{{At: 0, After: time.Duration(1+r.IntN(300)) * time.Second}}}
	}
	return s
}

func anyLoad(r source) float64 {
	switch r.IntN(12) {
	case 0:
		return float64(r.IntN(1000))
	case 1:
		return []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, math.MaxFloat64, 1e-300}[r.IntN(6)]
	case 2, 3, 4:
		return float64(r.IntN(400)) / 10
	}
	return 0
}

func anyDemand(r source, now time.Time, replicas int) Demand {
	d := Demand{
		Replicas: replicas, Started: max(0, replicas-r.IntN(3)),
		Known: r.IntN(8) > 0, Complete: r.IntN(4) > 0, Peers: r.IntN(8) > 0,
		Unready: r.IntN(10) == 0, MaxInflight: r.IntN(3) * 5, Created: noon,
	}
	if r.IntN(10) == 0 {
		d.Unknown = 1 + r.IntN(3)
	}
	if r.IntN(20) == 0 {
		d.Started += r.IntN(30)
	}
	if r.IntN(3) > 0 { // else nothing goes on
		d.Running, d.Refused, d.Queued, d.Held = anyLoad(r), anyLoad(r), anyLoad(r), anyLoad(r)
		d.Backlog, d.Rate, d.CPU = anyLoad(r), anyLoad(r), anyLoad(r)
		d.Open = r.IntN(4) / 2 * r.IntN(5)
		d.Arrivals, d.Service = anyLoad(r), time.Duration(r.IntN(20)-2)*time.Second/10
	}
	for _, stamp := range []*time.Time{&d.LastStart, &d.LastEnd, &d.LastWake} {
		if r.IntN(10) == 0 {
			*stamp = now.Add(time.Duration(r.IntN(7200)-3600) * time.Second)
		}
	}
	return d
}

func anyStep(r source) time.Duration {
	switch r.IntN(16) {
	case 0:
		return 0
	case 1:
		return -time.Duration(r.IntN(7200)) * time.Second
	case 2:
		return time.Duration(r.IntN(600)) * time.Second
	case 3:
		return time.Duration(r.IntN(1000)) * time.Millisecond
	}
	return time.Second
}

// live runs a function through a life and holds every decision to the rules.
func live(t *testing.T, r source, ticks int, seen map[Reason]int) {
	spec := anySpec(r)
	autoscaled, fixed := r.IntN(8) == 0, r.IntN(16) == 0
	now, replicas := noon, r.IntN(3)*r.IntN(6)
	var s State
	defer func() {
		if t.Failed() {
			t.Logf("life of %+v", *spec)
		}
	}()
	var idle time.Duration // since something was seen, by the rules' own count
	quiet := r.IntN(300)
	for tick := range ticks {
		step := anyStep(r)
		now = now.Add(step)
		if tick > 0 {
			idle += max(0, step)
		}
		if r.IntN(40) == 0 {
			replicas = r.IntN(40) // somebody else's doing
		}
		if r.IntN(60) == 0 {
			spec.Max = spec.Min + r.IntN(30)
		}
		d := anyDemand(r, now, replicas)
		if quiet--; quiet > 0 {
			d = Demand{Replicas: d.Replicas, Started: d.Started, Known: d.Known, Complete: d.Complete, Peers: d.Peers, Unknown: d.Unknown, Unready: d.Unready, Created: noon}
		} else if r.IntN(30) == 0 {
			quiet = r.IntN(300)
		}
		d.Autoscaled, d.Fixed = autoscaled, fixed
		if d.alive() {
			idle = 0
		}
		got, next := Decide(now, spec, &d, s)
		for _, broken := range rules(spec, &d, got, idle) {
			t.Fatalf("tick %d: %s\nspec %+v\ndemand %+v\ndecision %+v\n%s", tick, broken, *spec, d, got, got.Why())
		}
		same(t, moment{now, spec, &d, s}, got, next)
		monotone(t, r, moment{now, spec, &d, s}, got)
		s = next
		seen[got.Reason]++
		if r.IntN(8) > 0 { // else the write failed
			replicas = got.Replicas
		}
	}
}

// rules are those that hold for every single decision; it returns the broken.
func rules(spec *function.Spec, d *Demand, got Decision, idle time.Duration) []string {
	least := max(1, spec.Min)
	may := d.Complete && d.Peers && d.Unknown == 0 && !d.Unready
	known := d.Known && !d.Autoscaled && !d.Fixed
	sleeps := got.Replicas == 0 && d.Replicas > 0
	changes := slices.Contains(Reasons[:6], got.Reason)
	var broken []string
	rule := func(name string, holds bool) {
		if !holds {
			broken = append(broken, name)
		}
	}
	rule("a reason of the list", slices.Contains(Reasons, got.Reason))
	rule("the reason says whether it changes", changes == got.Write())
	rule("never below the floor", got.Replicas >= least || got.Wanted == 0 && spec.Zero || d.Autoscaled || d.Fixed)
	rule("never above max", got.Replicas <= max(least, spec.Max) || got.Replicas == d.Replicas && (!known || !may))
	rule("never to zero with demand", !sleeps || !d.alive())
	rule("to zero only where allowed", !sleeps || spec.Zero && !d.Fixed && idle >= got.IdleAfter && got.Idle >= got.IdleAfter)
	rule("no decrease of the unknown", got.Replicas >= d.Replicas || may)
	rule("no decrease in panic", got.Replicas >= d.Replicas || !got.Panicking || sleeps || d.Replicas > spec.Max)
	rule("no decrease to less than half", got.Replicas >= d.Started/2 || got.Replicas >= min(d.Replicas, spec.Max) || sleeps || got.Replicas == spec.Max)
	rule("autoscaled only to and from zero", !d.Autoscaled || !got.Write() || got.Replicas == 0 || d.Replicas == 0)
	rule("fixed is fixed", !d.Fixed || !got.Write())
	rule("without data only up to the floor", d.Known || got.Replicas == d.Replicas || got.Replicas == 0 || got.Replicas == least || d.Replicas == 0)
	return broken
}

type moment struct {
	now  time.Time
	spec *function.Spec
	d    *Demand
	s    State
}

func (m moment) decide() (Decision, State) { return Decide(m.now, m.spec, m.d, m.s) }

// same: the same arguments give the same answer, also after other decisions
// were made from the same State and from its successor.
func same(t *testing.T, m moment, got Decision, next State) {
	t.Helper()
	other := *m.d
	other.Running, other.Rate, other.CPU, other.Known, other.Replicas = 33, 33, 33, true, m.d.Replicas+1
	Decide(m.now.Add(time.Second), m.spec, &other, m.s)
	Decide(m.now.Add(time.Second), m.spec, &other, next)
	again, nextAgain := m.decide()
	if again.Load != got.Load { // NaN is not, and no load is NaN
		t.Fatalf("load %g, then %g", got.Load, again.Load)
	}
	if !reflect.DeepEqual(again, got) || !reflect.DeepEqual(nextAgain, next) {
		t.Fatalf("not the same:\n%+v\n%+v\n%+v\n%+v", got, again, next, nextAgain)
	}
}

// monotone: more demand, and all else the same, never asks for fewer.
func monotone(t *testing.T, r source, m moment, got Decision) {
	t.Helper()
	more := *m.d
	for _, load := range []*float64{&more.Running, &more.Refused, &more.Queued, &more.Held, &more.Backlog, &more.Rate, &more.CPU, &more.Arrivals} {
		if *load = sane(*load); r.IntN(2) == 0 {
			*load += float64(r.IntN(50))
		}
	}
	more.Open += r.IntN(2)
	with := m
	with.d = &more
	if grown, _ := with.decide(); grown.Replicas < got.Replicas {
		t.Fatalf("%d replicas for less, %d for more:\n%+v\n%+v\n%+v\n%+v", got.Replicas, grown.Replicas, *m.d, more, got, grown)
	}
}

func TestRulesHoldForAnyLife(t *testing.T) {
	seen := map[Reason]int{}
	for seed := range uint64(100) {
		live(t, rand.New(rand.NewPCG(seed, 3)), 300, seen)
	}
	for _, r := range Reasons {
		if seen[r] < 3 {
			t.Errorf("%q came up %d times: the lives do not test it", r, seen[r])
		}
	}
}

func FuzzDecide(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 4))
		life := make([]byte, 400)
		for i := range life {
			life[i] = byte(r.Uint32())
		}
		f.Add(life)
	}
	f.Fuzz(func(t *testing.T, life []byte) {
		live(t, &bytesSource{life}, min(60, len(life)/20+1), map[Reason]int{})
	})
}

// TestAllocations: a tick over thousands of functions must cost next to
// nothing, and sleeping ones nothing.
func TestAllocations(t *testing.T) {
	for _, c := range lives {
		b := c.bench(t)
		if got := testing.AllocsPerRun(200, func() { b.look(time.Second) }); got > c.allocs {
			t.Errorf("%s: %g allocations in a decision, at most %g", c.name, got, c.allocs)
		}
	}
}

var lives = []struct {
	name   string
	allocs float64
	bench  func(*testing.T) *bench
}{
	{"asleep", 0, func(t *testing.T) *bench { return newBench(t, sleepy(), 0) }},
	{"idle", 0, func(t *testing.T) *bench { return newBench(t, patient(), 1) }},
	{"busy", 1, func(t *testing.T) *bench {
		spec := sleepy()
		spec.DownWindow = 5 * time.Minute
		return calm(t, spec, 10, 100)
	}},
}

func BenchmarkDecide(b *testing.B) {
	for _, c := range lives {
		b.Run(c.name, func(b *testing.B) {
			one := c.bench(&testing.T{})
			b.ReportAllocs()
			for b.Loop() {
				one.look(time.Second)
			}
		})
	}
}
