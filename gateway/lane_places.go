package gateway

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/proxy"
)

const (
	// fewInflight: pods that run no more than this many at once are filled one
	// after the other, so that the others stay idle and can be taken away.
	fewInflight = 3
	// A pod that refused for want of room and then has some again gets one
	// request more than it kept, twice as many every rampStep, and after
	// rampSteps whatever its limit is: others fill it too, and how much room
	// there is it does not say.
	rampStep  = 20 * time.Millisecond
	rampSteps = 12
	// While it says that it is full one request is tried all the same, after
	// tryFull, and after twice as long each time, up to tryFullMost: what it
	// says is a sample, and a place that others take at once is in none.
	tryFull     = 50 * time.Millisecond
	tryFullMost = 800 * time.Millisecond
)

// places are the pods of a function as its lane uses them.
type places struct {
	pods []*fleet.Pod // what all was made from
	all  []*place
	next int // where the round begins
	// awake: one of them has started. look: when one that refused is to be
	// looked at again. Both as of the last look at all.
	awake bool
	look  time.Duration
}

// place is one pod, and what it has of this gateway.
type place struct {
	pod *fleet.Pod
	to  *proxy.Proxy
	// left: it is no longer one of the function's.
	left bool

	running        meter
	calls, refused uint64
	turn           turn

	// After a refusal: bounded by base while the pod says that it is full, by
	// one more from nextTry on, and by more and more since it has said that it
	// is not. refusals are those in a row.
	bounded, full      bool
	base, refusals     int
	nextTry, roomSince time.Time
}

type placeKey struct{ uid, addr string }

func keyOf(p *fleet.Pod) placeKey {
	about := p.About()
	return placeKey{about.UID, about.Addr}
}

// follow takes the function's pods of now. Those of one that was deleted stay,
// stopping, with the calls that they still have: it may come back.
func (ps *places) follow(e *fleet.Entry) {
	pods := e.Pods()
	if same(pods, ps.pods) || e.Gone() {
		return
	}
	before := make(map[placeKey]*place, len(ps.all))
	for _, p := range ps.all {
		before[keyOf(p.pod)] = p
	}
	ps.pods = pods
	ps.all = make([]*place, 0, len(pods))
	for _, pod := range pods {
		key := keyOf(pod)
		p := before[key]
		if p == nil {
			p = &place{}
		} else {
			delete(before, key)
		}
		p.pod = pod
		ps.all = append(ps.all, p)
	}
	for _, p := range before {
		p.left = true
		p.retire()
	}
}

// same says whether two lists are one: a Fleet never changes a list that it
// handed out.
func same(a, b []*fleet.Pod) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

const (
	// idleLife is how long an unused connection to a pod is kept: shorter than
	// a watchdog keeps it (120 s), so that it is this side that ends it.
	idleLife = 60 * time.Second
	// dialTimeout is how long a pod may take to accept a connection: one that
	// is gone with its machine does not refuse it.
	dialTimeout = 2 * time.Second
	// silence is when a pod counts as gone that has a request and whose
	// machine does not even acknowledge.
	silence = 30 * time.Second
)

// connect makes what requests to the pod go through, at the first one. Of an
// address that is none nobody is there.
func (p *place) connect() {
	if p.to != nil {
		return
	}
	to, err := proxy.New("http://" + p.pod.About().Addr)
	if err != nil {
		return
	}
	to.IdleLife, to.DialTimeout, to.Silence = idleLife, dialTimeout, silence
	p.to = to
}

// retire ends the connections of a pod that is no more, once nobody uses them.
func (p *place) retire() {
	switch {
	case p.to == nil:
	case p.running.n == 0:
		p.to.Close()
		p.to = nil
	default:
		p.to.Retire()
	}
}

// ended learns from how a request to the pod ended. The pod's own news come
// after it: whoever is told by it that there is room does not find a place
// that is not bounded yet.
func (p *place) ended(how ending, now time.Time) {
	switch how {
	case took:
		p.calls++
		p.refusals = 0
	case cut:
		p.calls++
		if p.pod.Said().Nature == fleet.Watchdog {
			p.pod.Lost()
		}
	case lost:
		p.pod.Lost()
	case drains:
		p.refused++
		p.pod.Drains()
	case refused:
		p.refused++
		p.pod.Full()
		p.bounded, p.full, p.base = true, true, p.running.n
		p.pause(now)
		p.refusals++
	}
}

// pause puts off the next request that is tried on a full pod.
func (p *place) pause(now time.Time) {
	p.nextTry = now.Add(min(tryFull<<min(p.refusals, 10), tryFullMost))
}

// take counts a request that the pod is given.
func (p *place) take(now time.Time) {
	if p.full && p.running.n >= p.base {
		p.base = p.running.n + 1
		p.pause(now)
	}
	p.running.add(1, now)
}

