package watchdog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	limiterapi "github.com/openfaas/faas-middleware/concurrency-limiter"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/health"
	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/limiter"
)

var _ limiterapi.Limiter = (*limiter.Limiter)(nil)

// runner hands one admitted request to the handler. exec and write are the
// ends of its time, zero for none; a runner that streams events is bound by
// exec alone. What it returns is described in package invoke.
type runner func(w http.ResponseWriter, r *http.Request, exec, write time.Time) error

// handler is the whole chain of a watchdog, from the outside in:
//
//	/_/health, /_/ready        answered here, counted nowhere
//	recover, log, metrics      observe
//	JWT, when asked for        package auth of faas-middleware
//	limiter, queue, guards     admit
//	time limit, runner         run
func (w *Watchdog) handler() (http.Handler, error) {
	admitted := http.Handler(http.HandlerFunc(w.admit))
	if w.cfg.JWTAuth {
		authenticated, err := authenticate(w.cfg, admitted)
		if err != nil {
			return nil, err
		}
		admitted = authenticated
	}
	live, ready := w.health.Live(w.stuck), w.readyHandler()
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if c := connectionOf(r); c != nil {
			c.answering.Store(true)
		}
		var own http.Handler
		switch r.URL.Path {
		case contract.HealthPath:
			own = live
		case contract.ReadyPath:
			own = ready
		default:
			w.observe(rw, r, admitted)
			return
		}
		if w.closed.Load() { // else whoever asks on and on would hold up the end
			rw.Header()["Connection"] = closeValue
		}
		own.ServeHTTP(rw, r)
	}), nil
}

// observe is the one place where a request is counted, logged and recovered.
func (w *Watchdog) observe(rw http.ResponseWriter, r *http.Request, next http.Handler) {
	start := time.Now()
	ww := &response{ResponseWriter: rw, health: w.health}
	defer func() {
		panicked := recover()
		if panicked != nil && panicked != http.ErrAbortHandler {
			ww.reason = fmt.Sprintf("panic: %v", panicked)
			w.lines.printf("panic serving %s %.200s: %v\n%s", r.Method, r.RequestURI, panicked, debug.Stack())
		}
		if ww.status == 0 && ww.outcome == 0 {
			ww.status = http.StatusOK // what net/http sends for nothing
			if panicked != nil {
				ww.status = http.StatusInternalServerError
			}
		}
		w.finished(ww, r, time.Since(start))
		if panicked != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	next.ServeHTTP(ww, r)
}

func (w *Watchdog) finished(ww *response, r *http.Request, took time.Duration) {
	status := ww.status
	if ww.outcome != 0 {
		status = ww.outcome
	}
	if c := connectionOf(r); c != nil {
		c.kept.Store(true)
	}
	w.metrics.answered(r.Method, status, took)
	if strings.HasPrefix(r.UserAgent(), "kube-probe") {
		return // probes of the function's own paths would fill the log
	}
	w.lines.access(r, ww, took, w.cfg.Mode == ModeHTTP, w.cfg.LogCallID)
}

// admit lets a request to its handler, or refuses it before the handler has
// seen anything of it.
func (w *Watchdog) admit(rw http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 { // net/http hands the preface of HTTP/2 on as a request
		writeOwn(rw, http.StatusHTTPVersionNotSupported, "this is HTTP/1.1\n")
		return
	}
	if w.health.State() == health.Dead {
		w.turnAway(rw, r, errDead)
		return
	}
	if c := connectionOf(r); w.closed.Load() && c != nil && c.kept.Load() {
		w.refuse(rw, r, http.StatusServiceUnavailable, contract.RejectDraining, errStopping.Error()+"\n")
		return
	}
	arrived := time.Now()
	start := arrived
	err := w.guards.try(r.Context(), arrived)
	if err == limiter.ErrFull && w.cfg.MaxQueue > 0 {
		var p *place
		p, err = w.wait(r, arrived)
		defer p.leave(rw)
		r, start = p.request, time.Now()
	}
	if err != nil {
		w.turnAway(rw, r, err)
		return
	}
	defer w.leave(start)
	w.invoke(rw, r, arrived, start)
}

// invoke runs an admitted request within its time and settles how it ended.
func (w *Watchdog) invoke(rw http.ResponseWriter, r *http.Request, arrived, start time.Time) {
	ww := w.response(rw)
	exec := deadline(r, arrived, start, w.cfg.ExecTimeout)
	write := start.Add(w.cfg.WriteTimeout)
	ww.started, ww.fromHandler = start, true
	err := w.run(ww, r, exec, write)
	ww.fromHandler = false
	if err != nil {
		w.fail(ww, r, err)
	}
}

// response is the writer that observe made, or one around that of a middleware
// between.
func (w *Watchdog) response(rw http.ResponseWriter) *response {
	if ww, ok := rw.(*response); ok {
		return ww
	}
	return &response{ResponseWriter: rw, health: w.health}
}

// leave gives the slot of an invocation back, however it ended.
func (w *Watchdog) leave(start time.Time) {
	now := time.Now()
	took := now.Sub(start)
	w.service.observe(took)
	if w.auto != nil {
		w.auto.Observe(took)
	}
	w.guards.finished.Add(1)
	w.limiter.ReleaseAt(now)
}

// deadline is when an invocation's own time ends: exec_timeout after its start,
// or earlier, when the caller asked for less than that, counted from arrival.
func deadline(r *http.Request, arrived, start time.Time, limit time.Duration) time.Time {
	var end time.Time
	if limit > 0 {
		end = start.Add(limit)
	}
	if d := asked(r); d > 0 {
		end = earlier(end, arrived.Add(d))
	}
	return end
}

// asked is the time that the caller gives, 0 for none.
func asked(r *http.Request) time.Duration {
	v := r.Header.Get(contract.HeaderTimeout)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0
	}
	return max(0, d)
}

