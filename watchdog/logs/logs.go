// Package logs takes lines off the path of a request: Write copies into memory
// and returns, and what has gathered is written out a few milliseconds later
// in one piece.
package logs

import (
	"io"
	"os"
	"sync"
	"time"
)

const (
	// bound is how much may wait for the sink, and half of what a Writer can
	// hold: one buffer fills while the other is written. At some 100 bytes a
	// line it is the access log of ten thousand requests.
	bound = 1 << 20
	// gather is how long a line may lie before it is written: short against
	// anybody's patience, and at most 200 writes a second.
	gather = 5 * time.Millisecond
	// plenty is written without gathering more: it fills a pipe.
	plenty = 64 << 10
)

// Writer buffers lines for a sink. Use New. All methods are safe for
// concurrent use.
//
// Each Write reaches the sink whole and in order, never mixed with another's.
// When the sink is slower than the writers they wait, and nothing is lost. A
// sink that fails loses what it was given and is tried again with what comes
// after; Err and Close tell.
type Writer struct {
	sink  io.Writer
	timer *time.Timer // runs flushed; nobody waits for it

	// turn is held by one Write at a time, also while it waits for room: so
	// one beyond the bound stays in one piece, and those who wait are woken
	// one by one, not all for each line.
	turn sync.Mutex

	mu      sync.Mutex // after turn; guards what follows
	changed sync.Cond  // a buffer was written
	filling []byte
	spare   []byte // empty; nil while it is being written
	writing bool   // somebody is in sink.Write
	due     bool   // the timer is set
	hurried bool   // and set to now

	in, out uint64 // bytes accepted; bytes the sink took or failed on
	closed  bool
	err     error // the sink's first
}

// New returns a Writer for sink, which nobody else should write to. Close it
// to be sure that everything is out.
func New(sink io.Writer) *Writer {
	w := &Writer{sink: sink, spare: []byte{}}
	w.changed.L = &w.mu
	w.timer = time.AfterFunc(time.Hour, w.gathered)
	w.timer.Stop()
	return w
}

// Write takes p, which is one or several whole lines, and waits only while the
// buffer is full. It returns len(p) and nil, also when the sink has failed: a
// log that cannot be written must not stop what it tells of. After Close it
// returns os.ErrClosed.
func (w *Writer) Write(p []byte) (int, error) {
	w.turn.Lock()
	defer w.turn.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, os.ErrClosed
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), bound)
		for len(w.filling)+n > bound {
			w.changed.Wait()
		}
		w.filling = append(w.filling, rest[:n]...)
		w.in += uint64(n)
		rest = rest[n:]
		w.schedule()
	}
	return len(p), nil
}

// Flush returns when everything that was written before it has been given to
// the sink.
func (w *Writer) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushUpTo(w.in)
}

// Close lets the Write that waits for room end, writes everything out, and
// returns the sink's first error. A Write that has not come to its turn gets
// os.ErrClosed, as every later one. Close does not close the sink, and a
// second one does the same again.
func (w *Writer) Close() error {
	w.turn.Lock()
	defer w.turn.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.flushUpTo(w.in)
	w.timer.Stop()
	return w.err
}

// Err returns the sink's first error so far.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// All that follows is called with mu held.

// schedule sees to it that what is there is written: soon, or now if it is
// plenty.
func (w *Writer) schedule() {
	hurry := len(w.filling) >= plenty
	switch {
	case w.writing: // whoever writes looks again
	case hurry && !w.hurried:
		w.due, w.hurried = true, true
		w.timer.Reset(0)
	case !w.due:
		w.due = true
		w.timer.Reset(gather)
	}
}

// gathered is the timer's.
func (w *Writer) gathered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due, w.hurried = false, false
	if !w.writing {
		w.write()
	}
}

func (w *Writer) flushUpTo(mark uint64) {
	for w.out < mark {
		if w.writing {
			w.changed.Wait()
		} else {
			w.write()
		}
	}
}

// write gives the sink one buffer, without mu. One caller at a time.
func (w *Writer) write() {
	if len(w.filling) == 0 {
		return
	}
	full := w.filling
	w.filling, w.spare, w.writing = w.spare, nil, true
	w.mu.Unlock()

	n, err := w.sink.Write(full)
	if err == nil && n < len(full) {
		err = io.ErrShortWrite
	}

	w.mu.Lock()
	w.out += uint64(len(full))
	w.spare, w.writing = full[:0], false
	if w.err == nil {
		w.err = err
	}
	if len(w.filling) > 0 {
		w.schedule()
	}
	w.changed.Broadcast()
}
