package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
)

// Every way a body can be framed arrives as it was sent, with its length
// where the client gave one.
func TestRequestBodies(t *testing.T) {
	checkLeaks(t)
	f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %v %x %v %v", r.ContentLength, r.TransferEncoding, sha256.Sum256(b), r.Trailer, err)
	}))
	for _, n := range []int{0, 1, inlineBody, inlineBody + 1, 3 << 20} {
		for _, chunked := range []bool{false, true} {
			for _, buffered := range []bool{false, true} {
				if buffered && byCall {
					continue // is Serve's
				}
				f.p.BufferBody = buffered
				body := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
				r, _ := http.NewRequest("POST", f.URL, bytes.NewReader(body))
				length, te, trailer := int64(n), "[]", "map[]"
				if chunked {
					r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(body))
					r.Trailer = http.Header{"X-Sum": {"7"}}
					if !buffered {
						length, te, trailer = -1, "[chunked]", "map[X-Sum:[7]]"
					}
				}
				res, err := f.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				want := fmt.Sprintf("%d %s %x %s <nil>", length, te, sha256.Sum256(body), trailer)
				if err != nil || string(got) != want {
					t.Errorf("n=%d chunked=%v buffered=%v: %q %v, want %q", n, chunked, buffered, got, err, want)
				}
			}
		}
	}
}

// What a handler writes is seen before it writes more, however it is framed.
func TestFlushes(t *testing.T) {
	for _, typ := range []string{"text/event-stream", "application/x-ndjson", ""} {
		next := make(chan struct{})
		f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if typ != "" {
				w.Header().Set("Content-Type", typ)
				w.Header().Set("Content-Length", "15")
			}
			rc := http.NewResponseController(w)
			rc.Flush()
			for range 3 {
				<-next
				io.WriteString(w, "data\n")
				rc.Flush()
			}
		}))
		res, err := f.Client().Get(f.URL)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		for range 3 {
			next <- struct{}{}
			if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "data\n" {
				t.Fatalf("%q %v", buf, err)
			}
		}
		if n, err := res.Body.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("%d %v", n, err)
		}
		res.Body.Close()
	}
}

// A handler that answers while it reads.
func TestFullDuplex(t *testing.T) {
	checkLeaks(t)
	f := newFront(t, mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		io.Copy(c, r.Body)
	})))
	pr, pw := io.Pipe()
	r, _ := http.NewRequest("POST", f.URL, pr)
	res, err := f.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 4)
	for i := range 20 {
		msg := fmt.Sprintf("%04d", i)
		io.WriteString(pw, msg)
		if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != msg {
			t.Fatalf("%d: %q %v", i, buf, err)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
}

// A handler that refuses a long upload at once: its answer gets out, the
// upload ends, and the client's connection is not used again.
func TestEarlyAnswer(t *testing.T) {
	checkLeaks(t)
	for name, script := range map[string]string{
		"kept":   "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
		"closed": "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
	} {
		for _, framing := range []string{"Content-Length: 1000000000", "Transfer-Encoding: chunked"} {
			release := make(chan struct{})
			f := newFront(t, mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				io.WriteString(c, script)
				if name == "kept" {
					<-release
				}
			})))
			c := f.dial(t)
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\n"+framing+"\r\n\r\n3\r\nabc\r\n")
			br := bufio.NewReader(c)
			res, body, err := readAnswer(br, "POST")
			if err != nil || res.StatusCode != 403 || body != "no" || !res.Close {
				t.Errorf("%s, %s: %v %q %v", name, framing, res, body, err)
			}
			if err := f.outcome(t); err != nil {
				t.Errorf("%s, %s: %v", name, framing, err)
			}
			// Nothing more of the upload is taken for a request.
			io.WriteString(c, "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
			if rest, _ := io.ReadAll(br); len(rest) > 0 {
				t.Errorf("%s, %s: then came %q", name, framing, rest)
			}
			close(release)
		}
	}
}

// An upload that ends too soon never looks complete to the handler.
func TestCutUpload(t *testing.T) {
	checkLeaks(t)
	ends := make(chan error, 1)
	f := newFront(t, mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		_, _, err := readRequest(br)
		ends <- err
	})))
	for _, request := range []string{
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: a\x00b\r\n\r\n",
	} {
		c := f.dial(t)
		io.WriteString(c, request)
		c.(*net.TCPConn).CloseWrite()
		if err := <-ends; err == nil {
			t.Errorf("%q looked complete", request)
		}
		var fault *invoke.RequestError
		if err := f.outcome(t); !errors.As(err, &fault) && !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", request, err)
		}
		c.Close()
	}
	// One that fits in memory does not even get there.
	c := f.dial(t)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
	c.Close()
	if err := f.outcome(t); err == nil {
		t.Error("a cut short body went through")
	}
	select {
	case err := <-ends:
		t.Errorf("the handler was bothered: %v", err)
	default:
	}
}

func TestMaxBody(t *testing.T) {
	checkLeaks(t)
	var whole atomic.Int32
	f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	}))
	f.p.MaxBody = 200 << 10
	for _, buffered := range []bool{false, true} {
		f.p.BufferBody = buffered
		for _, chunked := range []bool{false, true} {
			for n, want := range map[int]int{200 << 10: 200, 200<<10 + 1: 413} {
				whole.Store(0)
				r, _ := http.NewRequest("POST", f.URL, strings.NewReader(strings.Repeat("x", n)))
				if chunked {
					r.ContentLength, r.Body = -1, io.NopCloser(r.Body)
				}
				res, err := f.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != want || whole.Load() != int32(200/want) {
					t.Errorf("buffered=%v chunked=%v n=%d: %d, %d whole", buffered, chunked, n, res.StatusCode, whole.Load())
				}
			}
		}
	}
}

