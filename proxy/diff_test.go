package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
)

// A pair is this proxy and the standard library's before the same handler.
//
// Where they may differ, and why:
//   - request target: byte for byte here, parsed and put together there;
//   - an ambiguous answer is refused here, while net/http takes some (folded
//     headers, Content-Length beside chunks, odd codings);
//   - a missing Content-Type stays missing here and is guessed there;
//   - 100 Continue from the handler goes out there and not here;
//   - an answer without a length that ends before anything was flushed gets
//     its Content-Length here;
//   - a Content-Length of 0 that the client gave arrives here;
//   - trailers of a request arrive here with their values, and empty there;
//   - X-Duration-Seconds is added here, and the watchdog's own headers dropped.
type pair struct {
	ours   *front
	theirs *httptest.Server
	answer string

	mu   sync.Mutex
	seen []arrival
}

// arrival is a request as a handler got it.
type arrival struct {
	method, host, body string
	length             int64
	header             http.Header
	whole              bool
}

func (a arrival) String() string {
	return fmt.Sprintf("%s host=%q length=%d whole=%v %v body=%q",
		a.method, a.host, a.length, a.whole, a.header, a.body)
}

// newPair starts both. Every request is answered with p.answer, and the
// connection closed.
func newPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{}
	raw := rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		p.mu.Lock()
		p.seen = append(p.seen, arrival{r.Method, r.Host, string(body), r.ContentLength, r.Header, err == nil})
		answer := p.answer
		p.mu.Unlock()
		if err == nil {
			io.WriteString(c, answer)
		}
	})
	p.ours = newFront(t, mustNew(t, raw))
	p.ours.exec = patience
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	p.theirs = httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v := r.In.Header[name]; v != nil {
					r.Out.Header[name] = v
				}
			}
		},
		ErrorLog: discard,
	})
	p.theirs.Config.ErrorLog = discard
	p.theirs.Start()
	t.Cleanup(p.theirs.Close)
	return p
}

// reply is an answer as a client got it.
type reply struct {
	status  int // 0: no answer
	header  http.Header
	body    string
	trailer http.Header
	whole   bool
}

// through sends a request to one of the two and returns what both ends saw.
func (p *pair) through(t testing.TB, addr net.Addr, request, answer string) (reply, []arrival) {
	t.Helper()
	p.mu.Lock()
	p.answer, p.seen = answer, nil
	p.mu.Unlock()
	// The handler closes without a word: what that does to a kept connection
	// is another test's.
	p.ours.p.pool.expireAll()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, request)
	method, _, _ := strings.Cut(request, " ")
	res, body, err := readAnswer(bufio.NewReader(c), method)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("no answer to %q with %q", request, answer)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if res == nil {
		return reply{}, p.seen
	}
	h := res.Header
	for _, name := range []string{"Date", "X-Duration-Seconds", "Content-Type", "Connection"} {
		h.Del(name)
	}
	return reply{res.StatusCode, h, body, res.Trailer, err == nil}, slices.Clone(p.seen)
}

// compareRequest sends the same bytes through both and compares what arrived.
func (p *pair) compareRequest(t testing.TB, request string) {
	t.Helper()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	a, ours := p.through(t, p.ours.Listener.Addr(), request, answer)
	b, theirs := p.through(t, p.theirs.Listener.Addr(), request, answer)
	// Refused here: trailers that cannot be sent on, which do not go on there
	// either, and hosts that are none, which are cleaned there.
	stricter := a.status == http.StatusBadRequest && (len(ours) == 0 || !ours[0].whole)
	if a.status != b.status && !stricter && !(a.status >= 400 && b.status >= 400) {
		t.Errorf("%q: status %d, reference %d", request, a.status, b.status)
	}
	if len(ours) == 0 || len(theirs) == 0 {
		if len(ours) > 0 && ours[0].whole && a.status == 200 {
			t.Errorf("%q: arrived as %v, and not at all by the reference", request, ours)
		}
		return
	}
	for _, side := range [][]arrival{ours, theirs} {
		side[0].header.Del("Connection") // of the reference's one-shot transport
		if side[0].header.Get("User-Agent") == "" {
			side[0].header.Del("User-Agent") // an empty one is dropped there
		}
		if side[0].length == 0 {
			side[0].header.Del("Content-Length")
		}
	}
	if x, y := ours[0].String(), theirs[0].String(); ours[0].whole && theirs[0].whole && x != y {
		t.Errorf("%q arrived as\n%s\nreference\n%s", request, x, y)
	}
}

