package invoke

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Presence notices that a client hangs up, also where net/http, which reads
// only what no request is before, does not: behind a body that is not read, and
// behind a request that was sent ahead. A nil Presence does nothing.
type Presence struct {
	raw   syscall.RawConn
	every time.Duration
	left  func()

	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// WatchClient looks every so often whether the client is gone, and calls left
// once, until Stop is called. It returns nil where that cannot be seen, as in
// TLS.
func WatchClient(conn net.Conn, every time.Duration, left func()) *Presence {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	p := &Presence{raw: raw, every: every, left: left}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(every, p.look)
	return p
}

func (p *Presence) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
	case p.Gone():
		p.left()
	default:
		p.timer.Reset(p.every)
	}
}

// Stop may be called more than once.
func (p *Presence) Stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.timer.Stop()
}

// Gone looks at once.
func (p *Presence) Gone() bool {
	if p == nil {
		return false
	}
	gone := false
	err := p.raw.Control(func(fd uintptr) {
		poll := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll[:], 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil // closed under us
}
