package limiter

import "math"

// point is what was seen for some time at some limit. Points of times that
// follow each other add up.
type point struct {
	time float64 // seconds
	ran  float64 // slot-seconds
	// Invocations that ended; of them those that found the limit reached, and
	// those that brought no answer.
	ended, full, lost float64
	// Sums over those that ended, of the time each held its slot and of the
	// squares: seconds, seconds².
	took, squares float64
}

func (p point) plus(q point) point {
	p.time += q.time
	p.ran += q.ran
	p.ended += q.ended
	p.full += q.full
	p.lost += q.lost
	p.took += q.took
	p.squares += q.squares
	return p
}

// half weighs half as much as p beside what is added to it.
func (p point) half() point {
	return point{p.time / 2, p.ran / 2, p.ended / 2, p.full / 2, p.lost / 2, p.took / 2, p.squares / 2}
}

// inFlight is how many ran at once, on average.
func (p point) inFlight() float64 {
	if p.time <= 0 {
		return 0
	}
	return p.ran / p.time
}

// cost is the slot-seconds that each good answer took: in flight over cost is
// the rate of good answers (Little's law). It is taken from the invocations
// that ended, because their mean is steady where their number is not: of ten
// that take 5 s all may end in the same tenth of a second. Where nothing was
// good, half an answer is, so that more slots for nothing cost more.
func (p point) cost() float64 {
	if p.ended <= 0 {
		return 0
	}
	return p.took / max(p.ended-p.lost, 0.5)
}

// noise is the standard error of cost, as a share of it.
func (p point) noise() float64 {
	if p.ended <= 0 || p.took <= 0 {
		return 0
	}
	mean := p.took / p.ended
	variance := max(p.squares/p.ended-mean*mean, 0)
	return math.Sqrt(variance/p.ended) / mean
}

// span is how long the invocation in a slot takes altogether, on average over
// the slots: where most take 5 ms and some 2 s, it is near 2 s. After that
// time little is left of what ran before.
func (p point) span() float64 {
	if p.took <= 0 {
		return 0
	}
	return p.squares / p.took
}

// What a window needs before it is judged. The formulas of others stop at the
// first two.
const (
	windowTime  = 1.0 // seconds
	windowEnded = 10
	// windowSpans is how many spans it lasts where windowNoise is not reached
	// before; a trial of more is content with one.
	windowSpans = 2
	windowNoise = 0.03
	// windowTold is how much of the slot-seconds those that ended must account
	// for. At the start, and after a limit was raised, the quick ones end
	// first, and what they say is too good.
	windowTold = 0.9
)

// whole reports whether a window may be judged, after so many spans at the
// latest.
func (p point) whole(spans float64) bool {
	switch {
	case p.time < windowTime, p.ended < windowEnded, p.took < windowTold*p.ran:
		return false
	}
	return p.noise() <= windowNoise || p.time >= spans*p.span()
}

const (
	// worth is the share of what a perfect handler would gain from more slots
	// that a real one must gain to be given them: with twice the slots, 2^worth
	// times the answers.
	worth = 0.2
	// perfect is the share of that gain which may be lost where less would
	// certainly cost answers, and need not be tried soon.
	perfect = 0.2
	// harm is by how much, as a logarithm, answers must have become fewer in
	// a trial of more before its window ends, to end it at once.
	harm = 0.2
	// Factors of a trial: that of a handler that is known, and the most while
	// trials succeed, of more and of less.
	factorLeast = 1.25
	factorMost  = 4.0
	factorLess  = 2.0
	// settleSpans is how many spans pass after a change before what is seen is
	// of the new limit.
	settleSpans = 1.5
	// Most windows between two trials of more, of which one costs a little
	// latency, and between two of less, which cost answers: a handler that
	// became slower is seen, and both are due then; one that could carry more
	// than before may not show it.
	gapMore = 8
	gapLess = 32
	// changed is how far, as a logarithm, the cost moves before the handler is
	// another than it was.
	changed = 0.25
	// guarded is what a guard that refuses leaves of the limit, once in a
	// window.
	guarded = 0.9
)

