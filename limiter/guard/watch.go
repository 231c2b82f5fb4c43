package guard

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// watch is one thing that can run out, and the state of its guard. One
// goroutine uses it.
type watch struct {
	resource Resource
	what     string // for the log
	mark     Mark
	free     bool // mark is of what is left, not of what is used
	source   source
	// ahead looks ahead where a request takes its share only after it was
	// admitted; nil where it is the present state alone that counts.
	ahead *lookahead

	samples []sample
	ratio   float64
	room    float64 // to the nearest mark, negative beyond it
	cleared bool    // every sample is well on the good side of its mark
	growth  float64 // of use since the sample before
	used    float64
	most    int
	learned bool

	since   time.Time // tripped since; zero when it is not
	said    time.Time // when the log was told last of a trip
	quiet   bool      // the present trip is not told
	alone   bool      // the log was told that one request at a time is served
	unread  bool      // the log was told that it cannot be read
	sampled bool
}

// How far from its mark a guard that has tripped must be to clear, and how
// long after it tripped at the earliest, so that it does not flap.
const (
	clearUse  = 8.0 / 9
	clearFree = 9.0 / 8
	clearTime = time.Second
)

// quietTime is for how long after a trip was told further ones are not: a load
// that crosses the mark once a second would fill the log.
const quietTime = 10 * time.Second

// read takes a sample. It reports false when nothing is known; the guard is
// off then.
func (w *watch) read(log func(string, ...any)) bool {
	var err error
	w.samples, err = w.source.read(w.samples[:0])
	known := err == nil && w.measure()
	switch {
	case known && w.unread:
		w.unread = false
		log("guard: %s can be read again", w.what)
	case err != nil && !errors.Is(err, errNothing) && !w.unread:
		w.unread = true
		log("guard: %s cannot be read, so nothing is refused for it: %v", w.what, err)
	}
	if !known {
		w.since, w.sampled = time.Time{}, false
	}
	return known
}

// measure finds the sample that is nearest to its mark. It reports false when
// none has both a limit and a mark.
func (w *watch) measure() (known bool) {
	ratio, room, cleared := 0.0, math.Inf(1), true
	for i, s := range w.samples {
		if w.mark.Absolute() && i > 0 {
			break // an absolute mark is of our own level, not of those above
		}
		used, limit := float64(s.used), float64(s.limit)
		if s.limit > 0 {
			ratio = max(ratio, used/limit)
		}
		if w.free {
			if s.limit == 0 {
				continue
			}
			left, mark := limit-used, float64(w.mark.free(s.limit))
			room = min(room, left-mark)
			cleared = cleared && left >= clearFree*mark
		} else {
			n, ok := w.mark.use(s.limit)
			if !ok {
				continue
			}
			mark := float64(n)
			room = min(room, mark-used)
			cleared = cleared && used <= clearUse*mark
		}
		known = true
	}
	if !known {
		return false
	}
	used := float64(w.samples[0].used)
	w.growth = used - w.used
	if !w.sampled {
		w.growth = 0
	}
	w.used, w.ratio, w.room, w.cleared, w.sampled = used, ratio, room, cleared, true
	return true
}

// beyond says whether the mark is reached: use at it, free space below it.
func (w *watch) beyond() bool {
	if w.free {
		return w.room < 0
	}
	return w.room <= 0
}

// judge trips and clears the guard, and looks ahead. load is from right before
// the sample.
func (w *watch) judge(now time.Time, load Load, g *Guard) {
	switch {
	case w.since.IsZero() && w.beyond():
		w.since = now
		w.quiet = !w.said.IsZero() && now.Sub(w.said) < quietTime
		if !w.quiet {
			w.said = now
			g.log("guard: %s: %s, mark %s: refusing requests", w.what, w.state(), w.mark)
		}
	case !w.since.IsZero() && w.cleared && now.Sub(w.since) >= clearTime:
		if !w.quiet {
			g.log("guard: %s: %s, mark %s: taking requests again after %s", w.what, w.state(), w.mark, now.Sub(w.since).Round(time.Millisecond))
		}
		w.since = time.Time{}
	}
	w.most, w.learned = unbounded, true
	if w.ahead != nil {
		after := g.load()
		idle := load.Running == 0 && after == load
		var learning bool
		w.most, learning = w.ahead.step(moment{at: now, used: w.used, room: w.room, Load: load, idle: idle})
		w.learned = !learning
	}
	if !w.since.IsZero() {
		w.most, w.learned = w.leastAllowed(load, g), true
	}
}

// leastAllowed is how many may run while the guard is tripped. Memory lets the
// only request pass: with nothing in flight what is in use is the handler's
// own, and it would never be served again.
func (w *watch) leastAllowed(load Load, g *Guard) int {
	if w.resource != Memory {
		return 0
	}
	if load.Running == 0 && !w.alone {
		w.alone = true
		g.log("guard: memory: %s with nothing in flight, mark %s: one request at a time is served", w.state(), w.mark)
	}
	return 1
}

func (w *watch) verdict() Verdict {
	return allowed(w.most, slices.Index(Resources, w.resource), !w.learned)
}

// near says whether use would reach its mark within nearSteps pauses, were it
// to grow on as fast as since the last sample.
func (w *watch) near(elapsed time.Duration) bool {
	return w.growth > 0 && w.room > 0 && elapsed > 0 &&
		w.growth/elapsed.Seconds()*(nearSteps*workPause).Seconds() > w.room
}

// state is the sample nearest to its mark, in words.
func (w *watch) state() string {
	worst := w.samples[0]
	for i, s := range w.samples {
		if w.mark.Absolute() && i > 0 {
			break
		}
		if s.limit > 0 && (worst.limit == 0 || float64(s.used)*float64(worst.limit) > float64(worst.used)*float64(s.limit)) {
			worst = s
		}
	}
	amount := func(n uint64) string { return fmt.Sprint(n) }
	if w.resource == Memory || w.what == "disk space" {
		amount = func(n uint64) string { return fmt.Sprintf("%d MiB", n>>20) }
	}
	if w.free {
		return fmt.Sprintf("%s of %s free", amount(worst.limit-min(worst.limit, worst.used)), amount(worst.limit))
	}
	if worst.limit == 0 {
		return amount(worst.used) + " used"
	}
	return fmt.Sprintf("%s of %s used", amount(worst.used), amount(worst.limit))
}
