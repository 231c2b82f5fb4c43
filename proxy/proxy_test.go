package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/test/programtest"
)

func TestNew(t *testing.T) {
	for _, c := range []struct{ url, network, address, base, fault string }{
		{url: "http://127.0.0.1:5000", network: "tcp", address: "127.0.0.1:5000"},
		{url: "http://127.0.0.1", network: "tcp", address: "127.0.0.1:80"},
		{url: "http://[::1]:3000/", network: "tcp", address: "[::1]:3000"},
		{url: "http://localhost:3000/base/", network: "tcp", address: "localhost:3000", base: "/base"},
		{url: "http://localhost:3000/a%2Fb", network: "tcp", address: "localhost:3000", base: "/a%2Fb"},
		{url: "unix:///run/f.sock", network: "unix", address: "/run/f.sock"},
		{url: "unix://f.sock", fault: "unix:///path/to.sock"},
		{url: "unix:///", fault: "unix:///path/to.sock"},
		{url: "https://127.0.0.1", fault: "expected http://"},
		{url: "127.0.0.1:5000", fault: "upstream"},
		{url: "http://:5000", fault: "host is missing"},
		{url: "http://h?x=1", fault: "only host"},
		{url: "http://u:p@h", fault: "only host"},
		{url: "http://h:port", fault: "port"},
		{url: "", fault: "expected http://"},
	} {
		p, err := New(c.url)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("New(%q): error %v, want %q in it", c.url, err, c.fault)
			}
			continue
		}
		if err != nil || p.network != c.network || p.address != c.address || p.base != c.base {
			t.Errorf("New(%q) = %+v, %v", c.url, p, err)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, c := range []struct{ base, sent, want string }{
		{"", "/", "/"},
		{"", "//x//y?q=%2F&;=1", "//x//y?q=%2F&;=1"},
		{"", "/a%2Fb/%7e/../c", "/a%2Fb/%7e/../c"},
		{"", "http://other/p/q?x", "/p/q?x"},
		{"", "http://other?x=/", "/?x=/"},
		{"", "http://other", "/"},
		{"/base", "/", "/base/"},
		{"/base", "/x", "/base/x"},
		{"/base", "//x", "/base//x"},
		{"/base", "http://other/x", "/base/x"},
	} {
		got := make(chan string, 1)
		url := rawUpstream(t, func(conn net.Conn, br *bufio.Reader) {
			if r, _, err := readRequest(br); err == nil {
				got <- r.RequestURI
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		f := newFront(t, mustNew(t, url+c.base))
		if res, _, err := sendRaw(t, f, "GET "+c.sent+" HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil || res.StatusCode != 200 {
			t.Fatalf("%q: %v %v", c.sent, res, err)
		}
		if g := <-got; g != c.want {
			t.Errorf("base %q: %q arrived as %q, want %q", c.base, c.sent, g, c.want)
		}
	}
}

func TestTargetsOfOthers(t *testing.T) {
	f := upstream(t, http.NotFoundHandler())
	for _, line := range []string{"CONNECT h:80", "CONNECT /x", "GET a:0", "GET mailto:x", "GET http://\"/"} {
		if res, _, err := sendRaw(t, f, line+" HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil || res.StatusCode != 400 {
			t.Errorf("%q: %v %v", line, status(res), err)
		}
	}
}

func TestUnixUpstream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host+r.RequestURI)
	})}
	go s.Serve(l)
	defer s.Close()
	f := newFront(t, mustNew(t, "unix://"+path))
	if res, body, err := sendRaw(t, f, "GET /x HTTP/1.0\r\n\r\n"); err != nil || res.StatusCode != 200 || body != "localhost/x" {
		t.Fatalf("%v %q %v", res, body, err)
	}
}

func TestProbeKeepsOneConnection(t *testing.T) {
	checkLeaks(t)
	var conns atomic.Int32
	url := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		conns.Add(1)
		answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, br)
	})
	f := newFront(t, mustNew(t, url))
	if err := f.p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := f.p.pool.idle[0]
	if err := f.p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(f.p.pool.idle); n != 1 {
		t.Errorf("two probes left %d connections", n)
	}
	if _, body, err := get(t, f, "/"); err != nil || body != "ok" {
		t.Fatalf("%q %v", body, err)
	}
	programtest.Eventually(t, "the connection is kept again", func() bool { return !f.p.pool.empty() })
	f.p.pool.mu.Lock()
	defer f.p.pool.mu.Unlock()
	if len(f.p.pool.idle) != 1 || f.p.pool.idle[0] != c {
		t.Errorf("idle is %v, want the probe's %v", f.p.pool.idle, c)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f := newFront(t, mustNew(t, "http://"+l.Addr().String()))
	if err := f.p.Probe(t.Context()); !errors.Is(err, invoke.ErrUnreachable) {
		t.Errorf("Probe: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.p.Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Probe: %v", err)
	}
	res, _, err := get(t, f, "/")
	if err != nil || res.StatusCode != http.StatusBadGateway {
		t.Fatalf("%v %v", res, err)
	}
	if err := f.outcome(t); !errors.Is(err, invoke.ErrUnreachable) {
		t.Errorf("Serve: %v", err)
	}
}

