package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
)

// gate is a server whose handler is one Call, made and tried by serve.
type gate struct {
	*httptest.Server
	// ends has what serve returned.
	ends chan error
}

// newGate serves every request by serve. An error with the answer begun cuts
// the connection, any other is answered 502.
func newGate(t testing.TB, serve func(*Call) error) *gate {
	t.Helper()
	g := &gate{ends: make(chan error, 1024)}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := NewCall(w, r)
		defer c.Close()
		err := serve(c)
		select {
		case g.ends <- err:
		default: // nobody asks for so many
		}
		var try *TryError
		switch {
		case err == nil:
		case errors.As(err, &try) && try.Stage == Begun:
			panic(http.ErrAbortHandler)
		default:
			c.Own()
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	g.Config.ErrorLog = discard
	g.Config.ConnContext = ConnContext
	g.Start()
	t.Cleanup(g.Close)
	return g
}

// end waits for the end of the next request.
func (g *gate) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-g.ends:
		return err
	case <-time.After(patience):
		t.Fatal("the request has not ended")
		return nil
	}
}

// wantTry checks stage and cause; a nil cause is any.
func wantTry(t testing.TB, what string, err error, stage Stage, cause error) *TryError {
	t.Helper()
	var try *TryError
	if !errors.As(err, &try) || try.Stage != stage || cause != nil && !errors.Is(err, cause) {
		t.Fatalf("%s: %v, want stage %q and cause %v", what, err, stage, cause)
	}
	return try
}

// send writes raw bytes to the gate and returns the connection.
func (g *gate) send(t testing.TB, request string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c
}

func tryOn(t testing.TB, url string) func(*Call) error {
	p := mustNew(t, url)
	t.Cleanup(p.Close)
	return func(c *Call) error { return c.Try(p) }
}

// A port that nobody listens at.
func nobody(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "http://" + l.Addr().String()
}

