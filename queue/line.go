package queue

import (
	"container/heap"
	"context"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

const (
	// recheck is how often a line looks where nothing is heard: the number of
	// weirs, and with it their shares, change without news.
	recheck = time.Second
	// fetchWait is how long the store may wait for an item: calls that come
	// one by one find a request for them already there.
	fetchWait = time.Second
	// fetchAgain is when a store that did not answer is asked again.
	fetchAgain = time.Second
	// heldLong is how long a call waits here for a pod before it is handed
	// back: another weir may have one.
	heldLong = time.Second
	// maxSettling bounds calls whose outcomes are being written, beside those
	// that run: a store that is slow must not have them pile up.
	maxSettling = 256
	// maxDue bounds how many put-off calls a line knows the time of. Of the
	// others the store tells once a second.
	maxDue = 4096
)

// line brings the calls of one function from the store to its pods. It is
// there while there is anything to bring. Its fields are its goroutine's.
type line struct {
	q    *Queue
	lane Lane
	ref  function.Ref
	// more is told when there may be something to fetch, look when anything
	// else is to be looked at. Both are buffered.
	more, look chan struct{}
	// heldHere is len(held), for others to read.
	heldHere atomic.Int64
	inflight atomic.Int64
	// refusals is pauses, for calls that are refused: each waits for as long as
	// all do.
	refusals atomic.Int64

	fetched  chan fetched
	returned chan *flight
	settled  chan time.Time

	flow
	// hungry: the store may have more.
	hungry     bool
	fetching   bool
	fetchAfter time.Time
	held       []*flight
	heldBytes  int
	settling   int
	due        dueTimes
	// until no call is begun, after some that no handler began; pauses counts
	// how often that was so in a row. lastBegan is when a handler last began
	// one.
	until     time.Time
	pauses    int
	lastBegan time.Time
}

type fetched struct {
	got []Delivery
	err error
}

func newLine(q *Queue, lane Lane, ref function.Ref) *line {
	return &line{
		q: q, lane: lane, ref: ref,
		more: make(chan struct{}, 1), look: make(chan struct{}, 1),
		// So large that who comes back need not wait for the line's look.
		fetched: make(chan fetched, 1), returned: make(chan *flight, 64), settled: make(chan time.Time, 64),
		flow: newFlow(),
	}
}

func (l *line) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	draining := l.q.draining
	for {
		now := time.Now()
		e := l.q.cfg.Fleet.Get(l.ref)
		var changed <-chan struct{}
		open := e != nil && draining != nil && !l.q.isDraining()
		if open {
			changed = l.measure(l.q, e, now)
			l.begin(e, now)
			l.fetch(now)
		} else {
			l.handBack(l.held)
			l.held, l.heldBytes, l.due = nil, 0, nil
		}
		l.count()
		if l.idle(open) && l.leave() {
			return
		}
		timer.Reset(l.next(now))
		select {
		case <-changed:
		case <-timer.C:
		case <-l.look:
		case <-l.more:
			l.hungry = true
		case got := <-l.fetched:
			l.took(got)
		case f := <-l.returned:
			l.back(f)
		case at := <-l.settled:
			l.wrote(at)
		case <-draining:
			draining = nil
		}
		l.catchUp()
	}
}

// catchUp takes what else came back meanwhile.
func (l *line) catchUp() {
	for {
		select {
		case f := <-l.returned:
			l.back(f)
		case at := <-l.settled:
			l.wrote(at)
		default:
			return
		}
	}
}

// idle says whether there is nothing that the line is needed for.
func (l *line) idle(open bool) bool {
	if l.fetching || l.settling > 0 || len(l.running) > 0 || len(l.held) > 0 {
		return false
	}
	return !open || !l.hungry && len(l.due) == 0
}

// leave ends the line, if nobody has told it of more meanwhile.
func (l *line) leave() bool {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	if len(l.more) > 0 && !l.q.closed && l.q.cfg.Fleet.Get(l.ref) != nil {
		return false
	}
	delete(l.q.lines, l.lane)
	l.q.gone.Broadcast()
	return true
}

// next is how long the line may wait for news.
func (l *line) next(now time.Time) time.Duration {
	wait := recheck
	sooner := func(at time.Time) {
		if at.After(now) {
			wait = min(wait, at.Sub(now))
		}
	}
	sooner(l.grow)
	sooner(l.until)
	sooner(l.fetchAfter)
	if len(l.due) > 0 {
		if !l.due[0].After(now) {
			return 0
		}
		sooner(l.due[0])
	}
	if len(l.held) > 0 {
		sooner(l.held[0].taken.Add(heldLong))
	}
	return wait
}

