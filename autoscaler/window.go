package autoscaler

import "time"

// resolution is the width of a window's buckets, and buckets enough of them
// for the longest window, a part of one more, and a power of two.
const (
	resolution = time.Second
	buckets    = 64
)

// window remembers a load for StableWindow. Copies are independent: what it
// points to is never changed. One without load takes no memory.
type window struct {
	// sums holds load × seconds by bucket of time; nil is all zero.
	sums *[buckets]float64
	// from and at bound the time that is filled.
	from, at time.Duration
	filled   bool
}

// decline remembers the highest count of replicas within a down-window, as a
// monotonic deque: each entry is lower and later than the one before it.
// Copies are independent.
type decline struct {
	past []wanted
	last wanted
}

// wanted is how many replicas were wanted, last at the moment at.
type wanted struct {
	replicas int
	at       time.Duration
}