// earlier is the earlier of two times of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// fail is the one place where an error of an invocation becomes a status. An
// answer that has begun is cut, so that nobody takes it for a whole one.
func (w *Watchdog) fail(ww *response, r *http.Request, err error) {
	status, body := w.answer(err)
	ww.reason = err.Error()
	if w.auto != nil && errors.Is(err, context.DeadlineExceeded) {
		w.auto.Timeout()
	}
	if errors.Is(err, context.Canceled) {
		ww.reason = "client gone"
	}
	if ww.begun() || status == statusClientGone {
		ww.outcome = status
		if !r.ProtoAtLeast(1, 1) {
			reset(ww.ResponseWriter)
		}
		panic(http.ErrAbortHandler)
	}
	if status == http.StatusBadRequest || status == http.StatusRequestTimeout || status == http.StatusRequestEntityTooLarge {
		ww.Header()["Connection"] = closeValue
	}
	ww.Header().Del("Trailer")
	if errors.Is(err, limiter.ErrOver) { // held until the handler started
		w.refuseGuarded(ww, r)
		return
	}
	if errors.Is(err, errStarting) {
		w.refuse(ww, r, http.StatusServiceUnavailable, contract.RejectQueue, body)
		return
	}
	if w.missed(r, err) {
		w.refuse(ww, r, status, contract.RejectHandler, body)
		return
	}
	ww.Header().Set(contract.HeaderDuration, strconv.FormatFloat(time.Since(ww.started).Seconds(), 'f', 6, 64))
	writeOwn(ww, status, body)
}

// reset ends the connection of an HTTP/1.0 answer so that it does not look
// whole: its end is the connection's, unless that is a reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// writeOwn writes an answer of the watchdog's own.
func writeOwn(w http.ResponseWriter, status int, body string) {
	if ww, ok := w.(*response); ok {
		ww.fromHandler = false
	}
	h := w.Header()
	h["Content-Type"] = textPlain
	h[contract.HeaderInternal] = internalWatchdog
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h.Del("Content-Encoding")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// statusClientGone is what a request is logged as whose client left.
const statusClientGone = 499

func (w *Watchdog) answer(err error) (status int, body string) {
	var (
		request *invoke.RequestError
		exit    *invoke.ExitError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return statusClientGone, ""
	case errors.Is(err, context.DeadlineExceeded):
		if w.cfg.Mode == ModeClassic {
			return http.StatusRequestTimeout, "Killed process.\n"
		}
		return http.StatusGatewayTimeout, expiredAnswer
	case errors.As(err, &request):
		return request.Status, request.Error() + "\n"
	case errors.As(err, &exit):
		if w.cfg.Mode == ModeClassic {
			return http.StatusInternalServerError, exit.Text + "\n" + string(exit.Output)
		}
		return http.StatusInternalServerError, exit.Text
	case errors.Is(err, syscall.E2BIG): // the environment of a fork holds the headers
		return http.StatusRequestHeaderFieldsTooLarge, err.Error() + "\n"
	case errors.Is(err, invoke.ErrUnreachable), errors.Is(err, invoke.ErrBadAnswer), errors.Is(err, invoke.ErrAnswerTooLarge):
		return http.StatusBadGateway, err.Error() + "\n"
	case errors.Is(err, errStarting):
		return http.StatusServiceUnavailable, err.Error() + "\n"
	}
	return http.StatusInternalServerError, err.Error() + "\n"
}

type connectionKey struct{}

func connectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}
