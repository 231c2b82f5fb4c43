package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/test/programtest"
)

// An upstream takes a body and dies; the next gets the same bytes, unless more
// was read than is kept.
func TestBodyIsSentAgain(t *testing.T) {
	checkLeaks(t)
	for _, n := range []int{0, 1, 5, firstPiece, firstPiece + 1, DefaultKeep, DefaultKeep + 1, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			for _, watchdog := range []bool{false, true} {
				name := fmt.Sprintf("%d bytes, chunked=%v, watchdog=%v", n, chunked, watchdog)
				want := bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n]
				var got []byte
				var trailer string
				// It says 100, as all servers that read do, takes the body and ends.
				dies := mustNew(t, rawUpstream(t, admitting("", true)))
				dies.MaxIdle = 1
				lives := mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					if r.Header.Get("Expect") != "" {
						io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
					}
					got, err = io.ReadAll(r.Body)
					trailer = r.Trailer.Get("X-Sum")
					if err == nil {
						io.WriteString(c, okay)
					}
				}))
				kept := 0
				g := newGate(t, func(c *Call) error {
					c.Watchdog = watchdog
					c.Kept = func(n int) error { kept += n; return nil }
					try := wantTry(t, name, c.Try(dies), Sent, invoke.ErrBadAnswer)
					if try.Final != (n > DefaultKeep) {
						t.Errorf("%s: final=%v", name, try.Final)
					}
					if most := max(2*min(n, DefaultKeep), 64<<10); kept > most || !try.Final && kept < n {
						t.Errorf("%s: %d bytes counted", name, kept)
					}
					if try.Final {
						wantTry(t, name, c.Try(lives), Client, errSpent)
						return try
					}
					return c.Try(lives)
				})
				r, _ := http.NewRequest("POST", g.URL, bytes.NewReader(want))
				if chunked {
					r.ContentLength, r.Body = -1, io.NopCloser(r.Body)
					r.Trailer = http.Header{"X-Sum": {"7"}}
				}
				res, err := g.Client().Do(r)
				end := g.end(t)
				if n <= DefaultKeep && (err != nil || end != nil || res.StatusCode != 200 || !bytes.Equal(got, want) || chunked != (trailer == "7")) {
					t.Errorf("%s: %v, %v, %s; %d bytes arrived, trailer %q", name, err, end, status(res), len(got), trailer)
				}
				if res != nil {
					res.Body.Close()
				}
				g.Close()
				if kept != 0 {
					t.Errorf("%s: %d bytes are still counted", name, kept)
				}
				dies.Close()
				lives.Close()
			}
		}
	}
}

// While a watchdog does not admit a long request nothing of its body is read
// from the client, and it can be tried elsewhere.
func TestLongBodyWaitsForAdmission(t *testing.T) {
	checkLeaks(t)
	const n = 8 << 20
	for _, chunked := range []bool{false, true} {
		refuse := make(chan struct{})
		var taken atomic.Int64
		full := mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			<-refuse
			taken.Add(int64(br.Buffered()))
			io.WriteString(c, refusal)
		}))
		free := mustNew(t, rawUpstream(t, admitting(okay, true)))
		kept := 0
		g := newGate(t, func(c *Call) error {
			c.Judge, c.Watchdog = judge, true
			c.Kept = func(n int) error { kept += n; return nil }
			time.AfterFunc(continueWait+200*time.Millisecond, func() { close(refuse) })
			wantTry(t, "full", c.Try(full), Refused, nil)
			if kept != 0 || taken.Load() != 0 {
				t.Errorf("chunked=%v: %d bytes kept, %d arrived", chunked, kept, taken.Load())
			}
			return c.Try(free)
		})
		r, _ := http.NewRequest("POST", g.URL, io.LimitReader(zeros{}, n))
		if !chunked {
			r.ContentLength = n
		}
		res, err := g.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if err := g.end(t); err != nil || res.StatusCode != 200 {
			t.Errorf("chunked=%v: %v %s", chunked, err, res.Status)
		}
		full.Close()
		free.Close()
	}
}

