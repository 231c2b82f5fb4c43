package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// occupy takes a slot with a request whose body is not at its end; release
// ends it. It works in every mode that reads a body.
func (w *instance) occupy() (release func()) {
	w.t.Helper()
	c := w.call(rawHead("POST", "/echo", "holder", []string{"Transfer-Encoding: chunked"}) + "5\r\nhello\r\n")
	w.waitSample("http_requests_in_flight", 1)
	return func() {
		w.t.Helper()
		c.write("0\r\n\r\n")
		wantWhole(w.t, c.answer(), nil, "hello")
	}
}

// In every mode a body of any size comes back byte for byte after it waited,
// framed either way, and the connection can carry the next one.
func TestBodiesAfterWaiting(t *testing.T) {
	limits := []string{"max_inflight=1", "max_queue=20", "read_timeout=1m", "write_timeout=1m", "exec_timeout=1m"}
	inFork := func(mode string) func(*testing.T) *instance {
		return func(t *testing.T) *instance { return startFork(t, mode, "cat", limits...) }
	}
	for name, begin := range map[string]func(*testing.T) *instance{
		"http": func(t *testing.T) *instance { return startMisbehaving(t, limits...).instance },
		"http buffered": func(t *testing.T) *instance {
			return startMisbehaving(t, append(limits, "buffer_http=true")...).instance
		},
		"streaming":   inFork("streaming"),
		"serializing": inFork("serializing"),
		"classic": func(t *testing.T) *instance {
			return startClassic(t, append(limits, "fprocess="+child(t, "fork")+" cat")...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := begin(t)
			release := w.occupy()
			type waiter struct {
				*caller
				body string
			}
			var all []waiter
			for _, size := range []int{0, 5, 100_000, 1 << 20, 10 << 20} {
				body := numbered(size)
				all = append(all, waiter{w.callInLine(len(all)+1, rawPost("/echo", "waiter", body)), body})
				all = append(all, waiter{w.callInLine(len(all)+1, rawChunks("/echo", "waiter", body)), body})
			}
			release()
			for _, c := range all {
				a := c.answer()
				wantWhole(t, a, nil, c.body)
				if a.Close {
					t.Errorf("%d bytes: the connection is not kept", len(c.body))
				}
			}
			for _, c := range all {
				c.write(rawPost("/echo", "next", "next one"))
				wantWhole(t, c.answer(), nil, "next one")
			}
			w.stop()
		})
	}
}

// Files wait for a slot like anything else. The slot is held by a client that
// does not read a file that no buffer holds.
func TestFilesAfterWaiting(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	sizes := []int{0, 5, 100_000, 1 << 20, 10 << 20}
	for _, size := range sizes {
		writeFile(t, filepath.Join(dir, fmt.Sprint("file", size)), numbered(size))
	}
	const huge = 64 << 20
	if err := os.WriteFile(filepath.Join(dir, "huge"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "huge"), huge); err != nil {
		t.Fatal(err)
	}
	w := start(t, "mode=static", "static_path="+dir, "max_inflight=1", "max_queue=10", "write_timeout=1m", "exec_timeout=1m")
	holder := w.call(rawGet("/huge", "holder"))
	w.waitSample("http_requests_in_flight", 1)
	var callers []*caller
	for i, size := range sizes {
		callers = append(callers, w.callInLine(i+1, rawGet(fmt.Sprint("/file", size), "waiter")))
	}
	resp, err := http.ReadResponse(holder.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != huge || err != nil {
		t.Errorf("the file that held the slot has %d bytes, %v", n, err)
	}
	for i, c := range callers { // in their order: who is not read holds the slot
		wantWhole(t, c.answer(), nil, numbered(sizes[i]))
	}
	for _, c := range callers {
		c.write(rawGet("/file5", "next"))
		wantWhole(t, c.answer(), nil, numbered(5))
	}
	w.stop()
}

// An upgrade waits for its slot, holds it, and gives it to the next.
func TestUpgradeAfterWaiting(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=5")
	_, release := w.hold("holder")
	upgrade := rawGet("/upgrade", "socket", "Connection: Upgrade", "Upgrade: websocket")
	first, second := w.callInLine(1, upgrade), w.callInLine(2, upgrade)
	last := w.callInLine(3, rawPost("/echo", "last", "5byte"))
	release()
	for i, c := range []*caller{first, second} {
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("no upgrade: %v %v", resp, err)
		}
		w.waitDepth(2 - i)
		u := &upgraded{t, c.conn, c.in}
		u.echo("hello")
		long := strings.Repeat("long ", 100_000)
		go fmt.Fprintln(c.conn, long)
		if got, err := c.in.ReadString('\n'); err != nil || got != long+"\n" {
			t.Fatalf("echo of %d bytes, %v", len(got), err)
		}
		second.wantSilence()
		c.conn.CloseWrite()
		if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
			t.Errorf("after the end: %q, %v", rest, err)
		}
	}
	wantWhole(t, last.answer(), nil, "5byte")
}

