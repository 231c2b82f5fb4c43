package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

// submitted is the route of asynchronous calls. SlimFaas's clients cancel there,
// too, if they may: a DELETE of a call's ID, unless a function is called that.
func submitted(a *api, w http.ResponseWriter, q *request) {
	if q.Method == http.MethodDelete && !strings.HasPrefix(q.rest, "/") && a.g.cfg.Async != nil {
		if id, err := queue.ParseID(q.name); err == nil && !a.names(q) {
			if a.guard.admit(w, q.Request) {
				a.cancel(w, q, id)
			}
			return
		}
	}
	called((*api).submit)(a, w, q)
}

// names says whether a function has the name, or may have.
func (a *api) names(q *request) bool {
	ref, err := function.ParseRef(q.name, a.g.cfg.Namespace)
	return err == nil && (!a.await(q.Request) || a.g.cfg.Fleet.Get(ref) != nil)
}

// queued is the answer of a route that names a call.
func queued(answer func(*api, http.ResponseWriter, *request, queue.ID)) func(*api, http.ResponseWriter, *request) {
	return func(a *api, w http.ResponseWriter, q *request) {
		id, err := queue.ParseID(q.name)
		switch {
		case a.g.cfg.Async == nil:
			say(w, http.StatusServiceUnavailable, noQueue)
		case err != nil:
			say(w, http.StatusNotFound, fmt.Sprintf("no call is named %.64q: %v", q.name, err))
		default:
			answer(a, w, q, id)
		}
	}
}

const noQueue = "this weir has no queue for asynchronous calls (WEIR_DATA_DIR or WEIR_NATS_URL)"

// asyncCall says what is known of a call.
func (a *api) asyncCall(w http.ResponseWriter, q *request, id queue.ID) {
	ctx, cancel := context.WithTimeout(q.Context(), asyncTime)
	defer cancel()
	call, err := a.g.cfg.Async.Call(ctx, id)
	a.tell(w, call, err)
}

// cancel ends a call.
func (a *api) cancel(w http.ResponseWriter, q *request, id queue.ID) {
	ctx, cancel := context.WithTimeout(q.Context(), asyncTime)
	defer cancel()
	call, err := a.g.cfg.Async.Cancel(ctx, id)
	a.tell(w, call, err)
}

// tell answers with what the queue said, or why it said nothing.
func (a *api) tell(w http.ResponseWriter, v any, err error) {
	if err != nil {
		a.refuse(w, a.askedRefusal(err))
		return
	}
	sayJSON(w, v)
}

// askedRefusal is queueRefusal for who asks about a call that was taken before:
// asking again does no harm.
func (a *api) askedRefusal(err error) *refusal {
	text := ""
	switch {
	case errors.Is(err, queue.ErrNotOpen):
		text = "the store of asynchronous calls is not open yet, and weir's log says why: ask again later"
	case errors.Is(err, queue.ErrAway), errors.Is(err, context.DeadlineExceeded):
		text = "the store of asynchronous calls does not answer: ask again later"
	default:
		return a.queueRefusal(err)
	}
	return &refusal{http.StatusServiceUnavailable, "queue_away", text, retryStore}
}

// How many dead letters a list has where none is asked for, and at most: each
// takes a few hundred bytes of JSON, and up to the longest body in the store.
const (
	lettersPage = 100
	lettersMost = 1000
)

// deadLetterList is one page of dead letters.
type deadLetterList struct {
	DeadLetters []queue.DeadLetter `json:"deadLetters"`
	// Next is the after of the next page, 0 where there is none.
	Next uint64 `json:"next,omitempty"`
}

