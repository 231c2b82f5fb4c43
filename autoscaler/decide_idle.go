package autoscaler

import (
	"math"
	"time"

	"github.com/weir-run/weir/function"
)

// idleness is since when nothing goes on in a function. Other machines'
// clocks decide only at first sight: afterwards a timestamp that moved says
// that something happened since the last tick, whatever it reads.
type idleness struct {
	// since is the latest sign of life, on the State's clock.
	since time.Duration
	// viewed: a complete view was had. Before, nothing is idle.
	viewed bool
	// begun: the timestamps below were seen before.
	begun bool
	// start is the latest that any pod said: a sample that leaves that pod
	// out does not take it back, or the pod's return would be news.
	start, end, wake time.Time
	// complete is when all pods were last read, on the State's clock.
	complete time.Duration
}

// longest is more than any function can have been idle, and far from what a
// Duration holds.
const longest = time.Duration(math.MaxInt64 / 4)

// sight is one look at a function, with how long ago the one before was.
type sight struct {
	now     time.Time
	at      time.Duration
	elapsed time.Duration
	demand  *Demand
}

func (i idleness) observe(look sight) idleness {
	d := look.demand
	oldest := look.elapsed
	if !i.begun {
		oldest = longest
		i.since = look.at - age(look.now, d.Created, oldest)
	}
	i.since = max(i.since,
		look.news(i.start, d.LastStart, oldest),
		look.news(i.end, d.LastEnd, oldest),
		look.news(i.wake, d.LastWake, oldest))
	if d.Complete && d.Unknown == 0 {
		i.start, i.complete = d.LastStart, look.at
	} else {
		i.start = latest(i.start, d.LastStart)
	}
	i.end, i.wake = d.LastEnd, d.LastWake
	i.begun = true
	if !i.viewed && d.Known && d.Complete && d.Peers && d.Unknown == 0 {
		i.viewed, i.since = true, look.at
	}
	if d.alive() {
		i.since = look.at
	}
	return i
}

// unsure: a sample finds nothing going on, and since the last sign of life not
// all pods were read. What the others did until then would be taken for news
// when they are read before the function is put to sleep, a whole idle time
// later.
func (i idleness) unsure(d *Demand) bool { return !d.alive() && i.complete < i.since }

// news is when that happened which moved a timestamp, on the State's clock;
// long ago if it did not move.
func (look sight) news(seen, says time.Time, oldest time.Duration) time.Duration {
	if !says.After(seen) {
		return -longest
	}
	return look.at - age(look.now, says, oldest)
}

// age is how long ago a moment was, from 0 to oldest.
func age(now, moment time.Time, oldest time.Duration) time.Duration {
	return min(max(0, now.Sub(moment)), oldest)
}

// idleFor is how long nothing went on. A wake-up time of the schedule is as
// good as a call.
func (s *State) idleFor(now time.Time, spec *function.Spec) time.Duration {
	idle := s.at - s.idle.since
	if at, ok := spec.Schedule.LastWake(now); ok {
		idle = min(idle, now.Sub(at))
	}
	return max(0, idle)
}
