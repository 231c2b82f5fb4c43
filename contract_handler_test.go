package main_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// A handler that answers something else than HTTP, or less than it announced,
// gets a 502, or a cut connection when its answer had begun. The next request
// works, and nothing is left behind.
func TestHandlerThatAnswersGarbage(t *testing.T) {
	parallel(t)
	w := startHTTP(t, child(t, "raw"))
	before := w.usage()
	for range 5 {
		for _, path := range []string{"/garbage", "/half", "/nothing", "/halfhead", "/twolengths", "/badlength", "/badstatus",
			"/badversion", "/badheader", "/badencoding", "/endless", "/late"} {
			wantOwn(t, w.do("POST", path, "x"), 502)
		}
		for _, path := range []string{"/badchunk", "/shortchunk", "/short"} {
			a, err := w.try("GET", path, "")
			wantCut(t, a, err)
		}
		// A length beside chunks is refused or the chunks count; five bytes of
		// length are never believed.
		if a, err := w.try("GET", "/both", ""); err == nil && a.err == nil && a.StatusCode != 502 && a.body != "" {
			t.Errorf("length beside chunks: %d %q", a.StatusCode, a.body)
		}
		for _, path := range []string{"/plain", "/old", "/toclose"} {
			wantWhole(t, w.do("GET", path, ""), nil, "hello")
		}
	}
	w.wantNoLeak(before)
}

// A handler that hangs is answered for with a 504, and nothing is left behind.
func TestHandlerThatHangs(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "exec_timeout=100ms", "max_inflight=4")
	wantOwn(t, w.do("GET", "/hang", ""), 504)
	before := w.usage()
	for range 25 {
		wantOwn(t, w.do("POST", "/hang", "x"), 504)
	}
	a, err := w.tryBegun("POST", "/echo", "well")
	wantWhole(t, a, err, "well")
	w.wantNoLeak(before)
}

// Clients that leave in the middle leave nothing behind.
func TestClientsThatLeave(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "exec_timeout=1h", "max_inflight=25")
	wantStatus(t, w.do("GET", "/status", ""), 200)
	before := w.usage()
	for i := range 25 {
		id := "leaver" + strconv.Itoa(i)
		p := w.background("POST", "/hang", "x", "X-Id: "+id)
		programtest.Eventually(t, "the handler has the request", func() bool { return w.saw(id) })
		p.cancel()
		<-p.done
	}
	programtest.Eventually(t, "the slots are free", func() bool {
		running, ok := w.sample("http_requests_in_flight")
		return ok && running == 0
	})
	w.wantNoLeak(before)
}

// A handler that answers before it has read the body is heard, and the upload
// leaves nothing behind.
func TestHandlerThatAnswersEarly(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	body := strings.Repeat("x", 4<<20)
	wantStatus(t, w.do("GET", "/status", ""), 200)
	before := w.usage()
	for range 25 {
		// A client may fail to send the rest; what it reads is the answer.
		a, err := w.try("POST", "/early", body)
		if err == nil {
			wantStatus(t, a, 418)
		}
	}
	raw := w.raw("POST /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4194304\r\n\r\n" + body[:10])
	if !strings.HasPrefix(raw, "HTTP/1.1 418 ") {
		t.Errorf("answer %.100q, want 418 before the body is sent", raw)
	}
	w.wantNoLeak(before)
}

// A fork that fails, hangs, dies of a signal or leaves processes behind leaks
// nothing.
func TestForksThatMisbehaveLeakNothing(t *testing.T) {
	for what, status := range map[string]int{"exit 3": 500, "raise": 500, "sleep 1h": 504, "grandchild 1h": 504, "deaf": 200, "exit 0": 200} {
		for _, mode := range []string{"streaming", "serializing"} {
			t.Run(mode+" "+what, func(t *testing.T) {
				parallel(t)
				limit := "exec_timeout=150ms"
				if status != 504 {
					limit = "exec_timeout=1h"
				}
				w := startFork(t, mode, what, limit, "write_timeout=1h")
				wantStatus(t, w.do("POST", "/", "x"), status)
				before := w.usage()
				for range 8 {
					wantStatus(t, w.do("POST", "/", "x"), status)
				}
				w.wantNoLeak(before)
			})
		}
	}
}

// A handler that leaves grandchildren with its pipes is stopped all the same.
func TestGrandchildrenDoNotHoldTheEnd(t *testing.T) {
	for _, session := range []string{"", "own"} {
		t.Run("session "+session, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t)
			a := w.do("GET", "/grandchild?for=1h&session="+session, "")
			wantStatus(t, a, 200)
			pid, err := strconv.Atoi(a.body)
			if err != nil {
				t.Fatal(err)
			}
			grandchild, ok := lookup(pid)
			if !ok {
				t.Fatal("no grandchild")
			}
			t.Cleanup(grandchild.kill)
			w.stop()
			if session == "" && grandchild.alive() {
				t.Error("a process of the handler's group outlives it")
			}
		})
	}
}

// A line of 100 MB costs neither the function nor the watchdog's memory.
func TestHundredMegabyteLine(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100 MB")
	}
	parallel(t)
	const long = 100 << 20
	w := startMisbehaving(t)
	wantWhole(t, w.do("GET", "/log?n="+strconv.Itoa(long), ""), nil, "logged")
	wantWhole(t, w.do("POST", "/echo", "well"), nil, "well")
	if rss, ok := w.sample("process_resident_memory_bytes"); !ok || rss > 64<<20 {
		t.Errorf("resident memory %v MiB after a line of 100 MB", rss/(1<<20))
	}
	programtest.Eventually(t, "every byte of the line is in the log", func() bool { return w.stderr.exes() >= long })
}
