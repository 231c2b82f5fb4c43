package gateway

import (
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/proxy"
)

// claim is one call's place: in line, or with a pod. Its fields are the lane's
// while it waits, and the caller's otherwise.
type claim struct {
	ticket   uint64
	deadline time.Time
	// place is what it was given, err why that is nothing. pod and to are the
	// place's as of then; to is nil where the pod's address is none.
	place *place
	pod   *fleet.Pod
	to    *proxy.Proxy
	err   error
	// woken: it came while no pod had started.
	woken bool
	// own: it takes only a place of this gateway's own share. counted is told
	// once Room counts it, with a pod or in line. Both are set before enter.
	own     bool
	counted func()

	// held: it counts as one that waits for a pod; waits: it is in line.
	held, waits bool
	// ready is told when place or err was set; nil until it waits.
	ready      chan struct{}
	prev, next *claim
}

// line is who waits, in the order of their tickets: who was sent away by a pod
// stands where they stood before.
type line struct {
	head, tail *claim
	n          int
}

// insert puts the claim where its ticket belongs, and says whether it is the
// first. Who comes belongs near the end, who comes back near the start, and
// both ends are looked at in turn.
func (q *line) insert(c *claim) (first bool) {
	after, before := q.tail, q.head
	for after != nil && after.ticket > c.ticket && before.ticket < c.ticket {
		after, before = after.prev, before.next
	}
	switch {
	case after == nil || after.ticket < c.ticket:
		before = nil
		if after != nil {
			before = after.next
		}
	default:
		after = before.prev
	}
	c.prev, c.next = after, before
	if after == nil {
		q.head = c
	} else {
		after.next = c
	}
	if before == nil {
		q.tail = c
	} else {
		before.prev = c
	}
	q.n++
	return after == nil
}

func (q *line) remove(c *claim) {
	if c.prev == nil {
		q.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	q.n--
}

// counts says that Room counts the claim. The caller holds the lane's lock.
func (c *claim) counts() {
	if c.counted != nil {
		c.counted()
	}
}

// lineOf is the line in which the claim stands.
func (l *lane) lineOf(c *claim) *line {
	if c.own {
		return &l.own
	}
	return &l.line
}

// waiting is how many stand in line.
func (l *lane) waiting() int { return l.line.n + l.own.n }

// nobodyBefore says whether nobody waits who would have a place before the
// claim. Who wants a place of this gateway's own share does not keep others
// from those that are more: these would stay empty.
func (l *lane) nobodyBefore(c *claim) bool { return l.line.n == 0 && (!c.own || l.own.n == 0) }

// heads are the first of both lines, the one that came first before the other.
func (l *lane) heads() (first, second *claim) {
	first, second = l.line.head, l.own.head
	if first == nil || second != nil && second.ticket < first.ticket {
		first, second = second, first
	}
	return first, second
}

// firstFor is who is to have a place of the pod, if there is one.
func (l *lane) firstFor(p *place, v *view) *claim {
	first, second := l.heads()
	for _, c := range []*claim{first, second} {
		if c == nil {
			continue
		}
		v.own = c.own
		if l.places.offer(p, v) != nowhere {
			return c
		}
	}
	return nil
}

// meter counts what is under way, and the integral of it over time.
type meter struct {
	n     int
	total float64 // in seconds, until at
	at    time.Time
}

func (m *meter) add(n int, now time.Time) {
	m.total, m.at = m.seconds(now), now
	m.n += n
}

// seconds is the integral until now.
func (m *meter) seconds(now time.Time) float64 {
	if m.n == 0 {
		return m.total
	}
	return m.total + float64(m.n)*max(0, now.Sub(m.at).Seconds())
}
