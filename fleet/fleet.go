// Package fleet is what weir knows at this moment: every function, its pods,
// and what the pods themselves say. A provider writes it, the gateway and the
// autoscaler read it, and everybody who waits does so on one broadcast per
// function. It changes nothing in the world.
package fleet

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weir-run/weir/function"
)

// Config is what a Fleet is told.
type Config struct {
	Log *slog.Logger
	// Probe asks pods what they are. Nil is for tests and simulations: pods
	// then are what Pod.Learn is told, and nothing is dialled.
	Probe *Prober
}

// Fleet is safe for use by many goroutines.
type Fleet struct {
	cfg Config

	mu      sync.RWMutex
	entries map[function.Ref]*Entry

	synced  chan struct{}
	once    sync.Once
	changed broadcast // any function's
}

// New makes an empty Fleet.
func New(cfg Config) *Fleet {
	return &Fleet{cfg: cfg, entries: map[function.Ref]*Entry{}, synced: make(chan struct{})}
}

// Probes says whether pods are asked what they are. If not, whoever runs them
// tells by Pod.Learn.
func (f *Fleet) Probes() bool { return f.cfg.Probe != nil }

// Run probes pods until ctx ends, and returns when no probe is under way.
func (f *Fleet) Run(ctx context.Context) error {
	if f.cfg.Probe == nil {
		<-ctx.Done()
		return nil
	}
	return f.cfg.Probe.run(ctx)
}

// Put takes what a provider knows of a function in place of what was known.
// fn and everything in it must not be changed afterwards. Pods are the same
// ones as before while their UID and address are.
func (f *Fleet) Put(fn *function.Function) {
	f.mu.Lock()
	e := f.entries[fn.Ref]
	if e == nil {
		e = &Entry{fleet: f}
		f.entries[fn.Ref] = e
	}
	e.put(fn)
	f.mu.Unlock()
	e.broadcast()
}

// Delete forgets a function. Its Entry stays valid for who holds it, without
// pods and Gone.
func (f *Fleet) Delete(ref function.Ref) {
	f.mu.Lock()
	e := f.entries[ref]
	delete(f.entries, ref)
	if e != nil {
		e.gone.Store(true)
		e.drop()
	}
	f.mu.Unlock()
	if e != nil {
		e.broadcast()
	}
}

// Synced is called by the provider once everything that exists was Put.
func (f *Fleet) Synced() { f.once.Do(func() { close(f.synced) }) }

// Complete is closed by Synced: from then on what is not here does not exist.
func (f *Fleet) Complete() <-chan struct{} { return f.synced }

// Get returns nil for a function that is not known.
func (f *Fleet) Get(ref function.Ref) *Entry {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.entries[ref]
}

// Len is how many functions there are.
func (f *Fleet) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.entries)
}

// All yields every function as of the call, in no order.
func (f *Fleet) All() iter.Seq[*Entry] {
	f.mu.RLock()
	all := make([]*Entry, 0, len(f.entries))
	for _, e := range f.entries {
		all = append(all, e)
	}
	f.mu.RUnlock()
	return func(yield func(*Entry) bool) {
		for _, e := range all {
			if !yield(e) {
				return
			}
		}
	}
}

// Changed is closed at the next change of anything. Take it before reading.
func (f *Fleet) Changed() <-chan struct{} { return f.changed.next() }

// Entry is one function for as long as it exists.
type Entry struct {
	fleet *Fleet
	fn    atomic.Pointer[function.Function]
	pods  atomic.Pointer[[]*Pod]
	gone  atomic.Bool

	changed broadcast
}

// Function is the newest the provider said. Read-only.
func (e *Entry) Function() *function.Function { return e.fn.Load() }

// Pods are those of the newest Function. Read-only; an unchanged list is the
// same slice.
func (e *Entry) Pods() []*Pod {
	if pods := e.pods.Load(); pods != nil {
		return *pods
	}
	return nil
}

// Gone: the function was deleted.
func (e *Entry) Gone() bool { return e.gone.Load() }

// Started counts the pods that serve: NumberReady, and ready for decisions.
func (e *Entry) Started() int {
	n := 0
	for _, p := range e.Pods() {
		if p.State() == Started {
			n++
		}
	}
	return n
}

// Changed is closed at the next change of the function, of its pods, or of
// what a pod says. Take it before reading, or a change is missed.
func (e *Entry) Changed() <-chan struct{} { return e.changed.next() }

func (e *Entry) broadcast() {
	e.changed.send()
	e.fleet.changed.send()
}

// put is called with the fleet locked.
func (e *Entry) put(fn *function.Function) {
	old := e.Pods()
	before := make(map[podKey]*Pod, len(old))
	for _, p := range old {
		before[keyOf(p.About())] = p
	}
	pods, fresh := make([]*Pod, len(fn.Pods)), make([]*Pod, 0, len(fn.Pods))
	for i := range fn.Pods {
		about := &fn.Pods[i]
		key := keyOf(about)
		if p := before[key]; p != nil {
			delete(before, key)
			p.told(about)
			pods[i] = p
		} else {
			pods[i] = newPod(e, about)
			fresh = append(fresh, pods[i])
		}
	}
	e.fn.Store(fn)
	if !slices.Equal(old, pods) {
		e.pods.Store(&pods)
	}
	for _, p := range before {
		p.leave()
	}
	for _, p := range fresh {
		p.poke()
	}
}

// drop is called with the fleet locked.
func (e *Entry) drop() {
	old := e.Pods()
	e.pods.Store(nil)
	for _, p := range old {
		p.leave()
	}
}

type podKey struct{ uid, addr string }

func keyOf(p *function.Pod) podKey { return podKey{p.UID, p.Addr} }

// broadcast wakes everybody who waits, once for each send.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
