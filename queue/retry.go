package queue

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/function"
)

// triedAgain says whether a call that a handler began is to be tried again
// after this answer, if there are attempts left. One without an answer of the
// function's is, whatever the codes: nobody knows what became of it.
func triedAgain(rules *function.Retry, a *Answer) bool {
	return a.Reason != "" || slices.Contains(rules.Codes, a.Status)
}

// backOff is the wait before the n-th retry, from 1: MinWait × 2^(n-1), at most
// MaxWait, then jittered. random is in [0,1), and asked only if there is jitter.
func backOff(rules *function.Retry, n int, random func() float64) time.Duration {
	wait := doubling(rules.MinWait, rules.MaxWait, n)
	switch rules.Jitter {
	case function.FullJitter:
		return partOf(wait, random())
	case function.EqualJitter:
		return wait - partOf(wait/2, random())
	}
	return wait
}

// doubling is least × 2^(n-1), at most most and never less than 0.
func doubling(least, most time.Duration, n int) time.Duration {
	least, most = max(0, least), max(0, most)
	shift := max(1, n) - 1
	if least == 0 || most == 0 {
		return 0
	}
	if least > most>>shift { // a shift of 63 and more leaves nothing
		return most
	}
	return least << shift
}

// partOf is a part of a wait, from nothing to all of it.
func partOf(wait time.Duration, random float64) time.Duration {
	switch {
	case random >= 1:
		return wait
	case random > 0:
		return min(wait, time.Duration(random*float64(wait)))
	}
	return 0
}

// maxRetryAfter is longer than any call is kept, and short enough that it can
// be added to any time.
const maxRetryAfter = 10 * 365 * 24 * time.Hour

// retryAfter is the wait that an answer asks for, in the place of backOff: the
// Retry-After of a 429 or 503, in seconds or as a date, never less than MinWait.
// It may be longer than the call is kept, which is the caller's to see. What
// cannot be read asks for nothing.
func retryAfter(rules *function.Retry, status int, header http.Header, now time.Time) (wait time.Duration, asked bool) {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0, false
	}
	text := strings.TrimSpace(header.Get("Retry-After"))
	wait, asked = delaySeconds(text)
	if !asked {
		at, err := http.ParseTime(text)
		if err != nil {
			return 0, false
		}
		wait = min(at.Sub(now), maxRetryAfter)
	}
	return max(wait, rules.MinWait, 0), true
}

// delaySeconds reads delay-seconds of RFC 9110: digits, however many.
func delaySeconds(text string) (time.Duration, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		n = math.MaxUint64
	}
	return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second, true
}
