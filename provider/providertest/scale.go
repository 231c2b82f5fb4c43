package providertest

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/weir-run/weir/function"
)

// wakes calls Wake n times at once through the providers in turn.
func (w *world) wakes(ref function.Ref, n, replicas int, through ...*weir) {
	w.t.Helper()
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-begin
			if err := through[i%len(through)].Wake(w.t.Context(), ref, replicas); err != nil {
				w.t.Errorf("Wake: %v", err)
			}
		})
	}
	close(begin)
	all.Wait()
}

func wakeOnceFromZero(w *world) {
	ref, other := w.make("a"), w.make("b")
	v := w.start()
	w.wakes(ref, 100, 2, v)
	v.replicas(ref, 2)
	v.up(ref, 2)
	w.wrote(ref, Write{0, 2})
	w.wrote(other)
	v.up(other, 0)
	for _, n := range []int{0, -1} {
		if err := v.Wake(w.t.Context(), other, n); err == nil {
			w.t.Errorf("Wake to %d replicas returned nil, expected an error", n)
		}
	}
	w.wrote(other)
}

func wakeOnceForSeveralWeirs(w *world) {
	if !w.Several {
		w.t.Skip("one provider at a time")
	}
	ref := w.make("a")
	first, second := w.start(), w.start()
	w.wakes(ref, 100, 3, first, second)
	for _, v := range []*weir{first, second} {
		v.up(ref, 3)
	}
	w.wrote(ref, Write{0, 3})
}

func wakeWritesNothingWhenAwake(w *world) {
	ref := w.make("a")
	v := w.start()
	v.scale(ref, 1)
	v.up(ref, 1)
	w.wakes(ref, 20, 3, v)
	v.up(ref, 1)
	w.wrote(ref, Write{0, 1})
}

// A provider that remembers that it woke a function must also forget it.
func wakeAgainAfterSleep(w *world) {
	ref := w.make("a")
	v := w.start()
	for range 3 {
		w.wakes(ref, 5, 1, v)
		v.replicas(ref, 1)
		v.scale(ref, 0)
		// At once: the sleep need not have been heard of to be over.
		w.wakes(ref, 5, 2, v)
		v.up(ref, 2)
		v.scale(ref, 0)
		v.replicas(ref, 0)
	}
	round := []Write{{0, 1}, {1, 0}, {0, 2}, {2, 0}}
	var want []Write
	for range 3 {
		want = append(want, round...)
	}
	w.wrote(ref, want...)
}

func scaleComparesVersions(w *world) {
	ref := w.make("a")
	v := w.start()
	stale := v.version(ref, 0)
	if err := v.Scale(w.t.Context(), ref, 1, stale); err != nil {
		w.t.Fatalf("Scale with the newest version: %v", err)
	}
	if err := v.Scale(w.t.Context(), ref, 2, stale); !errors.Is(err, function.ErrConflict) {
		w.t.Errorf("Scale with a stale version: %v, expected %v", err, function.ErrConflict)
	}
	fresh := v.version(ref, 1)
	if fresh == stale {
		w.t.Errorf("the version is %q before and after a Scale", fresh)
	}
	if err := v.Scale(w.t.Context(), ref, 0, stale); !errors.Is(err, function.ErrConflict) {
		w.t.Errorf("Scale with a stale version: %v, expected %v", err, function.ErrConflict)
	}
	w.wrote(ref, Write{0, 1})
	if err := v.Scale(w.t.Context(), ref, 2, fresh); err != nil {
		w.t.Errorf("Scale with the newest version: %v", err)
	}
	v.up(ref, 2)
	w.wrote(ref, Write{0, 1}, Write{1, 2})
}

