// Package autoscaler decides how many replicas every function should have, and
// says why. Decide is the decision, pure; around it a loop reads the pods'
// exact counters and what all gateways carry, and has the provider do what was
// decided. Only the weir that leads decides anything.
package autoscaler

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Tick is how often everything is looked at: SCALING's 2 s at most, and short
// enough for the panic window to have six points.
const Tick = time.Second

// The bounds of one tick.
const (
	// functionsAtOnce are read and decided at the same time.
	functionsAtOnce = 64
	// writesAtOnce keeps a slow provider from being hammered.
	writesAtOnce = 16
	// writeTimeout bounds one change, its conflicts included.
	writeTimeout = 10 * time.Second
	// kicksKept bounds the functions that wait to be looked at out of turn; one
	// more is looked at in the next tick.
	kicksKept = 1024
)

// Provider is what the autoscaler asks of who runs the functions.
type Provider interface {
	// Scale sets the replicas if version still names the state that they were
	// decided on, else function.ErrConflict.
	Scale(ctx context.Context, ref function.Ref, replicas int, version string) error
	// Spare says which pods are busy, by name: the busiest are to be taken
	// last when the function shrinks.
	Spare(ctx context.Context, ref function.Ref, busy map[string]int) error
	// Event puts something before the function's owner. It never blocks.
	Event(ref function.Ref, e function.Event)
	// Leads reports whether this weir is the one that decides.
	Leads() bool
	// Peers are the addresses of the other weirs' metrics listeners.
	Peers() []string
}

// Counter reads a pod's counters.
type Counter interface {
	Read(ctx context.Context, pod *fleet.Pod) (Counters, error)
}

// Config is what an Autoscaler is told.
type Config struct {
	Fleet    *fleet.Fleet
	Provider Provider
	Counter  Counter
	// Own is what this weir's gateway carries.
	Own func() fleet.Report
	// Backlog is how many async messages of a function are ready to run, of
	// all weirs together: that of the weir that decides is believed, and no
	// other one asked. It is called for each function in every tick, by many
	// goroutines, and does not block. nil is none.
	Backlog func(function.Ref) int
	Log     *slog.Logger
}

// Autoscaler looks at every function once a Tick.
type Autoscaler struct {
	cfg     Config
	metrics *metrics
	peers   *peers
	kicks   chan function.Ref
	jobs    chan job
	writes  chan struct{} // holds a token for each write under way
	busy    sync.WaitGroup

	// What only the loop touches.
	leading  bool
	reports  []fleet.Report // of the other gateways, as of the last tick
	complete bool           // all of them were read
	said     map[string]time.Time

	mu        sync.Mutex // of the map; a tracked has its own lock
	functions map[function.Ref]*tracked
}

// New makes an Autoscaler.
func New(cfg Config) *Autoscaler {
	a := &Autoscaler{
		cfg: cfg, peers: newPeers(), kicks: make(chan function.Ref, kicksKept),
		jobs: make(chan job), writes: make(chan struct{}, writesAtOnce),
		said: map[string]time.Time{}, functions: map[function.Ref]*tracked{},
	}
	a.metrics = newMetrics(a)
	return a
}

// Run decides until ctx ends, and returns when nothing is under way any more.
func (a *Autoscaler) Run(ctx context.Context) error {
	defer a.peers.close()
	defer a.busy.Wait()
	defer close(a.jobs)
	for range functionsAtOnce {
		a.busy.Go(func() {
			for j := range a.jobs {
				a.look(ctx, j)
			}
		})
	}
	select {
	case <-ctx.Done():
		return nil
	case <-a.cfg.Fleet.Complete():
	}
	ticker := time.NewTicker(Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			a.tick(ctx)
		case ref := <-a.kicks:
			a.kicked(ctx, ref)
		}
	}
}

// job is one function to be looked at, and what the gateways carry for it.
// complete says that all other weirs were read for this look.
type job struct {
	entry    *fleet.Entry
	tracked  *tracked
	gateways []carry
	complete bool
}

