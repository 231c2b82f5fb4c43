package autoscaler

import "time"

// idleness is since when nothing goes on in a function. Other machines'
// clocks decide only at first sight: afterwards a timestamp that moved says
// that something happened since the last tick, whatever it reads.
type idleness struct {
	// since is the latest sign of life, on the State's clock.
	since time.Duration
	// viewed: a complete view was had. Before, nothing is idle.
	viewed bool
	// begun: the timestamps below were seen before.
	begun            bool
	start, end, wake time.Time
}
