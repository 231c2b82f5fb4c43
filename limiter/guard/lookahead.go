package guard

import (
	"math"
	"slices"
	"time"
)

// lookahead says how many requests may run so that what they take together
// stays below the mark. A sample alone cannot: what was just admitted has not
// taken its share yet, and a hundred requests fit between two samples.
//
// Of what is in use, base is there without any request; the rest is what the
// requests in flight take. That is learned (see window) and reserved for every
// one of them until a sample shows more:
//
//	base   + what most requests take           ≤ mark
//	in use + what most − in flight more take   ≤ mark
//
// Before anything is known a request is taken to need prior. Each one that
// ended, or ran for a while without use growing, makes it less likely that the
// next does, so that the number that may run grows with every generation of
// requests.
type lookahead struct {
	// prior is what a request needs before any was seen, least the smallest
	// need that is believed, both in the resource's unit.
	prior, least float64
	// fixed: a request needs prior, whatever is seen.
	fixed bool

	base   float64
	proven float64 // requests that did not need prior
	past   []moment
	seen   window
}

// moment is one sample and what was in flight right before it.
type moment struct {
	at   time.Time
	used float64
	room float64 // to the nearest mark; negative above it
	Load
	// idle: nothing ran before or after the sample was taken.
	idle bool
	// steady: no request began or ended since the sample before.
	steady bool
}

func (m moment) started() uint64 { return m.Finished + uint64(m.Running) }

// unbounded is more than can ever be in flight.
const unbounded = 1<<31 - 1

const (
	// settled is how long a request runs until it is taken to have shown what
	// it needs, if use has not grown meanwhile. Interpreters import and
	// programs load their libraries in less.
	settled = 500 * time.Millisecond
	// flat is the growth, as a share of the mark, that passes for none.
	flat = 1.0 / 64
)

// step takes a new sample in. It returns how many requests may run, at least
// 1, and whether more may as soon as more is known.
func (a *lookahead) step(m moment) (most int, learning bool) {
	running := float64(m.Running)
	if a.fixed {
		return bound(running + m.room/a.prior), false
	}
	if m.idle {
		a.base = m.used
	}
	a.prove(m)
	a.seen.add(m, a.base)
	all := m.used + m.room - min(a.base, m.used) // a heap may shrink while something runs
	known := a.seen.demand(a.base, a.least)
	fit := known.fit(all)
	unknown := a.prior / (1 + a.proven/doubtful)
	guess := all / unknown
	now := min(fit, guess, running+m.room/max(known.most, unknown))
	// Near what fits there is nothing worth waiting for.
	return bound(now), bound(now) < bound(fit/2) || guess < fit && guess <= now
}

// doubtful is how many requests must have shown that they need less than prior
// to count as one: of few that were small the next need not be.
const doubtful = 4

func bound(n float64) int { return int(max(1, min(n, unbounded))) }

// demand is what requests take.
type demand struct {
	// share is what one takes when all that run do so at once, most what a
	// single one may.
	share, most float64
	// mean and deviation of what single requests take: n that differ take
	// n·mean + √n·deviation.
	mean, deviation float64
}

// fit is how many requests there is room for; never fewer than if each took
// the most that one ever did.
func (d demand) fit(room float64) float64 {
	if room <= 0 {
		return 0
	}
	n := room / d.share
	if d.mean > 0 {
		root := (math.Sqrt(d.deviation*d.deviation+4*d.mean*room) - d.deviation) / (2 * d.mean)
		n = min(n, max(root*root, room/d.most))
	}
	return n
}

// prove counts the requests that have shown that they do not need prior: those
// that ended, and for each stretch of time in which use did not grow those that
// ran through it.
func (a *lookahead) prove(m moment) {
	if len(a.past) > 0 {
		a.proven += float64(m.Finished - a.past[len(a.past)-1].Finished)
	}
	a.past = append(a.past, m)
	first := a.past[0]
	if m.at.Sub(first.at) < settled {
		return
	}
	if m.used-first.used <= flat*(m.used+m.room) {
		ended := int(m.Finished - first.Finished)
		a.proven += float64(max(0, first.Running-ended))
	}
	a.past = append(a.past[:0], m)
}

// window keeps the highest share of each of the last seconds in which
// something ran, and the last samples, to see whether use follows the number
// of requests at all.
type window struct {
	seconds [windowSeconds]share
	kept    int // how many of them are filled
	next    int
	second  int64
	recent  []moment
}

// share is what was in use when requests were seen to take most, above which
// base, and by how much use grew at once for each that began.
type share struct{ used, base, running, jump float64 }

// each is what each took, now that without any base is in use. What stayed when
// they were gone is not what they took: a model that was loaded, a heap that
// has grown. When it is given back it is theirs again.
func (s share) each(base float64) (size, jump float64) {
	stayed := max(0, base-s.base)
	return max(0, (s.used-s.base-stayed)/s.running), max(0, s.jump-stayed)
}

const (
	windowSeconds = 128
	percentile    = 0.95
	margin        = 1.25
	rare          = 4
	deviations    = 2
)

