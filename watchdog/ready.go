package watchdog

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/weir-run/weir/contract"
)

// readyKept is how long an answer of the function's ready_path is believed: a
// kubelet and a gateway that both ask many times a second cost it two calls.
const readyKept = 500 * time.Millisecond

// ready is the answer of /_/ready once the watchdog serves.
func (w *Watchdog) ready(r *http.Request) (status int, reason string) {
	if status, reason := w.hasRoom(); status != http.StatusOK {
		return status, reason
	}
	if w.cfg.ReadyPath == "" {
		return http.StatusOK, "ready"
	}
	return w.asked.status(r.Context())
}

// hasRoom says whether more requests are welcome: the next one would run, or,
// where there is a queue, no more wait than ready_queue.
func (w *Watchdog) hasRoom() (status int, reason string) {
	if reason := w.guards.full(); reason != "" {
		return http.StatusServiceUnavailable, reason
	}
	if w.cfg.MaxQueue > 0 {
		if n := w.limiter.Waiting(); n > w.cfg.ReadyQueue {
			return http.StatusTooManyRequests, fmt.Sprintf("%d requests wait, ready_queue is %d", n, w.cfg.ReadyQueue)
		}
	} else if w.limiter.Met() {
		return http.StatusTooManyRequests, "max_inflight reached"
	}
	return http.StatusOK, "ready"
}

// readyHandler adds to health's answer what gateways want to know.
func (w *Watchdog) readyHandler() http.Handler {
	answer := w.health.Ready(w.ready)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set(contract.HeaderMaxInflight, strconv.Itoa(max(0, w.limiter.Limit())))
		rw.Header().Set(contract.HeaderMaxQueue, strconv.Itoa(w.cfg.MaxQueue))
		answer.ServeHTTP(rw, r)
	})
}

// readyCall asks the function at ready_path: one bare GET at a time, shared by
// all who ask meanwhile, and not bound to any of them.
type readyCall struct {
	path  string
	run   runner
	limit time.Duration

	mu     sync.Mutex
	asking chan struct{} // not nil while a call is under way; closed at its end
	code   int
	at     time.Time
}

func (c *readyCall) status(ctx context.Context) (int, string) {
	c.mu.Lock()
	if c.asking == nil && (c.at.IsZero() || time.Since(c.at) > readyKept) {
		c.asking = make(chan struct{})
		go c.ask(c.asking)
	}
	wait := c.asking
	c.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return http.StatusServiceUnavailable, "ready_path has not answered yet"
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code, "ready_path answered " + strconv.Itoa(c.code)
}

func (c *readyCall) ask(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), c.limit)
	code := http.StatusServiceUnavailable
	defer func() {
		if recover() != nil { // a handler in this process
			code = http.StatusInternalServerError
		}
		cancel()
		c.mu.Lock()
		c.code, c.at, c.asking = code, time.Now(), nil
		c.mu.Unlock()
		close(done)
	}()
	target, err := url.ParseRequestURI(c.path)
	if err != nil {
		return // Config.validate refuses such a path
	}
	r := (&http.Request{
		Method: http.MethodGet, URL: target, RequestURI: c.path,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Host: "localhost",
		RemoteAddr: "127.0.0.1:0",
	}).WithContext(ctx)
	answer := statusOnly{header: http.Header{}}
	deadline, _ := ctx.Deadline()
	if err := c.run(&answer, r, deadline, deadline); err != nil {
		return
	}
	code = max(answer.status, http.StatusOK)
}

// statusOnly is a ResponseWriter that keeps the status and drops the rest.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header { return s.header }

func (s *statusOnly) WriteHeader(status int) {
	if s.status == 0 && status >= 200 {
		s.status = status
	}
}

func (s *statusOnly) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return len(p), nil
}

func (s *statusOnly) FlushError() error { return nil }
func (s *statusOnly) Flush()            {}

var _ io.Writer = (*statusOnly)(nil)
