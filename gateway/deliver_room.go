package gateway

import (
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// room is who asks how many asynchronous calls a function can run. Guarded by
// its lane's lock.
//
// One goroutine listens for news, which is there only while somebody asks. It
// takes the next news before it tells of the last, so that whoever then asks
// again misses nothing.
type room struct {
	// news is closed when the answer may be another; nil where nobody asked
	// since.
	news chan struct{}
	// answered is what was said last.
	answered capacity
	// listening: the goroutine is there, and listens to entry. kick has it
	// look whether that is still the right one.
	listening bool
	entry     *fleet.Entry
	kick      chan struct{}
}

// capacity is what Room says.
type capacity struct{ room, started int }

// tell has whoever asked ask again.
func (r *room) tell() {
	if r.news != nil {
		close(r.news)
		r.news = nil
	}
}

// Room is how many asynchronous calls more this gateway may give to the
// function's pods, and how many pods these are: what has started, and takes
// calls as far as what the function depends on is concerned. Of each pod it is
// this gateway's own share of what it runs at once, and never a place in its
// queue, so that those of all gateways sum up to the limit; less what this
// gateway runs there, calls of any kind. A pod without a limit counts with the
// function's target. A pod that refused a call has less until it is known to
// have room, and one that lacks a resource none.
//
// changed is closed when there may be more. That other calls took places is
// noticed within a second.
func (g *Gateway) Room(e *fleet.Entry) (room, started int, changed <-chan struct{}) {
	gone := g.cfg.Fleet.Changed()
	l := g.lane(e)
	news := e.Changed()
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Gone() || l.entry.Load() != e {
		return 0, 0, gone // a function of that name may come again
	}
	r := &l.room
	now, _ := l.capacity(e, time.Now())
	if now != r.answered {
		r.tell() // who asked before knows another answer
	}
	r.answered = now
	if r.news == nil {
		r.news = make(chan struct{})
	}
	switch {
	case !r.listening:
		r.listening, r.entry, r.kick = true, e, make(chan struct{}, 1)
		go l.listen(news)
	case r.entry != e:
		r.entry = e
		select {
		case r.kick <- struct{}{}:
		default:
		}
	}
	return now.room, now.started, r.news
}

// listen tells those who asked for room of what is new until nobody asks.
func (l *lane) listen(changed <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-changed:
		case <-l.room.kick:
		case <-timer.C:
		case <-l.g.ctx.Done():
		}
		var look time.Duration
		if changed, look = l.heard(); changed == nil {
			return
		}
		timer.Reset(look)
	}
}

// heard tells who asked, if the answer is another than theirs, and returns what
// to listen to then: nil is nothing, since nobody asks.
func (l *lane) heard() (changed <-chan struct{}, look time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.room
	if r.entry.Gone() || l.g.ctx.Err() != nil {
		r.tell()
	}
	if r.news == nil {
		r.listening, r.entry = false, nil
		return nil, 0
	}
	changed = r.entry.Changed()
	now, look := l.capacity(r.entry, time.Now())
	if now != r.answered {
		r.tell()
	}
	return changed, max(look, time.Millisecond)
}

// capacity is what Room answers, and when that is to be looked at again though
// nothing is heard. The caller holds the lock.
func (l *lane) capacity(e *fleet.Entry, now time.Time) (c capacity, look time.Duration) {
	ps := &l.places
	ps.follow(e)
	before := ps.look
	defer func() { ps.look = before }()
	ps.look = recheck
	v := l.view(e, now)
	for _, p := range ps.all {
		if p.pod.State() != fleet.Started {
			continue
		}
		c.started++
		if said := p.pod.Said(); !said.Guarded {
			c.room += max(0, min(ps.bound(p, said.Room, now), v.ownShare(p, said))-p.running.n)
		}
	}
	if c.started > 0 && !l.company.ready(l, e) {
		return capacity{}, ps.look
	}
	c.room = max(0, c.room-l.waiting())
	return c, ps.look
}

// ownShare is how many calls this gateway may give to the pod so that all
// gateways' together are no more than the pod runs at once.
func (v *view) ownShare(p *place, said *fleet.Saying) int {
	limit := said.MaxInflight
	if said.Nature != fleet.Watchdog {
		limit = v.spec.Concurrency
	}
	if limit <= 0 {
		limit = v.unlimited()
	}
	return exactShare(limit, v.gateways, v.rank+p.turnOf(v.gateways))
}

// unlimited is how many calls a pod is given at once that takes any number: as
// many as one replica should carry.
func (v *view) unlimited() int {
	if v.spec.Type == function.RPS || v.spec.Type == function.CPU {
		return function.DefaultTarget // theirs are no calls at once
	}
	return max(1, int(math.Ceil(v.spec.TargetFor(0))))
}

// exactShare is a part of a limit, rounded down, and one more where the rest of
// the limit reaches: of gateways in a row from any number on they sum up to it.
func exactShare(limit, gateways, at int) int {
	share := limit / gateways
	if at%gateways < limit%gateways {
		share++
	}
	return share
}

// turn is from which gateway on the rest of a pod's limit is shared out: from
// another at every pod, so that all gateways have about as much.
type turn struct {
	known bool
	hash  uint32
}

func (p *place) turnOf(gateways int) int {
	if gateways == 1 {
		return 0
	}
	if t := &p.turn; !t.known {
		t.known, t.hash = true, hashOf(p.pod.About().UID)
	}
	return int(p.turn.hash % uint32(gateways))
}

func hashOf(uid string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	return h.Sum32()
}

// others says whether all that the function's pods can run is other gateways'
// share: whoever waits here for a place of its own share waits in vain.
func (l *lane) others(e *fleet.Entry, now time.Time) bool {
	v := l.view(e, now)
	if v.gateways == 1 || !l.places.awake {
		return false
	}
	for _, p := range l.places.all {
		if p.pod.State() == fleet.Started && v.ownShare(p, p.pod.Said()) > 0 {
			return false
		}
	}
	return true
}

func errOthers(ref function.Ref) *refusal {
	return &refusal{http.StatusServiceUnavailable, "share",
		fmt.Sprintf("function %s: all that its pods run at once is the share of other weirs", ref), retryFull}
}
