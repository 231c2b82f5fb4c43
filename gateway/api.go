package gateway

import (
	"encoding/json"
	"net/http"
	"sync/atomic"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
)

// api is what the gateway answers over HTTP, and by which a request finds its
// function.
type api struct {
	g     *Gateway
	guard guard
	feed  feed
	// waiting counts the requests that came before everything was read.
	waiting atomic.Int64
}

// Handler is everything that the gateway serves: routes, and functions by
// their Host. Streams that it writes end with Close.
func (g *Gateway) Handler() http.Handler {
	return &api{g: g, guard: newGuard(g.cfg.User, g.cfg.Password), feed: newFeed(g)}
}

// call is a synchronous call of a function.
func (a *api) call(w http.ResponseWriter, q *request) {
	rest := slashed(q.rest)
	if path := private(rest); path != "" {
		answerPrivate(w, q, path)
		return
	}
	a.g.serve(w, q.Request, q.entry, rest)
}

// answerPrivate answers the paths that are each watchdog's own: for the
// function as a whole, from what is known of its pods. It wakes nothing.
func answerPrivate(w http.ResponseWriter, q *request, path string) {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		say(w, http.StatusMethodNotAllowed, path+" takes GET")
		return
	}
	if path == contract.HealthPath {
		say(w, http.StatusOK, "OK")
		return
	}
	started, room := 0, false
	for _, p := range q.entry.Pods() {
		if p.State() == fleet.Started {
			started++
			room = room || p.Said().Room
		}
	}
	switch {
	case room:
		say(w, http.StatusOK, "OK")
	case started > 0:
		say(w, http.StatusTooManyRequests, "every pod of "+q.entry.Function().String()+" is full; a call would wait")
	default:
		say(w, http.StatusServiceUnavailable, "no pod of "+q.entry.Function().String()+" serves; a call would wake it and wait")
	}
}

// wake has a function awake without calling it.
func (a *api) wake(w http.ResponseWriter, q *request) {
	up := q.entry.Started() > 0
	// A wake of one that is up begins its idle time anew.
	a.g.wake(q.entry)
	if up {
		say(w, http.StatusOK, "awake")
		return
	}
	say(w, http.StatusAccepted, "waking")
}

// healthz says whether new requests should be sent here: not before it is
// known which functions there are, and not while the gateway drains.
func (a *api) healthz(w http.ResponseWriter, _ *request) {
	switch {
	case a.g.Draining():
		say(w, http.StatusServiceUnavailable, "draining")
	case !a.complete():
		unread(w)
	default:
		say(w, http.StatusOK, "OK")
	}
}

// say answers with a line of text.
func say(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that left is told nothing.
	_, _ = w.Write([]byte(text + "\n"))
}

// sayJSON answers with a value that JSON has.
func sayJSON(w http.ResponseWriter, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		say(w, http.StatusInternalServerError, "answer as JSON: "+err.Error())
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(append(text, '\n'))
}
