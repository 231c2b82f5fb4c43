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
	// Started: its handler serves, though it may have no room for more. What is
	// counted, and balanced over.
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

func (n Nature) String() string {
	return [...]string{"unknown", "watchdog", "plain"}[n]
}

// Saying is what a pod was heard to say.
type Saying struct {
	State  State
	Nature Nature
	// Room: the next request would be welcome.
	Room bool
	// Guarded: the watchdog of a Started pod would refuse the next request, for
	// want of something that a request takes. It is given none meanwhile.
	Guarded bool
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
	watch watch      // the Prober's
}

// unheard is said by a pod that was not heard yet.
var unheard Saying

func newPod(e *Entry, about *function.Pod) *Pod {
	p := &Pod{entry: e}
	p.about.Store(about)
	p.said.Store(&unheard)
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

// Unreached says why nobody is at the address of a pod that is Starting, or "".
func (p *Pod) Unreached() string {
	pr := p.entry.fleet.cfg.Probe
	if pr == nil || p.State() != Starting {
		return ""
	}
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if p.watch.unreached == nil {
		return ""
	}
	return p.watch.unreached.Error()
}

// Learn takes what the pod was heard to say, and tells who waits if it is
// news. A pod that is Stopping stays it.
func (p *Pod) Learn(heard Saying) { p.revise(func(s *Saying) { *s = heard }) }

// Full is called by who was refused by the pod for want of room: it has none
// until a probe says otherwise.
func (p *Pod) Full() { p.doubt(func(s *Saying) { s.Room = false }) }

// Lost is called by who found nobody at the pod's address, or was cut off: it
// is Starting until a probe says otherwise.
func (p *Pod) Lost() { p.doubt(func(s *Saying) { *s = lost(*s) }) }

// Drains is called by who was told by the pod that it stops.
func (p *Pod) Drains() {
	p.doubt(func(s *Saying) { s.Room, s.Guarded, s.State = false, false, Stopping })
}

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

// poke has the pod asked soon.
func (p *Pod) poke() {
	if pr := p.entry.fleet.cfg.Probe; pr != nil {
		pr.notice(p)
	}
}

// told takes the provider's newer word on the same pod.
func (p *Pod) told(about *function.Pod) {
	old := p.about.Swap(about)
	if old.Ready == about.Ready && old.Stopping == about.Stopping {
		return
	}
	// Of a plain pod the provider's word is half of what is known. In a Fleet
	// that asks nobody, what Learn was told stands.
	if p.entry.fleet.cfg.Probe != nil && !about.Ready {
		p.revise(func(s *Saying) {
			if s.Nature == Plain && s.State == Started {
				*s = lost(*s)
			}
		})
	}
	p.poke()
}

// leave is called when the pod is no more.
func (p *Pod) leave() {
	p.revise(func(s *Saying) { s.Room, s.Guarded, s.State = false, false, Stopping })
	if pr := p.entry.fleet.cfg.Probe; pr != nil {
		pr.forget(p)
	}
}
