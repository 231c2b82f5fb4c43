package watchdog

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// inproc runs a handler of this program. Its context ends with its time; one
// that goes on regardless keeps its slot until it returns, but its client gets
// the timeout's answer in time, and nothing that is written later goes out.
func inproc(h http.Handler) runner {
	return func(w http.ResponseWriter, r *http.Request, exec, write time.Time) error {
		deadline := earlier(exec, write)
		iw := &inprocWriter{w: w, header: http.Header{}}
		if deadline.IsZero() {
			h.ServeHTTP(iw, r)
			iw.finish()
			return nil
		}
		ctx, cancel := context.WithDeadlineCause(r.Context(), deadline, context.DeadlineExceeded)
		defer cancel()
		expire := func() {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				iw.expire()
			}
		}
		defer iw.end()
		defer context.AfterFunc(ctx, expire)()
		h.ServeHTTP(iw, r.WithContext(ctx))
		expire() // a handler that heeds its context may be here first
		return iw.finish()
	}
}

// expiredAnswer is what a client gets whose handler is still running.
const expiredAnswer = "exec_timeout or write_timeout is over\n"

// inprocWriter stands between a handler and the connection, so that the
// timeout's answer can be written while the handler still runs.
type inprocWriter struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	header  http.Header
	begun   bool
	expired bool
	gone    bool // hijacked
}

func (i *inprocWriter) Header() http.Header { return i.header }

func (i *inprocWriter) WriteHeader(status int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.writeHeader(status)
}

func (i *inprocWriter) writeHeader(status int) {
	if i.begun || i.expired || i.gone {
		return
	}
	h := i.w.Header()
	for k, v := range i.header {
		h[k] = v
	}
	i.begun = status >= 200 || status == http.StatusSwitchingProtocols
	i.w.WriteHeader(status)
}

func (i *inprocWriter) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.expired {
		return 0, http.ErrHandlerTimeout
	}
	i.writeHeader(http.StatusOK)
	return i.w.Write(p)
}

// FlushError sends what was written so far.
func (i *inprocWriter) FlushError() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.expired {
		return http.ErrHandlerTimeout
	}
	i.writeHeader(http.StatusOK)
	return http.NewResponseController(i.w).Flush()
}

// Flush is FlushError for handlers that know http.Flusher.
func (i *inprocWriter) Flush() { _ = i.FlushError() }

// Unwrap lets http.ResponseController set deadlines and full duplex.
func (i *inprocWriter) Unwrap() http.ResponseWriter { return i.w }

// Hijack ends the time limit: an upgraded connection has none.
func (i *inprocWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.expired {
		return nil, nil, http.ErrHandlerTimeout
	}
	conn, rw, err := http.NewResponseController(i.w).Hijack()
	i.gone = err == nil
	return conn, rw, err
}

// expire answers for a handler whose time is over. What has begun cannot be
// answered again; it is cut when the handler returns or writes.
func (i *inprocWriter) expire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.gone || i.expired {
		return
	}
	i.expired = true
	if i.begun {
		_ = http.NewResponseController(i.w).SetWriteDeadline(time.Unix(1, 0))
		return
	}
	// The connection is the handler's until it returns: no further request
	// would be read from it.
	i.w.Header()["Connection"] = closeValue
	writeOwn(i.w, http.StatusGatewayTimeout, expiredAnswer)
	_ = http.NewResponseController(i.w).Flush()
}

// end waits for an expire that is under way, and lets no later one write: when
// the handler has panicked the connection is net/http's again.
func (i *inprocWriter) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gone = true
}

// finish tells how the handler's answer ended, and adds the trailers.
func (i *inprocWriter) finish() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.gone:
		return nil
	case i.expired:
		return context.DeadlineExceeded
	}
	i.writeHeader(http.StatusOK)
	h := i.w.Header()
	for k, v := range i.header {
		h[k] = v // trailers, announced or prefixed; else no effect any more
	}
	return nil
}
