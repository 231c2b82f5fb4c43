package providertest

import (
	"context"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// poll is how often a condition is looked at that no broadcast tells of.
const poll = 20 * time.Millisecond

// world is a subject within one test.
type world struct {
	Subject
	t *testing.T
}

func newWorld(t *testing.T, s Subject) *world {
	if s.Patience == 0 {
		s.Patience = time.Minute
	}
	return &world{Subject: s, t: t}
}

func (w *world) ref(name string) function.Ref {
	return function.Ref{Name: name, Namespace: w.Namespace}
}

// make makes a function at zero with the settings given in pairs.
func (w *world) make(name string, settings ...string) function.Ref {
	w.t.Helper()
	w.Make(w.t, Function{Name: name, Labels: labels(settings...)})
	return w.ref(name)
}

// labels marks a function and sets what is given in pairs.
func labels(settings ...string) map[string]string {
	all := map[string]string{"weir/function": "true", "weir/min": "0"}
	for i := 0; i < len(settings); i += 2 {
		all[settings[i]] = settings[i+1]
	}
	return all
}

// weir is a provider that runs, with what it says.
type weir struct {
	*world
	Provider
	fleet *fleet.Fleet
	stop  func()
}

// start makes and runs a provider, until stop or the end of the test, and
// waits until it has said everything once.
func (w *world) start() *weir {
	w.t.Helper()
	p := w.New(w.t)
	f := fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, f) }()
	stopped := false
	stop := func() {
		w.t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Errorf("Run returned %v when its context ended, expected nil", err)
			}
		case <-time.After(w.Patience):
			w.t.Errorf("Run has not returned %v after its context ended", w.Patience)
		}
	}
	w.t.Cleanup(stop)
	select {
	case <-f.Complete():
	case err := <-ended:
		ended <- nil
		w.t.Fatalf("Run returned %v before everything was put", err)
	case <-time.After(w.Patience):
		w.t.Fatalf("not synced after %v", w.Patience)
	}
	return &weir{world: w, Provider: p, fleet: f, stop: stop}
}

// until waits for a condition of what the provider says; amiss is empty when
// it holds.
func (w *weir) until(what string, amiss func() string) {
	w.t.Helper()
	deadline := time.Now().Add(w.Patience)
	for {
		changed := w.fleet.Changed()
		wrong := amiss()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: after %v %s", what, w.Patience, wrong)
		}
		select {
		case <-changed:
		case <-time.After(poll):
		}
	}
}

// entry is one that must be known.
func (w *weir) entry(ref function.Ref) *fleet.Entry {
	w.t.Helper()
	e := w.fleet.Get(ref)
	if e == nil {
		w.t.Fatalf("%s is not known", ref)
	}
	return e
}

// version is the newest that was said, once the function is said to be asked
// for the given replicas.
func (w *weir) version(ref function.Ref, replicas int) string {
	w.t.Helper()
	w.replicas(ref, replicas)
	return w.entry(ref).Function().Version
}

// replicas waits until the provider says that so many are asked for.
func (w *weir) replicas(ref function.Ref, want int) {
	w.t.Helper()
	w.until("replicas of "+ref.String(), func() string {
		e := w.fleet.Get(ref)
		if e == nil {
			return "not known"
		}
		return differs("replicas", e.Function().Replicas, want)
	})
}

// up waits until the function has so many pods that serve, and no other.
func (w *weir) up(ref function.Ref, want int) []*fleet.Pod {
	w.t.Helper()
	var pods []*fleet.Pod
	w.until("pods of "+ref.String(), func() string {
		pods = w.entry(ref).Pods()
		ready := 0
		for _, p := range pods {
			if a := p.About(); a.Ready && a.Addr != "" && !a.Stopping {
				ready++
			}
		}
		if wrong := differs("pods", len(pods), want); wrong != "" {
			return wrong
		}
		return differs("ready pods", ready, want)
	})
	if w.Running != nil {
		w.until("running replicas of "+ref.String(), func() string {
			return differs("running", w.Running(w.t, ref), want)
		})
	}
	return pods
}

// scale sets replicas whatever there are.
func (w *weir) scale(ref function.Ref, replicas int) {
	w.t.Helper()
	if err := w.Scale(w.t.Context(), ref, replicas, ""); err != nil {
		w.t.Fatalf("Scale of %s to %d: %v", ref, replicas, err)
	}
}

// wrote checks what was written of a function.
func (w *world) wrote(ref function.Ref, want ...Write) {
	w.t.Helper()
	got := w.Writes(w.t, ref)
	same := len(got) == len(want)
	for i := range want {
		same = same && got[i] == want[i]
	}
	if !same {
		w.t.Errorf("written of %s: %v, expected %v", ref, got, want)
	}
}

func with(all map[string]string, key, value string) map[string]string {
	all = maps.Clone(all)
	all[key] = value
	return all
}
