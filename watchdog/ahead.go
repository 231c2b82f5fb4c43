package watchdog

import (
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// How much is read of the bodies of requests that wait. A client's leaving is
// seen at the end of what it sent, and the kernel takes little more than 64 KiB
// that nobody reads: a longer body hides its client's end until it is read on.
const (
	// aheadOwn is what each may have read ahead.
	aheadOwn = 64 << 10
	// aheadShared is what all of them may have beyond that, together: eight
	// bodies of 1 MB, in a container that may have 64 MB. Of those for whom
	// nothing is left it is seen when their turn comes.
	aheadShared = 8 << 20
	// aheadPiece is how much is taken of either at once.
	aheadPiece = 16 << 10
)

// sharedRoom counts the bytes of aheadShared that are in use.
type sharedRoom struct{ used atomic.Int64 }

func (s *sharedRoom) take(n int64) bool {
	if s.used.Add(n) > aheadShared {
		s.used.Add(-n)
		return false
	}
	return true
}

func (s *sharedRoom) give(n int64) { s.used.Add(-n) }

// ahead is the body of a request that waits. A goroutine reads it until the
// turn of the request has come, or there is no more room. Then it yields what
// was read, waits for the one Read that may be under way, which nothing can end
// without ending the connection, and reads on by itself.
type ahead struct {
	src io.Reader // the body as net/http made it
	// net/http puts the trailers into origin; they go to request, whose body
	// this is, when whoever runs it reads the end.
	origin, request *http.Request
	conn            net.Conn
	shared          *sharedRoom
	done            chan struct{} // closed when nothing is read ahead any more

	mu      sync.Mutex
	pieces  [][]byte
	taken   int64 // bytes of room so far
	err     error // how src ended; nil while it has not
	turn    bool
	limited bool // a read deadline was set

	borrowed atomic.Int64 // bytes of shared

	// Of whoever runs the request.
	ready  [][]byte
	closed bool
}

// readAhead begins to read the body of r, whose read deadline is lifted. The
// copy of r that it returns is to be used in its place; finish must be called
// before net/http gets r back.
func readAhead(r *http.Request, conn net.Conn, shared *sharedRoom) *ahead {
	request := new(http.Request)
	*request = *r
	request.Trailer = maps.Clone(r.Trailer)
	a := &ahead{src: r.Body, origin: r, request: request, conn: conn, shared: shared, done: make(chan struct{})}
	request.Body = a
	go a.run()
	return a
}

func (a *ahead) run() {
	defer close(a.done)
	for room := a.room(); room != nil; {
		n, err := a.src.Read(room)
		if !a.took(room[:n], err) {
			return
		}
		if room = room[n:]; len(room) == 0 {
			room = a.room()
		}
	}
}

// room makes an empty piece and returns its space; nil when there is none.
func (a *ahead) room() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := int64(aheadPiece)
	if length := a.origin.ContentLength; length > 0 {
		size = min(size, length-a.taken)
	}
	if a.turn {
		return nil
	}
	if a.taken+size > aheadOwn {
		if !a.shared.take(size) {
			return nil
		}
		a.borrowed.Add(size)
	}
	a.taken += size
	piece := make([]byte, 0, size)
	a.pieces = append(a.pieces, piece)
	return piece[:size]
}

// giveBack returns what was borrowed; it may be called more than once.
func (a *ahead) giveBack() { a.shared.give(a.borrowed.Swap(0)) }

// took enters what was read and says whether to read on.
func (a *ahead) took(p []byte, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	if a.turn {
		a.pieces = append(a.pieces, p)
	} else {
		last := len(a.pieces) - 1
		a.pieces[last] = a.pieces[last][:len(a.pieces[last])+len(p)]
	}
	if err == io.EOF && a.limited {
		// net/http listens for the client's leaving from here on, and would
		// take the deadline for that.
		_ = a.conn.SetReadDeadline(time.Time{})
	}
	return err == nil && !a.turn
}

// remains reports whether a part of the body may still be on its way, or what
// comes is no body.
func (a *ahead) remains() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err != io.EOF
}

// resume ends the reading ahead, now that the request's turn has come or it is
// to be refused. What remains is to be read until deadline; zero is no bound.
func (a *ahead) resume(deadline time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn = true
	a.ready, a.pieces = a.pieces, nil
	a.limit(deadline)
}

// limit sets the read deadline, unless nothing more is to be read. The caller
// holds mu.
func (a *ahead) limit(deadline time.Time) {
	if a.err == nil {
		a.limited = true
		_ = a.conn.SetReadDeadline(deadline)
	}
}

// Read implements io.Reader, once resume was called.
func (a *ahead) Read(p []byte) (int, error) {
	if a.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(p) == 0 {
		return 0, nil
	}
	if n := a.readReady(p); n > 0 {
		return n, nil
	}
	<-a.done
	a.mu.Lock()
	a.ready, a.pieces = a.pieces, nil
	err := a.err
	a.mu.Unlock()
	if n := a.readReady(p); n > 0 {
		return n, nil
	}
	n := 0
	if err == nil {
		n, err = a.src.Read(p)
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
	}
	if err == io.EOF {
		a.passTrailer()
	}
	return n, err
}

func (a *ahead) readReady(p []byte) int {
	for len(a.ready) > 0 {
		n := copy(p, a.ready[0])
		if a.ready[0] = a.ready[0][n:]; len(a.ready[0]) == 0 {
			a.ready = a.ready[1:]
		}
		if n > 0 {
			return n
		}
	}
	a.giveBack()
	return 0
}

func (a *ahead) passTrailer() {
	if a.request.Trailer == nil {
		a.request.Trailer = a.origin.Trailer
		return
	}
	maps.Copy(a.request.Trailer, a.origin.Trailer)
}

// Close implements io.Closer. The body itself is closed by net/http; to do it
// here would wait for the Read that may be under way.
func (a *ahead) Close() error {
	a.closed = true
	return nil
}

// finish waits, at most linger, until nothing of this reads from the
// connection any more, and reports whether the body has come to its end, so
// that what follows is the next request.
func (a *ahead) finish() bool {
	defer a.giveBack()
	a.mu.Lock()
	a.turn = true
	select {
	case <-a.done:
	default:
		a.limit(time.Now().Add(linger))
	}
	a.mu.Unlock()
	<-a.done
	return !a.remains()
}

// linger is how long the rest of a body that nobody wants may take to come:
// to close at once could take the answer away from a client that still sends.
const linger = 500 * time.Millisecond
