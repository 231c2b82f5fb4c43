// Package proxy hands HTTP/1.1 requests to a handler that listens beside the
// watchdog. One request costs one kept connection and, as long as its body is
// small, no goroutine: the caller's goroutine writes the request in one piece,
// reads the answer with a parser that accepts only what is unambiguous, and
// copies it out. docs/decisions/0004-lean-transport.md says why the general
// client of net/http is not used.
package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/invoke"
)

const (
	// inlineBody is the longest body that is read whole before the handler is
	// bothered and sent with the head in one write. It fits the socket
	// buffers, so that the write cannot wait for the answer.
	inlineBody = 64 << 10
	// idleLife is how long an unused connection is kept. Servers close theirs
	// after seconds (gunicorn 2 s, Node 5 s); well below that no request is
	// sent into a connection that is being closed.
	idleLife = 500 * time.Millisecond
	// dialTimeout bounds a dial when the request itself has no deadline.
	dialTimeout = 30 * time.Second
	// continueWait is how long a handler may take to ask for the body that
	// the client announced with Expect: 100-continue.
	continueWait = time.Second
)

// Proxy sends requests to one upstream: all of them by Serve, or those of a
// Call that come to it. BufferBody and MaxBody are Serve's. The fields are set before the first
// use; its methods may be called at once from many goroutines.
type Proxy struct {
	// BufferBody reads the whole request body before the handler is called
	// and sends it with a Content-Length, however it came.
	BufferBody bool
	// MaxBody bounds a request body in bytes; 0 is no bound.
	MaxBody int64
	// IdleLife is how long an unused connection is kept; 0 is half a second,
	// which is shorter than what common servers keep theirs. A Call whose
	// upstream is not known for a watchdog uses none that is older than that.
	IdleLife time.Duration
	// MaxIdle bounds the unused connections that are kept; 0 does not.
	MaxIdle int
	// DialTimeout bounds a dial; 0 is 30 seconds, or the request's deadline.
	DialTimeout time.Duration
	// Silence is how long the upstream's kernel may acknowledge nothing, data
	// or keep-alive, before a connection counts as broken: a machine that
	// vanished says no word. 0 leaves it to this one's kernel, a quarter of an
	// hour.
	Silence time.Duration

	network, address string
	// host is the Host of requests that came without one.
	host string
	// base is put before every path: empty, or a path without the slash at
	// its end.
	base string

	pool    pool
	tunnels tunnels
}

// New makes a Proxy for http://host:port/base or unix:///path.sock. It does
// not connect.
func New(upstream string) (*Proxy, error) {
	u, err := url.Parse(upstream)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	p := &Proxy{}
	p.pool.of = p
	switch {
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("upstream %q: only host, port and path can be given", upstream)
	case u.Scheme == "unix":
		if u.Host != "" || u.Path == "" || u.Path == "/" {
			return nil, fmt.Errorf("upstream %q: expected unix:///path/to.sock", upstream)
		}
		p.network, p.address, p.host = "unix", u.Path, "localhost"
	case u.Scheme == "http":
		if u.Hostname() == "" {
			return nil, fmt.Errorf("upstream %q: the host is missing", upstream)
		}
		port := u.Port()
		if port == "" {
			port = "80"
		}
		p.network, p.address, p.host = "tcp", net.JoinHostPort(u.Hostname(), port), u.Host
		p.base = strings.TrimRight(u.EscapedPath(), "/")
	default:
		return nil, fmt.Errorf("upstream %q: expected http://host:port or unix:///path.sock", upstream)
	}
	return p, nil
}

// Serve hands r to the handler and its answer to w. exec bounds the whole
// invocation; write bounds it too, unless the answer is an event stream;
// neither bounds an upgraded connection. A zero time is no bound.
//
// The error is nil when the answer is complete, and else context.Canceled
// (the client left), context.DeadlineExceeded, or one of package invoke. Then
// either nothing was written to w, or the answer was begun and must be cut.
// When the client had not sent all of its body, the headers of w already say
// Connection: close. Once the connection of w was hijacked for an upgrade the
// error is nil.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, exec, write time.Time) error {
	x := spare.Get().(*exchange)
	x.p, x.w, x.r, x.ctx = p, w, r, r.Context()
	x.exec, x.write, x.start = exec, write, time.Now()
	defer x.release()
	return x.serve()
}

// Probe connects to the handler and closes the connection again, unless there
// is no spare one: then it is kept for the next request. The error wraps
// invoke.ErrUnreachable, or is that of ctx.
func (p *Proxy) Probe(ctx context.Context) error {
	c, err := p.dial(ctx, time.Time{})
	if err != nil {
		return err
	}
	if p.pool.empty() {
		p.pool.put(c, time.Now())
		return nil
	}
	return c.Close()
}

// Retire ends the idle connections, and keeps none from now on. Requests and
// upgraded connections go on.
func (p *Proxy) Retire() { p.pool.close() }

// Close ends the idle connections and the upgraded ones. Requests that run
// are not cut, and later ones are served on connections of their own.
func (p *Proxy) Close() {
	p.pool.close()
	p.tunnels.close()
}

// dial opens a connection. deadline may be zero.
func (p *Proxy) dial(ctx context.Context, deadline time.Time) (*conn, error) {
	d := net.Dialer{Deadline: deadline, Timeout: p.DialTimeout}
	if p.Silence > 0 && p.network == "tcp" {
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: p.Silence / 3, Interval: p.Silence / 3, Count: 3}
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			// With it the keep-alive's own count does not matter (tcp(7)).
			return raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(p.Silence.Milliseconds()))
			})
		}
	}
	if deadline.IsZero() && d.Timeout == 0 {
		d.Timeout = dialTimeout
	}
	nc, err := d.DialContext(ctx, p.network, p.address)
	if err == nil {
		return newConn(nc)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return nil, context.DeadlineExceeded
	}
	return nil, fmt.Errorf("%w: %w", invoke.ErrUnreachable, err)
}
