// Package memory runs functions that exist in memory only: for tests and
// simulations. Time is the clock's alone, so that a testing/synctest bubble
// drives it; ten thousand functions with fifty thousand pods fit in.
package memory

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// MaxReplicas is what one function may have here: more is taken for a mistake.
const MaxReplicas = 100_000

// eventsKept bounds the events that a World remembers.
const eventsKept = 1000

// ErrExists: a function of that name is there already.
var ErrExists = errors.New("function exists")

// Config is what a World is told. All of it may be zero.
type Config struct {
	// AddrAfter is how long a new pod has no address, ReadyAfter how long it
	// takes from there until it serves, GoneAfter how long it stops.
	AddrAfter, ReadyAfter, GoneAfter time.Duration
	// WriteTakes is how long a provider's write is on its way.
	WriteTakes time.Duration

	// Serve gives a pod its addresses when it is to have them, and stop is
	// called when it is gone. It must not call the World. Nil gives it addresses
	// that nobody has.
	Serve func(ref function.Ref, pod string) (addr, metrics string, stop func())
	// Says is what a pod that serves says of itself, where the Fleet asks
	// nobody. Nil is a watchdog without a limit that has room.
	Says func(ref function.Ref) fleet.Saying
	// Refuse, where not nil, is asked before each write through a provider;
	// its error is the write's.
	Refuse func(ref function.Ref) error
}

// Write is one change of how many replicas a function is to have.
type Write struct {
	At       time.Time
	Ref      function.Ref
	Old, New int
	// By is the provider's name; empty is Set.
	By string
}

// Event is one that a provider was told.
type Event struct {
	function.Event
	Ref function.Ref
	By  string
}

// World is functions that several providers may share. Its methods may be
// called from many goroutines.
type World struct {
	cfg Config

	mu        sync.Mutex
	functions map[function.Ref]*state
	version   uint64 // the last one that was given to a function
	uid       uint64 // the last one that was given to a pod
	running   []*Provider
	writes    []Write
	events    []Event
}

// state is one function. The World's lock guards it.
type state struct {
	fn   function.Function // without Pods
	pods []*pod
	busy map[string]int
}

// New makes an empty World.
func New(cfg Config) *World {
	if cfg.Says == nil {
		cfg.Says = func(function.Ref) fleet.Saying {
			return fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true}
		}
	}
	return &World{cfg: cfg, functions: map[function.Ref]*state{}}
}

// Add makes a function with fn.Replicas pods, or, if it is Fixed, with those of
// fn.Pods. Version is given here, Created too where it is zero.
func (w *World) Add(fn function.Function) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.functions[fn.Ref] != nil {
		return fmt.Errorf("add %s: %w", fn.Ref, ErrExists)
	}
	if err := checkReplicas(fn.Replicas); err != nil {
		return fmt.Errorf("add %s: %w", fn.Ref, err)
	}
	if fn.Created.IsZero() {
		fn.Created = time.Now()
	}
	if fn.Kind == "" {
		fn.Kind = function.KindDeployment
	}
	s := &state{}
	for _, about := range fn.Pods {
		if fn.Fixed {
			s.pods = append(s.pods, &pod{about: about})
		}
	}
	fn.Pods = nil
	s.fn = fn
	w.functions[fn.Ref] = s
	w.touch(s)
	w.resize(s)
	w.tell(s)
	return nil
}

// Set changes what a function is and how many replicas it is to have, as its
// owner would. Pods, Version, Created, Kind and Fixed are not taken from fn.
func (w *World) Set(fn function.Function) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.functions[fn.Ref]
	if s == nil {
		return notFound(fn.Ref)
	}
	if err := checkReplicas(fn.Replicas); err != nil {
		return fmt.Errorf("set %s: %w", fn.Ref, err)
	}
	old := s.fn
	s.fn = fn
	s.fn.Pods, s.fn.Created, s.fn.Kind, s.fn.Fixed = nil, old.Created, old.Kind, old.Fixed
	w.write(s, old.Replicas, "")
	return nil
}

// Get returns a function as it is now, with its pods.
func (w *World) Get(ref function.Ref) (function.Function, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.functions[ref]
	if s == nil {
		return function.Function{}, false
	}
	return *s.view(), true
}

// Remove takes a function away with its pods, and says whether it was there.
func (w *World) Remove(ref function.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.functions[ref]
	if s == nil {
		return false
	}
	delete(w.functions, ref)
	for _, p := range s.pods {
		p.end()
	}
	s.pods = nil
	for _, p := range w.running {
		p.hear(change{ref: ref})
	}
	return true
}

// Writes are all changes of replicas in their order; making and removing a
// function is none.
func (w *World) Writes() []Write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.writes)
}

// Events are the last that providers were told, at most a thousand.
func (w *World) Events() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// write takes the settings that s has now: a new version, pods, a line in the
// log if the replicas are others, and word to all. The lock is held.
func (w *World) write(s *state, old int, by string) {
	w.touch(s)
	if old != s.fn.Replicas {
		w.writes = append(w.writes, Write{At: time.Now(), Ref: s.fn.Ref, Old: old, New: s.fn.Replicas, By: by})
		w.resize(s)
	}
	w.tell(s)
}

// touch gives the function a version that none had before.
func (w *World) touch(s *state) {
	w.version++
	s.fn.Version = fmt.Sprint(w.version)
}

// tell has every provider that runs put the function as it is now.
func (w *World) tell(s *state) {
	if len(w.running) == 0 {
		return
	}
	fn := s.view()
	for _, p := range w.running {
		p.hear(change{ref: fn.Ref, fn: fn})
	}
}

// view is a copy of the function to be handed out.
func (s *state) view() *function.Function {
	fn := s.fn
	fn.Pods = make([]function.Pod, len(s.pods))
	for i, p := range s.pods {
		fn.Pods[i] = p.about
	}
	return &fn
}

func notFound(ref function.Ref) error {
	return fmt.Errorf("%w: %s", function.ErrNotFound, ref)
}

func checkReplicas(n int) error {
	if n < 0 || n > MaxReplicas {
		return fmt.Errorf("%d replicas: expected 0 to %d", n, MaxReplicas)
	}
	return nil
}
