package gateway

import (
	"time"

	"github.com/weir-run/weir/fleet"
)

// recheck is how often those who wait are looked at where nothing is heard:
// the number of gateways, and with it a pod's share, changes without news.
const recheck = time.Second

// watch serves those who wait until nobody does.
func (l *lane) watch() {
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	for {
		e := l.entry.Load()
		changed := e.Changed()
		next, other, some := l.serve(e)
		if !some {
			return
		}
		if now := time.Now(); l.takesCompany(e, now) {
			l.g.accompany(l, e, now)
		}
		timer.Reset(next)
		select {
		case <-changed:
		case <-other:
		case <-l.kick:
		case <-timer.C:
		case <-l.g.ctx.Done():
		}
	}
}

// serve gives those who wait what there is, and refuses whose time is over.
// next is when to look again, other what to listen to beside the function; it
// may be nil. When nobody is left the watcher is one no more.
func (l *lane) serve(e *fleet.Entry) (next time.Duration, other <-chan struct{}, some bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.dispatch(e, now)
	// A pod from before the sleep, that has not stopped yet, is no wake.
	if l.places.awake && e.Function().Replicas > 0 {
		l.sawStarted(now)
	}
	if l.waiting() == 0 {
		l.watching = false
		return 0, nil, false
	}
	l.rouse(e, now)
	next = l.places.look
	for _, q := range []*line{&l.line, &l.own} {
		if q.n > 0 {
			next = min(next, q.head.deadline.Sub(now))
		}
	}
	return max(next, time.Millisecond), l.company.news, true
}

// dispatch hands out every place that is free, in the order of the lines.
func (l *lane) dispatch(e *fleet.Entry, now time.Time) {
	for {
		first, second := l.heads()
		switch {
		case first == nil:
			return
		case l.serveFirst(first, e, now):
		case !first.own || second == nil || !l.serveFirst(second, e, now):
			return
		}
	}
}

// serveFirst ends the waiting of the first of a line, if there is a place for
// it, or none to be had any more.
func (l *lane) serveFirst(c *claim, e *fleet.Entry, now time.Time) (done bool) {
	switch {
	case l.g.ctx.Err() != nil:
		l.deny(c, errStopping, now)
	case e.Gone() && l.entry.Load() == e:
		l.deny(c, errGone(l.ref), now)
	default:
		p := l.pick(e, now, c.own)
		switch {
		case p != nil:
			l.call(c, p, now)
		case !now.Before(c.deadline):
			l.deny(c, l.late(e), now)
		case c.own && l.others(e, now):
			l.deny(c, errOthers(l.ref), now)
		default:
			return false
		}
	}
	return true
}

// look has the watcher look again.
func (l *lane) look() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}
