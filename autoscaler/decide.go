package autoscaler

import (
	"time"

	"github.com/weir-run/weir/function"
)

// The windows that demand is averaged over, and how far one decision may go:
// those of Knative's autoscaler (pkg/autoscaler/config, pkg/autoscaler/scaling
// in knative/serving).
const (
	// StableWindow is what replicas follow when demand is calm, and how long
	// a panic outlasts its cause.
	StableWindow = 60 * time.Second
	// PanicWindow is what they follow when demand rises steeply: a tenth.
	PanicWindow = StableWindow / 10
	// panicThreshold: panic when the panic window asks for this many times
	// the started pods.
	panicThreshold = 2
	// One decision grows to at most maxUp times the started pods, and shrinks
	// to no less than one in maxDown of them.
	maxUp, maxDown = 1000, 2
	// minTarget keeps a tiny target from asking for replicas without end.
	minTarget = 0.01
	// LostWake is how long demand may find a function asleep before Decide
	// wakes it. Whoever holds a request wakes the function at once, and two
	// writes from 0 would be in each other's way; longer than this means that
	// the wake was lost.
	LostWake = 2 * time.Second
)

// Demand is what was gathered for one function in one tick. Loads are means
// over the time since the previous tick, of all pods and all gateways; in the
// first tick, present values. NaN, infinite and negative loads count as 0.
type Demand struct {
	// Replicas is how many are asked for at present, Started how many pods
	// serve.
	Replicas, Started int
	// Known: there is something to decide on. False when pods have started
	// and none of them could be read, or when it is only the baseline of
	// counters that is known. Loads are ignored then.
	Known bool
	// Complete: every pod was asked in this tick, none left out as a sample
	// leaves some out. A function without pods is complete. Replicas are
	// never lowered without.
	Complete bool
	// Peers: every other weir was read in this tick.
	Peers bool
	// Unknown counts pods that were asked and gave no answer. They are in the
	// loads as the mean of the others, and forbid every decrease. Those that
	// were never ready for as long as the function may idle are left out.
	Unknown int
	// Unready: a pod that a decrease would take first, because it is not
	// Ready, has something in flight.
	Unready bool
	// Autoscaled: another autoscaler moves the replicas between 1 and more.
	Autoscaled bool
	// Fixed: the replicas cannot be changed at all.
	Fixed bool
	// MaxInflight is what a pod takes at once by its own saying, 0 unknown.
	MaxInflight int

	// Running is the mean concurrency in the pods, from their integrals;
	// sampled ones scaled to all.
	Running float64
	// Refused is the concurrency that the refused requests of others than
	// weir's own gateways would have been: rate of refusals × mean service
	// time. More than Running is not believed.
	Refused float64
	// Queued waits in the pods' own queues, Held at the gateways.
	Queued, Held float64
	// Arrivals is calls per second that came to the gateways, and Service the
	// mean time that one takes in a pod. They bound what Held counts for; a
	// Service of 0 is unknown, and bounds nothing.
	Arrivals float64
	Service  time.Duration
	// Backlog is how many async messages are ready to run; those that run
	// already are in Running. It does not come from the pods: it is known,
	// and keeps the function awake, where nothing else is Known.
	Backlog float64
	// Rate is requests started per second, without refusals.
	Rate float64
	// CPU is milli-CPU, of all pods.
	CPU float64

	// Open is how many requests and connections are in flight, queued or held
	// anywhere at this moment. With any open no function sleeps, and where no
	// pod has started they are the load.
	Open int
	// Created is the workload's creation. LastStart and LastEnd are the
	// latest of pods and gateways, LastWake of the gateways. Zero is never.
	Created, LastStart, LastEnd, LastWake time.Time
	// Busy names the pods that a decrease should spare.
	Busy []string
}

// Reason is why a Decision is what it is: one of Reasons.
type Reason string