// Of many who decided on one state, one has its way.
func scaleOnceOfMany(w *world) {
	ref := w.make("a")
	v := w.start()
	through := []*weir{v}
	if w.Several {
		through = append(through, w.start())
	}
	version := v.version(ref, 0)
	if n := len(through); n > 1 {
		if other := through[1].version(ref, 0); other != version {
			w.t.Fatalf("two providers call one state %q and %q", version, other)
		}
	}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			switch err := through[i%len(through)].Scale(w.t.Context(), ref, 1+i%2, version); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, function.ErrConflict):
				w.t.Errorf("Scale: %v, expected nil or %v", err, function.ErrConflict)
			}
		})
	}
	all.Wait()
	if writes := w.Writes(w.t, ref); len(writes) != 1 || writes[0].Old != 0 {
		w.t.Errorf("written: %v, expected one write from 0", writes)
	}
	if won.Load() != 1 {
		w.t.Errorf("%d were told that they succeeded, expected 1", won.Load())
	}
}

func scaleWhateverThereIs(w *world) {
	ref := w.make("a")
	v := w.start()
	v.scale(ref, 2)
	version := v.version(ref, 2)
	v.scale(ref, 2) // nothing to write
	v.up(ref, 2)
	if now := v.version(ref, 2); now != version {
		w.t.Errorf("the version was %q, and is %q after a Scale to what there was", version, now)
	}
	v.scale(ref, 1)
	v.scale(ref, 0)
	v.up(ref, 0)
	w.wrote(ref, Write{0, 2}, Write{2, 1}, Write{1, 0})
}

func scaleKeepsWithinBounds(w *world) {
	ref := w.make("a")
	v := w.start()
	for _, n := range []int{-1, math.MinInt32, math.MaxInt32 + 1, math.MaxInt} {
		for _, version := range []string{"", v.version(ref, 0)} {
			if err := v.Scale(w.t.Context(), ref, n, version); err == nil {
				w.t.Errorf("Scale to %d with version %q returned nil, expected an error", n, version)
			}
		}
	}
	w.wrote(ref)
	v.up(ref, 0)
}

// The loop reads the version, then for seconds the demand; pods that start or
// end meanwhile must not make it begin anew.
func versionOutlivesPods(w *world) {
	ref := w.make("a")
	v := w.start()
	v.scale(ref, 2)
	version := v.version(ref, 2)
	v.up(ref, 2)
	if err := v.Scale(w.t.Context(), ref, 1, version); err != nil {
		w.t.Errorf("Scale with the version from before the pods were ready: %v", err)
	}
	v.up(ref, 1)
	w.wrote(ref, Write{0, 2}, Write{2, 1})
}

func unknownFunction(w *world) {
	w.make("a")
	v := w.start()
	for _, ref := range []function.Ref{w.ref("b"), {Name: "a", Namespace: "no-such-namespace"}} {
		for what, err := range map[string]error{
			"Wake":               v.Wake(w.t.Context(), ref, 1),
			"Scale":              v.Scale(w.t.Context(), ref, 1, ""),
			"Scale by a version": v.Scale(w.t.Context(), ref, 1, v.version(w.ref("a"), 0)),
			"Spare":              v.Spare(w.t.Context(), ref, map[string]int{"x": 1}),
		} {
			if !errors.Is(err, function.ErrNotFound) {
				w.t.Errorf("%s of %s, which does not exist: %v, expected %v", what, ref, err, function.ErrNotFound)
			}
		}
	}
	w.wrote(w.ref("a"))
}

func fixedFunction(w *world) {
	if w.MakeFixed == nil {
		w.t.Skip("every function here can be scaled")
	}
	w.MakeFixed(w.t, "a")
	v, ref := w.start(), w.ref("a")
	fn := v.entry(ref).Function()
	if !fn.Fixed || fn.Kind != function.KindURL {
		w.t.Errorf("a function that runs elsewhere is said to be fixed: %t, and a %s", fn.Fixed, fn.Kind)
	}
	if len(fn.Pods) == 0 || fn.Pods[0].Addr == "" {
		w.t.Errorf("its pods are %+v, expected one with an address", fn.Pods)
	}
	for what, err := range map[string]error{
		"Wake":  v.Wake(w.t.Context(), ref, 1),
		"Scale": v.Scale(w.t.Context(), ref, 0, ""),
	} {
		if !errors.Is(err, function.ErrFixed) {
			w.t.Errorf("%s of it: %v, expected %v", what, err, function.ErrFixed)
		}
	}
}
