package autoscaler

import (
	"math"
	"time"

	"github.com/weir-run/weir/function"
)

// perReplica is the load that one replica should carry.
func perReplica(spec *function.Spec, maxInflight int) float64 {
	return max(minTarget, sane(spec.TargetFor(maxInflight)*spec.Proportion))
}

// mostLoad is more than anything carries, and few enough to be summed up.
const mostLoad = 1e12

// sane is v where it is an amount, and otherwise 0.
func sane(v float64) float64 {
	if v > 0 && !math.IsInf(v, 1) {
		return min(v, mostLoad)
	}
	return 0
}

// load is the demand in the unit of the function's type.
func (d *Demand) load(spec *function.Spec) float64 {
	if !d.Known {
		return 0
	}
	switch spec.Type {
	case function.RPS:
		return sane(d.Rate)
	case function.CPU:
		return sane(d.CPU)
	case function.Queue:
		// What runs already has left the backlog and still takes its place.
		return sane(d.Running) + sane(d.Queued) + d.held() + d.backlog(spec)
	}
	// Refused work counts at most as much as runs: a client that hammers at
	// a full function doubles it at most.
	refused := min(sane(d.Refused), sane(d.Running))
	return sane(d.Running) + refused + sane(d.Queued) + d.held() + d.backlog(spec)
}

// held is what waits at the gateways. A pile that grew while pods were too few
// says how long they were too few, not how many more it takes: it counts for at
// most as much as arrives, or as has to run to be through with all of it in a
// panic window. Where nobody serves, nothing leaves: all that is open waits, and
// every call counts, at once.
func (d *Demand) held() float64 {
	held, service := sane(d.Held), d.Service.Seconds()
	if d.Started <= 0 {
		return max(held, float64(d.Open))
	}
	if service <= 0 {
		return held
	}
	return min(held, max(sane(d.Arrivals)*service, held*service/PanicWindow.Seconds()))
}

// backlog is how many of the async messages count. Who scales by the queue
// scales by each of them; else it is what has to run to be through with all of
// them in a panic window, for nobody waits for an answer, and pods for more
// would hardly start before there is nothing left for them. Never more than may
// run at once: more replicas do nothing for the rest.
func (d *Demand) backlog(spec *function.Spec) float64 {
	n, service := sane(d.Backlog), d.Service.Seconds()
	if spec.Type != function.Queue && service > 0 {
		n = min(n, n*service/PanicWindow.Seconds())
	}
	if spec.AsyncConcurrency > 0 {
		n = min(n, float64(spec.AsyncConcurrency))
	}
	return n
}

// alive: something goes on, or did since the last tick.
func (d *Demand) alive() bool {
	return d.Open > 0 || d.Backlog > 0 || d.Known &&
		(d.Running > 0 || d.Refused > 0 || d.Queued > 0 || d.Held > 0 || d.Rate > 0)
}

// most is more replicas than anything can ask for, and few enough to count.
const most = 1 << 30

// replicasFor is ceil(load / target). The sums that load is a mean of may be
// off in their last digits, which is no replica more.
func replicasFor(load, target float64) int {
	const tolerance = 1e-9
	return int(min(most, math.Ceil(load/target*(1-tolerance))))
}

// advance moves the State's clock by the time since the last tick, which it
// returns: none if the caller's clock stood still or went back. A decider that
// begins, and a function that woke, begin in panic at the present count.
func (s *State) advance(now time.Time, d *Demand) time.Duration {
	first := s.tick.IsZero()
	var elapsed time.Duration
	if !first {
		elapsed = max(0, now.Sub(s.tick))
	}
	s.tick = now
	s.at += elapsed
	if s.scheduled.After(now) {
		s.scheduled = now.Round(0)
	}
	woke := !first && s.replicas == 0 && d.Replicas > 0
	if woke {
		s.idle.since = s.at
	}
	if (first || woke) && d.Replicas > 0 {
		s.panicking, s.panicAt, s.panicMax = true, s.at, d.Replicas
	}
	s.replicas = max(0, d.Replicas)
	return elapsed
}

// measure takes the means of both windows.
func (s *State) measure(out *Decision) {
	out.Stable = s.load.mean(s.at, StableWindow)
	out.Panic = s.load.mean(s.at, PanicWindow)
}

