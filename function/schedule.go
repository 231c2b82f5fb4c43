package function

import (
	"strconv"
	"time"
)

// Schedule is SlimFaas's: times of day at which a function is woken, and idle
// times that differ by the hour.
type Schedule struct {
	Location *time.Location
	// WakeUp and IdleFrom are in the order of the day.
	WakeUp   []TimeOfDay
	IdleFrom []IdleFrom
}

// TimeOfDay counts from midnight, by the clock on the wall.
type TimeOfDay time.Duration

// IdleFrom is the idle time that holds from At until the next one, over
// midnight too.
type IdleFrom struct {
	At    TimeOfDay
	After time.Duration
}

func quote(s string) string {
	if len(s) > 128 {
		s = s[:128] + "…"
	}
	return strconv.Quote(s)
}