// ceiling is how many requests the pod may have after it refused one.
func (p *place) ceiling(room bool, now time.Time) int {
	if !p.bounded {
		return math.MaxInt
	}
	if p.full {
		if !room && now.Before(p.nextTry) {
			return p.base
		}
		if !room {
			return p.base + 1
		}
		p.full, p.roomSince = false, now
	}
	steps := max(0, int(now.Sub(p.roomSince)/rampStep))
	if steps >= rampSteps {
		p.bounded = false
		return math.MaxInt
	}
	return p.base + 1<<steps
}

// view is what a choice is made by.
type view struct {
	spec           *function.Spec
	rank, gateways int
	now            time.Time
	// own: only places of this gateway's own share count.
	own bool
}

// limits are how many requests a pod runs at once and how many it takes, of
// this gateway. 0 is no limit.
func (v *view) limits(said *fleet.Saying) (runs, takes int) {
	if said.Nature != fleet.Watchdog {
		runs = share(max(0, v.spec.Concurrency), v.gateways)
		return runs, runs
	}
	if said.MaxInflight <= 0 {
		return 0, 0
	}
	return share(said.MaxInflight, v.gateways), share(said.MaxInflight+max(0, said.MaxQueue), v.gateways)
}

// share is this gateway's part of a limit. It is rounded up, so that every
// gateway can use every pod; what is too much then the watchdog refuses.
func share(limit, gateways int) int {
	return (limit + gateways - 1) / gateways
}

// offer is how welcome a request is at a pod.
type offer int

const (
	nowhere offer = iota
	behind        // it would wait in the pod, or the pod says that it is full
	free          // it would run at once
)

func (ps *places) offer(p *place, v *view) offer {
	if p.pod.State() != fleet.Started {
		return nowhere
	}
	said, n := p.pod.Said(), p.running.n
	if said.Guarded {
		return nowhere
	}
	ceiling := ps.bound(p, said.Room, v.now)
	if v.own {
		if n < min(ceiling, v.ownShare(p, said)) {
			return free
		}
		return nowhere
	}
	runs, takes := v.limits(said)
	switch {
	case n >= ceiling, takes > 0 && n >= takes:
		return nowhere
	case !said.Room, runs > 0 && n >= runs:
		return behind
	}
	return free
}

// bound is the ceiling, and has it looked at again when it may be another.
func (ps *places) bound(p *place, room bool, now time.Time) int {
	ceiling := p.ceiling(room, now)
	switch {
	case p.bounded && !p.full:
		ps.look = min(ps.look, rampStep)
	case p.bounded && p.running.n >= ceiling:
		ps.look = min(ps.look, p.nextTry.Sub(now))
	}
	return ceiling
}

// pick finds the pod for one more request, nil where none takes one: two at
// random and of them the less loaded where no limit is known, the first that
// is free where pods run few at once, and else one after the other. Where the
// request would wait in a pod is second choice; with own it is none.
func (l *lane) pick(e *fleet.Entry, now time.Time, own bool) *place {
	ps := &l.places
	ps.follow(e)
	ps.look = recheck
	lead := ps.lead()
	if ps.awake = lead != nil; !ps.awake {
		l.company.asleep()
		return nil
	}
	if !l.company.ready(l, e) {
		return nil
	}
	v := l.view(e, now)
	v.own = own
	switch runs, _ := v.limits(lead.pod.Said()); {
	case runs == 0:
		if p := ps.ofTwo(&v); p != nil {
			return p
		}
		return ps.scan(&v, 0)
	case runs <= fewInflight:
		return ps.scan(&v, 0)
	}
	return ps.scan(&v, ps.next%len(ps.all))
}

func (l *lane) view(e *fleet.Entry, now time.Time) view {
	rank, gateways := l.g.cfg.Share()
	gateways = max(1, gateways)
	return view{spec: &e.Function().Spec, rank: min(max(0, rank), gateways-1), gateways: gateways, now: now}
}

// lead is the first pod that has started.
func (ps *places) lead() *place {
	for _, p := range ps.all {
		if p.pod.State() == fleet.Started {
			return p
		}
	}
	return nil
}

// ofTwo looks at two pods only. It finds none where neither is free.
func (ps *places) ofTwo(v *view) *place {
	n := len(ps.all)
	if n == 1 {
		return nil
	}
	i := rand.IntN(n)
	p := ps.all[i]
	q := ps.all[(i+1+rand.IntN(n-1))%n]
	if q.running.n < p.running.n {
		p, q = q, p
	}
	if ps.offer(p, v) == free {
		return p
	}
	if ps.offer(q, v) == free {
		return q
	}
	return nil
}

// scan looks at the pods in turn up to the first that is free.
func (ps *places) scan(v *view, from int) *place {
	var second *place
	for i := range ps.all {
		at := from + i
		if at >= len(ps.all) {
			at -= len(ps.all)
		}
		p := ps.all[at]
		switch ps.offer(p, v) {
		case free:
			ps.next = at + 1
			return p
		case behind:
			if second == nil || p.running.n < second.running.n {
				second = p
			}
		}
	}
	return second
}
