package gateway

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/proxy"
	"github.com/weir-run/weir/queue"
)

var _ queue.Pods = (*Gateway)(nil)

// Reasons of a queue.Answer beside those that refusals have.
const (
	reasonCut       = "cut"       // a handler may have begun it, and there is no answer, or half of one
	reasonCancelled = "cancelled" // the request's context ended
	reasonOther     = "other"     // a fault of weir's, which the log has
)

// Deliver calls a function as serve does for a client, in a place of this
// gateway's own share, and keeps the answer. It ends with the context of r,
// which a pod that has the request sees as a connection that is closed.
//
// It is a handler's answer unless Reason is set. Reason is then that of the
// metric of refusals, or a watchdog's, and Body says more. Where a handler may
// have begun what has no answer Began is true all the same, and Status 502, or
// 504 where it took too long.
func (g *Gateway) Deliver(e *fleet.Entry, r *http.Request, limit int64) queue.Answer {
	k := &keeper{limit: limit, header: http.Header{}}
	c := g.newCall(k, r, e, r.RequestURI)
	c.claim.own, c.claim.counted = true, func() { queue.Placed(r.Context()) }
	c.try.MaxBody = 0 // it was bounded when it was taken
	if at := r.Header.Get(headerStartTime); at != "" {
		c.startTime = at
	}
	whole := g.attempt(c)
	a := queue.Answer{
		Began: true, Status: k.status, Header: k.kept, Body: k.body, Size: k.size,
		Refused: c.refusedByPod, Took: c.tried,
	}
	if whole && c.own == nil && !c.passed {
		return a
	}
	a.Began = c.begun > 0 || c.unsure
	switch {
	case r.Context().Err() != nil:
		a.Reason = reasonCancelled
	case a.Began:
		a.Reason = reasonCut
	case c.passed:
		a.Reason = knownReason(c.reason)
	case c.own != nil:
		a.Reason = c.own.reason
	default:
		a.Reason = reasonOther
	}
	switch {
	case a.Reason == reasonCancelled:
		a.Status, a.Header, a.Body, a.Size = statusClientLeft, http.Header{}, nil, 0
	case !a.Began && (c.own != nil || c.passed):
	case c.own != nil && (a.Status == http.StatusBadGateway || a.Status == http.StatusGatewayTimeout):
	default:
		// The half of an answer, or what would have been said of other tries.
		a.Status, a.Header, a.Body, a.Size = http.StatusBadGateway, http.Header{}, nil, 0
	}
	return a
}

// attempt serves the call, and says whether an answer came to its end: a panic
// is how serve cuts one. Nothing above catches any other.
func (g *Gateway) attempt(c *call) (whole bool) {
	defer func() {
		switch p := recover(); p {
		case nil, http.ErrAbortHandler:
		default:
			c.unsure = true
			g.cfg.Log.Error("panic in an asynchronous call", "function", c.lane.ref.String(), "call_id", c.id,
				"panic", p, "stack", string(debug.Stack()))
		}
	}()
	c.serve()
	return true
}

// keeper is a http.ResponseWriter that keeps the head of an answer, and of its
// body what it is to.
type keeper struct {
	limit  int64
	header http.Header

	status int
	kept   http.Header
	body   []byte
	size   int64
}

// Header implements http.ResponseWriter.
func (k *keeper) Header() http.Header { return k.header }

// WriteHeader implements http.ResponseWriter. Interim answers are dropped, and
// so is what comes after the body, and what is about the connection.
func (k *keeper) WriteHeader(status int) {
	if status < http.StatusOK || k.status != 0 {
		return
	}
	k.status = status
	k.kept = make(http.Header, len(k.header))
	for name, values := range k.header {
		if !betweenPeers(name) && len(values) > 0 {
			k.kept[name] = append([]string(nil), values...)
		}
	}
}

// Write implements http.ResponseWriter.
func (k *keeper) Write(p []byte) (int, error) {
	k.WriteHeader(http.StatusOK)
	k.size += int64(len(p))
	if room := k.limit - int64(len(k.body)); room > 0 {
		k.body = append(k.body, p[:min(int64(len(p)), room)]...)
	}
	return len(p), nil
}

// unsure says whether a handler may have begun a request whose try ended so.
func unsure(t *proxy.TryError) bool {
	switch t.Stage {
	case proxy.Sent, proxy.Begun:
		return true
	case proxy.Client:
		return errors.Is(t.Err, context.Canceled)
	}
	return false
}
