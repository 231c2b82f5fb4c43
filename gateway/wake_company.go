package gateway

import (
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// companyEvery is how often calls of a function keep awake what has to be
// awake with it.
const companyEvery = time.Second

// company is what has to be awake with a function. Guarded by its lane's lock.
type company struct {
	kept time.Time
	// whole: all that the function depends on was seen started since it last
	// had no started pod itself. One that ends later is woken again and not
	// waited for: the function serves, and knows best what it can do without.
	whole bool
	// pending is the one that is waited for, news its broadcast.
	pending function.Ref
	news    <-chan struct{}
}

// due says, once in companyEvery, that the company is to be kept awake.
func (c *company) due(now time.Time) bool {
	if now.Sub(c.kept) < companyEvery {
		return false
	}
	c.kept = now
	return true
}

// asleep: the function has no started pod.
func (c *company) asleep() { c.whole, c.pending, c.news = false, function.Ref{}, nil }

// ready says whether the function may be called as far as those that it
// depends on are concerned.
func (c *company) ready(l *lane, e *fleet.Entry) bool {
	if c.whole {
		return true
	}
	f := l.g.cfg.Fleet
	for _, ref := range e.Function().Spec.DependsOn {
		news := f.Changed()
		on := f.Get(ref)
		switch {
		case ref == l.ref, on == nil && complete(f), l.g.ignores(l.ref, ref):
			continue
		case on != nil:
			// Its own news, taken before its pods are read.
			if news = on.Changed(); on.Started() > 0 {
				continue
			}
		}
		c.pending, c.news = ref, news
		return false
	}
	c.whole, c.pending, c.news = true, function.Ref{}, nil
	return true
}

func complete(f *fleet.Fleet) bool {
	select {
	case <-f.Complete():
		return true
	default:
		return false
	}
}

// accompany has everything awake that must be while the function is called. It
// is called without any lane's lock.
func (g *Gateway) accompany(l *lane, e *fleet.Entry, now time.Time) {
	for _, ref := range e.Function().Spec.DependsOn {
		if on := g.cfg.Fleet.Get(ref); on != nil && !g.ignores(l.ref, ref) {
			g.join(on, l, now)
		}
	}
	if any := g.withAny.Load(); any != nil {
		for _, other := range *any {
			g.join(other, l, now)
		}
	}
}

// ignores says that a dependency comes to nothing, since it closes a circle.
// Its owner was told.
func (g *Gateway) ignores(from, to function.Ref) bool {
	ignored := g.ignored.Load()
	if ignored == nil || len(*ignored) == 0 {
		return false
	}
	_, is := (*ignored)[function.Edge{From: from, To: to}]
	return is
}

// join wakes one of a function's company, and in turn its company.
func (g *Gateway) join(e *fleet.Entry, caller *lane, now time.Time) {
	l := g.lane(e)
	if l == caller {
		return
	}
	l.keep(e, now)
	if l.takesCompany(e, now) {
		g.accompany(l, e, now)
	}
}

// takesCompany says whether a call of the function is to keep others awake.
func (l *lane) takesCompany(e *fleet.Entry, now time.Time) bool {
	if any := l.g.withAny.Load(); len(e.Function().Spec.DependsOn) == 0 && (any == nil || len(*any) == 0) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.company.due(now)
}