// The reasons. The first group changes replicas, the second leaves them.
const (
	// ReasonLoad: as the stable window asks.
	ReasonLoad Reason = "load"
	// ReasonPanic: demand rose steeply; as the panic window asks.
	ReasonPanic Reason = "panic"
	// ReasonBounds: fewer than min or more than max were asked for.
	ReasonBounds Reason = "bounds"
	// ReasonIdle: to sleep.
	ReasonIdle Reason = "idle"
	// ReasonWake: demand found the function asleep, and nobody woke it.
	ReasonWake Reason = "wake"
	// ReasonSchedule: a wake-up time of its schedule.
	ReasonSchedule Reason = "schedule"

	// ReasonSteady: as many as should be.
	ReasonSteady Reason = "steady"
	// ReasonAsleep: at zero, and nobody wants it.
	ReasonAsleep Reason = "asleep"
	// ReasonNoData: nothing could be read.
	ReasonNoData Reason = "no-data"
	// ReasonAutoscaled: between 1 and more the replicas are another
	// autoscaler's. ReasonFixed: they are nobody's.
	ReasonAutoscaled Reason = "autoscaled"
	ReasonFixed      Reason = "fixed"
	// A decrease was due, but: not every pod was read, a pod could not be
	// read, another weir could not be read, a pod that would be taken first
	// has something in flight.
	ReasonIncomplete Reason = "incomplete"
	ReasonUnknown    Reason = "unknown"
	ReasonPeers      Reason = "peers"
	ReasonUnready    Reason = "unready"
)

// Reasons are all there are, for metrics that have a series for each.
var Reasons = []Reason{
	ReasonLoad, ReasonPanic, ReasonBounds, ReasonIdle, ReasonWake, ReasonSchedule,
	ReasonSteady, ReasonAsleep, ReasonNoData, ReasonAutoscaled, ReasonFixed,
	ReasonIncomplete, ReasonUnknown, ReasonPeers, ReasonUnready,
}

// Decision is what to do with a function's replicas, and the numbers that led
// to it; Why puts them in a sentence.
type Decision struct {
	// From are the replicas asked for at present, Replicas those to ask for:
	// there is something to write where they differ.
	From, Replicas int
	// ReadAll: read every pod, then decide again from the same State. Set
	// when a decrease, or the idle clock, waits for a complete demand and no
	// pod has failed to answer.
	ReadAll bool
	Reason  Reason
	// Spare names the pods to be spared by the decrease.
	Spare []string

	// Type is what Load is a load of; Load is the present one, Stable and
	// Panic its means over the two windows.
	Type                function.ScaleType
	Load, Stable, Panic float64
	// Target is the load that one replica should carry, proportion included.
	Target float64
	// Panicking: in panic; nothing is shrunk.
	Panicking bool
	// Started pods, and the bounds of this decision.
	Started, Floor, Max int
	// Wanted is what would be asked for if nothing forbade it.
	Wanted int
	// Idle is how long nothing went on, of the IdleAfter that put the
	// function to sleep. IdleAfter is 0 where it never sleeps.
	Idle, IdleAfter time.Duration
	// Unknown counts the pods that could not be read, Backlog the async
	// messages that were ready to run.
	Unknown, Backlog int
}

// Write reports whether the replicas are to be changed.
func (d Decision) Write() bool { return d.Replicas != d.From }

// Decide says how many replicas a function should have. It is pure: it knows
// no clock but now, and the same arguments give the same answer. spec and d
// are only read. The State that it returns belongs into the next call for the
// same function; that of a call whose Decision said ReadAll may be thrown away.
//
// now should come from time.Now, whose monotonic reading keeps windows right
// when the clock on the wall is set.
func Decide(now time.Time, spec *function.Spec, d *Demand, s State) (Decision, State) {
	elapsed := s.advance(now, d)
	load := d.load(spec)
	if d.Known {
		s.load = s.load.record(s.at, load)
	}
	s.idle = s.idle.observe(sight{now: now, at: s.at, elapsed: elapsed, demand: d})

	out := Decision{
		From: d.Replicas, Started: max(0, d.Started), Unknown: d.Unknown, Backlog: int(sane(d.Backlog)),
		Type: spec.Type, Load: load, Target: perReplica(spec, d.MaxInflight),
		Floor: max(1, spec.Min), Max: max(1, spec.Min, spec.Max),
	}
	s.measure(&out)
	if spec.Zero {
		out.IdleAfter = spec.Schedule.IdleAfter(now, spec.ZeroAfter)
		out.Idle = s.idleFor(now, spec)
	}
	switch {
	case d.Fixed:
		out.Wanted, out.Reason = d.Replicas, ReasonFixed
	case d.Replicas <= 0:
		out.Wanted, out.Reason = s.asleep(now, spec, d, &out)
	default:
		out.Wanted, out.Reason = s.awake(now, spec, d, &out)
	}
	s.settle(spec, d, &out)
	return out, s
}
