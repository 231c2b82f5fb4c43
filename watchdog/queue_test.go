package watchdog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/contract"
)

// busy is a watchdog of one slot, which is taken until release is called.
type busy struct {
	*started
	t       testing.TB
	release func()

	mu   sync.Mutex
	seen []string // X-Id of what the handler saw, the holder left out
}

// startBusy serves h behind a limit of one and a queue of 20.
func startBusy(t *testing.T, h http.HandlerFunc, env ...string) *busy {
	t.Helper()
	b := &busy{t: t}
	inside, leave := make(chan struct{}), make(chan struct{})
	b.started = startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			inside <- struct{}{}
			select {
			case <-leave:
			case <-r.Context().Done():
			}
			return
		}
		b.mu.Lock()
		b.seen = append(b.seen, r.Header.Get("X-Id"))
		b.mu.Unlock()
		h(w, r)
	}, append([]string{"max_inflight=1", "max_queue=20", "read_timeout=1h", "write_timeout=1h", "exec_timeout=1h"}, env...)...)
	conn := b.dial()
	fmt.Fprintf(conn, "GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	<-inside
	b.release = sync.OnceFunc(func() {
		close(leave)
		conn.Close()
	})
	t.Cleanup(b.release)
	return b
}

func (b *busy) dial() *net.TCPConn {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// client is one connection with a request on it.
type client struct {
	t    testing.TB
	conn *net.TCPConn
	in   *bufio.Reader
}

// queue sends raw, as far as the kernel takes it, and waits until it is the
// n-th in line.
func (b *busy) queue(n int, raw string) *client {
	b.t.Helper()
	c := b.call(raw)
	b.waiting(n)
	return c
}

func (b *busy) call(raw string) *client {
	b.t.Helper()
	conn := b.dial()
	go io.WriteString(conn, raw)
	return &client{b.t, conn, bufio.NewReader(conn)}
}

func (b *busy) waiting(n int) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); b.limiter.Waiting() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%d wait, want %d", b.limiter.Waiting(), n)
		}
	}
}

func (b *busy) saw() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.seen...)
}

func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("half an answer: %v", err)
	}
	return resp, string(body)
}

func (c *client) want(status int, body string) *http.Response {
	c.t.Helper()
	resp, got := c.answer()
	if resp.StatusCode != status || body != "" && got != body {
		c.t.Fatalf("got %d, %d bytes %.60q; want %d, %d bytes", resp.StatusCode, len(got), got, status, len(body))
	}
	return resp
}

// inStep wants the connection to be closed, or the next request on it to be
// taken for what it is.
func (c *client) inStep(last *http.Response) {
	c.t.Helper()
	io.WriteString(c.conn, post("next", "next one"))
	if last.Close {
		if rest, _ := io.ReadAll(c.in); len(rest) > 0 {
			c.t.Errorf("after an answer that closes: %.100q", rest)
		}
		return
	}
	c.want(200, "next one")
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if v := r.Trailer.Get("X-Up"); v != "" {
		w.Header().Set("X-Got", v)
	}
	_, _ = w.Write(body)
}

func post(id, body string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nX-Id: %s\r\nContent-Length: %d\r\n\r\n%s", id, len(body), body)
}

// chunked frames body in chunks of random sizes, with a trailer.
func chunked(id, body string, announce bool, rnd *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "POST / HTTP/1.1\r\nHost: x\r\nX-Id: %s\r\nTransfer-Encoding: chunked\r\n", id)
	if announce {
		b.WriteString("Trailer: X-Up\r\n")
	}
	b.WriteString("\r\n")
	for len(body) > 0 {
		n := min(len(body), 1+rnd.IntN(40_000))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\nX-Up: 42\r\n\r\n"
}

// letters is a body of at most 1 MiB in which no two places look alike.
func letters(n int) string { return alphabet()[:n] }

var alphabet = sync.OnceValue(func() string {
	var b strings.Builder
	for i := 0; b.Len() < 1<<20; i++ {
		fmt.Fprintf(&b, "%07d\n", i)
	}
	return b.String()
})