// awake is how many replicas an awake function should have.
func (s *State) awake(now time.Time, spec *function.Spec, d *Demand, out *Decision) (int, Reason) {
	s.waiting = false
	s.scheduled = now.Round(0)
	if spec.Zero && s.idle.viewed && !d.alive() && out.Idle >= out.IdleAfter {
		return 0, ReasonIdle
	}
	if d.Autoscaled {
		return d.Replicas, ReasonAutoscaled
	}
	if !d.Known && d.Replicas < out.Floor {
		return out.Floor, ReasonBounds
	}
	if !d.Known {
		return d.Replicas, ReasonNoData
	}
	wanted := s.follow(d.Replicas, out)
	if spec.DownWindow > 0 {
		s.down = s.down.record(s.at, min(max(wanted, out.Floor), out.Max), spec.DownWindow)
		wanted = max(wanted, s.down.highest())
	} else {
		s.down = decline{}
	}
	// Only now, or each of the steps down would last a down-window.
	// Pods on their way out may still count as started: they ask for no more.
	wanted = max(wanted, min(out.Started/maxDown, d.Replicas))
	bounded := min(max(wanted, out.Floor), out.Max)
	switch {
	case bounded == d.Replicas:
		return bounded, ReasonSteady
	case d.Replicas > out.Max || d.Replicas < out.Floor && wanted <= out.Floor:
		return bounded, ReasonBounds
	case s.panicking && bounded > d.Replicas:
		return bounded, ReasonPanic
	}
	return bounded, ReasonLoad
}

// follow is the load of the two windows in replicas, and keeps the panic. How
// far one decision may shrink is not in it.
func (s *State) follow(replicas int, out *Decision) int {
	ready := max(1, out.Started)
	stable, steep := replicasFor(out.Stable, out.Target), replicasFor(out.Panic, out.Target)
	switch {
	case steep >= panicThreshold*ready:
		if !s.panicking {
			s.panicMax = replicas
		}
		s.panicking, s.panicAt = true, s.at
	case s.panicking && s.at-s.panicAt >= StableWindow:
		s.panicking = false
	}
	out.Panicking = s.panicking
	if s.panicking {
		s.panicMax = max(s.panicMax, replicas, min(max(stable, steep), maxUp*ready))
		return s.panicMax
	}
	return min(stable, maxUp*ready)
}

// asleep is how many replicas a function at zero should have. One that may
// sleep stays at zero until it is wanted, whoever put it there.
func (s *State) asleep(now time.Time, spec *function.Spec, d *Demand, out *Decision) (int, Reason) {
	s.panicking, s.down = false, decline{}
	if !d.alive() {
		s.waiting, s.load = false, window{}
	} else if !s.waiting {
		s.waiting, s.wanted = true, s.at
	}
	awake := max(spec.AwakeReplicas(), out.Floor)
	switch {
	case s.waiting && s.at-s.wanted >= LostWake:
		if !d.Autoscaled {
			awake = min(max(awake, min(replicasFor(out.Panic, out.Target), maxUp)), out.Max)
		}
		return awake, ReasonWake
	case s.due(now, spec):
		return awake, ReasonSchedule
	case !spec.Zero:
		return out.Floor, ReasonBounds
	}
	return 0, ReasonAsleep
}

// due: a wake-up time has come since the function was last seen awake, and is
// not yet so long ago that the function would have gone back to sleep.
func (s *State) due(now time.Time, spec *function.Spec) bool {
	at, ok := spec.Schedule.LastWake(now)
	return ok && at.After(s.scheduled) && (!spec.Zero || now.Sub(at) < spec.Schedule.IdleAfter(now, spec.ZeroAfter))
}

// settle makes what is wanted the decision, unless it is a decrease that what
// was read does not allow.
func (s *State) settle(spec *function.Spec, d *Demand, out *Decision) {
	out.Replicas = out.Wanted
	decrease := out.Wanted < d.Replicas
	out.ReadAll = !d.Complete && d.Unknown == 0 &&
		(decrease || spec.Zero && d.Replicas > 0 && !d.Fixed && (!s.idle.viewed || s.idle.unsure(d)))
	if !decrease {
		return
	}
	switch {
	case d.Unknown > 0:
		out.Reason = ReasonUnknown
	case !d.Complete:
		out.Reason = ReasonIncomplete
	case !d.Peers:
		out.Reason = ReasonPeers
	case d.Unready:
		out.Reason = ReasonUnready
	default:
		out.Spare = d.Busy
		return
	}
	out.Replicas = d.Replicas
}