// compareAnswer has the handler answer with the bytes and compares what both
// clients got. What this proxy passes on as good, the reference must too, and
// alike; what it refuses or cuts may be good for the reference.
func (p *pair) compareAnswer(t testing.TB, method, answer string) {
	t.Helper()
	request := method + " / HTTP/1.1\r\nHost: h\r\n\r\n"
	a, _ := p.through(t, p.ours.Listener.Addr(), request, answer)
	err := p.ours.outcome(t)
	if (err == nil) != (a.status != 0 && a.whole && a.header.Get("X-Fault") == "") {
		t.Errorf("%q: Serve says %v, the client got %+v", answer, err, a)
	}
	if err != nil {
		return
	}
	b, _ := p.through(t, p.theirs.Listener.Addr(), request, answer)
	if b.header["Content-Length"] == nil && a.header.Get("Content-Length") == fmt.Sprint(len(a.body)) {
		a.header.Del("Content-Length")
	}
	// Announced names that are none go out there.
	a.header.Del("Trailer")
	b.header.Del("Trailer")
	for _, name := range []string{"X-Watchdog-Reject", "X-Openfaas-Internal"} {
		b.header.Del(name)
		b.trailer.Del(name)
	}
	if a.status != b.status || a.body != b.body || a.whole != b.whole ||
		fmt.Sprint(a.header) != fmt.Sprint(b.header) || !sameTrailer(a.trailer, b.trailer) {
		t.Errorf("%s %q gave\n%+v\nreference\n%+v", method, answer, a, b)
	}
}

// sameTrailer compares trailers with values: a name that was announced and did
// not come is no difference.
func sameTrailer(a, b http.Header) bool {
	for _, h := range []http.Header{a, b} {
		for k, v := range h {
			if len(v) == 0 {
				delete(h, k)
			}
		}
	}
	return fmt.Sprint(a) == fmt.Sprint(b)
}

var requests = []string{
	"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /a?b=c&d=%2F HTTP/1.1\r\nHost: example.org:81\r\nAccept-Encoding: gzip\r\nUser-Agent: x\r\n\r\n",
	"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
	"OPTIONS / HTTP/1.1\r\nHost: h\r\n\r\n",
	"BREW / HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET / HTTP/1.0\r\n\r\n",
	"0 A:0 HTTP/1.0\r\nX:\r\n\r\n",
	"GET * HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
	"GET / HTTP/1.1\r\n\r\n",
	"GET http://other/x HTTP/1.1\r\nHost: h\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\n\r\n",
	"PUT / HTTP/1.1\r\nHost: h\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Hop, close\r\nX-Hop: a\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\nProxy-Authorization: x\r\nProxy-Connection: y\r\nUpgrade: z\r\nProxy: p\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nVia: 1.1 x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\nx: b\r\nX: \r\nCookie: c=d\r\nCookie: e=f\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
	"GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX y: z\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: \"\r\n\r\n0\r\n\r\n",
	"\x16\x03\x01\r\n\r\n",
}

var answers = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\n\r\nok",
	"HTTP/1.0 200 OK\r\nX: y\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n",
	"HTTP/1.1 103 Hint\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
	"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nServer: s\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 500 Oops\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
	"HTTP/1.1 200 OK\r\nX-Watchdog-Reject: x\r\nX-Openfaas-Internal: y\r\nContent-Length: 0\r\n\r\n",
}

func TestAgainstReverseProxy(t *testing.T) {
	checkLeaks(t)
	p := newPair(t)
	for _, r := range requests {
		p.compareRequest(t, r)
	}
	for len(p.ours.errs) > 0 {
		<-p.ours.errs
	}
	for _, a := range answers {
		for _, method := range []string{"GET", "HEAD"} {
			p.compareAnswer(t, method, a)
		}
	}
	for _, a := range badAnswers {
		p.compareAnswer(t, "GET", a.answer)
	}
}

