package providertest

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

func differs[T comparable](what string, got, want T) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%s: %v, expected %v", what, got, want)
}

func syncedAfterTheWholeView(w *world) {
	var refs []function.Ref
	for i := range 25 {
		refs = append(refs, w.make(fmt.Sprintf("f%02d", i), "weir/max", "7"))
	}
	v := w.start()
	// No waiting here: Synced says that all are there.
	for _, ref := range refs {
		fn := v.entry(ref).Function()
		if fn.Ref != ref || fn.Spec.Max != 7 || !fn.Spec.Zero || fn.Replicas != 0 || len(fn.Faults) != 0 {
			w.t.Errorf("%s is known as %+v", ref, fn)
		}
		if fn.Kind == "" || fn.Version == "" || fn.Created.IsZero() {
			w.t.Errorf("%s has kind %q, version %q, created %v: none may be empty", ref, fn.Kind, fn.Version, fn.Created)
		}
	}
	if n := v.fleet.Len(); n != len(refs) {
		w.t.Errorf("%d functions are known, expected %d", n, len(refs))
	}
}

func emptyWorldIsSynced(w *world) {
	if n := w.start().fleet.Len(); n != 0 {
		w.t.Errorf("%d functions are known of an empty world", n)
	}
}

func runEndsAndLeavesNothing(w *world) {
	ref := w.make("a")
	before := goroutines()
	v := w.start()
	v.scale(ref, 2)
	v.up(ref, 2)
	v.scale(ref, 0)
	v.up(ref, 0)
	v.Event(ref, function.Event{Reason: "Test", Message: "The last thing before the end."})
	v.stop()
	deadline := time.Now().Add(w.Patience)
	for {
		left := w.left(before)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d goroutines are left %v after Run returned:\n%s", len(left), w.Patience, strings.Join(left, "\n\n"))
		}
		time.Sleep(poll)
	}

	// One that is told to end before it begins does.
	if w.Several {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.New(w.t).Run(ctx, fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})); err != nil {
			w.t.Errorf("Run of an ended context returned %v, expected nil", err)
		}
	}
}

// goroutines are all there are: stacks by the head's number.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := map[string]string{}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		all[id] = stack
	}
	return all
}

// left are the stacks of goroutines that were not there before.
func (w *world) left(before map[string]string) []string {
	var left []string
	for id, stack := range goroutines() {
		_, old := before[id]
		if !old && !slices.ContainsFunc(w.Ignore, func(part string) bool { return strings.Contains(stack, part) }) {
			left = append(left, stack)
		}
	}
	return left
}

func eventsDoNotBlock(w *world) {
	ref := w.make("a")
	v := w.start()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range 2500 {
					v.Event(ref, function.Event{Reason: "Test", Message: fmt.Sprintf("Number %d.", i)})
					v.Event(w.ref("unknown"), function.Event{Warning: true, Reason: "Test", Message: "Of nothing."})
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-done:
	case <-time.After(w.Patience):
		w.t.Fatalf("20,000 events are not taken after %v", w.Patience)
	}
	v.scale(ref, 1) // and nothing else is held up by them
	v.up(ref, 1)
}

func faultsHarmNobodyElse(w *world) {
	bad := w.make("bad", "weir/max", "many", "weir/zero-after", "90s")
	good := w.make("good", "weir/max", "3")
	v := w.start()
	fn := v.entry(bad).Function()
	if len(fn.Faults) != 1 {
		w.t.Fatalf("faults of a bad weir/max: %v", fn.Faults)
	}
	if f := fn.Faults[0]; f.Key != "weir/max" || f.Value != "many" || f.Expected == "" || !strings.Contains(f.Object, "bad") {
		w.t.Errorf("the fault is %+v; expected object, key, value and what would do", f)
	}
	if fn.Spec.Max != function.DefaultMax || fn.Spec.ZeroAfter != 90*time.Second {
		w.t.Errorf("beside a bad max: max %d, zero-after %v; expected the default %d and 90s", fn.Spec.Max, fn.Spec.ZeroAfter, function.DefaultMax)
	}
	if fn := v.entry(good).Function(); len(fn.Faults) != 0 || fn.Spec.Max != 3 {
		w.t.Errorf("the function beside it has max %d and faults %v", fn.Spec.Max, fn.Faults)
	}
	for _, ref := range []function.Ref{bad, good} {
		if err := v.Wake(w.t.Context(), ref, 1); err != nil {
			w.t.Errorf("Wake of %s: %v", ref, err)
		}
		v.up(ref, 1)
	}
}

func oneLeads(w *world) {
	first := w.start()
	first.until("leading alone", func() string { return differs("Leads", first.Leads(), true) })
	if peers := first.Peers(); len(peers) != 0 && !w.Several {
		w.t.Errorf("peers of one that is always alone: %v", peers)
	}
	if !w.Several {
		return
	}
	second := w.start()
	for range 10 {
		// In this order: it may change hands, but it does not by itself.
		if first.Leads() && second.Leads() {
			w.t.Error("two lead")
		}
		time.Sleep(poll)
	}
	if !first.Leads() {
		w.t.Error("the first does not lead any more though it runs")
	}
	first.stop()
	if first.Leads() {
		w.t.Error("it leads though its Run has ended")
	}
	second.until("taking over", func() string { return differs("Leads", second.Leads(), true) })
}
