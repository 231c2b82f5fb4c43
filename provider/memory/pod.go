package memory

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/weir-run/weir/function"
)

// pod is one replica. The World's lock guards it.
type pod struct {
	about   function.Pod
	number  uint64 // of its process, among all of the World
	ordinal int    // of a StatefulSet
	timer   *time.Timer
	stop    func()
}

// end forgets the pod's next step and gives back what it serves with.
func (p *pod) end() {
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
}

// resize makes as many pods as are asked for, or has the surplus stop. The lock
// is held, and tell follows.
func (w *World) resize(s *state) {
	if s.fn.Fixed {
		return
	}
	var staying []*pod
	for _, p := range s.pods {
		if !p.about.Stopping {
			staying = append(staying, p)
		}
	}
	for n := len(staying); n < s.fn.Replicas; n++ {
		w.grow(s, staying)
		staying = append(staying, s.pods[len(s.pods)-1])
	}
	if surplus := len(staying) - s.fn.Replicas; surplus > 0 {
		slices.SortStableFunc(staying, s.firstToGo)
		for _, p := range staying[:surplus] {
			w.shrink(s, p)
		}
	}
}

// firstToGo orders as a ReplicaSet does: what is not ready, then what is less
// busy, then what is younger. StatefulSets go by ordinal alone.
func (s *state) firstToGo(a, b *pod) int {
	if s.fn.Kind == function.KindStatefulSet {
		return cmp.Compare(b.ordinal, a.ordinal)
	}
	if a.about.Ready != b.about.Ready {
		if b.about.Ready {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(s.busy[a.about.Name], s.busy[b.about.Name]), cmp.Compare(b.number, a.number))
}

// grow adds a pod to those that stay.
func (w *World) grow(s *state, staying []*pod) {
	p := &pod{}
	if s.fn.Kind == function.KindStatefulSet {
		for slices.ContainsFunc(staying, func(other *pod) bool { return other.ordinal == p.ordinal }) {
			p.ordinal++
		}
		p.about.Name = fmt.Sprintf("%s-%d", s.fn.Name, p.ordinal)
	} else {
		p.about.Name = fmt.Sprintf("%s-%x", s.fn.Name, w.uid+1)
	}
	s.pods = append(s.pods, p)
	w.begin(s, p)
}

// begin has a pod start from nothing, as another process than before.
func (w *World) begin(s *state, p *pod) {
	p.end()
	w.uid++
	p.number = w.uid
	p.about = function.Pod{Name: p.about.Name, UID: fmt.Sprintf("uid-%x", p.number), Created: time.Now()}
	w.after(s, p, w.cfg.AddrAfter, func() {
		w.address(s, p)
		w.after(s, p, w.cfg.ReadyAfter, func() { p.about.Ready = true })
	})
}

// address gives a pod its addresses. Those that nobody has are of 240.0.0.0/4,
// which no machine routes.
func (w *World) address(s *state, p *pod) {
	if w.cfg.Serve != nil {
		p.about.Addr, p.about.Metrics, p.stop = w.cfg.Serve(s.fn.Ref, p.about.Name)
		return
	}
	n := p.number
	ip := fmt.Sprintf("%d.%d.%d.%d", 240+n>>24&7, n>>16&255, n>>8&255, n&255)
	p.about.Addr, p.about.Metrics = ip+":8080", ip+":8081"
}

func (w *World) shrink(s *state, p *pod) {
	p.about.Stopping = true
	if p.timer != nil {
		p.timer.Stop()
	}
	// Never at once: it is to be seen stopping.
	p.timer = time.AfterFunc(w.cfg.GoneAfter, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if i := slices.Index(s.pods, p); i >= 0 {
			p.end()
			s.pods = slices.Delete(s.pods, i, i+1)
			delete(s.busy, p.about.Name)
			w.tell(s)
		}
	})
}

// after takes a step of a pod's life when its time has come, and at once, as
// part of the change under way, if that is now. The lock is held.
func (w *World) after(s *state, p *pod, wait time.Duration, step func()) {
	if wait <= 0 {
		step()
		return
	}
	uid := p.about.UID
	p.timer = time.AfterFunc(wait, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if p.about.UID == uid && !p.about.Stopping && slices.Contains(s.pods, p) {
			step()
			w.tell(s)
		}
	})
}

// Restart has another process take the place of a pod's, under the same name.
func (w *World) Restart(ref function.Ref, name string) error {
	return w.of(ref, name, w.begin)
}

// SetReady says of a pod that it is ready, or that it is not.
func (w *World) SetReady(ref function.Ref, name string, ready bool) error {
	return w.of(ref, name, func(_ *state, p *pod) { p.about.Ready = ready })
}

// of changes one pod that is not stopping, and tells of it.
func (w *World) of(ref function.Ref, name string, change func(*state, *pod)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.functions[ref]
	if s == nil {
		return notFound(ref)
	}
	for _, p := range s.pods {
		if p.about.Name == name && !p.about.Stopping {
			change(s, p)
			w.tell(s)
			return nil
		}
	}
	return fmt.Errorf("%w: pod %q of %s", function.ErrNotFound, name, ref)
}