func TestLineIsServedInOrder(t *testing.T) {
	b := startBusy(t, echo)
	rnd := rand.New(rand.NewPCG(1, 2))
	var clients []*client
	var bodies, order []string
	for i, size := range []int{0, 5, 4096, aheadPiece, aheadOwn - 1, aheadOwn, aheadOwn + 1, 1 << 20} {
		id, body := strconv.Itoa(i), letters(size)
		for j, raw := range []string{post(id, body), chunked(id, body, true, rnd)} {
			clients = append(clients, b.queue(2*i+j+1, raw))
			bodies, order = append(bodies, body), append(order, id)
		}
	}
	b.release()
	for i, c := range clients {
		resp := c.want(200, bodies[i])
		if got := resp.Header.Get("X-Got"); i%2 == 1 && got != "42" {
			t.Errorf("%d: the handler's trailer is %q", i, got)
		}
	}
	if got := fmt.Sprint(b.saw()); got != fmt.Sprint(order) {
		t.Errorf("served in the order %s, want %s", got, order)
	}
	for _, c := range clients {
		c.inStep(&http.Response{})
	}
	if n := b.readAhead.used.Load(); n != 0 {
		t.Errorf("%d bytes of the shared room are not given back", n)
	}
}

// A body that comes in pieces, before, at and after its turn, is whole, and
// what comes behind it is the next request.
func TestBodyInPiecesAroundItsTurn(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			bodyInPieces(t, seed)
		})
	}
}

func bodyInPieces(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(7, seed))
	body := letters(rnd.IntN(300_000))
	raw := post("piece", body)
	if seed%2 == 0 {
		raw = chunked("piece", body, seed%4 == 0, rnd)
	}
	head := strings.Index(raw, "\r\n\r\n") + 4
	b := startBusy(t, echo)
	c := b.queue(1, raw[:head])
	rest, turn := raw[head:], rnd.IntN(6)
	for i := 0; len(rest) > 0; i++ {
		n := min(len(rest), 1+rnd.IntN(100_000))
		if i >= 5 {
			n = len(rest)
		}
		if i == turn || i >= 5 { // the last piece may not be taken before
			b.release()
		}
		if _, err := io.WriteString(c.conn, rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	b.release()
	c.want(200, body)
	c.inStep(&http.Response{})
	if n := b.readAhead.used.Load(); n != 0 {
		t.Errorf("%d bytes of the shared room are not given back", n)
	}
}

// More long bodies than there is room for: those beyond it wait unread, and
// all are served whole.
func TestBodiesBeyondTheSharedRoom(t *testing.T) {
	b := startBusy(t, echo)
	body := letters(1 << 20)
	var clients []*client
	for i := range 12 {
		clients = append(clients, b.queue(i+1, post("long", body)))
	}
	eventually(t, "the room is used", func() bool { return b.readAhead.used.Load() > aheadShared-aheadPiece })
	if n := b.readAhead.used.Load(); n > aheadShared {
		t.Errorf("%d bytes are read ahead beyond everybody's own, want at most %d", n, aheadShared)
	}
	b.release()
	for _, c := range clients {
		c.inStep(c.want(200, body))
	}
	if n := b.readAhead.used.Load(); n != 0 {
		t.Errorf("%d bytes of the shared room are not given back", n)
	}
}

func TestLeavingTheLine(t *testing.T) {
	long := letters(1 << 20)
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, raw := range map[string]string{
		"GET":           "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET, twice":    "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"5 bytes":       post("", "5byte"),
		"5 of 10 bytes": strings.TrimSuffix(post("", "5byte5byte"), "5byte"),
		"1 MB":          post("", long),
		"chunks":        chunked("", "5byte", true, rnd),
		"1 MB chunks":   chunked("", long, false, rnd),
		"half a chunk":  "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n5byte",
		"expects 100":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
	} {
		for _, reset := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", reset ", reset), func(t *testing.T) {
				t.Parallel()
				b := startBusy(t, echo)
				leaver := b.queue(1, raw)
				last := b.queue(2, post("last", "5byte"))
				if reset {
					_ = leaver.conn.SetLinger(0)
				}
				leaver.conn.Close()
				b.waiting(1) // while the slot is taken
				b.release()
				last.want(200, "5byte")
				if got := b.saw(); len(got) != 1 || got[0] != "last" {
					t.Errorf("the handler saw %q", got)
				}
				eventually(t, "it is logged as 499", func() bool {
					return strings.Contains(b.log.String(), " / - 499 ") && strings.Contains(b.log.String(), "client gone")
				})
			})
		}
	}
}