const (
	getX  = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
	postX = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
	okay  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

func TestStages(t *testing.T) {
	checkLeaks(t)
	reads := func(answer string) string { return rawUpstream(t, once(answer)) }
	for _, c := range []struct {
		name, upstream string
		stage          Stage
		cause          error
		final          bool
	}{
		{"nobody listens", nobody(t), NotTaken, invoke.ErrUnreachable, false},
		{"closed after reading", reads(""), Sent, invoke.ErrBadAnswer, false},
		{"half a head", reads("HTTP/1.1 200 OK\r\nContent-"), Sent, invoke.ErrBadAnswer, false},
		{"an interim answer only", reads("HTTP/1.1 100 Continue\r\n\r\n"), Sent, invoke.ErrBadAnswer, false},
		{"no HTTP", reads("SSH-2.0-x\r\n\r\n"), Sent, invoke.ErrBadAnswer, true},
		{"ambiguous", reads("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"), Sent, invoke.ErrBadAnswer, true},
		{"cut in the body", reads("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"), Begun, invoke.ErrBadAnswer, false},
		{"cut behind the head", reads("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Begun, invoke.ErrBadAnswer, false},
		{"cut in a chunk", reads("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok"), Begun, invoke.ErrBadAnswer, false},
	} {
		g := newGate(t, tryOn(t, c.upstream))
		for _, request := range []string{getX, postX} {
			conn := g.send(t, request)
			res, _, err := readAnswer(bufio.NewReader(conn), "")
			try := wantTry(t, c.name, g.end(t), c.stage, c.cause)
			if try.Final != c.final || try.Local() || try.Answer != nil {
				t.Errorf("%s: %+v", c.name, try)
			}
			if (c.stage == Begun) == (err == nil) {
				t.Errorf("%s: the client got %v, %v", c.name, status(res), err)
			}
		}
	}
}

// A listener whose queue is full drops what comes: a machine that vanished
// looks like that.
func TestDialTimeout(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	for full := false; !full; {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if full = err != nil; !full {
			defer c.Close()
		}
	}
	p := mustNew(t, "http://"+addr)
	defer p.Close()
	p.DialTimeout = 100 * time.Millisecond
	g := newGate(t, func(c *Call) error { return c.Try(p) })
	g.send(t, postX)
	err = g.end(t)
	wantTry(t, "full", err, NotTaken, invoke.ErrUnreachable)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
}

// That we have no descriptor left is not the upstream's fault.
func TestLocalFault(t *testing.T) {
	for _, lack := range []error{syscall.EMFILE, syscall.EADDRNOTAVAIL} {
		e := &TryError{Stage: NotTaken, Err: fmt.Errorf("%w: %w", invoke.ErrUnreachable, &net.OpError{Op: "dial", Err: lack})}
		if !e.Local() {
			t.Errorf("%v is local", e)
		}
	}
	if (&TryError{Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}).Local() {
		t.Error("a refused connection is not local")
	}
}

func TestHeaderTimeout(t *testing.T) {
	checkLeaks(t)
	release := make(chan struct{})
	silent := rawUpstream(t, func(_ net.Conn, br *bufio.Reader) { readRequest(br); <-release })
	slow := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		readRequest(br)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
		time.Sleep(600 * time.Millisecond)
		io.WriteString(c, "k")
	})
	defer close(release)
	for _, length := range []int{5, 5 << 10} {
		request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat("x", length))
		p, q := mustNew(t, silent), mustNew(t, slow)
		g := newGate(t, func(c *Call) error {
			c.HeaderTimeout = 150 * time.Millisecond
			wantTry(t, "silent", c.Try(p), Sent, context.DeadlineExceeded)
			c.HeaderTimeout = 400 * time.Millisecond
			return c.Try(q)
		})
		res, body, err := readAnswer(bufio.NewReader(g.send(t, request)), "")
		if err := g.end(t); err != nil {
			t.Errorf("a body that takes longer than the head may: %v", err)
		}
		if err != nil || res.StatusCode != 200 || body != "ok" {
			t.Errorf("%v %q %v", status(res), body, err)
		}
		p.Close()
		q.Close()
	}
}

// The client's own ends.
func TestClientStages(t *testing.T) {
	checkLeaks(t)
	var whole atomic.Int32
	asking := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	})
	errFull := errors.New("no room")
	for _, c := range []struct {
		name, request string
		set           func(*Call) error
		hangUp        bool
		cause         error
		status        int
	}{
		{"announced too long", postX, func(c *Call) error { c.MaxBody = 4; return nil }, false, invoke.ErrBodyTooLarge, 413},
		{"chunks too long", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			func(c *Call) error { c.MaxBody = 4; return nil }, false, invoke.ErrBodyTooLarge, 413},
		{"bad chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", nil, false, nil, 400},
		{"too slow", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel",
			func(c *Call) error { return c.ReadAhead(time.Now().Add(100 * time.Millisecond)) }, false, nil, 408},
		{"no room", postX, func(c *Call) error { c.Kept = func(int) error { return errFull }; return nil }, false, errFull, 0},
		{"left in the body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\nhel", nil, true, nil, 0},
		{"CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", nil, false, nil, 400},
		{"bad path", getX, func(c *Call) error { c.Path = "/a b"; return nil }, false, nil, 400},
		{"bad header", getX, func(c *Call) error { c.Header = http.Header{"X": {"a\r\nb"}}; return nil }, false, nil, 400},
	} {
		p := mustNew(t, asking)
		g := newGate(t, func(call *Call) error {
			if c.set != nil {
				if err := c.set(call); err != nil {
					return err
				}
			}
			return call.Try(p)
		})
		conn := g.send(t, c.request)
		if c.hangUp {
			conn.Close()
		}
		err := g.end(t)
		wantTry(t, c.name, err, Client, c.cause)
		var request *invoke.RequestError
		if c.status > 0 && (!errors.As(err, &request) || request.Status != c.status) {
			t.Errorf("%s: %v, want status %d", c.name, err, c.status)
		}
		p.Close()
	}
	if n := whole.Load(); n > 0 {
		t.Errorf("%d faulty bodies looked whole to the upstream", n)
	}
}

