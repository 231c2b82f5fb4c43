// Package health holds the state of a program that serves, and says it to
// whoever probes: alive, and ready for more.
package health

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
)

// State is where a program is in its life. It only ever goes up.
type State int32

// The states. A program may skip some, and never goes back.
const (
	// Starting: alive, not yet ready.
	Starting State = iota
	// Serving: alive, and ready if its own check says so.
	Serving
	// Draining: finishes what it has, wants no more.
	Draining
	// Dead: what it served with is gone.
	Dead
)

// String is the state in lower case, as the answers say it.
func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Serving:
		return "serving"
	case Draining:
		return "draining"
	case Dead:
		return "dead"
	}
	return "state " + strconv.Itoa(int(s))
}

// Health is the one place that holds the state. All methods are safe for
// concurrent use.
type Health struct{ state atomic.Int32 }

// New returns a Health that is Starting.
func New() *Health { return new(Health) }

// State returns the present state.
func (h *Health) State() State { return State(h.state.Load()) }

// Set moves on to s. It does nothing when that would be a step back: a handler
// that becomes ready during a drain does not end the drain.
func (h *Health) Set(s State) {
	for old := h.state.Load(); int32(s) > old; old = h.state.Load() {
		if h.state.CompareAndSwap(old, int32(s)) {
			return
		}
	}
}

// Live returns what answers a liveness probe: 200 "OK" while Starting and
// Serving, else 503 and the state. check is asked only while Serving; when it
// gives a reason why this program had better be started anew, the answer is 503
// and that. nil finds no fault. GET and HEAD only, 405 for the rest.
func (h *Health) Live(check func() (reason string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !probe(w, r) {
			return
		}
		s, reason := h.State(), ""
		switch {
		case s >= Draining:
			reason = s.String()
		case s == Serving && check != nil:
			reason = check()
		}
		if reason != "" {
			answer(w, r, http.StatusServiceUnavailable, reason)
			return
		}
		answer(w, r, http.StatusOK, "OK")
	})
}

// Ready returns what answers a readiness probe: 503 and the state unless
// Serving, else the status and the reason that check gives; an empty reason is
// the status's own text. check is asked only while Serving and may be called
// from many goroutines at once; nil is always ready. GET and HEAD only, 405
// for the rest.
func (h *Health) Ready(check func(*http.Request) (status int, reason string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !probe(w, r) {
			return
		}
		s, status, reason := h.State(), http.StatusOK, ""
		if s == Serving && check != nil {
			status, reason = check(r)
			s = h.State() // a check takes time, and a drain may have begun
		}
		if s != Serving {
			status, reason = http.StatusServiceUnavailable, s.String()
		}
		if reason == "" {
			reason = http.StatusText(status)
		}
		answer(w, r, status, reason)
	})
}

// probe reports whether r is one, and answers it when not.
func probe(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	answer(w, r, http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed))
	return false
}

func answer(w http.ResponseWriter, r *http.Request, status int, body string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// A prober that left is told nothing, and there is nobody to tell.
		_, _ = io.WriteString(w, body)
	}
}