// The last look is at the grant: a client that left a moment before does not
// get its slot.
func TestLeavingAtTheTurn(t *testing.T) {
	for range 30 {
		b := startBusy(t, echo)
		leaver := b.queue(1, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n") // net/http does not look
		leaver.conn.Close()
		b.release()
		eventually(t, "all is quiet", func() bool { return b.limiter.Running() == 0 && b.limiter.Waiting() == 0 })
		if got := b.saw(); len(got) != 0 {
			t.Fatalf("the handler saw %q", got)
		}
		b.stop()
	}
}

func TestContinueOnlyWithTheSlot(t *testing.T) {
	b := startBusy(t, echo)
	c := b.queue(1, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	refused := b.call("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nX-Timeout: 1ms\r\n\r\n")
	if resp := refused.want(503, ""); !resp.Close {
		t.Error("whether the body of a refused request comes is not known, and the connection is kept")
	}
	b.release()
	if resp, err := http.ReadResponse(c.in, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("%v %v, want 100", resp, err)
	}
	io.WriteString(c.conn, "5byte")
	c.inStep(c.want(200, "5byte"))
}

func TestFullQueue(t *testing.T) {
	b := startBusy(t, echo, "max_queue=1")
	first := b.queue(1, post("first", "5byte"))
	for name, raw := range map[string]string{
		"GET":             "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"5 bytes":         post("refused", "5byte"),
		"no byte of 5":    strings.TrimSuffix(post("refused", "5byte"), "5byte"),
		"no byte of 1 MB": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n",
		"chunks":          "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		c := b.call(raw)
		resp, body := c.answer()
		if resp.StatusCode != 503 || resp.Header.Get(contract.HeaderReject) != contract.RejectQueue || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
		if body != "1 requests run and 1 wait, which is max_queue; try again later, or elsewhere\n" {
			t.Errorf("%s: body %q", name, body)
		}
		if name == "GET" || name == "5 bytes" {
			if resp.Close {
				t.Errorf("%s: the connection is not kept", name)
			}
		}
	}
	b.release()
	first.want(200, "5byte")
	if got := b.saw(); len(got) != 1 {
		t.Errorf("the handler saw %q", got)
	}
}

// A refusal goes out before a short body has come; the connection is kept when
// it comes, and cut when it does not.
func TestRefusalDoesNotWaitForABody(t *testing.T) {
	b := startBusy(t, echo, "max_queue=0")
	c := b.call("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
	c.want(429, "")
	io.WriteString(c.conn, "5byteGET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.want(429, "")
	io.WriteString(c.conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n5byte")
	c.want(429, "")
	if rest, err := io.ReadAll(c.in); len(rest) > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after a body that did not come: %q, %v", rest, err)
	}
}

func TestWaitIsBounded(t *testing.T) {
	for name, c := range map[string]struct{ env, header, body string }{
		"queue_timeout":             {"queue_timeout=20ms", "", "waited queue_timeout for a slot; "},
		"the caller's":              {"queue_timeout=1h", "X-Timeout: 20ms\r\n", "the time of X-Timeout was over before a slot was free; "},
		"the caller's, without":     {"queue_timeout=0", "X-Timeout: 20ms\r\n", "the time of X-Timeout was over before a slot was free; "},
		"a caller's that is longer": {"queue_timeout=20ms", "X-Timeout: 1h\r\n", "waited queue_timeout for a slot; "},
		"a caller's nonsense":       {"queue_timeout=20ms", "X-Timeout: -1s\r\n", "waited queue_timeout for a slot; "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBusy(t, echo, c.env)
			var all []*client
			for _, raw := range []string{
				"GET / HTTP/1.1\r\nHost: x\r\n" + c.header + "\r\n",
				"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + c.header + "\r\n5byte",
				"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + c.header + "\r\n",
				"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n" + c.header + "\r\n" + letters(1<<20),
				"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n" + c.header + "\r\n" + letters(1<<19),
				"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + c.header + "\r\n5\r\n5by",
				"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + c.header + "\r\nzz\r\n",
			} {
				all = append(all, b.call(raw))
			}
			for i, one := range all {
				resp, body := one.answer()
				if resp.StatusCode != 503 || resp.Header.Get(contract.HeaderReject) != contract.RejectQueue || !strings.HasPrefix(body, c.body) {
					t.Errorf("%d: %d %v %q", i, resp.StatusCode, resp.Header, body)
				}
			}
			b.waiting(0)
			b.release()
			if got := b.saw(); len(got) != 0 {
				t.Errorf("the handler saw %q", got)
			}
			eventually(t, "the shared room is given back", func() bool { return b.readAhead.used.Load() == 0 })
		})
	}
}

// What waits, leaves, waits too long or runs leaves no goroutine behind.
func TestLineLeavesNothingBehind(t *testing.T) {
	b := startBusy(t, echo, "queue_timeout=200ms")
	before := runtime.NumGoroutine()
	long := letters(1 << 20)
	var all []*client
	for i, raw := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		strings.Replace(post("", "5byte"), "Host: x", "Host: x\r\nConnection: close", 1),
		post("", long)[:1<<19],
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
	} {
		for j := range 4 {
			all = append(all, b.queue(4*i+j+1, raw))
		}
	}
	for i, c := range all {
		if i%2 == 0 {
			c.conn.Close()
		}
	}
	b.waiting(0)
	for _, c := range all {
		c.conn.Close()
	}
	eventually(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

// What the caller gave counts from the arrival, what the watchdog gives from
// the start.
func TestTimeOfARequestThatWaited(t *testing.T) {
	ends := make(chan time.Time, 2)
	b := startBusy(t, func(w http.ResponseWriter, r *http.Request) {
		end, _ := r.Context().Deadline()
		ends <- end
	}, "exec_timeout=10m", "write_timeout=20m")
	asked := b.queue(1, "GET / HTTP/1.1\r\nHost: x\r\nX-Timeout: 5m\r\n\r\n")
	plain := b.queue(2, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	inLine := time.Now()
	b.release()
	asked.want(200, "")
	if end := <-ends; !end.Before(inLine.Add(5 * time.Minute)) {
		t.Errorf("the run may last until %v, which is 5m from when the request was in line already or later", end)
	}
	plain.want(200, "")
	if end := <-ends; end.Before(inLine.Add(10 * time.Minute)) {
		t.Errorf("the run may last until %v, less than exec_timeout from its start", end)
	}
}

// Neither read_timeout nor write_timeout count while a request waits, nor does
// read_timeout when all is read.
func TestWaitingAndRunningLongerThanTheTimeouts(t *testing.T) {
	const limit = 100 * time.Millisecond
	b := startBusy(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(2 * limit):
		case <-r.Context().Done():
			http.Error(w, "cut", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(body)
	}, "read_timeout="+limit.String(), "write_timeout=2s")
	rnd := rand.New(rand.NewPCG(5, 6))
	long := letters(300_000)
	var clients []*client
	var bodies []string
	for i, c := range []struct{ raw, body string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{post("", "5byte"), "5byte"},
		{post("", long), long},
		{chunked("", long, true, rnd), long},
	} {
		clients = append(clients, b.queue(i+1, c.raw))
		bodies = append(bodies, c.body)
	}
	late := b.queue(len(clients)+1, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n5byte")
	clients, bodies = append(clients, late), append(bodies, "5byte5byte")
	// The time passes that is not to count.
	time.Sleep(3 * limit)
	b.waiting(len(clients))
	io.WriteString(late.conn, "5byte")
	b.release()
	for i, c := range clients {
		c.inStep(c.want(200, bodies[i]))
	}
}

// A refusal can be written although the request waited for longer than any
// answer may take.
func TestRefusalAfterWriteTimeout(t *testing.T) {
	b := &busy{t: t, started: startInproc(t, echo, "max_inflight=1", "max_queue=1",
		"write_timeout=10ms", "queue_timeout="+(writeSlack+200*time.Millisecond).String())}
	if err := b.limiter.Try(1); err != nil {
		t.Fatal(err)
	}
	defer b.limiter.Release()
	b.call(post("", "5byte")).want(503, "")
}

// The end of a body that comes as the turn does clears the deadline that was
// set for it: net/http listens for the client's leaving from there on.
func TestEndOfABodyAtTheTurn(t *testing.T) {
	conn, peer := net.Pipe()
	defer conn.Close()
	defer peer.Close()
	src := &endingBody{reading: make(chan struct{}), end: make(chan struct{})}
	var room sharedRoom
	a := readAhead(&http.Request{ContentLength: -1, Body: src}, conn, &room)
	<-src.reading
	a.resume(time.Unix(1, 0))
	close(src.end)
	if body, err := io.ReadAll(a); len(body) > 0 || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if !a.finish() {
		t.Error("the body is not at its end")
	}
	go peer.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection cannot be read any more: %v", err)
	}
}

// endingBody ends when it is told to, in a Read that is under way.
type endingBody struct{ reading, end chan struct{} }

func (b *endingBody) Read([]byte) (int, error) {
	close(b.reading)
	<-b.end
	return 0, io.EOF
}

func (b *endingBody) Close() error { return nil }

// What remains of a body is to be read within read_timeout of the turn.
func TestBodyThatNeverComesAfterTheTurn(t *testing.T) {
	for name, raw := range map[string]string{
		"length": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n5byte",
		"chunks": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n5byte\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := startBusy(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				var timeout net.Error
				if string(body) != "5byte" || !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("body %q, %v", body, err)
				}
				w.WriteHeader(http.StatusRequestTimeout)
			}, "read_timeout=100ms")
			c := b.queue(1, raw)
			b.release()
			if resp := c.want(408, ""); !resp.Close {
				t.Error("the connection is kept")
			}
		})
	}
}

// A handler that does not read its body, or closes it, or answers first,
// leaves the connection in step, or closed.
func TestBodyThatTheHandlerDoesNotRead(t *testing.T) {
	long := letters(1 << 20)
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Id: smuggled\r\n\r\n"
	for name, h := range map[string]http.HandlerFunc{
		"does not read": func(w http.ResponseWriter, r *http.Request) {},
		"closes":        func(w http.ResponseWriter, r *http.Request) { r.Body.Close() },
		"reads a byte":  func(w http.ResponseWriter, r *http.Request) { _, _ = r.Body.Read(make([]byte, 1)) },
		"full duplex": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
		},
		"panics": func(w http.ResponseWriter, r *http.Request) { panic("a handler's fault") },
	} {
		for shape, raw := range map[string]string{
			"whole":       post("", smuggled),
			"long":        post("", long),
			"half":        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" + smuggled,
			"half a long": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + long + smuggled,
			"no end":      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n5byte\r\n",
			"no chunk":    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n5bytezz\r\n" + smuggled,
		} {
			complete := shape == "whole" || shape == "long"
			t.Run(name+"/"+shape, func(t *testing.T) {
				t.Parallel()
				b := startBusy(t, func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("X-Id") == "next" {
						echo(w, r)
						return
					}
					h(w, r)
				})
				c := b.queue(1, raw)
				b.release()
				resp, err := http.ReadResponse(c.in, nil)
				if err == nil {
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						t.Errorf("half an answer: %v", err)
					}
					if complete {
						c.inStep(resp)
						return
					}
				} else if name != "panics" && !strings.Contains(err.Error(), "reset") {
					t.Errorf("no answer: %v", err)
				}
				// The rest, and what is no body any more.
				go io.WriteString(c.conn, smuggled+smuggled)
				_, _ = io.Copy(io.Discard, c.in)
				c.conn.Close()
				eventually(t, "all is quiet", func() bool { return b.limiter.Running() == 0 })
				for _, id := range b.saw() {
					if id == "smuggled" {
						t.Error("a body was taken for a request")
					}
				}
				if n := b.readAhead.used.Load(); n != 0 {
					t.Errorf("%d bytes of the shared room are not given back", n)
				}
			})
		}
	}
}

