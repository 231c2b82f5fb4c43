package queue

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// How callbacks share what there is. A receiver that is slow or dead holds
// callbacksAtReceiver places for as long as Timeout lets it, and no more; the
// others stay free for all others.
const (
	callbacksAtOnce     = 128
	callbacksAtReceiver = 8
	// callbacksWaiting are kept at hand for one receiver, so that its next one
	// begins when one has ended.
	callbacksWaiting = 8
	// callbackBytes bounds what is at hand, beside one batch.
	callbackBytes = 64 << 20
	callbackBatch = 16
	// maxPutOff is the longest that a callback is put off because its receiver
	// has no place: one that is there again is noticed in this time.
	maxPutOff = 5 * time.Minute
	minPutOff = 100 * time.Millisecond
	// leastTook is what a callback takes at a receiver of which nothing is
	// known yet.
	leastTook = time.Millisecond
)

// callbackLine says which callback runs, which waits at hand, and which goes
// back to the store for a while.
type callbackLine struct {
	mu        sync.Mutex
	held      map[*errand]struct{} // every one at hand: running or waiting
	bytes     int
	running   int
	receivers map[string]*atReceiver
	freed     chan struct{} // has one while room may have grown
}

// errand is a callback at hand.
type errand struct {
	delivery Delivery
	reply    *reply
	to       *receiver
	// bad is why to is nowhere.
	bad error

	mu      sync.Mutex
	settled bool
}

// extend keeps the lease, unless the delivery was answered: it must not be
// taken back then.
func (e *errand) extend() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled {
		return nil
	}
	return e.delivery.Extend()
}

// settle comes before the delivery is answered.
func (e *errand) settle() {
	e.mu.Lock()
	e.settled = true
	e.mu.Unlock()
}

// atReceiver is there while one of its callbacks runs.
type atReceiver struct {
	running map[*errand]time.Time // since when
	waiting []*errand
	// took is the mean time of a callback, next when there would be a place
	// for the next that is put off.
	took time.Duration
	next time.Time
}

func (l *callbackLine) init() {
	l.held = map[*errand]struct{}{}
	l.receivers = map[string]*atReceiver{}
	l.freed = make(chan struct{}, 1)
}

// room is how many callbacks may be fetched. Where it is 0, freed tells when
// to ask again.
func (l *callbackLine) room() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes >= callbackBytes {
		return 0
	}
	return min(callbacksAtOnce-l.running, callbackBatch)
}

// place says what becomes of a callback that was fetched: it begins, it waits
// at hand, or, with a delay, it is put off. random is in [0,1).
func (l *callbackLine) place(e *errand, now time.Time, random float64) (begin bool, putOff time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.receivers[e.to.key]
	if at == nil {
		at = &atReceiver{running: map[*errand]time.Time{}}
		l.receivers[e.to.key] = at
	}
	if len(at.running) >= callbacksAtReceiver {
		if len(at.waiting) >= callbacksWaiting || l.bytes >= callbackBytes {
			return false, at.later(now, random)
		}
		at.waiting = append(at.waiting, e)
		l.hold(e)
		return false, 0
	}
	at.running[e] = now
	l.running++
	l.hold(e)
	return true, 0
}

// later spreads those that are put off over the time that those before them
// will take: as long as others took, or as those that run have taken already.
func (a *atReceiver) later(now time.Time, random float64) time.Duration {
	took := max(a.took, leastTook)
	for _, since := range a.running {
		took = max(took, now.Sub(since))
	}
	if soonest := now.Add(max(took, minPutOff)); a.next.Before(soonest) {
		a.next = soonest
	}
	a.next = a.next.Add(took / callbacksAtReceiver)
	if a.next.Sub(now) >= maxPutOff {
		a.next = now.Add(maxPutOff)
		return maxPutOff/2 + time.Duration(random*float64(maxPutOff/2))
	}
	return a.next.Sub(now)
}

// end gives back the place of e and says which callback takes it, if one does.
func (l *callbackLine) end(e *errand, now time.Time) (next *errand) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(e)
	at := l.receivers[e.to.key]
	at.took += (now.Sub(at.running[e]) - at.took) / 4
	delete(at.running, e)
	if len(at.waiting) > 0 {
		next, at.waiting = at.waiting[0], at.waiting[1:]
		at.running[next] = now
	} else {
		l.running--
		if len(at.running) == 0 {
			delete(l.receivers, e.to.key)
		}
	}
	l.tell()
	return next
}

// drain takes out all that wait.
func (l *callbackLine) drain() []*errand {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*errand
	for _, at := range l.receivers {
		all = append(all, at.waiting...)
		at.waiting = nil
	}
	for _, e := range all {
		l.drop(e)
	}
	return all
}

// leased are those at hand.
func (l *callbackLine) leased() []*errand {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.held))
}

func (l *callbackLine) hold(e *errand) {
	l.held[e] = struct{}{}
	l.bytes += len(e.delivery.Item().Data)
}

func (l *callbackLine) drop(e *errand) {
	delete(l.held, e)
	l.bytes -= len(e.delivery.Item().Data)
}

func (l *callbackLine) tell() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}
