package autoscaler

import (
	"slices"
	"time"
)

// resolution is the width of a window's buckets, and buckets enough of them
// for the longest window, a part of one more, and a power of two.
const (
	resolution = time.Second
	buckets    = 64
	mask       = buckets - 1
)

// instant is how long a first reading, which is of a moment, stands for: little
// enough to be outweighed by the first mean.
const instant = time.Millisecond

// window remembers a load for StableWindow. Copies are independent: what it
// points to is never changed. One without load takes no memory.
type window struct {
	// sums holds load × seconds by bucket of time; nil is all zero.
	sums *[buckets]float64
	// from and at bound the time that is filled.
	from, at time.Duration
	filled   bool
}

// record fills the window up to at with a load that is the mean since the last
// record. Where no time has passed since there is nothing to fill.
func (w window) record(at time.Duration, load float64) window {
	if !w.filled {
		w = window{from: at - instant, at: at - instant, filled: true}
	}
	if at <= w.at {
		return w
	}
	if w.sums == nil && load == 0 {
		w.at = at
		return w
	}
	var sums [buckets]float64
	if w.sums != nil {
		sums = *w.sums
	}
	first, last := bucket(w.at), bucket(at)
	if last-first >= buckets {
		sums = [buckets]float64{}
		first = last - buckets + 1
	}
	for b := first; b <= last; b++ {
		begin, end := time.Duration(b)*resolution, time.Duration(b+1)*resolution
		if begin >= w.at {
			sums[b&mask] = 0
		}
		sums[b&mask] += load * (min(end, at) - max(begin, w.at)).Seconds()
	}
	w.at = at
	w.sums = nil
	if sums != ([buckets]float64{}) {
		w.sums = &sums
	}
	return w
}

// bucket is the number of the bucket that holds a moment, also one before 0.
func bucket(at time.Duration) int64 {
	b := int64(at / resolution)
	if at%resolution < 0 {
		b--
	}
	return b
}

// mean is the load over the last span, or over what of it is filled; at is not
// before the last record.
func (w window) mean(at, span time.Duration) float64 {
	begin := max(at-span, w.from, at-StableWindow)
	if w.sums == nil || begin >= w.at {
		return 0
	}
	var sum float64
	for b := bucket(begin); b <= bucket(w.at); b++ {
		sum += w.sums[b&mask] * w.part(b, begin)
	}
	return sum / (w.at - begin).Seconds()
}

// part is how much of a bucket's filled time is at begin or later.
func (w window) part(b int64, begin time.Duration) float64 {
	start := max(time.Duration(b)*resolution, w.from)
	end := min(time.Duration(b+1)*resolution, w.at)
	if begin <= start {
		return 1
	}
	if begin >= end {
		return 0
	}
	return float64(end-begin) / float64(end-start)
}

// decline remembers the highest count of replicas within a down-window, as a
// monotonic deque: each entry is lower and later than the one before it.
// Copies are independent.
type decline struct {
	past []wanted
	// last is the present count, and until when it was wanted.
	last   wanted
	filled bool
}

// wanted is how many replicas were wanted, last at the moment at.
type wanted struct {
	replicas int
	at       time.Duration
}

// record adds what is wanted now and forgets what was last wanted a window ago.
func (d decline) record(at time.Duration, replicas int, span time.Duration) decline {
	switch {
	case !d.filled || replicas >= d.last.replicas:
		kept := len(d.past)
		for kept > 0 && d.past[kept-1].replicas <= replicas {
			kept--
		}
		d.past = d.past[:kept]
	default:
		d.past = append(slices.Clip(d.past), d.last)
	}
	d.last, d.filled = wanted{replicas, at}, true
	for len(d.past) > 0 && at-d.past[0].at >= span {
		d.past = d.past[1:]
	}
	if len(d.past) == 0 {
		d.past = nil
	}
	return d
}

// highest is the most that was wanted within the window.
func (d decline) highest() int {
	if len(d.past) > 0 {
		return d.past[0].replicas
	}
	return d.last.replicas
}
