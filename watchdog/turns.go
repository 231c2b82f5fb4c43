package watchdog

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/weir-run/weir/health"
)

// turnPoll is how often readiness is looked at for the log: what lasts shorter
// turns no traffic away, because kubelets and gateways ask no oftener.
const turnPoll = 500 * time.Millisecond

// Readiness that turns with every request fills no log: turnLines lines at
// once, and one each turnPause after that.
const (
	turnLines = 10
	turnPause = 10 * time.Second
)

// tellTurns writes a line when readiness goes, and one when it comes back,
// whether anybody asks or not, until ctx ends. The function's own ready_path is
// asked by those who probe only.
func (w *Watchdog) tellTurns(ctx context.Context) {
	tick := time.NewTicker(turnPoll)
	defer tick.Stop()
	t := newTurns(w.lines.printf)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if w.health.State() == health.Serving {
				status, reason := w.hasRoom()
				t.see(now, status, reason)
			}
		}
	}
}

// turns is what is told of readiness.
type turns struct {
	printf func(format string, args ...any)
	told   int       // the status that the log knows
	last   int       // the one seen last
	seen   int       // turns since told
	full   time.Time // when all of turnLines may be written again
}

func newTurns(printf func(string, ...any)) *turns {
	return &turns{printf: printf, told: http.StatusOK, last: http.StatusOK}
}

// see tells of status, if it is another than the log knows and there is room
// for the line.
func (t *turns) see(now time.Time, status int, reason string) {
	if status != t.last {
		t.last = status
		t.seen++
	}
	if status == t.told || t.full.Sub(now) > (turnLines-1)*turnPause {
		return
	}
	if t.full.Before(now) {
		t.full = now
	}
	t.full = t.full.Add(turnPause)
	more := ""
	if t.seen > 1 {
		more = fmt.Sprintf(" (turned %d times since the last of these lines)", t.seen)
	}
	if status == http.StatusOK {
		t.printf("/_/ready answers 200 again%s", more)
	} else {
		t.printf("/_/ready answers %d: %s%s", status, reason, more)
	}
	t.told, t.seen = status, 0
}