// deadLetters lists the calls that were given up, page by page.
func (a *api) deadLetters(w http.ResponseWriter, q *request) {
	if a.g.cfg.Async == nil {
		say(w, http.StatusServiceUnavailable, noQueue)
		return
	}
	ref, after, n, err := a.g.lettersWanted(q)
	if err != nil {
		say(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(q.Context(), asyncTime)
	defer cancel()
	letters, err := a.g.cfg.Async.DeadLetters(ctx, ref, after, n)
	list := deadLetterList{DeadLetters: letters}
	if len(letters) == n {
		list.Next = letters[n-1].Place
	}
	if letters == nil {
		list.DeadLetters = []queue.DeadLetter{}
	}
	a.tell(w, list, err)
}

// lettersWanted reads what a list is asked for: function, after and limit.
func (g *Gateway) lettersWanted(q *request) (ref function.Ref, after uint64, n int, err error) {
	query := q.URL.Query()
	if name := query.Get("function"); name != "" {
		if ref, err = function.ParseRef(name, g.cfg.Namespace); err != nil {
			return ref, 0, 0, err
		}
	}
	if text := query.Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return ref, 0, 0, fmt.Errorf("after=%.32q: expected the next of the page before", text)
		}
	}
	n = lettersPage
	if text := query.Get("limit"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > lettersMost {
			return ref, 0, 0, fmt.Errorf("limit=%.32q: expected 1 to %d", text, lettersMost)
		}
	}
	return ref, after, n, nil
}

// deadLetter shows one, sends it again, or drops it.
func (a *api) deadLetter(w http.ResponseWriter, q *request, id queue.ID) {
	ctx, cancel := context.WithTimeout(q.Context(), asyncTime)
	defer cancel()
	var letter queue.DeadLetter
	var again queue.ID
	var err error
	switch q.Method {
	case http.MethodPost:
		again, err = a.g.cfg.Async.Resend(ctx, id)
	case http.MethodDelete:
		err = a.g.cfg.Async.Drop(ctx, id)
	default:
		letter, err = a.g.cfg.Async.DeadLetter(ctx, id)
	}
	switch {
	case errors.Is(err, queue.ErrNotFound):
		a.refuse(w, errNoLetter)
	case err != nil:
		a.refuse(w, a.askedRefusal(err))
	case q.Method == http.MethodPost:
		w.Header().Set("Location", asyncCallPath+again.String())
		w.WriteHeader(http.StatusAccepted)
	case q.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		sayJSON(w, letter)
	}
}

// errNoLetter: dead letters are kept until somebody deals with them.
var errNoLetter = &refusal{http.StatusNotFound, "not_found", "no such dead letter: it was sent again or dropped, or the call was never given up; GET /async-call/ID says what became of a call", 0}

// queueRefusal is what a client is told about an error of the queue. What the
// store said, which may name hosts, is for the log.
func (a *api) queueRefusal(err error) *refusal {
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return &refusal{http.StatusNotFound, "not_found", "no such call: its outcome is kept for a time only (WEIR_ASYNC_RESULT_TIME)", 0}
	case errors.Is(err, queue.ErrEnded):
		return &refusal{http.StatusConflict, "ended", "the call has ended: GET says how", 0}
	case errors.Is(err, queue.ErrTooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, "body", "the call with its headers is larger than what the store of asynchronous calls takes", 0}
	case errors.Is(err, queue.ErrFull):
		return &refusal{http.StatusServiceUnavailable, "queue_full", "the queue is full (WEIR_ASYNC_MAX_CALLS of one function, WEIR_ASYNC_MAX_STORE, or the disk), and the call was not taken: send it again later", retryStore}
	case errors.Is(err, queue.ErrUndecodable):
		return &refusal{http.StatusConflict, "undecodable", "the dead letter cannot be read as a call: GET shows it, DELETE drops it", 0}
	case errors.Is(err, function.ErrNotFound):
		return &refusal{http.StatusNotFound, "not_found", "the function of the dead letter does not exist: deploy it, or drop the letter", 0}
	case errors.Is(err, queue.ErrNotOpen):
		return &refusal{http.StatusServiceUnavailable, "queue_away", "the store of asynchronous calls is not open yet, and weir's log says why; the call was not taken: send it again later", retryStore}
	case errors.Is(err, queue.ErrAway), errors.Is(err, context.DeadlineExceeded):
		return &refusal{http.StatusServiceUnavailable, "queue_away", "the store of asynchronous calls does not answer, and it is not known whether it has the call: send it again later, best with an Idempotency-Key", retryStore}
	}
	a.g.cfg.Log.Error("asynchronous call not handled", "error", err)
	return &refusal{http.StatusInternalServerError, "other", "weir could not do it; its log says more", 0}
}
