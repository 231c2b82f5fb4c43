package function

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Retry is when an asynchronous call that a handler answered is tried again.
type Retry struct {
	// Attempts is how often a handler may begin one call, the first time
	// included.
	Attempts int
	// Codes are the answers that are tried again, in rising order.
	Codes []int
	// The wait before the n-th retry is MinWait × 2^(n-1), at most MaxWait,
	// then Jitter.
	MinWait, MaxWait time.Duration
	Jitter           Jitter
}

// Jitter is how a wait is spread.
type Jitter string

// FullJitter is between nothing and the whole wait, EqualJitter between half
// of it and the whole, NoJitter the whole.
const (
	FullJitter  Jitter = "full"
	EqualJitter Jitter = "equal"
	NoJitter    Jitter = "none"
)

func readRetryAttempts(d *draft, v value) string {
	least := 1
	if v.by == openfaas {
		least = 0 // its users write it for "do not try again"
	}
	expected := readInt(&d.Retry.Attempts, v, least, MaxRetryAttempts)
	if expected == "" {
		d.Retry.Attempts = max(1, d.Retry.Attempts)
	}
	return expected
}

// readRetryCodes takes no part of a list that has something else in it: which
// answers are then meant is not known. Those below 300 are successes.
func readRetryCodes(d *draft, v value) string {
	const expected = "statuses from 300 to 599 between commas, such as 429,500,503"
	var codes []int
	for text := range strings.SplitSeq(v.text, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		code, err := strconv.Atoi(text)
		if err != nil || code < 300 || code > 599 {
			return expected
		}
		codes = append(codes, code)
	}
	if len(codes) == 0 {
		return expected
	}
	slices.Sort(codes)
	d.Retry.Codes = slices.Compact(codes)
	return ""
}

func readRetryMinWait(d *draft, v value) string { return readRetryWait(&d.Retry.MinWait, v) }
func readRetryMaxWait(d *draft, v value) string { return readRetryWait(&d.Retry.MaxWait, v) }

func readRetryWait(to *time.Duration, v value) string {
	t, ok := readDuration(v.text)
	if !ok || t < 0 || t > MaxRetryWait {
		return plain(acceptsDuration) + ", from 0 to 24h"
	}
	*to = t
	return ""
}

func readRetryJitter(d *draft, v value) string {
	j := Jitter(strings.ToLower(v.text))
	if j == "exponential" {
		j = NoJitter
	}
	if !slices.Contains([]Jitter{FullJitter, EqualJitter, NoJitter}, j) {
		return "one of full, equal, none, exponential"
	}
	d.Retry.Jitter = j
	return ""
}
