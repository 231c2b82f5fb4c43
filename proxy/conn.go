package proxy

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one connection to the handler.
type conn struct {
	net.Conn
	raw   syscall.RawConn
	since time.Time // when it became idle
	sent  int64     // bytes that were written

	poll   [1]unix.PollFd
	pollFD func(fd uintptr)
	ready  bool
}

func newConn(nc net.Conn) (*conn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("connection of type %T has no descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("descriptor: %w", err)
	}
	c := &conn{Conn: nc, raw: raw}
	c.pollFD = func(fd uintptr) {
		c.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n, err := unix.Poll(c.poll[:], 0)
		c.ready = err != nil || n > 0
	}
	return c, nil
}

// Write implements io.Writer.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent += int64(n)
	return n, err
}

// writeBoth sends two pieces in one write.
func (c *conn) writeBoth(a, b []byte) error {
	pieces := net.Buffers{a, b}
	n, err := pieces.WriteTo(c.Conn)
	c.sent += n
	return err
}

// acked is how many of the bytes that were written the other side has
// acknowledged; ok is false where the kernel does not say.
func (c *conn) acked() (n int64, ok bool) {
	_ = c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Bytes_acked > 0 {
			n, ok = int64(info.Bytes_acked)-1, true // the first is that of the SYN
		}
	})
	return n, ok
}

// hangUp breaks the connection: every read and write on it ends at once.
func (c *conn) hangUp() { c.Conn.Close() }

// readable says whether a read would return at once: with data, the end or an
// error. It does not wait.
func (c *conn) readable() bool {
	if err := c.raw.Control(c.pollFD); err != nil {
		return true
	}
	return c.ready
}

// pool keeps idle connections, the last one used on top, so that what a burst
// needed falls out of use and is closed.
type pool struct {
	of *Proxy // whose IdleLife and MaxIdle count

	mu     sync.Mutex
	idle   []*conn
	armed  bool
	closed bool
	timer  *time.Timer
}

// get takes a connection that has been idle for less than life and that the
// handler has not closed, or nil.
func (p *pool) get(now time.Time, life time.Duration) *conn {
	for {
		p.mu.Lock()
		last := len(p.idle) - 1
		if last < 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[last]
		p.idle[last] = nil
		p.idle = p.idle[:last]
		p.mu.Unlock()
		// Whatever is readable on an idle connection is its end, or bytes
		// that no request asked for.
		if now.Sub(c.since) < life && !c.readable() {
			return c
		}
		c.Close()
	}
}

func (p *pool) put(c *conn, now time.Time) {
	c.since = now
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.of.MaxIdle > 0 && len(p.idle) >= p.of.MaxIdle {
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
	if p.armed {
		return
	}
	p.armed = true
	if p.timer == nil {
		p.timer = time.AfterFunc(p.idleLife(), p.expire)
	} else {
		p.timer.Reset(p.idleLife())
	}
}

func (p *pool) idleLife() time.Duration {
	if p.of.IdleLife > 0 {
		return p.of.IdleLife
	}
	return idleLife
}

func (p *pool) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle) == 0
}

// expire closes what has been idle for too long. It runs on the timer, which
// is armed while there are idle connections.
func (p *pool) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].since) >= p.idleLife() {
		p.idle[n].Close()
		n++
	}
	p.idle = append(p.idle[:0], p.idle[n:]...)
	clear(p.idle[len(p.idle):cap(p.idle)])
	p.armed = len(p.idle) > 0
	if p.armed {
		p.timer.Reset(p.idleLife() - now.Sub(p.idle[0].since))
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
	if p.timer != nil {
		p.timer.Stop()
	}
}