func TestExpectContinue(t *testing.T) {
	checkLeaks(t)
	for _, n := range []int{5, inlineBody + 5} {
		body := strings.Repeat("x", n)
		for _, c := range []struct {
			name   string
			answer func(net.Conn) bool // before the body; false ends
			status int
			asked  bool // the client gets its 100
		}{
			{"asks", func(c net.Conn) bool { io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); return true }, 200, true},
			{"says nothing", func(net.Conn) bool { return true }, 200, true},
			{"refuses", func(c net.Conn) bool {
				io.WriteString(c, "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
				return false
			}, 417, false},
		} {
			f := newFront(t, mustNew(t, rawUpstream(t, func(conn net.Conn, br *bufio.Reader) {
				r, err := http.ReadRequest(br)
				if err != nil || !strings.EqualFold(r.Header.Get("Expect"), "100-continue") || !c.answer(conn) {
					return
				}
				if b, _ := io.ReadAll(r.Body); string(b) == body {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})))
			conn := f.dial(t)
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n", n)
			br := bufio.NewReader(conn)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.asked != (res.StatusCode == 100) {
				t.Errorf("%s, %d bytes: the client got %s", c.name, n, res.Status)
			}
			if c.asked {
				io.WriteString(conn, body)
				if res, _, err = readAnswer(br, "POST"); err != nil {
					t.Fatalf("%s, %d bytes: %v", c.name, n, err)
				}
			}
			if res.StatusCode != c.status {
				t.Errorf("%s, %d bytes: %s", c.name, n, res.Status)
			}
			if err := f.outcome(t); err != nil {
				t.Errorf("%s, %d bytes: %v", c.name, n, err)
			}
			// A handler that still waits for a body gets no other request.
			if f.p.pool.empty() == c.asked {
				t.Errorf("%s, %d bytes: connection kept: %v", c.name, n, !c.asked)
			}
		}
	}
}

// Long bodies both ways take no memory of their length.
func TestConstantMemory(t *testing.T) {
	const size = 64 << 20
	f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil || n != size {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.CopyN(w, zeros{}, size)
	}))
	var peak uint64
	watch := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	for _, path := range []string{"/known", "/chunked"} {
		r, _ := http.NewRequest("POST", f.URL+path, &watched{r: io.LimitReader(zeros{}, size), see: watch})
		if path == "/known" {
			r.ContentLength = size
		}
		res, err := f.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, &watched{r: res.Body, see: watch})
		res.Body.Close()
		if err != nil || n != size {
			t.Fatalf("%s: %d bytes, %v", path, n, err)
		}
	}
	if peak > 32<<20 {
		t.Errorf("%d MiB of heap in use for bodies of %d MiB", peak>>20, size>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// watched calls see every 4 MiB.
type watched struct {
	r    io.Reader
	see  func()
	n, m int
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.n += n; w.n >= w.m {
		w.see()
		w.m += 4 << 20
	}
	return n, err
}

// The client's read deadline that ends an unwanted upload must not reach the
// next request of a connection that was clean.
func TestConnectionStaysAfterUpload(t *testing.T) {
	f := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	c := f.dial(t)
	br := bufio.NewReader(c)
	body := strings.Repeat("x", 1<<20)
	for i := range 5 {
		errs := make(chan error, 1)
		go func() {
			_, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			errs <- err
		}()
		res, got, err := readAnswer(br, "POST")
		if err != nil || got != body {
			t.Fatalf("%d: %d bytes, %v", i, len(got), err)
		}
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
		if res.Close { // the answer began before the upload's end
			c = f.dial(t)
			br = bufio.NewReader(c)
		}
	}
}

// lateBody is a body as net/http makes it when read_timeout is over: the
// request's context ends before the Read does.
type lateBody struct {
	cancel   context.CancelFunc
	unwanted chan struct{}
}

func (b *lateBody) Read([]byte) (int, error) {
	b.cancel()
	select {
	case <-b.unwanted:
	case <-time.After(10 * time.Millisecond): // to let the exchange end first
	}
	return 0, os.ErrDeadlineExceeded
}

func (b *lateBody) Close() error { return nil }

// deadlined takes the deadline that says that a body is not wanted any more.
type deadlined struct {
	http.ResponseWriter
	unwanted chan struct{}
}

func (d *deadlined) SetReadDeadline(time.Time) error {
	close(d.unwanted)
	return nil
}

// A body that comes too late was taken for a client that had left, where
// net/http cancelled the request before the reader of its body learned why.
func TestLateBodyIsNoClientThatLeft(t *testing.T) {
	back := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer back.Close()
	p := mustNew(t, back.URL)
	defer p.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	unwanted := make(chan struct{})
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", &lateBody{cancel, unwanted})
	r.ContentLength = 1 << 20
	err := p.Serve(&deadlined{httptest.NewRecorder(), unwanted}, r, time.Time{}, time.Time{})
	if statusOf(err) != http.StatusRequestTimeout {
		t.Errorf("%v, want a fault of the body", err)
	}
}