// A client that leaves while the upstream thinks, and while it answers.
func TestClientLeaves(t *testing.T) {
	checkLeaks(t)
	begin := make(chan string)
	p := mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		readRequest(br)
		io.WriteString(c, <-begin)
		br.ReadByte() // until it is hung up
	}))
	defer p.Close()
	g := newGate(t, func(c *Call) error { return c.Try(p) })
	conn := g.send(t, postX)
	begin <- ""
	conn.Close()
	wantTry(t, "before the answer", g.end(t), Client, context.Canceled)

	conn = g.send(t, postX)
	begin <- "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n"
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wantTry(t, "within the answer", g.end(t), Begun, context.Canceled)
}

// refusal is what a fwatchdog says.
const refusal = "HTTP/1.1 503 Service Unavailable\r\nX-Watchdog-Reject: queue\r\nX-Openfaas-Internal: of-watchdog\r\n" +
	"Retry-After: 7\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nfull\n"

// admitting answers like a watchdog, which asks for a body that waits only
// when it admits the request. With an empty answer it ends the connection.
func admitting(answer string, admit bool) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			asks := r.Header.Get("Expect") != ""
			if asks && admit {
				io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			if !asks || admit {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
			}
			if _, err := io.WriteString(c, answer); err != nil || answer == "" || asks && !admit {
				return
			}
		}
	}
}

func judge(status int, h Fields) bool { return h.Get("X-Watchdog-Reject") == "" }

func TestRefused(t *testing.T) {
	checkLeaks(t)
	full, free := mustNew(t, rawUpstream(t, admitting(refusal, false))), mustNew(t, rawUpstream(t, admitting(okay, true)))
	defer full.Close()
	defer free.Close()
	g := newGate(t, func(c *Call) error {
		c.Judge, c.Watchdog = judge, true
		for range 3 {
			try := wantTry(t, "full", c.Try(full), Refused, nil)
			a := try.Answer
			if a.Status != 503 || a.Header().Get("Retry-After") != "7" || a.Header().Get("X-Watchdog-Reject") != "queue" || string(a.Body) != "full\n" || try.Final {
				t.Errorf("%+v", a)
			}
			if len(c.w.Header()) > 0 {
				t.Errorf("the client would get %v", c.w.Header())
			}
		}
		if c.r.Header.Get("Give-Up") != "" {
			c.Answer = func(status int, h http.Header) { h.Set("X-Seen", fmt.Sprint(status)) }
			c.Pass(wantTry(t, "full", c.Try(full), Refused, nil).Answer)
			return nil
		}
		return c.Try(free)
	})
	for _, n := range []int{0, 5, 20 << 10} {
		for _, chunked := range []bool{true, false} {
			r, _ := http.NewRequest("POST", g.URL, bytes.NewReader(make([]byte, n)))
			if chunked {
				r.ContentLength, r.Body = -1, io.NopCloser(r.Body)
			}
			res, err := g.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if err := g.end(t); err != nil || res.StatusCode != 200 || string(body) != "ok" {
				t.Errorf("%d bytes: %v %s %q", n, err, res.Status, body)
			}
		}
	}
	if full.pool.empty() {
		t.Error("the connection of a refusal is not kept")
	}
	r, _ := http.NewRequest("GET", g.URL, nil)
	r.Header.Set("Give-Up", "1")
	res, err := g.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != 503 || string(body) != "full\n" || res.Header.Get("X-Seen") != "503" ||
		res.Header.Get("Retry-After") != "7" || res.Header.Get("X-Watchdog-Reject") != "queue" || res.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("passed on as %s %v %q", res.Status, res.Header, body)
	}
}

