package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// caller is a client on a connection of its own.
type caller struct {
	t    testing.TB
	conn *net.TCPConn
	in   *bufio.Reader
}

// call sends raw bytes on a new connection, beside the test: a long body may
// not be taken before its turn.
func (w *instance) call(raw string) *caller {
	w.t.Helper()
	conn := w.dial()
	go io.WriteString(conn, raw)
	return &caller{w.t, conn, bufio.NewReader(conn)}
}

// callInLine is call that waits until the request is the depth-th in line.
func (w *instance) callInLine(depth int, raw string) *caller {
	w.t.Helper()
	c := w.call(raw)
	w.waitDepth(depth)
	return c
}

// write sends more on the connection.
func (c *caller) write(raw string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, raw); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads the next answer, an interim one too.
func (c *caller) answer() answer {
	c.t.Helper()
	a, err := c.tryAnswer()
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	return a
}

func (c *caller) tryAnswer() (answer, error) {
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body), err}, nil
}

// told is an answer, or what came instead, for the message of a failed test.
func told(a answer, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d, %d bytes %.80q, %v", a.StatusCode, len(a.body), a.body, a.err)
}

// wantSilence fails when anything comes within a moment.
func (c *caller) wantSilence() {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := c.in.Peek(1); err == nil {
		more, _ := c.in.Peek(c.in.Buffered())
		c.t.Errorf("the client got %q %.100q, want nothing yet", b, more)
	}
	c.conn.SetReadDeadline(time.Now().Add(programtest.Patience))
}

// wantInStep sends one more request, unless the answer said that the
// connection ends, and wants its own answer to it.
func (c *caller) wantInStep(last answer, raw, body string) {
	c.t.Helper()
	if last.Close {
		if rest, _ := io.ReadAll(c.in); len(rest) > 0 {
			c.t.Errorf("after the answer that closes: %.200q", rest)
		}
		return
	}
	c.write(raw)
	wantWhole(c.t, c.answer(), nil, body)
}

// rawGet, rawPost and rawChunks are requests as they go over the wire. Extra
// header lines come without their end.
func rawGet(path, id string, headers ...string) string {
	return rawHead("GET", path, id, headers)
}

func rawPost(path, id, body string, headers ...string) string {
	return rawHead("POST", path, id, append(headers, "Content-Length: "+strconv.Itoa(len(body)))) + body
}

func rawChunks(path, id, body string, headers ...string) string {
	var b strings.Builder
	b.WriteString(rawHead("POST", path, id, append(headers, "Transfer-Encoding: chunked")))
	for piece := range slices.Chunk([]byte(body), 10_000) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(piece), piece)
	}
	return b.String() + "0\r\n\r\n"
}

func rawHead(method, path, id string, headers []string) string {
	head := method + " " + path + " HTTP/1.1\r\nHost: x\r\nX-Id: " + id + "\r\n"
	for _, h := range headers {
		head += h + "\r\n"
	}
	return head + "\r\n"
}

// numbered is a body of n bytes, at most 10 MiB, in which no two places look
// alike.
func numbered(n int) string { return allNumbers()[:n] }

var allNumbers = sync.OnceValue(func() string {
	const line = "00000000\n"
	b := bytes.Repeat([]byte(line), 10<<20/len(line)+1)
	for at := len(line); at < len(b); at += len(line) {
		copy(b[at:], b[at-len(line):at])
		digit := at + len(line) - 2
		for ; b[digit] == '9'; digit-- {
			b[digit] = '0'
		}
		b[digit]++
	}
	return string(b)
})

// waitDepth waits until n requests stand in line.
func (w *instance) waitDepth(n int) { w.t.Helper(); w.waitSample("watchdog_queue_depth", float64(n)) }

// waitSample waits until a metric has this value.
func (w *instance) waitSample(name string, want float64) {
	w.t.Helper()
	programtest.Eventually(w.t, fmt.Sprintf("%s is %v", name, want), func() bool {
		got, ok := w.sample(name)
		return ok && got == want
	})
}

// wantRefused fails unless a is a whole refusal for the reason queue.
func wantRefused(t testing.TB, a answer) {
	t.Helper()
	wantOwn(t, a, 503)
	if got := a.Header.Get("X-Watchdog-Reject"); got != "queue" {
		t.Errorf("X-Watchdog-Reject %q, want queue", got)
	}
	if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After %q, want whole seconds, at least 1", a.Header.Get("Retry-After"))
	}
}

// sandbox is a function of one slot, a queue of four and clients in a closed
// loop: one whose request is answered sends the next at once, one that is
// refused when it is told to. Each request runs until its gate is opened.
type sandbox struct {
	*served
	dir     string
	again   chan struct{}
	refused atomic.Int64 // clients that are refused at this moment
	ok, bad atomic.Int64 // answers so far, those that are neither 200 nor a refusal
	opened  map[string]bool
}