func TestDrainServesTheLine(t *testing.T) {
	b := startBusy(t, echo)
	var clients []*client
	for i := range 5 {
		clients = append(clients, b.queue(i+1, post("", "5byte")))
	}
	b.stop()
	eventually(t, "the listener is closed", b.closed.Load)
	b.release()
	for _, c := range clients {
		if resp := c.want(200, "5byte"); !resp.Close {
			t.Error("an answer of a drain keeps the connection")
		}
	}
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	b.ended <- nil
}

// Who still waits when the drain's time is over is told so, and may go
// elsewhere; the handler sees nobody any more.
func TestDrainThatIsOverRefusesTheLine(t *testing.T) {
	b := startBusy(t, echo, "shutdown_timeout=10ms")
	var clients []*client
	for i := range 5 {
		clients = append(clients, b.queue(i+1, post("", "5byte")))
	}
	b.stop()
	for _, c := range clients {
		if resp := c.want(503, ""); resp.Header.Get(contract.HeaderReject) != contract.RejectDraining {
			t.Errorf("refused for %q", resp.Header.Get(contract.HeaderReject))
		}
	}
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	b.ended <- nil
	if got := b.saw(); len(got) != 0 {
		t.Errorf("the handler saw %q", got)
	}
}

func TestKillCutsTheLine(t *testing.T) {
	b := startBusy(t, echo)
	for i := range 5 {
		b.queue(i+1, post("", "5byte"))
	}
	b.Kill()
	if err := <-b.ended; !errors.Is(err, ErrKilled) {
		t.Errorf("got %v", err)
	}
	b.ended <- nil
	b.waiting(0)
	if got := b.saw(); len(got) != 0 {
		t.Errorf("the handler saw %q", got)
	}
}

