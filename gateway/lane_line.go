package gateway

import "time"

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
	return m.total + float64(m.n)*now.Sub(m.at).Seconds()
}
