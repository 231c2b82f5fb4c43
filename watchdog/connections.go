package watchdog

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// connection is a client's. It remembers that it has carried a request, so that
// a drain can tell a kept one from a new one, and where in a request it is.
type connection struct {
	*net.TCPConn
	since time.Time
	kept  atomic.Bool
	// read is how many bytes net/http has taken, done how many of them were
	// those of requests that are answered.
	read, done atomic.Int64
	// answering: from when the chain got a request until net/http has sent the
	// answer and expects the next one.
	answering atomic.Bool
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// asks says whether a part of a request is here that the chain has not got: in
// the kernel's buffer, or on its way through net/http.
func (c *connection) asks() bool {
	done := c.done.Load()
	if c.read.Load() > done {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	asks := false
	_ = raw.Control(func(fd uintptr) {
		// What is taken from the buffer is not at once in read.
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && int64(info.Bytes_received) > done {
			asks = true
			return
		}
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // where the kernel does not say
		asks = err == nil && n > 0
	})
	return asks
}

// firstBytes is what a client gets to begin with its first request: time for
// one that was lost on its way, and is sent again, to come. For who connects
// and says nothing net/http would wait for 5 seconds, and then not answer.
const firstBytes = 500 * time.Millisecond

// connections are those that are open and not handed over to a protocol other
// than HTTP.
type connections struct {
	mu   sync.Mutex
	open map[*connection]struct{}
}

// follow is for http.Server.ConnState.
func (s *connections) follow(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateNew:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open == nil {
			s.open = map[*connection]struct{}{}
		}
		s.open[c] = struct{}{}
	case http.StateIdle:
		c.done.Store(c.read.Load())
		c.answering.Store(false)
	case http.StateClosed, http.StateHijacked:
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, c)
	}
}

// answering says whether an answer is not wholly sent.
func (s *connections) answering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.answering.Load() {
			return true
		}
	}
	return false
}

// asking says whether a request may be on its way to the chain, or is in it.
func (s *connections) asking(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.answering.Load() || now.Sub(c.since) < firstBytes && c.read.Load() == 0 {
			return true
		}
	}
	for c := range s.open {
		if c.asks() {
			return true
		}
	}
	return false
}
