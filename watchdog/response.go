package watchdog

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/health"
)

// response is the ResponseWriter of one request: it knows what went out, and
// lets nothing of the handler's pass for the watchdog's own word.
type response struct {
	http.ResponseWriter
	// health tells when a connection is to end with its answer: in a drain.
	health *health.Health
	// started is when the handler was given the request.
	started time.Time
	// status that went out, 0 while none has.
	status int
	bytes  int64
	// fromHandler is true while what is written is the handler's.
	fromHandler bool
	hijacked    bool
	// outcome, when not 0, is what the request is counted and logged as: an
	// answer that was cut short is no 200, whatever its first line said.
	outcome int
	// reason is why, for the log.
	reason string
}

// Unwrap lets http.ResponseController reach what is not overridden here.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status != 0 || w.hijacked {
		return
	}
	h := w.Header()
	if w.fromHandler {
		delete(h, contract.HeaderReject)
		delete(h, contract.HeaderInternal)
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.health.State() == health.Draining && status != http.StatusSwitchingProtocols {
		h["Connection"] = closeValue
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

var closeValue = []string{"close"}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom keeps the server's way of sending a file without copying it.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// FlushError sends what was written so far.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for handlers that know http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// Hijack hands the connection over; the request stays in flight until its
// handler returns.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if c, ok := conn.(*connection); ok {
		conn = c.TCPConn // which others know
	}
	if err == nil {
		w.hijacked = true
		if w.status == 0 {
			w.status = http.StatusSwitchingProtocols
		}
	}
	return conn, rw, err
}

// begun says whether the client may have seen a part of the answer.
func (w *response) begun() bool { return w.status != 0 || w.hijacked }