// climber decides what the limit is. It knows no clock and no Limiter: tick is
// told what was seen and answers.
type climber struct {
	highest int
	limit   int // the best known
	trial   int // what is tried instead; 0 is nothing

	seen   point   // at the limit that holds now
	settle float64 // seconds until what is seen is of that limit

	base point   // at the best known limit, since the last trial
	ref  float64 // the cost there when it was looked at last

	up, down trials
	// downward is set after a trial of more was no better, or when the
	// handler became slower: less is tried first. slower is set in that case
	// until a trial ends: less is tried even when the limit is not reached.
	downward, slower bool
}

// trials are those in one direction.
type trials struct {
	factor   float64 // of the next one
	gap, due int     // windows after one that fails, until the next one
}

// move is what tick answers: the limit that holds from now, why it changed if
// it did, and what was seen before.
type move struct {
	limit int
	cause Cause
	seen  point
}

func newClimber(start, highest int) climber {
	return climber{
		highest: highest, limit: start,
		up:   trials{factor: factorMost, gap: 1},
		down: trials{factor: factorLess, gap: 1, due: 1},
	}
}

// tick is called ten times in a window at least, with what was seen since it
// was called last.
func (c *climber) tick(p point, tripped bool) move {
	c.seen = c.seen.plus(p)
	switch {
	case tripped:
		return c.guard()
	case c.trial > c.limit && c.ruinous():
		return c.back(c.seen, 2)
	case c.settle > 0 && c.seen.time < max(c.settle, c.seen.span()):
		return c.stay() // a trial that makes the handler slower takes longer
	case c.settle > 0:
		c.settle, c.seen = 0, point{}
		return c.stay()
	case !c.seen.whole(c.spans()):
		if c.trial == 0 && c.seen.time >= windowTime && c.seen.full == 0 && c.seen.inFlight() < float64(c.limit)/2 {
			c.seen = point{} // calm: not to be mixed with what comes after
		}
		return c.stay()
	}
	w := c.seen
	c.seen = point{}
	if c.trial != 0 {
		return c.judge(w)
	}
	return c.rest(w)
}

func (c *climber) spans() float64 {
	if c.trial > c.limit {
		return 1
	}
	return windowSpans
}

func (c *climber) stay() move {
	if c.trial != 0 {
		return move{limit: c.trial}
	}
	return move{limit: c.limit}
}

// guard shrinks once a window while a guard refuses, and tries no more than
// that for a while.
func (c *climber) guard() move {
	c.up.gap, c.up.due, c.up.factor = gapMore, gapMore, factorLeast
	if c.trial != 0 {
		return c.back(c.seen, 2)
	}
	if c.seen.time < windowTime {
		return c.stay()
	}
	w := c.seen
	c.seen, c.settle, c.base = point{}, 0, point{}
	if w.inFlight() >= float64(c.limit)/2 {
		c.limit = max(1, int(guarded*float64(c.limit)))
	}
	return move{c.limit, Guarded, w}
}

// rest judges a window at the best known limit: whether, and what, to try.
func (c *climber) rest(w point) move {
	if c.another(w) {
		return c.stay()
	}
	c.base = c.base.plus(w)
	c.ref = c.base.cost()
	c.up.due--
	c.down.due--
	more := c.up.due < 0 && w.full > 0 && c.limit < c.highest
	busy := w.full > 0 && w.inFlight() >= float64(c.limit)/2
	less := c.down.due < 0 && (busy || c.slower) && c.limit > 1
	switch {
	case less && (c.downward || !more):
		return c.try(c.lower(w), Less, w)
	case more:
		return c.try(c.higher(), More, w)
	}
	return c.stay()
}

