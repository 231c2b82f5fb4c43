package autoscaler

import "time"

// State is what Decide remembers of one function from tick to tick. It is a
// value: Decide changes none that it was given. The zero State is that of a
// decider that has just started, which begins in panic at the present count.
//
// Its moments are on a clock of its own, that counts the time between ticks
// and so neither jumps nor goes back.
type State struct {
	// tick is when Decide last ran, by the caller's clock; at is the same
	// moment on the clock of the State.
	tick time.Time
	at   time.Duration

	// replicas is what was asked for at the last tick.
	replicas int

	load window

	// In panic since the threshold was last crossed at panicAt, at never less
	// than panicMax.
	panicking bool
	panicAt   time.Duration
	panicMax  int

	down decline

	idle idleness

	// wanted is since when demand finds the function asleep.
	wanted  time.Duration
	waiting bool
	// scheduled is the wake-up time that was last obeyed.
	scheduled time.Time
}
