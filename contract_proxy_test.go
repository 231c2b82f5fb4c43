package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// A stream that broke kept its slot of max_inflight for good.
func TestBrokenStreamGivesItsSlotBack(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1")
	for range 20 {
		a, err := w.try("GET", "/stream?type=text/event-stream", "", "Accept: text/event-stream")
		if err == nil && a.StatusCode == 429 {
			t.Fatal("429 with nothing in flight: the slot is leaked")
		}
		wantCut(t, a, err)
		programtest.Eventually(t, "the slot is free again", func() bool {
			got, err := w.status("/status?code=204")
			return err == nil && got == 204
		})
	}
}

// A body that the handler broke off was passed on as a complete one.
func TestCutAnswerIsSeenAsCut(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	for _, framing := range []string{"length", "chunked"} {
		a, err := w.try("GET", "/cut?framing="+framing, "")
		wantCut(t, a, err)
	}
	wantStatus(t, w.do("GET", "/status", ""), 200)
}

// A request could switch its time limit off.
func TestExecTimeoutCannotBeSwitchedOff(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "exec_timeout=300ms")
	for _, header := range []string{
		"X-Timeout: 0s", "X-Timeout: -1s", "X-Timeout: 0", "X-Timeout: 1h", "X-Timeout: soon", "Accept: text/event-stream", "Accept: text/event-stream, */*",
	} {
		t.Run(header, func(t *testing.T) {
			parallel(t)
			wantOwn(t, w.in(t).do("GET", "/hang", "", header), 504)
		})
	}
}

// A caller's own, shorter limit counts in every mode and for every Accept.
func TestShorterLimitOfTheCallerCounts(t *testing.T) {
	parallel(t)
	for mode, w := range map[string]*instance{
		"http":        startMisbehaving(t, "exec_timeout=1h").instance,
		"streaming":   startFork(t, "streaming", "sleep 1h", "exec_timeout=1h"),
		"serializing": startFork(t, "serializing", "sleep 1h", "exec_timeout=1h"),
	} {
		for _, accept := range []string{"*/*", "text/event-stream"} {
			t.Run(mode+" "+accept, func(t *testing.T) {
				parallel(t)
				wantOwn(t, w.in(t).do("GET", "/hang", "", "X-Timeout: 200ms", "Accept: "+accept), 504)
			})
		}
	}
}

// http_buffer_req_body sent chunks all the same, and a length that the client
// gave was never kept.
func TestBodyKeepsItsLength(t *testing.T) {
	parallel(t)
	check := func(t *testing.T, h handled, length int64) {
		t.Helper()
		if h.Length != length || h.Body != 9 {
			t.Errorf("the handler saw Content-Length %d, Transfer-Encoding %v and %d bytes; want %d and 9", h.Length, h.Encoding, h.Body, length)
		}
	}
	chunked := "POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n"
	for _, name := range []string{"http_buffer_req_body", "buffer_http"} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, name+"=true")
			check(t, w.inspect(w.parse(w.raw(chunked))), 9)
			check(t, w.inspect(w.do("POST", "/x", "wikipedia")), 9)
		})
	}
	t.Run("unbuffered", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t)
		check(t, w.inspect(w.do("POST", "/x", "wikipedia")), 9)
		check(t, w.inspect(w.parse(w.raw(chunked))), -1)
	})
}

// Nothing was flushed: the first byte came at the end.
func TestFirstByteIsNotHeldBack(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/x-ndjson", "text/plain"} {
		t.Run("http "+kind, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t)
			gate := filepath.Join(t.TempDir(), "gate")
			rest := w.readFirst("/stream?type="+kind+"&name="+gate, "data: first")
			touch(t, gate)
			if got := rest(); got != "data: last" {
				t.Errorf("the rest is %q", got)
			}
		})
	}
	t.Run("streaming", func(t *testing.T) {
		parallel(t)
		gate := filepath.Join(t.TempDir(), "gate")
		w := startFork(t, "streaming", "until "+gate)
		rest := w.readFirst("/", "first")
		touch(t, gate)
		if got := rest(); got != "last" {
			t.Errorf("the rest is %q", got)
		}
	})
}

// //x//y was answered with a redirect, and %2F decoded.
func TestPathGoesThroughAsSent(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	for _, path := range []string{"//x//y", "/a/../b", "/a%2Fb%20c", "/x?a=1;b=2&&c=%zz", "/?", "/./", "/ünï", "/_/anything", "/_/health/", "/_/ready2"} {
		raw := w.raw("GET " + path + " HTTP/1.1\r\nHost: func.example\r\nConnection: close\r\n\r\n")
		h := w.inspect(w.parse(raw))
		if h.URI != path || h.Host != "func.example" {
			t.Errorf("the handler saw %q of %q, want %q of func.example", h.URI, h.Host, path)
		}
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		if h := w.inspect(w.do(method, "/x", "")); h.Method != method {
			t.Errorf("the handler saw %q, want %q", h.Method, method)
		}
	}
}