// Handlers that answer while they read, or send trailers and interim answers,
// do so after a wait too.
func TestAnswersAfterWaiting(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=10")
	_, release := w.hold("holder")
	long := numbered(4 << 20)
	early := w.callInLine(1, rawPost("/early", "early", long))
	hints := w.callInLine(2, rawGet("/hints", "hints"))
	trailers := w.callInLine(3, rawPost("/trailers", "trailers", "5byte"))
	redirect := w.callInLine(4, rawGet("/redirect", "redirect"))
	head := w.callInLine(5, strings.Replace(rawGet("/slow?ms=0", "head"), "GET", "HEAD", 1))
	cut := w.callInLine(6, rawGet("/cut?framing=length", "cut"))
	release()
	if a, err := early.tryAnswer(); err == nil {
		wantStatus(t, a, 418)
	}
	if a := hints.answer(); a.StatusCode != 103 {
		t.Errorf("status %d, want 103 first", a.StatusCode)
	}
	wantWhole(t, hints.answer(), nil, "final")
	if a := trailers.answer(); a.body != "body" || a.Trailer.Get("X-Sum") != "42" {
		t.Errorf("body %q, trailers %v", a.body, a.Trailer)
	}
	if a := redirect.answer(); a.StatusCode != 302 {
		t.Errorf("status %d, want 302", a.StatusCode)
	}
	resp, err := http.ReadResponse(head.in, &http.Request{Method: "HEAD"})
	if err != nil || resp.StatusCode != 200 || resp.ContentLength != 4 {
		t.Errorf("HEAD: %v %v", resp, err)
	}
	a, err := cut.tryAnswer()
	wantCut(t, a, err)
}

// A body over max_body is refused with 413 after the wait as before it.
func TestTooLongABodyAfterWaiting(t *testing.T) {
	for name, env := range map[string]string{"streamed": "buffer_http=false", "buffered": "buffer_http=true"} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "max_inflight=1", "max_queue=5", "max_body=100000", env)
			_, release := w.hold("holder")
			exact, over := numbered(100_000), numbered(100_001)
			ok := []*caller{w.callInLine(1, rawPost("/echo", "exact", exact)), w.callInLine(2, rawChunks("/echo", "exact", exact))}
			bad := []*caller{w.callInLine(3, rawPost("/echo", "over", over)), w.callInLine(4, rawChunks("/echo", "over", over))}
			release()
			for _, c := range ok {
				wantWhole(t, c.answer(), nil, exact)
			}
			for _, c := range bad {
				wantOwn(t, c.answer(), 413)
			}
			for _, r := range w.records() {
				if r.ID == "over" && r.BodyErr == "" {
					t.Errorf("the handler took a body over max_body for a whole one: %+v", r)
				}
			}
		})
	}
}

// Broken bodies are refused after the wait as before it, and the handler never
// takes one for whole.
func TestBrokenBodiesAfterWaiting(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=10")
	_, release := w.hold("holder")
	chunks := rawHead("POST", "/echo", "broken", []string{"Transfer-Encoding: chunked"})
	var all []*caller
	for _, raw := range []string{
		chunks + "zz\r\nhello\r\n0\r\n\r\n",
		chunks + "2\r\nhello\r\n0\r\n\r\n",
		chunks + "5\r\nhello\r\nfffffffffffffffff\r\n",
		chunks + strings.Repeat("1000\r\n"+strings.Repeat("x", 0x1000)+"\r\n", 20) + "zz\r\n",
	} {
		all = append(all, w.callInLine(len(all)+1, raw))
	}
	release()
	for i, c := range all {
		if a, err := c.tryAnswer(); err == nil && a.StatusCode != 400 {
			t.Errorf("%d: status %d, want 400", i, a.StatusCode)
		}
	}
	wantStatus(t, w.do("GET", "/status", ""), 200)
	for _, r := range w.records() {
		if r.ID == "broken" && r.BodyErr == "" {
			t.Errorf("the handler took a broken body for a whole one: %+v", r)
		}
	}
}
