package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Provider is one weir's view of a World. Run is called once.
type Provider struct {
	world *World
	name  string
	peers []string
	begun bool

	mu      sync.Mutex
	changes []change // in their order: a pod is seen stopping before it is gone
	news    chan struct{}
}

// change is what a function became, or, without fn, that it is no more.
type change struct {
	ref function.Ref
	fn  *function.Function
}

// Provider makes one. Its name is that of its writes; peers are the addresses
// of the other weirs' metrics.
func (w *World) Provider(name string, peers ...string) *Provider {
	return &Provider{world: w, name: name, peers: peers, news: make(chan struct{}, 1)}
}

// Run puts what there is and every change into f until ctx ends.
func (p *Provider) Run(ctx context.Context, f *fleet.Fleet) error {
	all, err := p.join()
	if err != nil {
		return err
	}
	defer p.leave()
	for _, fn := range all {
		if ctx.Err() != nil {
			return nil
		}
		p.put(f, fn)
	}
	f.Synced()
	for {
		for _, c := range p.heard() {
			if c.fn == nil {
				f.Delete(c.ref)
			} else {
				p.put(f, c.fn)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.news:
		}
	}
}

// put puts fn, and has the pods say what nobody asks them.
func (p *Provider) put(f *fleet.Fleet, fn *function.Function) {
	f.Put(fn)
	if f.Probes() {
		return
	}
	for _, pod := range f.Get(fn.Ref).Pods() {
		switch isReady, said := pod.About().Ready, pod.Said(); {
		case isReady && said.State == fleet.Starting:
			pod.Learn(p.world.cfg.Says(fn.Ref))
		case !isReady && said.State == fleet.Started:
			pod.Lost()
		}
	}
}

// join begins to hear of changes, from the functions that are returned on.
func (p *Provider) join() ([]*function.Function, error) {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.begun {
		return nil, errors.New("run a provider in memory: it ran already")
	}
	p.begun = true
	w.running = append(w.running, p)
	all := make([]*function.Function, 0, len(w.functions))
	for _, s := range w.functions {
		all = append(all, s.view())
	}
	return all, nil
}

func (p *Provider) leave() {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = slices.DeleteFunc(w.running, func(other *Provider) bool { return other == p })
}

// hear is called with the World locked.
func (p *Provider) hear(c change) {
	p.mu.Lock()
	p.changes = append(p.changes, c)
	p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
}

func (p *Provider) heard() []change {
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := p.changes
	p.changes = nil
	return heard
}

// Wake asks for replicas of a function that has none.
func (p *Provider) Wake(ctx context.Context, ref function.Ref, replicas int) error {
	if replicas < 1 {
		return fmt.Errorf("wake %s: %d replicas, expected 1 or more", ref, replicas)
	}
	return p.write(ctx, ref, replicas, func(s *state) (bool, error) { return s.fn.Replicas == 0, nil })
}

// Scale sets the replicas, if version is empty or still the function's.
func (p *Provider) Scale(ctx context.Context, ref function.Ref, replicas int, version string) error {
	return p.write(ctx, ref, replicas, func(s *state) (bool, error) {
		if version != "" && version != s.fn.Version {
			return false, fmt.Errorf("%w: version %s was decided on, %s is there", function.ErrConflict, version, s.fn.Version)
		}
		return s.fn.Replicas != replicas, nil
	})
}

// write sets replicas if wanted says so, when the write has arrived.
func (p *Provider) write(ctx context.Context, ref function.Ref, replicas int, wanted func(*state) (bool, error)) error {
	if err := checkReplicas(replicas); err != nil {
		return fmt.Errorf("scale %s: %w", ref, err)
	}
	w := p.world
	if w.cfg.WriteTakes > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(w.cfg.WriteTakes):
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("scale %s: %w: %w", ref, function.ErrUnavailable, err)
	}
	if w.cfg.Refuse != nil {
		if err := w.cfg.Refuse(ref); err != nil {
			return fmt.Errorf("scale %s: %w", ref, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.functions[ref]
	if s == nil {
		return notFound(ref)
	}
	if s.fn.Fixed {
		return fmt.Errorf("scale %s: %w", ref, function.ErrFixed)
	}
	write, err := wanted(s)
	if err != nil {
		return fmt.Errorf("scale %s: %w", ref, err)
	}
	if write {
		old := s.fn.Replicas
		s.fn.Replicas = replicas
		w.write(s, old, p.name)
	}
	return nil
}

// Spare takes how busy the pods are, by name: the least busy go first.
func (p *Provider) Spare(_ context.Context, ref function.Ref, busy map[string]int) error {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.functions[ref]
	if s == nil {
		return notFound(ref)
	}
	s.busy = maps.Clone(busy)
	return nil
}

// Event remembers it.
func (p *Provider) Event(ref function.Ref, e function.Event) {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) >= eventsKept {
		w.events = append(w.events[:0], w.events[eventsKept/2:]...)
	}
	w.events = append(w.events, Event{Event: e, Ref: ref, By: p.name})
}

// Leads: of those that run the first does.
func (p *Provider) Leads() bool {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running) > 0 && w.running[0] == p
}

// Peers are what Provider was told.
func (p *Provider) Peers() []string { return slices.Clone(p.peers) }
