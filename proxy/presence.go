package proxy

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often a client is looked at that net/http does not watch:
// eight thousand of them cost about a thirtieth of a processor.
const lookEvery = 250 * time.Millisecond

type connKey struct{}

// ConnContext is for http.Server.ConnContext. With it a Call notices a client
// that hangs up also where net/http, which looks only behind the end of a body,
// does not.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// presence looks after a client until it hangs up or stop is called.
type presence struct {
	raw  syscall.RawConn
	left func()

	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// watchClient calls left once the client of ctx is gone. It returns nil where
// that cannot be seen: in TLS, or without ConnContext.
func watchClient(ctx context.Context, left func()) *presence {
	sc, ok := ctx.Value(connKey{}).(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	p := &presence{raw: raw, left: left}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(lookEvery, p.look)
	return p
}

func (p *presence) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
	case p.gone():
		p.left()
	default:
		p.timer.Reset(lookEvery)
	}
}

// stop may be called of a nil presence, and more than once.
func (p *presence) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.timer.Stop()
}

// gone asks the kernel whether the client has closed its side.
func (p *presence) gone() bool {
	gone := false
	err := p.raw.Control(func(fd uintptr) {
		poll := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll[:], 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil // closed under us
}