// another reports whether w is of a handler, or a load, that is another than
// it was. Then trials are due in both directions, but only after the next
// window: what changed did so in the middle of this one.
func (c *climber) another(w point) bool {
	shift := math.Log(w.cost() / c.ref)
	if c.ref <= 0 || math.Abs(shift) <= max(changed, 3*w.noise()) {
		return false
	}
	c.up.gap, c.up.due = 1, 0
	c.down.gap, c.down.due = 1, 0
	c.slower = shift > 0
	c.downward = c.slower
	c.base, c.ref = point{}, w.cost()
	return true
}

// higher and lower are what to try next.
func (c *climber) higher() int {
	return min(max(c.limit+1, int(math.Round(float64(c.limit)*c.up.factor))), c.highest)
}

// lower is less than what runs, lest nothing changes.
func (c *climber) lower(w point) int {
	f := c.down.factor
	if w.lost > w.ended/2 {
		f = factorLess
	}
	from := min(float64(c.limit), math.Ceil(w.inFlight()))
	return max(1, min(c.limit-1, int(math.Round(from/f))))
}

func (c *climber) try(limit int, cause Cause, w point) move {
	c.trial, c.settle = limit, settleSpans*w.span()
	return move{limit, cause, w}
}

// judge compares the window of a trial with what was seen before it.
func (c *climber) judge(w point) move {
	c.slower = false
	// If the trial is better it is the best known now, and while the limit is
	// in the way the next trial goes on from here.
	doubt := math.Hypot(w.noise(), c.base.noise())
	if c.trial > c.limit {
		more, dearer := compare(c.base, w)
		switch {
		case dearer > (1-worth)*more+doubt/2: // most doubts are of mixes, which a trial harms little
			return c.back(w, 2)
		case dearer < perfect*more:
			c.down.gap, c.down.due = gapLess, gapLess
		default:
			c.down.gap, c.down.due = 1, 0
		}
		c.up.factor, c.up.due = min(c.up.factor*c.up.factor, factorMost), 0
	} else {
		more, dearer := compare(w, c.base)
		if dearer <= (1-worth)*more+doubt {
			return c.back(w, 4)
		}
		c.down.factor, c.down.due = min(c.down.factor*math.Sqrt(c.down.factor), factorLess), 0
	}
	c.downward = c.trial < c.limit
	c.limit, c.trial = c.trial, 0
	c.base, c.ref = point{}, w.cost()
	return c.rest(w)
}

// back ends a trial that was no better, of which w was seen. The next one in
// that direction comes so many times later.
func (c *climber) back(w point, later int) move {
	t, most := &c.up, gapMore
	c.downward = true
	if c.trial < c.limit {
		t, most, c.downward = &c.down, gapLess, false
	}
	t.gap = min(later*t.gap, most)
	t.due, t.factor = t.gap, factorLeast
	c.settle = settleSpans * max(c.base.span(), w.span())
	c.trial, c.seen, c.base = 0, point{}, c.base.half()
	return move{c.limit, Back, w}
}

// ruinous reports whether a trial of more visibly costs answers: then its
// window need not be whole.
func (c *climber) ruinous() bool {
	if c.seen.ended < windowEnded || c.base.cost() <= 0 {
		return false
	}
	slower := math.Log(c.seen.cost()/c.base.cost()) - 3*(c.seen.noise()+c.base.noise())
	return slower > math.Log(float64(c.trial)/float64(c.limit))+harm
}

// compare says by how much more was in flight in high than in low, and by how
// much dearer each good answer was, both as logarithms: for a perfect handler
// the cost stays, and for one that is full it rises as what is in flight.
func compare(low, high point) (more, dearer float64) {
	if low.ran <= 0 || low.cost() <= 0 {
		return leastMore, 0 // nothing that could be measured
	}
	more = math.Log(high.inFlight() / low.inFlight())
	return max(more, leastMore), math.Log(high.cost() / low.cost())
}

// leastMore is by how much more must be in flight, as a logarithm, to show
// anything. Where a trial changes less than that, the limit is hardly reached,
// and a higher one does no harm as long as the cost stays.
const leastMore = 0.05