func (w *window) add(m moment, base float64) {
	// A request that ended a moment ago may not have given back yet what it
	// took, and one that has just begun has not taken it: of the two counts
	// the higher.
	running, jump := m.Running, 0.0
	if n := len(w.recent); n > 0 {
		before := w.recent[n-1]
		m.steady = m.Load == before.Load
		running = max(running, before.Running)
		if starts := m.started() - before.started(); starts > 0 {
			jump = max(0, (m.used-before.used)/float64(starts))
		}
	}
	if len(w.recent) == recentSamples {
		w.recent = slices.Delete(w.recent, 0, 1)
	}
	w.recent = append(w.recent, m)
	if m.Running == 0 {
		return
	}
	if second := m.at.Unix(); second != w.second || w.kept == 0 {
		w.second = second
		w.next = (w.next + 1) % windowSeconds
		w.kept = min(w.kept+1, windowSeconds)
		w.seconds[w.next] = share{used: base, base: base, running: 1}
	}
	s := &w.seconds[w.next]
	s.jump = max(s.jump, jump)
	if (m.used-base)/float64(running) >= (s.used-s.base)/s.running {
		s.used, s.base, s.running = m.used, base, float64(running)
	}
}

// demand is what requests were seen to take, at least least each.
//
// share is the 95th percentile of the last minutes' highest seconds, and a
// little more where there were higher ones: requests that grow are seldom all
// at their largest when a sample is taken. most is bounded by a few shares, or
// one request that was out of the way would hold up all others for minutes.
// deviation is two of what is left
// when mean explains a sample, for requests that take very different amounts.
func (w *window) demand(base, least float64) demand {
	d := demand{share: least, most: least}
	if w.kept == 0 {
		return d
	}
	var sorted [windowSeconds]float64
	most := least
	for i := range w.kept {
		size, jump := w.seconds[(w.next-i+windowSeconds)%windowSeconds].each(base)
		sorted[i], most = size, max(most, size, jump)
	}
	all := sorted[:w.kept]
	slices.Sort(all)
	high := all[int(math.Ceil(percentile*float64(len(all))))-1]
	d.share = max(least, min(margin*high, all[len(all)-1]))
	d.most = max(d.share, min(most, rare*d.share))
	d.mean, d.deviation = w.spread(base)
	if slope, ok := slope(w.recent); ok && doubt*slope < d.share {
		part := max(0, doubt*slope/d.share)
		d = demand{max(least, part*d.share), max(least, part*d.most), part * d.mean, part * d.deviation}
	}
	return d
}

// spread explains the last samples by a mean that each request takes, and says
// how far they are off. Use follows a start or an end a little later, so the
// samples that count are those between, if there are enough.
func (w *window) spread(base float64) (mean, deviation float64) {
	steady := 0
	for _, m := range w.recent {
		if m.steady && m.Running > 0 {
			steady++
		}
	}
	counts := func(m moment) bool { return m.Running > 0 && (m.steady || steady < steadySamples) }
	var used, running, samples float64
	for _, m := range w.recent {
		if counts(m) {
			used, running, samples = used+m.used-base, running+float64(m.Running), samples+1
		}
	}
	if samples == 0 || used <= 0 {
		return 0, 0
	}
	mean = used / running
	rest := 0.0
	for _, m := range w.recent {
		if counts(m) {
			off := m.used - base - mean*float64(m.Running)
			rest += off * off / float64(m.Running)
		}
	}
	return mean, deviations * math.Sqrt(rest/samples)
}

// steadySamples are enough to tell a deviation by.
const steadySamples = 8

const (
	recentSamples = 128
	// A slope is believed when it rests on so many samples on either side and
	// so many requests between them.
	slopeSamples = 16
	slopeSpread  = 2
	// doubt is what a slope is multiplied by: use that is slow to follow makes
	// it too small rather than too large.
	doubt = 2
)

// slope is how use differs between the busier and the calmer of the samples,
// per request in flight. By it a heap that has grown under steady load, and is
// the same whatever runs, is told from requests that take memory. Use follows
// late, so that of the time after a sample the most counts for a busy one and
// the least for a calm one.
func slope(samples []moment) (slope float64, ok bool) {
	last := len(samples)
	for last > 0 && samples[len(samples)-1].at.Sub(samples[last-1].at) < settled {
		last--
	}
	if last < 2*slopeSamples {
		return 0, false
	}
	mean := 0.0
	for _, m := range samples[:last] {
		mean += float64(m.Running) / float64(last)
	}
	var busy, calm side
	for i, m := range samples[:last] {
		most, least := m.used, m.used
		for _, later := range samples[i+1:] {
			if later.at.Sub(m.at) > settled {
				break
			}
			most, least = max(most, later.used), min(least, later.used)
		}
		if n := float64(m.Running); n > mean {
			busy.add(most, n)
		} else {
			calm.add(least, n)
		}
	}
	if busy.samples < slopeSamples || calm.samples < slopeSamples {
		return 0, false
	}
	more := busy.running/busy.samples - calm.running/calm.samples
	if more < slopeSpread {
		return 0, false
	}
	return (busy.used/busy.samples - calm.used/calm.samples) / more, true
}

// side sums samples.
type side struct{ used, running, samples float64 }

func (s *side) add(used, running float64) {
	s.used, s.running, s.samples = s.used+used, s.running+running, s.samples+1
}
