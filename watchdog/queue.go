package watchdog

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/limiter"
)

// Why a request that stood in line does not run, beside what the limiter and
// the guards say and context.Canceled for a client that left.
var (
	errQueueTime  = errors.New("waited queue_timeout for a slot")
	errCallerTime = errors.New("the time of X-Timeout was over before a slot was free")
	errStopping   = errors.New("stopping; the request was not started")
	errDead       = errors.New("the handler ended before a slot was free")
)

// place is a request's place in line.
type place struct {
	// request is the one to go on with: its body begins with what was read of
	// it while it waited.
	request *http.Request
	conn    net.Conn // nil when it is not known
	body    *ahead   // nil when nothing is read ahead
	// asks: the client waits for 100 Continue before it sends its body.
	asks   bool
	client *invoke.Presence // nil when it is not watched
	since  time.Time        // zero when the request never stood in line
}

// wait takes a slot for r, standing in line for it where every slot is taken.
// The error is limiter.ErrFull or ErrOver, context.Canceled, or one of the
// above. Whatever it is, the place must be left.
//
// Time in line counts against no timeout but queue_timeout and the caller's
// own. Nothing is reserved for a request that waits, and nothing of it is given
// to the handler.
func (w *Watchdog) wait(r *http.Request, arrived time.Time) (*place, error) {
	p := &place{request: r}
	if c := connectionOf(r); c != nil {
		p.conn = c
	}
	if !w.guards.spare() {
		return p, limiter.ErrOver
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(w.inLine, func() { cancel(context.Cause(w.inLine)) })()
	if until, cause := w.patience(r, arrived); !until.IsZero() {
		var end context.CancelFunc
		ctx, end = context.WithDeadlineCause(ctx, until, cause)
		defer end()
	}
	err := w.limiter.Wait(ctx, func() { p.stand(cancel, &w.readAhead) })
	if err == nil && (ctx.Err() != nil || w.inLine.Err() != nil || p.client.Gone()) {
		// Slot and reason came together, or the reason has not been seen yet.
		w.limiter.Release()
		err = context.Canceled
	} else if err == nil {
		err = w.guards.confirm(ctx)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case w.inLine.Err() != nil:
		err = context.Cause(w.inLine)
	}
	if !p.since.IsZero() {
		w.leaveLine(p, arrived, err)
	}
	return p, err
}

// patience is until when r waits, and why not longer; zero is for ever.
func (w *Watchdog) patience(r *http.Request, arrived time.Time) (until time.Time, why error) {
	if w.cfg.QueueTimeout > 0 {
		until, why = arrived.Add(w.cfg.QueueTimeout), errQueueTime
	}
	if d := asked(r); d > 0 && (until.IsZero() || arrived.Add(d).Before(until)) {
		until, why = arrived.Add(d), errCallerTime
	}
	return until, why
}

// leaveLine gives a request that stood in line the time to be read and
// answered that it had before.
func (w *Watchdog) leaveLine(p *place, arrived time.Time, err error) {
	now := time.Now()
	waited := now.Sub(p.since)
	var read time.Time
	switch {
	case err != nil:
		read = now.Add(linger) // nobody wants the rest
	case w.cfg.ReadTimeout > 0:
		read = arrived.Add(w.cfg.ReadTimeout + waited)
	}
	if err == nil {
		w.metrics.queueWait.Observe(waited.Seconds())
		if w.auto != nil {
			w.auto.Waited(waited)
		}
	}
	p.resume(read, now.Add(w.cfg.WriteTimeout+writeSlack))
}

// stand begins the time in line. leave is called when the client is gone.
func (p *place) stand(leave context.CancelCauseFunc, shared *sharedRoom) {
	p.since = time.Now()
	if p.conn == nil {
		return
	}
	p.client = invoke.WatchClient(p.conn, lookEvery, func() { leave(context.Canceled) })
	if !unread(p.request) {
		return // net/http listens for the client's leaving, without a deadline
	}
	_ = p.conn.SetReadDeadline(time.Time{})
	if p.asks = expectsContinue(p.request); !p.asks {
		p.body = readAhead(p.request, p.conn, shared)
		p.request = p.body.request
	}
}

// resume sets the deadlines anew: write, and read where a body remains to be
// read.
func (p *place) resume(read, write time.Time) {
	p.client.Stop()
	if p.body != nil {
		p.body.resume(read)
	}
	if p.conn == nil {
		return
	}
	if p.asks {
		_ = p.conn.SetReadDeadline(read)
	}
	_ = p.conn.SetWriteDeadline(write)
}

// leave ends what the place began; the request is answered, or given up.
func (p *place) leave(rw http.ResponseWriter) {
	p.client.Stop()
	if p.body != nil && !p.body.finish() {
		invoke.CloseAfterReply(rw)
	}
}

// unread reports whether a part of the body may still be on its way.
func unread(r *http.Request) bool {
	if a, ok := r.Body.(*ahead); ok {
		return a.remains()
	}
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// expectsContinue reports whether net/http will ask for the body at its first
// Read. It has refused any other expectation.
func expectsContinue(r *http.Request) bool {
	return r.Header.Get("Expect") != "" && r.ProtoAtLeast(1, 1) && r.ContentLength != 0
}

// lookEvery is how often a waiting client is looked at: soon enough that the
// place of one that left is free for somebody else, and a thousand of them cost
// a hundredth of a processor.
const lookEvery = 100 * time.Millisecond