// Servers that do not know Expect: 100-continue get the body all the same.
func TestServersWithoutExpectations(t *testing.T) {
	checkLeaks(t)
	const n = DefaultKeep + 1
	for name, script := range map[string]func(net.Conn, *bufio.Reader){
		"silent": once(okay),
		"417": func(c net.Conn, br *bufio.Reader) {
			for {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				if r.Header.Get("Expect") != "" {
					io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
					continue
				}
				if b, err := io.ReadAll(r.Body); err == nil && len(b) == n {
					io.WriteString(c, okay)
				}
			}
		},
	} {
		g := newGate(t, tryOn(t, rawUpstream(t, script)))
		res, err := g.Client().Post(g.URL, "", strings.NewReader(strings.Repeat("x", n)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if err := g.end(t); err != nil || res.StatusCode != 200 {
			t.Errorf("%s: %v %s", name, err, res.Status)
		}
	}
}

// An upstream that answers without wanting the body.
func TestUnaskedBody(t *testing.T) {
	checkLeaks(t)
	for _, n := range []int{DefaultKeep + 1, 8 << 20} {
		p := mustNew(t, rawUpstream(t, admitting("HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", false)))
		g := newGate(t, func(c *Call) error { c.Watchdog = true; return c.Try(p) })
		// The client sends a part of it only, and waits.
		conn := g.send(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\nabc", n))
		res, body, err := readAnswer(bufio.NewReader(conn), "POST")
		if err != nil || res.StatusCode != 404 || body != "no" || !res.Close {
			t.Errorf("%d bytes: %v %q %v", n, status(res), body, err)
		}
		if err := g.end(t); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if !p.pool.empty() {
			t.Errorf("%d bytes: a connection is kept that still expects a body", n)
		}
		p.Close()
	}
}

// idle puts a connection into the pool that passes for open: as if it were
// closed after it was looked at.
func idle(t testing.TB, p *Proxy) *conn {
	t.Helper()
	c, err := p.dial(context.Background(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	c.pollFD = func(uintptr) { c.ready = false }
	p.pool.put(c, time.Now())
	return c
}

// closing takes a connection, ends it as how does and says so; the connections
// after it are served.
func closing(how func(*net.TCPConn), closed chan<- struct{}) (func(net.Conn, *bufio.Reader), *atomic.Int32) {
	var first atomic.Bool
	var served atomic.Int32
	return func(c net.Conn, br *bufio.Reader) {
		if first.CompareAndSwap(false, true) {
			how(c.(*net.TCPConn))
			closed <- struct{}{}
			return
		}
		if _, _, err := readRequest(br); err == nil {
			served.Add(1)
			io.WriteString(c, okay)
		}
	}, &served
}

// A request that meets the end of a kept connection was surely not taken, and
// goes out again on a fresh one, whatever its method.
func TestEndOfKeptConnection(t *testing.T) {
	checkLeaks(t)
	for _, n := range []int{0, 5, 20 << 10, DefaultKeep, 1 << 20} {
		closed := make(chan struct{}, 1)
		script, served := closing(func(c *net.TCPConn) { c.Close() }, closed)
		p := mustNew(t, rawUpstream(t, script))
		p.IdleLife = time.Hour
		c := idle(t, p)
		<-closed
		// Its end has come here, too.
		programtest.Eventually(t, "the end of the connection", func() bool {
			poll := []unix.PollFd{{Events: unix.POLLIN | unix.POLLRDHUP}}
			_ = c.raw.Control(func(fd uintptr) { poll[0].Fd = int32(fd); unix.Poll(poll, 0) })
			return poll[0].Revents&unix.POLLRDHUP != 0
		})
		g := newGate(t, func(c *Call) error { return c.Try(p) })
		res, err := g.Client().Post(g.URL, "", strings.NewReader(strings.Repeat("x", n)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if err := g.end(t); err != nil || res.StatusCode != 200 || served.Load() != 1 {
			t.Errorf("%d bytes: %v %s, %d arrived", n, err, res.Status, served.Load())
		}
		p.Close()
	}
}

// When there is nobody at the address any more, it is said that nothing was
// taken.
func TestEndOfKeptConnectionOfNobody(t *testing.T) {
	checkLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, "http://"+l.Addr().String())
	defer p.Close()
	idle(t, p)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	g := newGate(t, func(c *Call) error { return c.Try(p) })
	g.send(t, postX)
	wantTry(t, "nobody", g.end(t), NotTaken, invoke.ErrUnreachable)
}

// What may have been seen is not told as not taken: a POST is not repeated, and
// what is idempotent only once.
func TestKeptConnectionDiesUnderRequest(t *testing.T) {
	checkLeaks(t)
	reset := func(c *net.TCPConn) {
		c.Read(make([]byte, 1)) // it has begun, and did not read all
		c.Close()
	}
	for _, c := range []struct {
		request string
		stage   Stage // of an error
		served  int32
	}{
		{postX, Sent, 0},
		{strings.Replace(postX, "POST", "PUT", 1), 0, 1},
		{getX, 0, 1},
	} {
		closed := make(chan struct{}, 1)
		script, served := closing(reset, closed)
		p := mustNew(t, rawUpstream(t, script))
		idle(t, p)
		g := newGate(t, func(c *Call) error { return c.Try(p) })
		g.send(t, c.request)
		if err := g.end(t); c.served == 0 {
			wantTry(t, c.request, err, c.stage, invoke.ErrBadAnswer)
		} else if err != nil {
			t.Errorf("%q: %v", c.request, err)
		}
		if served.Load() != c.served {
			t.Errorf("%q: arrived %d times more, want %d", c.request, served.Load(), c.served)
		}
		p.Close()
	}
}

// An idempotent request that was seen, and then finds nobody, was seen.
func TestSeenAndGone(t *testing.T) {
	checkLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, "http://"+l.Addr().String())
	defer p.Close()
	idle(t, p)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	var group sync.WaitGroup
	group.Go(func() {
		readRequest(bufio.NewReader(c))
		c.Close()
	})
	g := newGate(t, func(c *Call) error { return c.Try(p) })
	g.send(t, getX)
	wantTry(t, "gone", g.end(t), Sent, invoke.ErrUnreachable)
	group.Wait()
}

// What Serve says of it is how the first try ended: that nobody was there for the
// second would say that nothing was seen.
func TestServeSaysWhatMayHaveBeenSeen(t *testing.T) {
	checkLeaks(t)
	for _, method := range []string{"GET", "DELETE"} {
		for seen, want := range map[bool]error{false: invoke.ErrUnreachable, true: invoke.ErrBadAnswer} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			f := newFront(t, mustNew(t, "http://"+l.Addr().String()))
			f.byCall = false
			idle(t, f.p)
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			var group sync.WaitGroup
			if seen {
				group.Go(func() {
					readRequest(bufio.NewReader(c))
					c.Close()
				})
			} else {
				c.Close()
			}
			if _, _, err := sendRaw(t, f, method+" / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
				t.Error(err)
			}
			if err := f.outcome(t); !errors.Is(err, want) {
				t.Errorf("%s, seen %v: %v, want %v", method, seen, err, want)
			}
			group.Wait()
		}
	}
}

// What an upstream did not take, another gets; once it was answered it is kept
// no more.
func TestKeptIsGivenBackAtTheAnswer(t *testing.T) {
	checkLeaks(t)
	var kept atomic.Int64
	atHead := make(chan int64, 1)
	p := mustNew(t, rawUpstream(t, admitting(okay, true)))
	defer p.Close()
	g := newGate(t, func(c *Call) error {
		c.Kept = func(n int) error { kept.Add(int64(n)); return nil }
		c.Answer = func(int, http.Header) { atHead <- kept.Load() }
		if err := c.ReadAhead(time.Time{}); err != nil || kept.Load() != 5 {
			t.Errorf("%v, %d bytes kept", err, kept.Load())
		}
		return c.Try(p)
	})
	g.send(t, postX)
	if err := g.end(t); err != nil || <-atHead != 0 {
		t.Errorf("%v, or bytes were kept when the answer had come", err)
	}
}

// A bound of what is kept in all does not end an upload; it only cannot be
// repeated.
func TestNoRoomToKeepAnUpload(t *testing.T) {
	checkLeaks(t)
	dies, lives := mustNew(t, rawUpstream(t, admitting("", true))), mustNew(t, rawUpstream(t, admitting(okay, true)))
	defer dies.Close()
	defer lives.Close()
	upstream := dies
	g := newGate(t, func(c *Call) error {
		c.Kept = func(n int) error {
			if n > 0 {
				return errors.New("no room")
			}
			return nil
		}
		return c.Try(upstream)
	})
	const chunks = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	g.send(t, chunks)
	if try := wantTry(t, "dies", g.end(t), Sent, nil); !try.Final {
		t.Error("it could be repeated without its body")
	}
	upstream = lives
	g.send(t, chunks)
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// A gateway keeps connections for longer than a watchdog does, and no more of
// them than it is told; of a pod that goes it keeps none.
func TestIdleBounds(t *testing.T) {
	checkLeaks(t)
	release := make(chan struct{})
	var arrived, opened atomic.Int32
	p := mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		opened.Add(1)
		for {
			if _, _, err := readRequest(br); err != nil {
				return
			}
			if arrived.Add(1) <= 4 {
				<-release
			}
			io.WriteString(c, okay)
		}
	}))
	p.IdleLife, p.MaxIdle = time.Hour, 2
	g := newGate(t, func(c *Call) error { return c.Try(p) })
	kept := func() int {
		p.pool.mu.Lock()
		defer p.pool.mu.Unlock()
		return len(p.pool.idle)
	}
	for range 4 {
		g.send(t, getX)
	}
	programtest.Eventually(t, "four requests at once", func() bool { return arrived.Load() == 4 })
	close(release)
	for range 4 {
		if err := g.end(t); err != nil {
			t.Fatal(err)
		}
	}
	if n := kept(); n != 2 {
		t.Errorf("%d connections are kept, want 2", n)
	}
	time.Sleep(idleLife + 100*time.Millisecond)
	if n := kept(); n != 2 {
		t.Errorf("%d connections are kept after the time of a watchdog, want 2", n)
	}
	// A watchdog keeps its side for two minutes, others perhaps not.
	for _, known := range []bool{true, false} {
		h := newGate(t, func(c *Call) error { c.Watchdog = known; return c.Try(p) })
		h.send(t, getX)
		if err := h.end(t); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int32{true: 4, false: 5}[known]; opened.Load() != want {
			t.Errorf("watchdog=%v: %d connections were opened, want %d", known, opened.Load(), want)
		}
		time.Sleep(idleLife + 100*time.Millisecond)
	}
	p.Retire()
	g.send(t, getX)
	if err := g.end(t); err != nil || kept() != 0 {
		t.Errorf("%v, and %d connections are kept of what is retired", err, kept())
	}
}

// A server that closes idle connections after a millisecond is met while it
// does so. No POST arrives twice, and none is lost that was not surely taken.
func TestServerClosesIdleConnections(t *testing.T) {
	checkLeaks(t)
	var seen sync.Map
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if _, twice := seen.LoadOrStore(r.Header.Get("X-Id"), true); twice {
			t.Errorf("request %s has come twice", r.Header.Get("X-Id"))
		}
	}))
	s.Config.IdleTimeout, s.Config.ErrorLog = time.Millisecond, discard
	s.Start()
	defer s.Close()
	p := mustNew(t, s.URL)
	defer p.Close()
	p.IdleLife = time.Minute
	var reused, sent atomic.Int32
	g := newGate(t, func(c *Call) error { return c.Try(p) })
	var group sync.WaitGroup
	for client := range 4 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 7))
			for n := range 500 {
				id := fmt.Sprintf("%d-%d", client, n)
				r, _ := http.NewRequest("POST", g.URL, strings.NewReader("hello"))
				r.Header.Set("X-Id", id)
				if !p.pool.empty() {
					reused.Add(1)
				}
				res, err := g.Client().Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if _, came := seen.Load(id); res.StatusCode == 200 && !came {
					t.Errorf("request %s was answered and has not come", id)
				}
				if res.StatusCode != 200 {
					sent.Add(1)
					if !strings.HasPrefix(string(body), Sent.String()) {
						t.Errorf("request %s: %s", id, body)
					}
				}
				time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
			}
		})
	}
	group.Wait()
	t.Logf("of 2000 requests %d found a kept connection, %d ended as sent without an answer", reused.Load(), sent.Load())
}
