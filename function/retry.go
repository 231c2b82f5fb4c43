package function

import "time"

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