// TestSandbox is the table of how a queue and readiness act together: one
// slot, max_queue 4, ready_queue 2.
func TestSandbox(t *testing.T) {
	for _, row := range []struct {
		clients, ready, depth int
		refused               int64
		manual                int
	}{
		{3, 200, 2, 0, 200},
		{4, 429, 3, 0, 200},
		{5, 429, 4, 0, 503},
		{6, 429, 4, 1, 503},
	} {
		t.Run(fmt.Sprint("-c ", row.clients), func(t *testing.T) {
			parallel(t)
			s := &sandbox{served: startMisbehaving(t, "max_inflight=1", "max_queue=4", "ready_queue=2", "exec_timeout=1h", "write_timeout=1h"),
				dir: t.TempDir(), again: make(chan struct{}), opened: map[string]bool{}}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for i := range row.clients {
				go s.client(ctx, i)
			}
			for round := range 8 {
				s.waitSteady(row.depth, row.refused)
				if got, err := s.status("/_/ready"); err != nil || got != row.ready {
					t.Errorf("round %d: ready %d %v, want %d", round, got, err, row.ready)
				}
				if got, err := s.status("/_/health"); err != nil || got != 200 {
					t.Errorf("round %d: health %d %v, want 200", round, got, err)
				}
				if row.manual == 503 {
					wantRefused(t, s.do("GET", "/status", "", "X-Id: manual"))
				}
				s.openOne()
			}
			s.waitSteady(row.depth, row.refused)
			if row.manual == 200 {
				manual := s.background("GET", "/status", "", "X-Id: manual")
				s.waitDepth(row.depth + 1)
				for range row.clients {
					s.openOne()
				}
				a, err := manual.wait(t)
				wantWhole(t, a, err, "")
			} else if s.saw("manual") {
				t.Error("the handler saw a request that was refused")
			}
			if ok, bad := s.ok.Load(), s.bad.Load(); ok < 8 || bad != 0 {
				t.Errorf("%d answers of the handler, %d neither that nor a refusal; want at least 8 and none", ok, bad)
			}
		})
	}
}

func (s *sandbox) client(ctx context.Context, i int) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("%d-%d", i, n)
		a, err := s.tryContext(ctx, "GET", "/file?name="+filepath.Join(s.dir, id), "", "X-Id: "+id)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && a.StatusCode == 200 && a.body == "there":
			s.ok.Add(1)
		case err == nil && a.StatusCode == 503 && a.Header.Get("X-Watchdog-Reject") == "queue":
			s.refused.Add(1)
			select {
			case <-s.again:
			case <-ctx.Done():
			}
			s.refused.Add(-1)
		default:
			s.bad.Add(1)
			s.t.Errorf("request %s: %s", id, told(a, err))
			return
		}
	}
}

// waitSteady waits until one request runs whose gate is closed, depth wait and
// the rest is refused.
// While there is room in line, who was refused tries again.
func (s *sandbox) waitSteady(depth int, refused int64) {
	s.t.Helper()
	programtest.Eventually(s.t, fmt.Sprintf("%d wait and %d are refused", depth, refused), func() bool {
		steady := s.closed() != "" // first: only then do the numbers stay
		running, _ := s.sample("http_requests_in_flight")
		waiting, ok := s.sample("watchdog_queue_depth")
		if steady && ok && running == 1 && int(waiting) == depth && s.refused.Load() == refused {
			return true
		}
		if ok && int(waiting) < depth {
			select {
			case s.again <- struct{}{}:
			default:
			}
		}
		return false
	})
}

// openOne lets the request that runs end.
func (s *sandbox) openOne() {
	s.t.Helper()
	programtest.Eventually(s.t, "a request runs", func() bool {
		id := s.closed()
		if id != "" && id != "manual" {
			s.opened[id] = true
			touch(s.t, filepath.Join(s.dir, id))
		}
		return id != ""
	})
}

// closed is the request that runs and whose gate is closed, "" for none.
func (s *sandbox) closed() string {
	all := s.records()
	if len(all) == 0 || s.opened[all[len(all)-1].ID] {
		return ""
	}
	return all[len(all)-1].ID
}

// The same under load: clients that send at once again get an answer or a
// refusal, and nothing else. What is refused the handler has not seen.
func TestSandboxUnderLoad(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1", "max_queue=4", "ready_queue=2")
	var ok, refused atomic.Int64
	const enough = 40
	done := make(chan string, 6)
	for range cap(done) {
		go func() {
			for ok.Load() < enough || refused.Load() == 0 {
				a, err := w.try("GET", "/slow?ms=10", "")
				switch {
				case err == nil && a.StatusCode == 200 && a.body == "slow":
					ok.Add(1)
				case err == nil && a.StatusCode == 503 && a.Header.Get("X-Watchdog-Reject") == "queue" && a.Header.Get("Retry-After") != "":
					refused.Add(1)
				default:
					done <- told(a, err)
					return
				}
			}
			done <- ""
		}()
	}
	for range cap(done) {
		select {
		case fault := <-done:
			if fault != "" {
				t.Error(fault)
			}
		case <-time.After(programtest.Patience):
			t.Fatal("the clients do not end")
		}
	}
	if n := len(w.records()); n != int(ok.Load()) {
		t.Errorf("the handler saw %d requests, %d were answered by it", n, ok.Load())
	}
	w.waitReady()
}
