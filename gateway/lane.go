package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// lane is what the gateway holds for one function: who is with which pod, who
// waits, and what became of the calls. It lives as long as the function does,
// and through a short absence of it.
//
// While somebody waits no pod has a place that is free, so that whoever comes
// stands behind them without looking. A place that is given back goes to the
// first in line there and then; news of pods are the business of one
// goroutine, which is there only while somebody waits.
type lane struct {
	g   *Gateway
	ref function.Ref
	// entry changes only where the function was deleted and is there again.
	entry atomic.Pointer[fleet.Entry]
	// kept counts the bytes of bodies that are kept for those who wait.
	kept atomic.Int64
	// done is what became of the calls.
	done outcomes

	mu     sync.Mutex
	places places
	// line is who waits, own who waits for a place of this gateway's own share.
	line, own line
	tickets   uint64
	watching  bool
	// kick has the watcher look again: buffered, so that nobody waits for it.
	kick chan struct{}

	running, held meter
	calls         uint64
	lastStart     time.Time
	lastEnd       time.Time
	waking        waking
	company       company
	budget        budget
	room          room
	// untold calls were refused since the log told of it.
	untold int
	told   time.Time
}

// ending is how a pod did with what it was given.
type ending int

const (
	unused  ending = iota // the pod never saw the request
	took                  // the pod's handler had it
	refused               // the pod had no room, and the handler saw nothing
	drains                // the pod refused since it stops
	lost                  // nobody is there
	cut                   // the handler had it, and the connection broke
)

func newLane(g *Gateway, e *fleet.Entry) *lane {
	l := &lane{g: g, ref: e.Function().Ref, kick: make(chan struct{}, 1)}
	l.entry.Store(e)
	return l
}

// lane is the function's, made at the first use.
func (g *Gateway) lane(e *fleet.Entry) *lane {
	ref := e.Function().Ref
	g.mu.RLock()
	l := g.lanes[ref]
	g.mu.RUnlock()
	if l != nil && l.entry.Load() == e {
		return l
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if l = g.lanes[ref]; l == nil {
		l = newLane(g, e)
		g.lanes[ref] = l
	} else if !e.Gone() && l.entry.Swap(e) != e {
		l.look()
	}
	return l
}

// all is every lane, in no order.
func (g *Gateway) all() []*lane {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := make([]*lane, 0, len(g.lanes))
	for _, l := range g.lanes {
		all = append(all, l)
	}
	return all
}

// enter counts a call that came. One that is ready to go is given a pod, if
// one is free. Where c has none afterwards the call counts as held: wait is to
// be called, or quit.
func (l *lane) enter(c *claim, ready bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	e := l.entry.Load()
	l.calls++
	l.lastStart = now
	l.budget.call(now)
	l.rouse(e, now)
	l.tickets++
	c.ticket, c.deadline = l.tickets, now.Add(l.g.cfg.HoldTime)
	if l.nobodyBefore(c) {
		if p := l.pick(e, now, c.own); ready && p != nil {
			l.give(c, p, now)
			return nil
		}
	}
	if l.held.n >= l.g.cfg.HoldRequests {
		return l.tooMany()
	}
	c.woken = !l.places.awake
	l.hold(c, now)
	return nil
}

func (l *lane) hold(c *claim, now time.Time) {
	c.held = true
	l.held.add(1, now)
}

func (l *lane) unhold(c *claim, now time.Time) {
	c.held = false
	l.held.add(-1, now)
}

// wait stands in line until the call has a pod: at its end, or, for a call that
// a pod did not take, at the place that it had. The error is ctx's, when the
// client left, or a *refusal that says what to answer.
func (l *lane) wait(ctx context.Context, c *claim) error {
	if c.ready == nil {
		c.ready = make(chan struct{}, 1)
	}
	if l.queue(c) {
		select {
		case <-c.ready:
		case <-ctx.Done():
			l.quit(c)
			return ctx.Err()
		}
	}
	return c.err
}

// queue puts the claim in line, and says whether there is anything to wait
// for.
func (l *lane) queue(c *claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	e := l.entry.Load()
	if l.nobodyBefore(c) && !e.Gone() {
		if p := l.pick(e, now, c.own); p != nil {
			if c.held {
				l.unhold(c, now)
			}
			l.give(c, p, now)
			return false
		}
	}
	if !c.held {
		l.hold(c, now)
	}
	c.waits, c.err = true, nil
	first := l.lineOf(c).insert(c)
	c.counts()
	switch {
	case !l.watching:
		l.watching = true
		go l.watch()
		if l.places.awake && l.g.cfg.Kick != nil {
			l.g.cfg.Kick(l.ref)
		}
	case first:
		l.look()
	}
	return true
}

// quit takes back a claim that was not given a pod, or was at that very moment.
func (l *lane) quit(c *claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case c.waits:
		l.leave(c, now)
	case c.held:
		l.unhold(c, now)
	case c.place != nil:
		l.giveBack(c, unused, now)
	}
}

// release gives the pod back. It is called once for each that was given.
func (l *lane) release(c *claim, how ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.giveBack(c, how, now)
}

// exit counts a call that ended.
func (l *lane) exit(code int, took time.Duration) {
	l.done.add(code, took)
	l.mu.Lock()
	now := time.Now()
	l.lastEnd = now
	l.mu.Unlock()
}

// handOver gives the pod, of which a place became free, to those who wait.
func (l *lane) handOver(p *place, now time.Time) {
	e := l.entry.Load()
	if l.waiting() == 0 || e.Gone() || !l.company.ready(l, e) {
		return
	}
	v := l.view(e, now)
	for c := l.firstFor(p, &v); c != nil; c = l.firstFor(p, &v) {
		l.call(c, p, now)
	}
}

// call gives a pod to one who waits.
func (l *lane) call(c *claim, p *place, now time.Time) {
	l.leave(c, now)
	l.give(c, p, now)
	c.ready <- struct{}{}
}

// deny ends a claim's waiting with an error.
func (l *lane) deny(c *claim, err error, now time.Time) {
	l.leave(c, now)
	c.err = err
	c.ready <- struct{}{}
}

// leave takes a claim out of the line.
func (l *lane) leave(c *claim, now time.Time) {
	c.waits = false
	l.lineOf(c).remove(c)
	l.unhold(c, now)
	if l.waiting() == 0 && l.watching {
		l.look()
	}
}

func (l *lane) give(c *claim, p *place, now time.Time) {
	p.connect()
	c.place, c.pod, c.to, c.err = p, p.pod, p.to, nil
	p.take(now)
	l.running.add(1, now)
	c.counts()
}

// giveBack takes the pod's place from the claim, learns from how it ended, and
// hands the place to the first in line.
func (l *lane) giveBack(c *claim, how ending, now time.Time) {
	p := c.place
	c.place = nil
	p.running.add(-1, now)
	l.running.add(-1, now)
	p.ended(how, now)
	if p.left {
		p.retire()
		return
	}
	l.handOver(p, now)
	l.room.tell()
}

// tidy brings the pods in step with the function where no call does it, and
// reports whether the lane can be dropped.
func (l *lane) tidy() (over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry.Load()
	l.places.follow(e)
	return e.Gone() && l.running.n == 0 && l.held.n == 0 && !l.watching && !l.room.listening && !l.waking.busy
}

// close ends the connections that nobody uses, and has those who wait refused.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	for _, p := range l.places.all {
		if p.to != nil {
			p.to.Retire()
		}
	}
}
