// Package fork starts a process for every request: the request's body is its
// standard input, its standard output is the answer, and the request's head
// is in its environment as CGI has it.
//
// The process leads a group of its own. Its exit ends the invocation: the rest
// of the group is killed, what is in the pipe is read out, and nobody who
// still holds the pipe is waited for.
package fork

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/watchdog/process"
)

// Mode is how body and answer pass between the request and its process.
type Mode int

const (
	// Streaming passes both as they come.
	Streaming Mode = iota
	// Serializing reads the body whole before the start and the answer whole
	// before its first byte goes out.
	Serializing
	// Classic is Serializing as OpenFaaS's first watchdog did it.
	Classic
)

// Handler serves requests by processes. Its fields are set before the first
// Serve and not after.
type Handler struct {
	Mode Mode
	// Reaper starts the processes. The caller closes it.
	Reaper *process.Reaper
	// Command is the program and its arguments.
	Command []string
	// Environ is the environment of every process, as os.Environ gives it.
	Environ []string
	// CGIHeaders adds the request's head to the environment; see environ.go.
	CGIHeaders bool
	// ContentType of the answers. Empty echoes the request's in Classic and
	// leaves it to net/http elsewhere.
	ContentType string
	// MaxBuffered bounds body and answer, each, in the modes that hold them
	// in memory; MaxBody a body that is streamed. Bytes; 0 is no bound.
	MaxBuffered int64
	MaxBody     int64

	// Stderr gets what processes write to their standard error, one Write for
	// a line; nil drops it.
	Stderr io.Writer
	// PrefixLogs puts date, time and "stderr: " before each line.
	PrefixLogs bool
	// LogBufferSize is the longest line in bytes, what is longer is split; 0
	// and less is no bound.
	LogBufferSize int

	// Log gets the lines that Classic writes of each request; nil drops them.
	Log io.Writer
	// Debug gets what WriteDebug and DebugHeaders print; nil is Log.
	Debug io.Writer
	// CombineOutput puts standard error into the answer.
	CombineOutput bool
	// WriteDebug prints answers and errors, DebugHeaders the headers of
	// request and answer.
	WriteDebug   bool
	DebugHeaders bool
	// MarshalRequest gives the process {"header":{…},"body":{"raw":base64}}.
	MarshalRequest bool

	once   sync.Once
	base   []string // of Environ, what no request can replace
	own    []string // of Environ, Http_…: a request's variable replaces it
	logger *log.Logger
}

func (h *Handler) init() {
	h.base, h.own = splitEnviron(h.Environ)
	out := h.Log
	if out == nil {
		out = io.Discard
	}
	h.logger = log.New(out, "", log.LstdFlags)
	if h.Debug == nil {
		h.Debug = out
	}
}

// Serve answers r by a process of its own, which and the rest of whose group
// is gone when Serve returns. It is killed at deadline (zero: none) and when
// the client leaves.
//
// An error is context.DeadlineExceeded, context.Canceled, one of package
// invoke, or wraps invoke.ErrNotStarted. Where the answer had begun it is not
// whole.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, deadline time.Time) error {
	h.once.Do(h.init)
	switch h.Mode {
	case Serializing:
		return h.serialize(w, r, deadline)
	case Classic:
		return h.classic(w, r, deadline)
	default:
		return h.stream(w, r, deadline)
	}
}

// stream passes body and answer as they come. The answer begins with its first
// byte, or at the end of a process that had nothing to say and no fault.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, deadline time.Time) error {
	c := newCall(h, w, r)
	if hasBody(r) {
		c.body = r.Body
	}
	if err := c.start(deadline, h.logStderr()); err != nil {
		return err
	}
	c.pass(w)
	if err := c.finish(); err != nil {
		return err
	}
	if !c.begun {
		h.setContentType(w)
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

// pass hands on what the process writes until it ends, or the client is gone.
func (c *call) pass(w http.ResponseWriter) {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for {
		n, err := c.stdout.Read(buf[:])
		if n > 0 {
			if !c.begun {
				if !c.begin() {
					return
				}
				c.h.setContentType(w)
			}
			_, werr := w.Write(buf[:n])
			if werr == nil {
				werr = c.control.Flush()
			}
			if werr != nil {
				c.stop(writeError(werr))
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// writeError is what a failed write to the client means.
func writeError(err error) error {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

func (h *Handler) setContentType(w http.ResponseWriter) {
	if h.ContentType != "" {
		w.Header()["Content-Type"] = []string{h.ContentType}
	}
}

// notStarted says why there is no process.
func notStarted(err error) error {
	switch {
	case errors.Is(err, syscall.E2BIG):
		return fmt.Errorf("%w: the request's headers do not fit into a process's environment: %w", invoke.ErrNotStarted, err)
	default:
		return fmt.Errorf("%w: %w", invoke.ErrNotStarted, err)
	}
}
