package limiter

import "context"

// waiter stands in line. Its channel holds the one token of its slot, sent
// under mu when it has left the list.
type waiter struct {
	granted    chan struct{}
	prev, next *waiter
	inLine     bool
}

// list is the line, first come first. All of it belongs to Limiter.mu.
type list struct {
	first, last *waiter
	len         int
	since       int64 // until when Limiter.waited counts
}

func (q *list) push(p *waiter) {
	p.prev, p.next, p.inLine = q.last, nil, true
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
	q.len++
}

func (q *list) remove(p *waiter) {
	if p.prev == nil {
		q.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		q.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next, p.inLine = nil, nil, false
	q.len--
}

func (q *list) pop() *waiter {
	p := q.first
	q.remove(p)
	return p
}

// wait is Acquire when no slot was free.
func (l *Limiter) wait(ctx context.Context, queued func()) error {
	l.mu.Lock()
	for w := l.load(); !w.queued(); w = l.load() {
		if l.TryAcquire() {
			l.mu.Unlock()
			return nil
		}
		if w = l.load(); !w.free() && l.swap(w, w.withQueue()) {
			break
		}
	}
	// From here on every slot is taken, until mu is let go.
	if l.waiters.len >= l.capacity {
		l.mu.Unlock()
		return ErrFull
	}
	p := l.pool.Get().(*waiter)
	l.waitedUntil(l.clock())
	l.waiters.push(p)
	l.mu.Unlock()

	if queued != nil {
		queued()
	}
	select {
	case <-p.granted:
		l.pool.Put(p)
		return nil
	case <-ctx.Done():
		l.leave(p)
		return context.Cause(ctx)
	}
}

// leave takes p out of line; a slot that it was given meanwhile goes on to the
// next.
func (l *Limiter) leave(p *waiter) {
	l.mu.Lock()
	if p.inLine {
		l.waitedUntil(l.clock())
		l.waiters.remove(p)
		l.closeEmptyQueue()
		l.mu.Unlock()
	} else {
		l.mu.Unlock()
		<-p.granted
		l.Release()
	}
	l.pool.Put(p)
}

// handOver gives the caller's slot to the first in line, or back when more
// run than the limit allows. It reports false, having done nothing, when
// nobody waits any more.
func (l *Limiter) handOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		w := l.load()
		if !w.queued() {
			return false
		}
		t := l.clock()
		if w.running() > w.limit() {
			if l.swap(w, w.end()) {
				l.ended(w, t)
				return true
			}
			continue
		}
		// One end and one start at the same instant: the books stay as they
		// are.
		l.touch(t)
		l.waitedUntil(t)
		p := l.waiters.pop()
		l.closeEmptyQueue()
		p.granted <- struct{}{}
		return true
	}
}

// closeEmptyQueue lets newcomers be admitted without mu again once nobody
// waits. Only a reader can change the word meanwhile.
func (l *Limiter) closeEmptyQueue() {
	if l.waiters.len > 0 {
		return
	}
	for {
		w := l.load()
		if l.swap(w, w.withoutQueue()) {
			return
		}
	}
}
