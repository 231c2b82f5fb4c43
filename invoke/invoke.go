// Package invoke is what the runners of a watchdog have in common: how an
// invocation can end, and how a request body is read. A runner returns one of
// these errors; the watchdog alone turns them into a status and a log line.
//
// Two ends come from the standard library: context.DeadlineExceeded when the
// time of the invocation ran out, context.Canceled when the client left.
package invoke

import (
	"errors"
	"fmt"
)

var (
	// ErrUnreachable: the handler takes no connection. It saw nothing of the
	// request.
	ErrUnreachable = errors.New("handler refused the connection")
	// ErrBadAnswer: the handler answered something that is not HTTP, or
	// closed before its answer was complete.
	ErrBadAnswer = errors.New("handler gave no valid answer")
	// ErrNotStarted: no time was left, or no process could be made, before
	// the handler saw the request.
	ErrNotStarted = errors.New("handler not started")
	// ErrAnswerTooLarge: a mode that buffers the answer reached its bound.
	ErrAnswerTooLarge = errors.New("answer exceeds the buffer's bound")
)

// RequestError is a fault of the request itself, found while its body was
// read. Status is 400, 408 or 413.
type RequestError struct {
	Status int
	Err    error
}

func (e *RequestError) Error() string { return fmt.Sprintf("request body: %v", e.Err) }
func (e *RequestError) Unwrap() error { return e.Err }

// ExitError is a handler process that ended badly. Its text is that of the
// standard library: "exit status 3", "signal: killed".
type ExitError struct {
	Text string
	// Code is the exit code, 128+n for signal n.
	Code int
	// Output is what the process wrote, in the modes whose error answer
	// shows it; else nil.
	Output []byte
}

func (e *ExitError) Error() string { return e.Text }