// A stream asked of a handler that takes no connection ended as an empty 200,
// any other request as an empty 500.
func TestRefusedConnectionIsNoEmptyAnswer(t *testing.T) {
	parallel(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan net.Conn, 100)
	go func() { // takes connections and nothing more, until it is closed
		defer close(taken)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			taken <- conn
		}
	}()
	w := start(t, "mode=http", "fprocess="+child(t, "http")+" sleep 1h", "upstream_url=http://"+l.Addr().String())
	l.Close()
	for conn := range taken {
		conn.Close()
	}
	for _, accept := range []string{"text/event-stream", "*/*"} {
		a := w.do("GET", "/", "", "Accept: "+accept)
		if a.StatusCode == 200 {
			t.Fatalf("Accept %s: 200 %q", accept, a.body)
		}
		wantOwn(t, a, 502)
	}
}

// Headers of one hop were passed on, both ways.
func TestHopByHopHeadersStay(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	h := w.inspect(w.parse(w.raw("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\n" +
		"Proxy-Authorization: Basic x\r\nProxy-Connection: close\r\nTE: gzip\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n")))
	for _, name := range []string{"X-Private", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Upgrade"} {
		if v := h.Header.Values(name); len(v) != 0 {
			t.Errorf("the handler saw %s: %q", name, v)
		}
	}
	if v := h.Header.Values("X-Twice"); len(v) != 2 {
		t.Errorf("the handler saw X-Twice %q, want both", v)
	}
	a := w.do("GET", "/headers", "")
	wantStatus(t, a, 200)
	for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate", "X-Watchdog-Reject", "X-OpenFaaS-Internal"} {
		if v := a.Header.Values(name); len(v) != 0 {
			t.Errorf("the client saw %s: %q", name, v)
		}
	}
	if v := a.Header.Values("X-Twice"); len(v) != 2 {
		t.Errorf("the client saw X-Twice %q, want both", v)
	}
	if seconds, err := strconv.ParseFloat(a.Header.Get("X-Duration-Seconds"), 64); err != nil || seconds < 0 {
		t.Errorf("X-Duration-Seconds: %q", a.Header.Get("X-Duration-Seconds"))
	}
}

// Trailers were dropped, both ways.
func TestTrailersPassBothWays(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	raw := w.raw("POST /trailers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"4\r\nbody\r\n0\r\nX-Up: above\r\n\r\n")
	a := w.parse(raw)
	wantWhole(t, a, nil, "body")
	if a.Trailer.Get("X-Sum") != "42" || a.Trailer.Get("X-Late") != "above" {
		t.Errorf("the trailer is %v, want X-Sum 42 and X-Late above", a.Trailer)
	}
}

// gzip was asked for on the client's behalf, and undone.
func TestCompressionIsLeftAlone(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	h := w.inspect(w.parse(w.raw("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")))
	if got := h.Header.Values("Accept-Encoding"); len(got) != 0 {
		t.Errorf("the handler saw Accept-Encoding %q, the client sent none", got)
	}
	if got := h.Header.Values("User-Agent"); len(got) != 0 {
		t.Errorf("the handler saw User-Agent %q, the client sent none", got)
	}
	a := w.parse(w.raw("GET /packed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	if a.Header.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(a.body, "\x1f\x8b") {
		t.Errorf("Content-Encoding %q, body %q; want gzip as the handler sent it", a.Header.Get("Content-Encoding"), a.body)
	}
	if a := w.do("GET", "/redirect", ""); a.StatusCode != 302 || a.Header.Get("Location") != "/elsewhere" {
		t.Errorf("status %d, Location %q; a redirect is the client's to follow", a.StatusCode, a.Header.Get("Location"))
	}
}

// A WebSocket was upgraded only in one spelling, and cut by the time limits.
func TestUpgradeInAnySpelling(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "exec_timeout=1s", "write_timeout=1s")
	for _, head := range []string{
		"Connection: Upgrade\r\nUpgrade: websocket\r\n",
		"connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n",
		"Connection: UPGRADE\r\nUpgrade: WEBSOCKET\r\n",
	} {
		t.Run(head, func(t *testing.T) {
			parallel(t)
			w := w.in(t)
			conn := w.dial()
			fmt.Fprintf(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\n%s\r\n", head)
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil || resp.StatusCode != 101 {
				t.Fatalf("no upgrade: %v %v", resp, err)
			}
			// Longer than both limits together: hang ends after exec_timeout.
			for range 2 {
				wantStatus(t, w.do("GET", "/hang", ""), 504)
				fmt.Fprint(conn, "ping\n")
				if got, err := in.ReadString('\n'); err != nil || got != "ping\n" {
					t.Fatalf("echo %q, %v", got, err)
				}
			}
			conn.CloseWrite()
			if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
				t.Errorf("after the end: %q, %v", rest, err)
			}
		})
	}
}

// An interim answer goes through, ahead of the final one.
func TestInterimAnswersGoThrough(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	raw := w.raw("GET /hints HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(raw, "HTTP/1.1 103 ") || !strings.Contains(raw, "\r\n\r\nHTTP/1.1 200 OK\r\n") {
		t.Errorf("answer %q, want a 103 and then a 200", raw)
	}
}
