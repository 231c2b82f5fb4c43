package gateway

import (
	"fmt"
	"net/http"
	"time"
)

// What may be repeated of what handlers have begun, so that a function that
// cannot cope is not asked twice as much: a tenth of the calls, and budgetRate
// a second where there are few, saved up to budgetFloor of these and budgetMost
// in all.
const (
	budgetShare = 0.1
	budgetRate  = 10.0
	budgetFloor = 100.0
	budgetMost  = 1000.0
)

// budget is the token bucket of one function's repeats. Guarded by its lane's
// lock.
type budget struct {
	tokens float64
	at     time.Time
}

// call adds what a call earns, and the time since the last one.
func (b *budget) call(now time.Time) {
	b.pass(now)
	b.tokens = min(b.tokens+budgetShare, budgetMost)
}

func (b *budget) pass(now time.Time) {
	if b.at.IsZero() {
		b.tokens = budgetFloor
	} else if b.tokens < budgetFloor {
		b.tokens = min(b.tokens+budgetRate*now.Sub(b.at).Seconds(), budgetFloor)
	}
	b.at = now
}

// spend takes the price of one repeat, if it is there.
func (l *lane) spend() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budget.pass(time.Now())
	if l.budget.tokens < 1 {
		return false
	}
	l.budget.tokens--
	return true
}

// keepBytes counts what is kept of bodies, and forbids more than there may be.
func (l *lane) keepBytes(delta int) error {
	if n := l.kept.Add(int64(delta)); delta > 0 && n > l.g.cfg.HoldBytes {
		l.kept.Add(-int64(delta))
		return &refusal{http.StatusServiceUnavailable, "hold_bytes",
			fmt.Sprintf("function %s: the bodies of the requests that wait fill their %d bytes", l.ref, l.g.cfg.HoldBytes), retryFull}
	}
	return nil
}
