package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"

	"github.com/weir-run/weir/invoke"
)

// Stage is how far a request came at an upstream that did not answer it. It
// decides who may try again.
type Stage uint8

const (
	// NotTaken: the upstream has taken nothing of the request, and surely so.
	// It can be tried elsewhere, whatever its method: the connection was
	// refused, could not be made in time, or had been closed before the
	// request was written.
	NotTaken Stage = iota
	// Refused: Judge said so of the answer, which is in TryError.Answer.
	Refused
	// Sent: at least a part of the request may have been seen, and there is no
	// answer: the connection broke, HeaderTimeout passed, or what came is not
	// HTTP. Only an idempotent request may be repeated.
	Sent
	// Begun: the answer had begun to go out to the client, whose connection
	// must be cut, so that half an answer does not look whole. The error is
	// context.Canceled where it was the client who left.
	Begun
	// Client: it is not the upstream's doing, and no other would change it.
	// The error is context.Canceled when the client left, an
	// *invoke.RequestError with the status to answer when its body is at fault
	// (too large, not in time, malformed), or what Call.Kept returned.
	Client
)

func (s Stage) String() string {
	return [...]string{"not taken", "refused", "sent without answer", "answer cut", "client"}[s]
}

// TryError is why a Call was not answered.
type TryError struct {
	Stage Stage
	// Final says that a further Try is of no use: more of the body was read
	// than is kept, or the answer was no HTTP, which it would be again.
	Final bool
	// Answer is what was refused, at stage Refused; else nil.
	Answer *Answer
	// Err is the cause. It is or wraps context.Canceled (the client left),
	// context.DeadlineExceeded (out of time), an *invoke.RequestError,
	// invoke.ErrUnreachable, or invoke.ErrBadAnswer.
	Err error
}

func (e *TryError) Error() string {
	if e.Answer != nil {
		return fmt.Sprintf("%s: status %d", e.Stage, e.Answer.Status)
	}
	return fmt.Sprintf("%s: %v", e.Stage, e.Err)
}

func (e *TryError) Unwrap() error { return e.Err }

// Local reports whether it was this process that had no descriptor, port or
// memory left to connect with, which says nothing about the upstream.
func (e *TryError) Local() bool {
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(e.Err, lack) {
			return true
		}
	}
	return false
}

// maxRefusal bounds the body of a refused answer; what is longer is cut.
const maxRefusal = 16 << 10

var errRefused = errors.New("refused")

// Answer is an answer that was read and not passed on. It is also the
// ResponseWriter that it is read into.
type Answer struct {
	Status int
	// header holds what may go to a client.
	header http.Header
	// Body has at most 16 KiB.
	Body []byte
}

// Header holds what may go to a client.
func (a *Answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter for the reading of the answer.
func (a *Answer) WriteHeader(status int) { a.Status = status }

// Write implements http.ResponseWriter for the reading of the answer.
func (a *Answer) Write(p []byte) (int, error) {
	room := maxRefusal - len(a.Body)
	a.Body = append(a.Body, p[:min(len(p), room)]...)
	if len(p) > room {
		return room, errRefused
	}
	return len(p), nil
}

// Pass sends an answer that was refused to the client after all. Call.Answer
// sees it first.
func (c *Call) Pass(a *Answer) {
	h := c.w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	if c.r.Method != http.MethodHead {
		h["Content-Length"] = []string{strconv.Itoa(len(a.Body))}
	}
	if c.Answer != nil {
		c.Answer(a.Status, h)
	}
	c.Own()
	c.w.WriteHeader(a.Status)
	_, _ = c.w.Write(a.Body)
}

// clientError is a failed write to w.
type clientError struct{ error }

// timeUp says whether err is a deadline of a connection.
func timeUp(err error) bool { return err != nil && errors.Is(err, os.ErrDeadlineExceeded) }

// fault turns an error of either connection into how the invocation ended.
func (x *exchange) fault(err error) error {
	var client clientError
	var request *invoke.RequestError
	switch {
	case errors.As(err, &request), errors.Is(err, context.Canceled):
		return err
	case x.ctx.Err() != nil:
		return x.ctx.Err()
	case timeUp(err):
		return context.DeadlineExceeded
	case errors.As(err, &client):
		return context.Canceled
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", invoke.ErrBadAnswer, err)
}
