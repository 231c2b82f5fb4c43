package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/autoscaler"
	"github.com/weir-run/weir/function"
)

const (
	folder = "../../docs/scaling"
	page   = "../../docs/SCALING.md"
)

// played is every scenario once, for all tests.
var played = sync.OnceValue(all)

func playedAs(t *testing.T, name string) *result {
	t.Helper()
	for i, r := range played() {
		if r.name == name {
			return &played()[i]
		}
	}
	t.Fatalf("no scenario %q", name)
	return nil
}

// TestBounds holds how weir scales to what it should be. The numbers leave
// some room above what it does today; who changes Decide sees here what that
// costs.
func TestBounds(t *testing.T) {
	for _, c := range []struct {
		name      string
		overshoot float64       // replicas asked for ÷ needed, at their peaks
		turns     int           // changes of direction
		refused   float64       // share of the calls
		short     time.Duration // too few pods for the load
		wait      time.Duration // p99, for a pod
		seconds   float64       // pod-seconds asked for ÷ needed; 0 not bounded
	}{
		{"step", 3, 2, 0, 10 * time.Second, 5 * time.Second, 1.5},
		{"spike", 2.5, 3, 0, 10 * time.Second, 6 * time.Second, 6},
		{"ramp", 1.2, 12, 0, 12 * time.Second, time.Second, 1.3},
		{"sawtooth", 1.5, 20, 0, 13 * time.Second, 2 * time.Second, 1.7},
		{"sawtooth-window", 2.2, 6, 0, 15 * time.Second, time.Second, 3},
		{"trickle", 1, 20, 0, 4 * time.Second, 3 * time.Second, 0},
		{"burst", 1.05, 1, 0, 4 * time.Second, 2500 * time.Millisecond, 0},
		// Pods for each of the messages would be a hundred, and for nothing.
		{"queue", 1.05, 1, 0, 12 * time.Second, 11 * time.Second, 3},
		{"clients", 1.05, 4, 0, 30 * time.Second, time.Second, 1.2},
		// Pods that come after 30 s find a pile as old: what it takes to be
		// through with it soon is more than the load.
		{"slow", 4.5, 2, 0, 45 * time.Second, 35 * time.Second, 2.2},
		// A Service sends to any pod, so that some are full when others are not.
		{"refusing", 1.1, 3, 0.12, 15 * time.Second, 0, 1.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := playedAs(t, c.name)
			asked, needed := r.peaks()
			if got := float64(asked) / float64(needed); got > c.overshoot {
				t.Errorf("%d replicas where %d were needed: %.2f, at most %g", asked, needed, got, c.overshoot)
			}
			if got := r.turns(); got > c.turns {
				t.Errorf("%d turns, at most %d", got, c.turns)
			}
			if got := r.refusedShare(); got > c.refused {
				t.Errorf("%.4f of the calls refused, at most %g", got, c.refused)
			}
			if got := r.short(); got > c.short {
				t.Errorf("too few pods for %s, at most %s", got, c.short)
			}
			if got := r.wait(0.99); got > c.wait {
				t.Errorf("p99 of the wait %s, at most %s", got, c.wait)
			}
			took, ideal := r.podSeconds()
			if got := took / ideal; c.seconds > 0 && got > c.seconds {
				t.Errorf("%.0f pod-seconds where %.0f were needed: %.2f, at most %g", took, ideal, got, c.seconds)
			}
		})
	}
	if n := len(played()); n != 11 {
		t.Errorf("%d scenarios, and bounds for 11", n)
	}
}

// TestChanceDoesNotMatter: the bounds are no luck of one seed.
func TestChanceDoesNotMatter(t *testing.T) {
	for _, s := range scenarios() {
		if s.name != "spike" && s.name != "burst" {
			continue
		}
		for seed := range uint64(5) {
			s := s.whole()
			s.seed = 100 + seed
			r := run(s)
			if asked, needed := r.peaks(); float64(asked) > 2.6*float64(needed) || r.refused > 0 || r.turns() > 4 || r.short() > 12*time.Second {
				t.Errorf("%s, seed %d: %d replicas for %d, %d refused, %d turns, short for %s", s.name, s.seed, asked, needed, r.refused, r.turns(), r.short())
			}
		}
	}
}

// TestEqualProgramsWriteEqualFiles: nothing of the machine is in a result.
func TestEqualProgramsWriteEqualFiles(t *testing.T) {
	once, again := playedAs(t, "spike"), run(playedAs(t, "spike").scenario)
	if !reflect.DeepEqual(once.moments, again.moments) || !reflect.DeepEqual(once.waits, again.waits) || !bytes.Equal(once.draw(), again.draw()) {
		t.Error("two runs of one scenario differ")
	}
}

