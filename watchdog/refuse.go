package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/limiter"
)

// turnAway answers a request that got no slot.
func (w *Watchdog) turnAway(rw http.ResponseWriter, r *http.Request, err error) {
	unavailable := func(reason, body string) {
		w.refuse(rw, r, http.StatusServiceUnavailable, reason, body)
	}
	switch {
	case errors.Is(err, limiter.ErrFull) && w.cfg.MaxQueue > 0:
		unavailable(contract.RejectQueue, fmt.Sprintf("%d requests run and %d wait, which is max_queue; try again later, or elsewhere\n", w.limiter.Running(), w.limiter.Waiting()))
	case errors.Is(err, limiter.ErrFull):
		w.refuse(rw, r, http.StatusTooManyRequests, contract.RejectInflight, w.fullAnswer())
	case errors.Is(err, limiter.ErrOver):
		w.refuseGuarded(rw, r)
	case errors.Is(err, errQueueTime), errors.Is(err, errCallerTime):
		unavailable(contract.RejectQueue, err.Error()+"; try again later, or elsewhere\n")
	case errors.Is(err, errStopping):
		unavailable(contract.RejectDraining, err.Error()+"\n")
	case errors.Is(err, errDead):
		w.refuse(rw, r, http.StatusBadGateway, contract.RejectHandler, err.Error()+"\n")
	default:
		w.fail(w.response(rw), r, err) // the client left
	}
}

// fullAnswer is what OpenFaaS says where nobody may wait.
func (w *Watchdog) fullAnswer() string {
	return "Concurrent request limit exceeded. Max concurrent requests: " + strconv.Itoa(w.limiter.Limit()) + "\n"
}

// refuse answers a request that the handler has not seen.
func (w *Watchdog) refuse(rw http.ResponseWriter, r *http.Request, status int, reason, body string) {
	w.metrics.rejected.WithLabelValues(reason).Inc()
	h := rw.Header()
	// The answer goes out at once, not after a body that nobody will read.
	rest := unread(r)
	short := rest && r.ContentLength >= 0 && r.ContentLength <= worthReading && !expectsContinue(r)
	if rest {
		_ = http.NewResponseController(rw).EnableFullDuplex()
	}
	if rest && !short || reason == contract.RejectHandler {
		h["Connection"] = closeValue // its next bytes are that body, or nobody is there for them
	}
	h["Content-Type"] = textPlain
	h["Retry-After"] = []string{w.retryAfter()}
	h[contract.HeaderReject] = []string{reason}
	if status == http.StatusTooManyRequests {
		h[contract.HeaderInternal] = internalMiddleware
	} else {
		h[contract.HeaderInternal] = internalWatchdog
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	rw.WriteHeader(status)
	_, _ = rw.Write([]byte(body))
	if short {
		readOff(rw, r)
	}
}

// endUnknown is how long a handler may have closed its port before this program
// knows that it has ended: both want the processor, and its quota is handed out
// in tenths of a second.
const endUnknown = 250 * time.Millisecond

// endUntold bounds how much longer it may take on a machine that has much to do
// until everybody here knows of an end that the kernel tells of.
const endUntold = 5 * time.Second

// missed says whether err is that of a handler that has ended and surely began
// nothing of the request. One that lives and takes no connection is another
// matter: what is sent elsewhere for that would come back at once, since this
// watchdog goes on saying that it is ready.
func (w *Watchdog) missed(r *http.Request, err error) bool {
	if !errors.Is(err, invoke.ErrUnreachable) || len(w.cfg.Command) == 0 {
		return false
	}
	w.awaitEndOfLine(r, endUnknown)
	if w.inLine.Err() == nil && w.child.Ended() && !w.daemon.Load() {
		w.awaitEndOfLine(r, endUntold)
	}
	return context.Cause(w.inLine) == errDead
}

// awaitEndOfLine waits until nobody gets a slot any more, at most for limit.
func (w *Watchdog) awaitEndOfLine(r *http.Request, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.inLine.Done():
	case <-r.Context().Done():
	case <-timer.C:
	}
}

// refuseGuarded is refuse for what the guards do not let run.
func (w *Watchdog) refuseGuarded(rw http.ResponseWriter, r *http.Request) {
	reason, body := w.guards.refusal()
	w.refuse(rw, r, http.StatusServiceUnavailable, string(reason), body)
}

// worthReading is the longest body that is read, and dropped, behind a refusal,
// so that the connection can be kept.
const worthReading = 64 << 10

// readOff reads what is left of a body behind its answer, and cuts the
// connection when that does not come soon.
func readOff(rw http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(rw)
	_ = control.Flush()
	_ = control.SetReadDeadline(time.Now().Add(linger))
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

var (
	textPlain          = []string{"text/plain"}
	internalWatchdog   = []string{contract.InternalWatchdog}
	internalMiddleware = []string{contract.InternalMiddleware}
)

// serviceTime follows how long invocations take, for Retry-After: an
// exponential mean over about the last 16. Two that end at once may lose one
// sample, which the mean can bear.
type serviceTime struct{ mean atomic.Uint64 }

func (s *serviceTime) observe(took time.Duration) {
	mean := math.Float64frombits(s.mean.Load())
	if mean == 0 {
		mean = took.Seconds()
	}
	s.mean.Store(math.Float64bits(mean + (took.Seconds()-mean)/16))
}

// longestRetry bounds Retry-After: longer than that it is better to ask again
// than to trust what is, after all, a guess.
const longestRetry = 5 * 60

// retryAfter is when there may be room, in whole seconds, rounded up, at least
// 1 and at most longestRetry: the mean service time, or with a queue what a
// newcomer would wait if everything took that long.
func (w *Watchdog) retryAfter() string {
	seconds := math.Float64frombits(w.service.mean.Load())
	if limit := w.limiter.Limit(); limit > 0 && w.cfg.MaxQueue > 0 {
		seconds *= float64(w.limiter.Waiting()+1) / float64(limit)
	}
	if seconds <= 1 {
		return "1"
	}
	return strconv.Itoa(int(math.Ceil(min(seconds, longestRetry))))
}
