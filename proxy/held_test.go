package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A client that leaves while its request is held is noticed, whatever its body
// is and whether all of it has come.
func TestClientLeavesWhileHeld(t *testing.T) {
	checkLeaks(t)
	long := strings.Repeat("x", 1<<20)
	for name, request := range map[string]string{
		"none":             getX,
		"5 bytes":          postX,
		"all that is kept": fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", DefaultKeep, long[:DefaultKeep]),
		"long, begun":      fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\nabc", len(long)),
		"asks first":       "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
		"chunks, whole":    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"chunks, begun":    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		held := make(chan struct{})
		g := newGate(t, func(c *Call) error {
			if err := c.ReadAhead(time.Time{}); err != nil {
				return err
			}
			close(held)
			select {
			case <-c.Context().Done():
				return nil
			case <-time.After(patience):
				return fmt.Errorf("nobody noticed")
			}
		})
		conn := g.send(t, request)
		<-held
		conn.Close()
		if err := g.end(t); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A client that stays is not taken for one that left.
func TestClientStaysWhileHeld(t *testing.T) {
	checkLeaks(t)
	p := mustNew(t, rawUpstream(t, admitting(okay, true)))
	defer p.Close()
	g := newGate(t, func(c *Call) error {
		c.Watchdog = true
		if err := c.ReadAhead(time.Time{}); err != nil {
			return err
		}
		select {
		case <-c.Context().Done():
			return c.Context().Err()
		case <-time.After(3 * lookEvery):
		}
		return c.Try(p)
	})
	body := strings.Repeat("x", 1<<20)
	conn := g.send(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	br := bufio.NewReader(conn)
	for range 2 { // the connection stays good, too
		if res, _, err := readAnswer(br, "POST"); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s %v", status(res), err)
		}
		if err := g.end(t); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, postX)
	}
	if err := g.end(t); err != nil {
		t.Fatal(err)
	}
}

// heldCost is what a held Call of a small body may take beside what net/http
// has for its connection and request.
const heldCost = 1 << 10

// TestHeldCost measures Calls that were read ahead and wait, as one goroutine
// sees it: no stacks and no server.
func TestHeldCost(t *testing.T) {
	const n = 8000
	w := struct{ http.ResponseWriter }{}
	calls := make([]*Call, n)
	requests := make([]*http.Request, n)
	for i := range requests {
		requests[i], _ = http.NewRequest("POST", "/x", strings.NewReader("hello"))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i, r := range requests {
		calls[i] = NewCall(w, r)
		if err := calls[i].ReadAhead(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	cost := int64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d bytes of heap for each of %d held Calls with a body of 5 bytes", cost, n)
	if cost > heldCost {
		t.Errorf("that is more than %d", heldCost)
	}
	runtime.KeepAlive(calls)
	runtime.KeepAlive(requests)
}

// What a Call writes of its own does not wait for the body that nobody reads.
func TestOwnAnswerDoesNotWait(t *testing.T) {
	checkLeaks(t)
	for _, n := range []int{DefaultKeep + 1, 8 << 20} {
		g := newGate(t, func(c *Call) error {
			if err := c.ReadAhead(time.Time{}); err != nil {
				return err
			}
			return fmt.Errorf("no room")
		})
		conn := g.send(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\nabc", n))
		res, body, err := readAnswer(bufio.NewReader(conn), "POST")
		if err != nil || res.StatusCode != 502 || body != "no room\n" || !res.Close {
			t.Errorf("%d bytes: %s %q %v", n, status(res), body, err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d bytes: the connection did not end: %v", n, err)
		}
	}
}

// Without ConnContext, or in TLS, nothing is looked at, and nothing breaks.
func TestNoConnContext(t *testing.T) {
	p := mustNew(t, rawUpstream(t, admitting(okay, true)))
	defer p.Close()
	g := newGate(t, func(c *Call) error {
		if err := c.ReadAhead(time.Time{}); err != nil {
			return err
		}
		if c.client != nil || c.Context() != c.r.Context() {
			t.Error("a client is looked at that cannot be")
		}
		return c.Try(p)
	})
	g.Config.ConnContext = nil
	other := &http.Server{Handler: g.Config.Handler}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go other.Serve(l)
	defer other.Close()
	res, err := http.Post("http://"+l.Addr().String(), "", strings.NewReader(strings.Repeat("x", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if err := g.end(t); err != nil || res.StatusCode != 200 {
		t.Errorf("%v %s", err, res.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}