// begin gives calls that are here to the gateway, as many as pods can run.
func (l *line) begin(e *fleet.Entry, now time.Time) {
	for len(l.due) > 0 && !l.due[0].After(now) {
		heap.Pop(&l.due)
		l.hungry = true
	}
	kept := l.held[:0]
	var old []*flight
	for _, f := range l.held {
		switch {
		case f.isCancelled() || !now.Before(f.expiry()):
			l.finish(f, f.close)
		case len(l.running) < l.limit && l.settling < maxSettling && !l.until.After(now):
			l.launch(e, f)
		case now.Sub(f.taken) >= heldLong:
			old = append(old, f)
		default:
			f.waited = true
			kept = append(kept, f)
			continue
		}
		l.heldBytes -= len(f.m.Body)
	}
	clear(l.held[len(kept):])
	l.held = kept
	if len(old) > 0 {
		// They were fetched for pods that are busier than was thought.
		l.mean = max(l.mean, prefetchNever)
		l.handBack(old)
	}
}

// launch runs a call to its end.
func (l *line) launch(e *fleet.Entry, f *flight) {
	l.running[f] = struct{}{}
	f.line = l
	l.q.work.Go(func() {
		r := f.work(e)
		l.returned <- f
		l.settled <- f.settle(r)
	})
}

// finish settles a call that is not to run.
func (l *line) finish(f *flight, rule func() ruling) {
	l.settling++
	l.q.work.Go(func() { l.settled <- f.settle(rule()) })
}

func (l *line) handBack(all []*flight) {
	for _, f := range all {
		l.finish(f, func() ruling { return ruling{act: handBack} })
	}
}

// back is called when a call came back from the gateway.
func (l *line) back(f *flight) {
	delete(l.running, f)
	l.settling++
	now := time.Now()
	switch {
	case f.began:
		l.learn(f.took)
		l.lastBegan, l.pauses = now, 0
	case !f.refused || l.lastBegan.After(time.Unix(0, f.placed.Load())):
		// It was not delivered, or it is about this call only: others were begun
		// meanwhile, or it was refused before. Those that were come first from
		// the store; if they counted, a few would hold up all.
	case !l.until.After(now):
		// The first may be about the call still.
		if l.pauses++; l.pauses > 1 {
			l.until = now.Add(f.delay)
		}
	}
	l.refusals.Store(int64(l.pauses))
}

// wrote is called when nothing is to be written of a call any more; later is
// when it is delivered again.
func (l *line) wrote(later time.Time) {
	l.settling--
	if !later.IsZero() && len(l.due) < maxDue {
		heap.Push(&l.due, later)
	}
}

// fetch asks the store for as many calls as are wanted here.
func (l *line) fetch(now time.Time) {
	if !l.hungry || l.fetching || l.fetchAfter.After(now) || l.until.After(now) || l.settling >= maxSettling {
		return
	}
	n := l.wanted(len(l.held), l.heldBytes)
	if n <= 0 {
		return
	}
	l.fetching = true
	l.q.work.Go(func() {
		ctx, cancel := context.WithTimeout(l.q.hard, fetchWait+storeTime)
		defer cancel()
		got, err := l.q.cfg.Store.Fetch(ctx, l.lane, n, fetchWait)
		l.fetched <- fetched{got, err}
	})
}

// took takes what the store has delivered.
func (l *line) took(f fetched) {
	l.fetching = false
	if f.err != nil {
		l.fetchAfter = time.Now().Add(fetchAgain)
		l.q.cfg.Log.Debug("no asynchronous calls fetched", "function", l.ref.String(), "error", f.err)
	}
	if len(f.got) == 0 && f.err == nil {
		l.hungry = false
	}
	for _, d := range f.got {
		l.takeOne(d)
	}
	l.q.count(l.lane, -len(f.got))
}

func (l *line) takeOne(d Delivery) {
	f, r := l.q.take(d)
	switch {
	case f == nil:
	case r.rec != nil:
		l.finish(f, func() ruling { return r })
	default:
		l.weigh(len(d.Item().Data))
		l.held = append(l.held, f)
		l.heldBytes += len(f.m.Body)
	}
}

func (l *line) count() {
	l.heldHere.Store(int64(len(l.held)))
	l.inflight.Store(int64(len(l.running)))
}

// dueTimes are when calls that were put off are delivered again.
type dueTimes []time.Time

func (d dueTimes) Len() int           { return len(d) }
func (d dueTimes) Less(i, j int) bool { return d[i].Before(d[j]) }
func (d dueTimes) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueTimes) Push(x any)        { *d = append(*d, x.(time.Time)) }
func (d *dueTimes) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}
