package gateway

import (
	"fmt"
	"net/http"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// refusal is an answer of the gateway's own.
type refusal struct {
	status int
	// reason is the label of the metric, text what the client is told.
	reason, text string
	// retryAfter is in seconds; 0 is not said.
	retryAfter int
}

func (r *refusal) Error() string { return r.text }

// How soon a client that was refused may come again, in seconds: a full line
// moves on as fast as calls end, a pod takes longer to start.
const (
	retryFull    = 1
	retryStarted = 5
)

// refusalPause is the least time between two log lines about what one function
// is refused: each call's own would be a flood where it matters.
const refusalPause = 30 * time.Second

// tell says in the log what callers are told, with how many were refused since
// the last time.
func (l *lane) tell(why *refusal) {
	l.mu.Lock()
	now := time.Now()
	l.untold++
	calls := l.untold
	silent := !l.told.IsZero() && now.Sub(l.told) < refusalPause
	if !silent {
		l.untold, l.told = 0, now
	}
	l.mu.Unlock()
	if !silent {
		l.g.cfg.Log.Warn("calls refused", "function", l.ref.String(), "calls", calls, "reason", why.reason, "last", why.text)
	}
}

var errStopping = &refusal{http.StatusServiceUnavailable, "stopping", "weir stops; send the request again", retryFull}

func errGone(ref function.Ref) *refusal {
	return &refusal{http.StatusNotFound, "gone", "function " + ref.String() + " was removed while the request waited", 0}
}

// late says why a call got no pod in its time. The caller holds the lock.
func (l *lane) late(e *fleet.Entry) error {
	fn, hold := e.Function(), l.g.cfg.HoldTime
	name := "function " + l.ref.String()
	answer := func(reason string, retry int, format string, args ...any) error {
		return &refusal{http.StatusServiceUnavailable, reason, fmt.Sprintf(format, args...), retry}
	}
	switch err := l.waking.err; {
	case fn.Replicas == 0 && !fn.Fixed && err != nil:
		return answer("not_woken", retryStarted, "%s sleeps and could not be woken within %s: %s; %s", name, hold, plainly(err), remedy(err))
	case !l.places.awake && fn.Fixed:
		return answer("not_started", retryStarted, "%s: nobody answered at its address within %s; /system/function/%s says why", name, hold, l.ref)
	case !l.places.awake:
		return answer("not_started", retryStarted, "%s: none of its pods (%d of %d exist) started within %s; their log says why", name, len(e.Pods()), fn.Replicas, hold)
	case l.company.pending != (function.Ref{}):
		return answer("dependency", retryStarted, "%s waits for %s, which it depends on and which did not start within %s", name, l.company.pending, hold)
	}
	return answer("full", retryFull, "%s: its pods (%d started) had no room within %s", name, e.Started(), hold)
}

// tooMany refuses a call for which there is no more room to wait.
func (l *lane) tooMany() error {
	return &refusal{http.StatusServiceUnavailable, "hold_requests",
		fmt.Sprintf("function %s: %d requests wait already", l.ref, l.held.n), retryFull}
}