func TestDurationAndPrivateHeaders(t *testing.T) {
	f := newFront(t, mustNew(t, rawUpstream(t, once("HTTP/1.1 103 Early Hints\r\nX-Watchdog-Reject: a\r\nLink: </x>\r\n\r\n"+
		"HTTP/1.1 200 OK\r\nx-watchdog-reject: a\r\nX-OpenFaaS-Internal: b\r\nX-Duration-Seconds: 9\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"+
		"Trailer: X-Watchdog-Reject, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nX-Watchdog-Reject: a\r\nX-Openfaas-Internal: b\r\n\r\n"))))
	c := f.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	raw, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(string(raw))
	for _, not := range []string{"reject", "internal", "x-hop", "seconds: 9"} {
		if strings.Contains(text, not) {
			t.Errorf("%q got out:\n%s", not, raw)
		}
	}
	for _, want := range []string{"103 early hints\r\nlink: </x>", "x-sum: 7", strings.ToLower(contract.HeaderDuration) + ": 0."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, raw)
		}
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	checkLeaks(t)
	var open atomic.Int32
	url := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		open.Add(1)
		defer open.Add(-1)
		answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, br)
	})
	f := newFront(t, mustNew(t, url))
	for range 3 {
		if _, body, err := get(t, f, "/"); err != nil || body != "ok" {
			t.Fatalf("%q %v", body, err)
		}
		programtest.Eventually(t, "the idle connection is closed", func() bool { return open.Load() == 0 && f.p.pool.empty() })
	}
}

// A handler that closes its connections after every answer without saying so
// must never cost a request, of whatever method.
func TestSilentlyClosedConnections(t *testing.T) {
	checkLeaks(t)
	closed := make(chan struct{}, 1)
	url := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, br)
		c.Close()
		closed <- struct{}{}
	})
	f := newFront(t, mustNew(t, url))
	for range 50 {
		res, err := f.Client().Post(f.URL, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		<-closed
	}
}

// A kept connection that breaks under a request: what can be repeated is, once.
func TestRepeatOnKeptConnection(t *testing.T) {
	for _, c := range []struct {
		method string
		body   string
		want   int
	}{
		{"GET", "", 200}, {"PUT", "x", 200}, {"DELETE", "", 200},
		{"POST", "x", 502}, {"PATCH", "", 502},
		{"PUT", strings.Repeat("x", inlineBody+1), 502},
	} {
		var seen atomic.Int32
		url := rawUpstream(t, func(conn net.Conn, br *bufio.Reader) {
			first := seen.Load() == 0
			for {
				if _, _, err := readRequest(br); err != nil {
					return
				}
				if n := seen.Add(1); n > 1 && first {
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		f := newFront(t, mustNew(t, url))
		if res, _, err := get(t, f, "/"); err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		r, _ := http.NewRequest(c.method, f.URL, strings.NewReader(c.body))
		res, err := f.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		want := int32(3)
		if c.want != 200 {
			want = 2
		}
		if res.StatusCode != c.want || seen.Load() != want {
			t.Errorf("%s: %d after %d arrivals, want %d after %d", c.method, res.StatusCode, seen.Load(), c.want, want)
		}
	}
}

func TestExecDeadline(t *testing.T) {
	checkLeaks(t)
	release := make(chan struct{})
	url := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		r, _, err := readRequest(br)
		if err != nil {
			return
		}
		if r.URL.Path == "/begun" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
		}
		<-release
	})
	defer close(release)
	f := newFront(t, mustNew(t, url))
	f.exec = 50 * time.Millisecond
	if res, _, err := get(t, f, "/"); err != nil || res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("%v %v", res, err)
	}
	if _, body, err := get(t, f, "/begun"); err == nil || body != "data: 1\n\n" {
		t.Errorf("a cut stream ended as %q, %v", body, err)
	}
	for range 2 {
		if err := f.outcome(t); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
}

// The write deadline bounds every answer but an event stream.
func TestWriteDeadline(t *testing.T) {
	for _, typ := range []string{"text/plain", "text/event-stream"} {
		f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", typ)
			io.WriteString(w, "a")
			http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(300 * time.Millisecond):
				io.WriteString(w, "b")
			}
		}))
		p := f.p
		f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			deadline := time.Now().Add(100 * time.Millisecond)
			http.NewResponseController(w).SetWriteDeadline(deadline)
			if err := p.Serve(w, r, time.Time{}, deadline); err != nil {
				f.errs <- err
				panic(http.ErrAbortHandler)
			}
		})
		_, body, err := get(t, f, "/")
		if typ == "text/event-stream" && (err != nil || body != "ab") {
			t.Errorf("%s: %q %v", typ, body, err)
		}
		if typ == "text/plain" {
			if err == nil {
				t.Errorf("%s: %q came whole", typ, body)
			}
			if err := f.outcome(t); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
	}
}

// An answer that takes longer than unwatched, and then waits in its body.
func TestSlowAnswer(t *testing.T) {
	f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(3 * unwatched)
		w.Header().Set("Content-Length", "4")
		io.WriteString(w, "ok")
		http.NewResponseController(w).Flush()
		time.Sleep(3 * unwatched)
		io.WriteString(w, "ay")
	}))
	for range 2 {
		if _, body, err := get(t, f, "/"); err != nil || body != "okay" {
			t.Errorf("%q %v", body, err)
		}
	}
}

func TestClientGone(t *testing.T) {
	checkLeaks(t)
	started, gone := make(chan struct{}), make(chan struct{})
	f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			<-r.Context().Done()
		}
		gone <- struct{}{}
	}))
	for i, request := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nhi",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
	} {
		wait := time.Duration(i%2) * 3 * unwatched
		c := f.dial(t)
		io.WriteString(c, request)
		<-started
		// The client is missed before the watch begins and after.
		time.Sleep(wait)
		c.Close()
		<-gone
		err := f.outcome(t)
		var cut *invoke.RequestError
		if !errors.Is(err, context.Canceled) && !errors.As(err, &cut) {
			t.Errorf("%q: %v", request, err)
		}
	}
}
