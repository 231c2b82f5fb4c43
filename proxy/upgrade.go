package proxy

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// tunnel is an upgraded connection: what comes from one side goes to the
// other, until both have ended.
type tunnel struct{ front, back net.Conn }

func (t *tunnel) close() {
	t.front.Close()
	t.back.Close()
}

// tunnel takes the client's connection over, passes the answer 101 on and
// returns when the connection has ended. Nothing bounds its time.
func (x *exchange) tunnel() error {
	front, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return x.fault(err)
	}
	x.begun = true
	defer front.Close()
	front.SetDeadline(time.Time{})
	x.c.SetDeadline(time.Time{})
	t := &tunnel{front: front, back: x.c.Conn}
	if !x.p.tunnels.add(t) {
		return nil
	}
	defer x.p.tunnels.remove(t)

	first := append(x.switching(), x.in.buffered()...)
	early := make([]byte, rw.Reader.Buffered())
	io.ReadFull(rw.Reader, early)
	// Its last reader is this one: the exchange's buffers are given back.
	x.in.reset()
	if _, err := front.Write(first); err != nil {
		return nil
	}
	if _, err := x.c.Write(early); err != nil {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.copy(t.back, t.front)
	}()
	t.copy(t.front, t.back)
	<-ended
	return nil
}

// switching is the head of the answer 101.
func (x *exchange) switching() []byte {
	h := http.Header{}
	x.ans.copyTo(h)
	x.final(h)
	b := append([]byte(nil), "HTTP/1.1 101 "+http.StatusText(http.StatusSwitchingProtocols)+"\r\n"...)
	b = appendField(b, "Connection", "Upgrade")
	b = appendField(b, "Upgrade", x.ans.upgrade)
	for name, values := range h {
		if name == "Content-Length" {
			continue
		}
		for _, value := range values {
			b = appendField(b, name, value)
		}
	}
	return append(b, '\r', '\n')
}

// copy moves bytes until src ends, and passes the end on. A fault ends both
// directions.
func (t *tunnel) copy(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		t.close()
		return
	}
	half, ok := dst.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		t.close()
	}
}

// tunnels are those that run.
type tunnels struct {
	mu      sync.Mutex
	running map[*tunnel]struct{}
	closed  bool
}

// add says no after close.
func (ts *tunnels) add(t *tunnel) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return false
	}
	if ts.running == nil {
		ts.running = map[*tunnel]struct{}{}
	}
	ts.running[t] = struct{}{}
	return true
}

func (ts *tunnels) remove(t *tunnel) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.running, t)
}

func (ts *tunnels) close() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.closed = true
	for t := range ts.running {
		t.close()
	}
}
