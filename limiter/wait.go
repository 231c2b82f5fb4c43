package limiter

import "context"

// waiter stands in line. Its channel holds the one token of its slot, sent
// when it has left the line for it.
type waiter struct {
	granted    chan struct{}
	prev, next *waiter
	inLine     bool
}

// line is who waits, first come first. All of it belongs to Limiter.mu.
type line struct {
	first, last *waiter
	len         int
	at          int64 // until when Limiter.waited counts
}

func (q *line) push(p *waiter) {
	p.prev, p.next, p.inLine = q.last, nil, true
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
	q.len++
}

func (q *line) remove(p *waiter) {
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

func (q *line) pop() *waiter {
	p := q.first
	q.remove(p)
	return p
}

// Wait is Acquire for a caller that wants to know that it waits, after Try has
// told it ErrFull: it calls queued, unless that is nil, once it stands in line
// and before it waits. A slot may be granted while queued runs. queued is not
// called when a slot has come free meanwhile, nor for a refusal.
func (l *Limiter) Wait(ctx context.Context, queued func()) error {
	now := l.clock()
	l.mu.Lock()
	if l.running < l.limit {
		l.start(now)
		l.mu.Unlock()
		return nil
	}
	if l.line.len >= l.capacity {
		l.mu.Unlock()
		return ErrFull
	}
	l.advance(now)
	l.advanceLine()
	p := l.pool.Get().(*waiter)
	l.line.push(p)
	l.mu.Unlock()

	if queued != nil {
		l.tell(queued, p)
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

// tell calls queued for p. Should queued panic, p has left the line, or else
// it would be given a slot that nobody releases.
func (l *Limiter) tell(queued func(), p *waiter) {
	told := false
	defer func() {
		if !told {
			l.leave(p)
		}
	}()
	queued()
	told = true
}

// leave takes p out of line; a slot that it was given meanwhile goes on to the
// next.
func (l *Limiter) leave(p *waiter) {
	now := l.clock()
	l.mu.Lock()
	waits := p.inLine
	if waits {
		l.advance(now)
		l.advanceLine()
		l.line.remove(p)
	}
	l.mu.Unlock()
	if !waits {
		<-p.granted
		l.Release()
	}
	l.pool.Put(p)
}