// TestSleepAndWake: the trickle's function sleeps between its calls, each
// wakes it by one write, and none waits for more than a pod to start.
func TestSleepAndWake(t *testing.T) {
	r := playedAs(t, "trickle")
	idle := 0
	for _, d := range r.writes {
		if d.Reason == autoscaler.ReasonIdle && d.Replicas == 0 {
			idle++
		} else {
			t.Errorf("%d → %d for %q: the gateway's wake was enough", d.From, d.Replicas, d.Reason)
		}
	}
	if r.wakes != 10 || idle < 9 || r.calls != 10 || len(r.waits) != 10 {
		t.Errorf("%d wakes, put to sleep %d times, %d of %d calls begun", r.wakes, idle, len(r.waits), r.calls)
	}
	if longest := r.waits[len(r.waits)-1]; longest > r.startup*6/5+tick {
		t.Errorf("a call waited %s for a pod that takes %s to start", longest, r.startup)
	}
}

// TestBurstWakesWithOneWrite from zero, and one more for all that it needs.
func TestBurstWakesWithOneWrite(t *testing.T) {
	r := playedAs(t, "burst")
	if r.wakes != 1 || len(r.writes) == 0 || r.writes[0].From != 1 || r.writes[0].Replicas != 34 || r.writes[0].Reason != autoscaler.ReasonPanic {
		t.Errorf("%d wakes, then %+v", r.wakes, r.writes[:min(1, len(r.writes))])
	}
	if len(r.waits) != 300 {
		t.Errorf("%d of 300 begun", len(r.waits))
	}
}

// TestNoCallIsForgotten: the world itself is right. All that came was begun,
// refused, or waits.
func TestNoCallIsForgotten(t *testing.T) {
	for _, r := range played() {
		if len(r.waits)+r.refused != r.calls || r.calls == 0 {
			t.Errorf("%s: %d calls, %d begun, %d refused", r.name, r.calls, len(r.waits), r.refused)
		}
		for _, m := range r.moments {
			if m.replicas > r.spec.Max || m.replicas < r.spec.Min && !r.spec.Zero {
				t.Errorf("%s at %s: %d replicas", r.name, m.at, m.replicas)
			}
		}
	}
}

// TestSteadyLoadIsSteady: calls that come at random do not make the replicas
// of a steady load go up and down. A load at the very border between two
// counts does; a down-window ends that.
func TestSteadyLoadIsSteady(t *testing.T) {
	for _, c := range []struct {
		load   float64
		window time.Duration
		turns  int
	}{{85, 0, 0}, {90, 3 * time.Minute, 2}} {
		s := scenario{name: "steady", seed: 10, length: 10 * time.Minute, replicas: 10, peak: c.load,
			load: func(time.Duration) float64 { return c.load }, spec: function.Spec{DownWindow: c.window}}
		r := run(s.whole())
		for _, m := range r.moments {
			if m.replicas < 10 || m.replicas > 11 {
				t.Fatalf("%d replicas at %s for a load of %g", m.replicas, m.at, c.load)
			}
		}
		if r.turns() > c.turns {
			t.Errorf("%d turns at a load of %g", r.turns(), c.load)
		}
	}
}

// TestDrawn: what is checked in is what the simulator says.
func TestDrawn(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("checked in from amd64; where the compiler fuses multiply and add, the last digits differ")
	}
	made, err := drawn(played()).Files(folder, page)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range made {
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the simulator says: run make sim (%v)", filepath.Base(path), err)
		}
	}
}

// TestPictures: each is XML without points that are nowhere, and the document
// shows it.
func TestPictures(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for i := range played() {
		r := &played()[i]
		picture := r.draw()
		for decoder := xml.NewDecoder(bytes.NewReader(picture)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
		}
		if bytes.Contains(picture, []byte("NaN")) || bytes.Contains(picture, []byte("Inf")) {
			t.Errorf("%s has points that are nowhere", r.name)
		}
		if !bytes.Contains(text, []byte("](scaling/"+r.name+".svg)")) {
			t.Errorf("the document does not show %s", r.name)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		most float64
		last float64
		n    int
	}{{4, 4, 5}, {12, 12, 7}, {34, 30, 4}, {100, 100, 6}, {94, 80, 5}} {
		got := ticks(c.most, 6)
		if last := got[len(got)-1]; len(got) != c.n || math.Abs(last-c.last) > 1e-9 {
			t.Errorf("%g: %v", c.most, got)
		}
	}
}