// FuzzRequest sends the same bytes through both proxies: what arrives at the
// handler is the same, or nothing that looks whole arrives.
func FuzzRequest(f *testing.F) {
	for _, r := range requests {
		f.Add([]byte(r))
	}
	p := newPair(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, ok := comparable(b); !ok {
			return
		}
		for _, p.ours.byCall = range []bool{false, true} {
			p.compareRequest(t, string(b))
		}
	})
}

// comparable parses a request, and says no to those without an end that can be
// waited for, and those that are another test's.
func comparable(b []byte) (r *http.Request, body []byte, ok bool) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil || r.Method == "CONNECT" || r.Header.Get("Expect") != "" || r.Header.Get("Upgrade") != "" {
		return nil, nil, false
	}
	body, err = io.ReadAll(r.Body)
	return r, body, err == nil
}

// FuzzRepeat cuts a request off at some byte at one upstream and lets it go to
// another: what arrives there as whole is what the client sent.
func FuzzRepeat(f *testing.F) {
	for i, r := range requests {
		f.Add([]byte(r), uint16(7*i), i%2 == 0)
	}
	long := strings.Repeat("x", DefaultKeep)
	for i, n := range []int{DefaultKeep - 1, DefaultKeep, DefaultKeep} {
		f.Add(fmt.Appendf(nil, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s%s", n+i/2, long[:n], "y"[:i/2]), uint16(9000*i), true)
		f.Add(fmt.Appendf(nil, "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", n, long[:n]), uint16(9000*i), true)
	}
	var cut atomic.Int64
	first := mustNew(f, rawUpstream(f, func(c net.Conn, _ *bufio.Reader) {
		r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(c, cut.Load())))
		if err != nil {
			return
		}
		if r.Header.Get("Expect") != "" {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		io.Copy(io.Discard, r.Body)
	}))
	var arrived atomic.Pointer[arrival]
	second := mustNew(f, rawUpstream(f, func(c net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if r.Header.Get("Expect") != "" {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if body, err := io.ReadAll(r.Body); err == nil {
			arrived.Store(&arrival{method: r.Method, body: string(body), length: r.ContentLength})
			io.WriteString(c, okay)
		}
	}))
	first.MaxIdle, second.MaxIdle = 1, 1
	var known, began atomic.Bool
	g := newGate(f, func(c *Call) error {
		began.Store(true)
		c.Watchdog = known.Load()
		if c.Kept = func(int) error { return nil }; c.Try(first) == nil {
			return errors.New("the first upstream answers nothing")
		}
		return c.Try(second)
	})
	f.Fuzz(func(t *testing.T, b []byte, at uint16, watchdog bool) {
		r, body, ok := comparable(b)
		if !ok {
			return
		}
		cut.Store(int64(at))
		known.Store(watchdog)
		began.Store(false)
		arrived.Store(nil)
		second.pool.expireAll()
		conn := g.send(t, string(b))
		defer conn.Close()
		res, _, err := readAnswer(bufio.NewReader(conn), r.Method)
		if !began.Load() {
			return // the server did not take it
		}
		end, got := g.end(t), arrived.Load()
		if err != nil {
			t.Fatalf("%q, cut at %d: %v, %v", b, at, err, end)
		}
		if end != nil && len(body) < DefaultKeep && !errors.As(end, new(*invoke.RequestError)) {
			t.Errorf("%q, cut at %d: %v", b, at, end)
		}
		if end == nil && (got == nil || res.StatusCode != 200 || got.method != r.Method || got.body != string(body) || got.length > 0 && got.length != r.ContentLength) {
			t.Errorf("%q, cut at %d, arrived as %v", b, at, got)
		}
	})
}

// FuzzAnswer has a handler answer with the same bytes through both proxies.
func FuzzAnswer(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a), false)
		f.Add([]byte(a), true)
	}
	for _, a := range badAnswers {
		if len(a.answer) < 8<<10 {
			f.Add([]byte(a.answer), false)
		}
	}
	p := newPair(f)
	f.Fuzz(func(t *testing.T, answer []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		for _, p.ours.byCall = range []bool{false, true} {
			p.compareAnswer(t, method, string(answer))
		}
	})
}