// give hands a function to a worker, unless one has it still: one whose pods
// do not answer holds up no other.
func (a *Autoscaler) give(ctx context.Context, j job) {
	j.tracked = a.tracked(j.entry.Function().Ref)
	if !j.tracked.begin() {
		return
	}
	select {
	case a.jobs <- j:
	case <-ctx.Done():
		j.tracked.end()
	}
}

// backlog is how many async messages of a function are ready to run.
func (a *Autoscaler) backlog(ref function.Ref) int {
	if a.cfg.Backlog == nil {
		return 0
	}
	return a.cfg.Backlog(ref)
}

// Kick asks for a function to be looked at now: requests wait for room in it.
// It never blocks.
func (a *Autoscaler) Kick(ref function.Ref) {
	select {
	case a.kicks <- ref:
	default:
	}
}

// leads reports whether this weir decides. One that begins to has not seen
// what went before: every function starts anew.
func (a *Autoscaler) leads() bool {
	now := a.cfg.Provider.Leads()
	if now && !a.leading {
		a.mu.Lock()
		a.functions = map[function.Ref]*tracked{}
		a.mu.Unlock()
		a.cfg.Log.Info("this weir decides on replicas from now on")
	} else if !now && a.leading {
		a.cfg.Log.Info("another weir decides on replicas from now on")
	}
	a.leading = now
	return now
}

func (a *Autoscaler) tick(ctx context.Context) {
	if !a.leads() {
		return
	}
	var err error
	a.reports, a.complete, err = a.peers.read(ctx, a.cfg.Provider.Peers())
	if err != nil && ctx.Err() == nil {
		a.say("peer", "a weir cannot be read: no function shrinks until it can, or is gone", err)
	}
	carried := a.carried()
	exist := make(map[function.Ref]bool, a.cfg.Fleet.Len())
	for e := range a.cfg.Fleet.All() {
		ref := e.Function().Ref
		exist[ref] = true
		a.give(ctx, job{entry: e, gateways: carried[ref.String()], complete: a.complete})
	}
	a.forget(exist)
}

// kicked looks at one function with what the peers said last.
func (a *Autoscaler) kicked(ctx context.Context, ref function.Ref) {
	if e := a.cfg.Fleet.Get(ref); e != nil && a.leading && a.leads() {
		a.give(ctx, job{entry: e, gateways: a.carried()[ref.String()]})
	}
}

// carried is what the gateways carry, by function.
func (a *Autoscaler) carried() map[string][]carry {
	own := a.cfg.Own()
	index := make(map[string][]carry, len(own.Functions))
	for _, r := range append(a.reports[:len(a.reports):len(a.reports)], own) {
		for i := range r.Functions {
			d := &r.Functions[i]
			index[d.Function] = append(index[d.Function], carry{r.Gateway, r.Now, d})
		}
	}
	return index
}

// carry is what one gateway carries for one function.
type carry struct {
	gateway string
	now     time.Time
	demand  *fleet.Demand
}

// forget drops what is kept of functions that are no more.
func (a *Autoscaler) forget(exist map[function.Ref]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ref := range a.functions {
		if !exist[ref] {
			delete(a.functions, ref)
			a.metrics.drop(ref)
		}
	}
}

// tracked finds or makes what is kept of a function.
func (a *Autoscaler) tracked(ref function.Ref) *tracked {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.functions[ref]
	if t == nil {
		t = &tracked{ref: ref}
		a.functions[ref] = t
	}
	return t
}

// sayAgain is how often the same complaint is repeated while it lasts.
const sayAgain = time.Minute

// say logs a complaint, the same one at most once a minute, and reports
// whether it did.
func (a *Autoscaler) say(key, what string, err error) bool {
	a.mu.Lock()
	last, known := a.said[key]
	now := time.Now()
	quiet := known && now.Sub(last) < sayAgain
	if !quiet {
		a.said[key] = now
	}
	if len(a.said) > 4096 {
		clear(a.said)
	}
	a.mu.Unlock()
	if !quiet {
		a.cfg.Log.Warn(what, "error", err)
	}
	return !quiet
}