// When there is no handler any more the line is told so at once.
func TestDeathAnswersTheLine(t *testing.T) {
	b := startBusy(t, echo)
	clients := []*client{
		b.queue(1, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		b.queue(2, post("", letters(1<<20))),
		b.queue(3, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n5byte"),
	}
	died := make(chan struct{})
	go func() { b.die(); close(died) }()
	for _, c := range clients {
		if resp := c.want(502, "the handler ended before a slot was free\n"); resp.Header.Get(contract.HeaderReject) != contract.RejectHandler || !resp.Close {
			t.Errorf("%v, want the reason handler and the connection's end", resp.Header)
		}
	}
	b.release()
	<-died
	if got := b.saw(); len(got) != 0 {
		t.Errorf("the handler saw %q", got)
	}
}

func TestReadyWithAQueue(t *testing.T) {
	b := startBusy(t, echo, "max_queue=4")
	ready := func(status int, reason string) {
		t.Helper()
		resp, body := get(t, b.url+contract.ReadyPath)
		if resp.StatusCode != status || body != reason || resp.Header.Get(contract.HeaderMaxQueue) != "4" || resp.Header.Get(contract.HeaderMaxInflight) != "1" {
			t.Errorf("%d %q %v, want %d %q", resp.StatusCode, body, resp.Header, status, reason)
		}
	}
	ready(200, "ready") // the slot is taken, and there is a queue
	var clients []*client
	for i := range 4 {
		clients = append(clients, b.queue(i+1, post("", "5byte")))
		if i < 2 {
			ready(200, "ready")
		} else {
			ready(429, fmt.Sprintf("%d requests wait, ready_queue is 2", i+1))
		}
	}
	b.release()
	for _, c := range clients {
		c.want(200, "5byte")
	}
	ready(200, "ready")
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		env     string
		mean    time.Duration
		waiting int
		want    string
	}{
		{"max_queue=0", 0, 0, "1"},
		{"max_queue=0", time.Millisecond, 0, "1"},
		{"max_queue=0", 2100 * time.Millisecond, 0, "3"},
		{"max_queue=0", time.Hour, 0, "300"},
		{"max_queue=9", time.Second, 0, "1"},
		{"max_queue=9", 1500 * time.Millisecond, 3, "6"},
		{"max_queue=9", time.Minute, 5, "300"},
	} {
		b := startBusy(t, echo, c.env)
		if c.mean > 0 {
			b.service.observe(c.mean)
		}
		for i := range c.waiting {
			b.queue(i+1, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if got := b.retryAfter(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
		b.Kill()
	}
}
