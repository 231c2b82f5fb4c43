package main_test

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// badRequests are refused with one of the codes given, or by a closed
// connection without a word; never forwarded as a whole request.
var badRequests = map[string]struct{ raw, codes string }{
	"no HTTP":              {"hello there\r\n\r\n", "400"},
	"no version":           {"GET /x\r\n\r\n", "400"},
	"bad version":          {"GET /x HTTP/7.3\r\nHost: x\r\n\r\n", "400|505"},
	"NUL in the path":      {"GET /x\x00y HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
	"space in the path":    {"GET /x y HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
	"no host":              {"GET /x HTTP/1.1\r\n\r\n", "400"},
	"two hosts":            {"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
	"bad method":           {"G ET /x HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
	"bad header name":      {"GET /x HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", "400"},
	"space before colon":   {"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello", "400"},
	"header without colon": {"GET /x HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n", "400"},
	"NUL in a header":      {"GET /x HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", "400"},
	"negative length":      {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello", "400"},
	"length with a plus":   {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", "400"},
	"length no number":     {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello", "400"},
	"length overflows":     {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhello", "400"},
	"two lengths":          {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "400"},
	"list of lengths":      {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello!", "400"},
	"unknown encoding":     {"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\nhello", "400|501"},
	"chunked not last":     {"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello", "400|501"},
	"chunked twice":        {"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400|501"},
	"bad chunk size":       {"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", "400"},
	"huge chunk size":      {"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n", "400"},
	"chunk too long":       {"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", "400"},
	"header flood":         {"GET /x HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Flood: "+strings.Repeat("y", 1000)+"\r\n", 2000) + "\r\n", "431"},
	"endless header":       {"GET /x HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("z", 3<<20) + "\r\n\r\n", "431"},
	"endless path":         {"GET /" + strings.Repeat("z", 3<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "414|431"},
	"HTTP/2 preface":       {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400|505"},
}

// A broken, oversized or ambiguous request is refused, and the handler never
// takes it for a whole one.
func TestBadRequestsAreRefused(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	for name, c := range badRequests {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			raw := w.halfClosed(strings.Replace(c.raw, "Host: x\r\n", "Host: x\r\nX-Id: "+strings.ReplaceAll(name, " ", "-")+"\r\n", 1))
			if raw != "" && !regexp.MustCompile(`^HTTP/1\.[01] (`+c.codes+`) `).MatchString(raw) {
				t.Errorf("answer %.200q, want %s or none", raw, c.codes)
			}
		})
	}
	for _, r := range w.records() {
		if r.BodyErr == "" {
			t.Errorf("the handler took a bad request for a whole one: %+v", r)
		}
	}
	wantStatus(t, w.do("GET", "/status", ""), 200)
}

// A length beside chunks, or the chunks of a proxy that reads them otherwise,
// are refused or framed anew: what follows is never taken for a request of its
// own by the handler.
func TestNothingIsSmuggled(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Id: smuggled\r\n\r\n"
	for name, raw := range map[string]string{
		"length and chunks": "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunks and length": "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Length: " + fmt.Sprint(5+len(smuggled)) + "\r\n\r\n0\r\n\r\n" + smuggled,
		"odd case":          "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\ntransfer-encoding: CHUNKED\r\ncontent-length: 3\r\n\r\n0\r\n\r\n" + smuggled,
		"tab":               "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + smuggled,
		"vertical tab":      "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
		"length in a hop":   "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close, Content-Length\r\nContent-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled,
		"extension":         "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0;a=\"\n\"\r\n\r\n" + smuggled,
		"bare CR":           "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nX: a\rGET /smuggled HTTP/1.1\r\nX-Id: smuggled\r\n\r\n",
		"upgrade":           "GET /status HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n" + smuggled,
	} {
		t.Run(name, func(t *testing.T) {
			w.in(t).halfClosed(raw)
		})
	}
	for range 20 { // what was left on a kept connection would come out now
		wantStatus(t, w.do("GET", "/status", ""), 200)
	}
	for _, r := range w.records() {
		if r.ID == "smuggled" || strings.HasPrefix(r.URI, "/smuggled") {
			t.Fatalf("the handler saw the smuggled request: %+v", r)
		}
		if r.Length >= 0 && len(r.Encoding) != 0 {
			t.Errorf("the handler saw a length and chunks: %+v", r)
		}
	}
}

// A body that the client broke off is never complete for the handler.
func TestCutUploadIsNeverWhole(t *testing.T) {
	for name, env := range map[string]string{"streamed": "", "buffered": "buffer_http=true"} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, env)
			for _, raw := range []string{
				"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this",
				"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("z", 500_000),
				"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
				"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
			} {
				w.halfClosed(raw)
			}
			wantStatus(t, w.do("GET", "/status", ""), 200)
			for _, r := range w.records() {
				if r.Method == "POST" && r.BodyErr == "" {
					t.Errorf("the handler took a cut body of %d bytes for whole", r.Body)
				}
			}
		})
	}
	t.Run("serializing", func(t *testing.T) {
		parallel(t)
		file := t.TempDir() + "/record"
		w := startFork(t, "serializing", "cat", "RECORD="+file)
		w.halfClosed("POST /x HTTP/1.1\r\nHost: x\r\nX-Id: cut\r\nContent-Length: 100\r\n\r\nonly this")
		wantStatus(t, w.do("GET", "/", "", "X-Id: whole"), 200)
		for _, r := range readRecords(t, file) {
			if r.ID == "cut" {
				t.Error("a process was started for a cut body")
			}
		}
	})
}

// Over max_body a request is refused, whether it says its length or not.
func TestBodyOverItsBound(t *testing.T) {
	parallel(t)
	for mode, w := range map[string]*instance{
		"http":        startMisbehaving(t, "max_body=1000").instance,
		"buffered":    startMisbehaving(t, "max_body=1000", "buffer_http=true").instance,
		"serializing": startFork(t, "serializing", "cat", "max_body=1000"),
		"streaming":   startFork(t, "streaming", "slowcat 0s", "max_body=1000"),
	} {
		t.Run(mode, func(t *testing.T) {
			w := w.in(t)
			wantStatus(t, w.do("POST", "/echo", strings.Repeat("x", 1000)), 200)
			wantStatus(t, w.do("POST", "/echo", strings.Repeat("x", 1001)), 413)
			long := "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
				strings.Repeat("190\r\n"+strings.Repeat("x", 400)+"\r\n", 3) + "0\r\n\r\n"
			if raw := w.raw(long); !strings.HasPrefix(raw, "HTTP/1.1 413 ") {
				t.Errorf("chunks: answer %.100q, want 413", raw)
			}
		})
	}
}

// A client that sends its head or its body too slowly is let go.
func TestSlowClientIsLetGo(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "read_timeout=300ms")
	for name, raw := range map[string]string{
		"head": "GET /x HTTP/1.1\r\nHost:",
		"body": "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
		"none": "",
	} {
		t.Run(name, func(t *testing.T) {
			conn := w.in(t).dial()
			io.WriteString(conn, raw)
			all, err := io.ReadAll(conn) // ends because the watchdog closes
			if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
				t.Fatalf("it is not let go: %q", all)
			}
			if len(all) > 0 && !regexp.MustCompile(`^HTTP/1\.1 (400|408) `).Match(all) {
				t.Errorf("answer %q, want 408", all)
			}
		})
	}
	for _, r := range w.records() {
		if r.BodyErr == "" {
			t.Errorf("the handler took half a request for a whole one: %+v", r)
		}
	}
	programtest.Eventually(t, "a request that is sent in time works", func() bool {
		got, err := w.status("/status")
		return err == nil && got == 200
	})
}

// Expect: 100-continue is answered when the body is wanted, and only then.
func TestExpectContinue(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1")
	send := func(path string) string {
		return w.parseInterim("POST " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	}
	if raw := send("/echo"); !strings.HasPrefix(raw, "HTTP/1.1 100 ") || !strings.HasSuffix(raw, "hello") {
		t.Errorf("answer %q, want a 100 and then the echo", raw)
	}
	p, release := w.hold("one")
	if raw := send("/echo"); !strings.HasPrefix(raw, "HTTP/1.1 429 ") {
		t.Errorf("answer %q, want 429 without a 100", raw)
	}
	release()
	p.wait(t)
}