// A refusal that does not end costs no more than a bounded time and memory.
func TestLongRefusals(t *testing.T) {
	checkLeaks(t)
	for name, script := range map[string]func(net.Conn, *bufio.Reader){
		"long": answering("HTTP/1.1 503 No\r\nX-Watchdog-Reject: queue\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000)),
		"endless": func(c net.Conn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 503 No\r\nX-Watchdog-Reject: queue\r\n\r\nx")
			br.ReadByte()
		},
	} {
		p := mustNew(t, rawUpstream(t, script))
		g := newGate(t, func(c *Call) error {
			c.Judge, c.Watchdog = judge, true
			return c.Try(p)
		})
		g.send(t, getX)
		if a := wantTry(t, name, g.end(t), Refused, nil).Answer; len(a.Body) == 0 || len(a.Body) > maxRefusal {
			t.Errorf("%s: a body of %d bytes", name, len(a.Body))
		}
		if !p.pool.empty() {
			t.Errorf("%s: the connection is kept", name)
		}
		p.Close()
	}
}

// What only a watchdog may say is believed of nobody else.
func TestPrivateHeadersOfOthers(t *testing.T) {
	p := mustNew(t, rawUpstream(t, answering(refusal)))
	defer p.Close()
	for _, known := range []bool{false, true} {
		seen := ""
		g := newGate(t, func(c *Call) error {
			c.Watchdog = known
			c.Judge = func(_ int, h Fields) bool {
				seen = h.Get("X-Watchdog-Reject") + h.Get("X-Openfaas-Internal")
				return true
			}
			c.Answer = func(_ int, h http.Header) { h.Set("X-Call-Id", "7"); h.Del("Retry-After") }
			return c.Try(p)
		})
		res, _, err := readAnswer(bufio.NewReader(g.send(t, getX)), "")
		if err != nil {
			t.Fatal(err)
		}
		got := res.Header.Get("X-Watchdog-Reject") + res.Header.Get("X-Openfaas-Internal")
		want := ""
		if known {
			want = "queueof-watchdog"
		}
		if got != want || seen != want {
			t.Errorf("known=%v: judged %q, passed on %q, want %q", known, seen, got, want)
		}
		if res.Header.Get("X-Call-Id") != "7" || res.Header.Get("Retry-After") != "" {
			t.Errorf("Answer was not asked: %v", res.Header)
		}
	}
}

func TestPathAndHeader(t *testing.T) {
	got := make(chan *http.Request, 1)
	p := mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		for {
			r, _, err := readRequest(br)
			if err != nil {
				return
			}
			got <- r
			io.WriteString(c, okay)
		}
	}))
	defer p.Close()
	g := newGate(t, func(c *Call) error {
		c.Path = "/x%2Fy?z=1&;"
		c.Header = http.Header{"X-Forwarded-For": {"1.2.3.4"}, "X-Gone": nil, "X-Two": {"a", "b"}, "Content-Length": {"9"},
			"Transfer-Encoding": {"chunked"}, "Host": {"evil"}, "Expect": {"100-continue"}}
		return c.Try(p)
	})
	g.send(t, "POST /function/f/x HTTP/1.1\r\nHost: h\r\nConnection: X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\nX-Gone: 1\r\nX-Kept: 2\r\nContent-Length: 5\r\n\r\nhello")
	if err := g.end(t); err != nil {
		t.Fatal(err)
	}
	r := <-got
	want := http.Header{"X-Forwarded-For": {"1.2.3.4"}, "X-Two": {"a", "b"}, "X-Kept": {"2"}, "Content-Length": {"5"}}
	if r.RequestURI != "/x%2Fy?z=1&;" || r.Host != "h" || fmt.Sprint(r.Header) != fmt.Sprint(want) {
		t.Errorf("%s %s %v, want %v", r.RequestURI, r.Host, r.Header, want)
	}
}
