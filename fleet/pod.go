package fleet

import (
	"sync"
	"sync/atomic"

	"github.com/weir-run/weir/function"
)

// State is what a pod can be used for.
type State uint8

// The states. A pod of an unknown address or without an answer is Starting.
const (
	Starting State = iota
	// Started: it serves, though it may have no room. What is balanced over.
	Started
	// Stopping: draining, being deleted, or gone. For good.
	Stopping
)

func (s State) String() string {
	return [...]string{"starting", "started", "stopping"}[s]
}

// Nature is what answers at a pod's address.
type Nature uint8

// The natures. Of an Unknown one nothing may be believed yet.
const (
	Unknown Nature = iota
	Watchdog
	Plain
)

// Saying is what a pod was heard to say.
type Saying struct {
	State  State
	Nature Nature
	// Room: the next request would be welcome.
	Room bool
	// MaxInflight and MaxQueue as a watchdog says them; 0 is no limit, and no
	// queue. Of a plain pod they are 0: its limit is Spec.Concurrency.
	MaxInflight, MaxQueue int
}

// Pod is one replica, the same one for as long as its process and address are.
// Its methods may be called from many goroutines.
type Pod struct {
	entry *Entry
	about atomic.Pointer[function.Pod]
	said  atomic.Pointer[Saying]
	mu    sync.Mutex // of changes to said
	// nudge tells the prober that something may have changed.
	nudge chan struct{}
}

func newPod(e *Entry, about *function.Pod) *Pod {
	p := &Pod{entry: e, nudge: make(chan struct{}, 1)}
	p.about.Store(about)
	p.said.Store(&Saying{})
	return p
}

// Entry is the function of the pod.
func (p *Pod) Entry() *Entry { return p.entry }

// About is what the provider says of it. Read-only.
func (p *Pod) About() *function.Pod { return p.about.Load() }

// Said is what the pod was last heard to say. Read-only.
func (p *Pod) Said() *Saying { return p.said.Load() }

// State is Said's, but Stopping as soon as the provider says so.
func (p *Pod) State() State {
	if p.about.Load().Stopping {
		return Stopping
	}
	return p.said.Load().State
}

// Learn takes what the pod was heard to say, and tells who waits if it is
// news. A pod that is Stopping stays it.
func (p *Pod) Learn(heard Saying) { p.revise(func(s *Saying) { *s = heard }) }

// Full is called by who was refused by the pod for want of room: it has none
// until a probe says otherwise.
func (p *Pod) Full() { p.doubt(func(s *Saying) { s.Room = false }) }

// Lost is called by who found nobody at the pod's address, or was cut off: it
// is Starting until a probe says otherwise.
func (p *Pod) Lost() { p.doubt(func(s *Saying) { s.Room = false; s.State = Starting }) }

// Drains is called by who was told by the pod that it stops.
func (p *Pod) Drains() { p.doubt(func(s *Saying) { s.Room = false; s.State = Stopping }) }

// doubt revises what is known from what a request met, and has the prober look.
func (p *Pod) doubt(change func(*Saying)) {
	p.revise(change)
	p.poke()
}

func (p *Pod) revise(change func(*Saying)) {
	p.mu.Lock()
	old := p.said.Load()
	s := *old
	change(&s)
	if old.State == Stopping {
		s.State = Stopping
	}
	news := *old != s
	if news {
		p.said.Store(&s)
	}
	p.mu.Unlock()
	if news {
		p.entry.broadcast()
	}
}

func (p *Pod) poke() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}
