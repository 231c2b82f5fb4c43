package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// listen serves every connection by a function, which need not close it.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// raw answers every question with the given bytes, and leaves the connection
// open until the other side closes it.
func raw(answer string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, answer)
		_, _ = io.Copy(io.Discard, c)
	}
}

const watchdogHead = "X-Watchdog-Max-Inflight: 7\r\nX-Watchdog-Max-Queue: 3\r\n"

func TestAsk(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refused.Close()
	ended, end := context.WithCancel(t.Context())
	end()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.TLS = &tls.Config{}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()

	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	for _, c := range []struct {
		name string
		addr string
		want outcome
	}{
		{"refused", refused.Addr().String(), outcome{kind: nobody}},
		{"no address", "nonsense", outcome{kind: nobody}},
		{"hangs", listen(t, hang), outcome{kind: silence, slow: true}},
		{"closes", listen(t, func(net.Conn) {}), outcome{kind: silence}},
		{"dies in the head", listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 O") }), outcome{kind: silence}},
		{"dies in a watchdog's body", listen(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"+watchdogHead+"\r\nre")
		}), outcome{kind: silence}},
		{"hangs in the head", listen(t, raw("HTTP/1.1 200 OK\r\nX-Watchdog-Max")), outcome{kind: silence, slow: true}},
		{"hangs in a stranger's body", listen(t, raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")),
			outcome{kind: answered, answer: answer{status: 200}}},
		{"not HTTP", listen(t, raw("SSH-2.0-OpenSSH_9.9\r\n")), outcome{kind: garbage}},
		{"not HTTP, without a line's end", listen(t, raw("\x00\x00\x12\x04")), outcome{kind: garbage}},
		{"nearly HTTP", listen(t, raw("HTTP/1.1 OK\r\n\r\n")), outcome{kind: garbage}},
		{"a head without end", listen(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for line := strings.Repeat("X-A: b\r\n", 100); ; {
				if _, err := io.WriteString(c, line); err != nil {
					return
				}
			}
		}), outcome{kind: garbage}},
		{"TLS", secure.Listener.Addr().String(), outcome{kind: answered, answer: answer{status: 400}}},
		{"not found", listen(t, raw("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
			outcome{kind: answered, answer: answer{status: 404}}},
		{"HTTP/1.0", listen(t, raw("HTTP/1.0 200 OK\r\n\r\n")), outcome{kind: answered, answer: answer{status: 200}}},
		{"switching", listen(t, raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")), outcome{kind: garbage}},
		{"a watchdog", listen(t, raw("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 5\r\n"+watchdogHead+"\r\nfull\n")),
			outcome{kind: answered, answer: answer{429, true, 7, 3, "full"}}},
		{"after interim answers", listen(t, raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n"+watchdogHead+"\r\n")),
			outcome{kind: answered, answer: answer{200, true, 7, 3, ""}}},
		{"a watchdog's long body", listen(t, raw("HTTP/1.1 503 x\r\nContent-Length: 100000\r\n"+watchdogHead+"\r\n"+strings.Repeat("a", 100000))),
			outcome{kind: answered, answer: answer{503, true, 7, 3, strings.Repeat("a", maxAnswerBody)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := &question{addr: c.addr, timeout: patience, keep: true}
			if c.want.slow {
				q.timeout = 300 * time.Millisecond
			}
			out := askPod(t.Context(), q)
			if out.conn != nil {
				_ = out.conn.Close()
				out.conn = nil
			}
			if (out.kind == nobody) != (out.err != nil) {
				t.Errorf("kind %d with the error %v", out.kind, out.err)
			}
			out.err = nil
			if out != c.want {
				t.Errorf("%+v\nexpected %+v", out, c.want)
			}
			if out := askPod(ended, q); out.conn != nil || out.kind == answered {
				t.Errorf("in an ended context: %+v", out)
			}
		})
	}
}

// Out of descriptors, it says so, and nothing of the pod.
func TestAskWithoutDescriptors(t *testing.T) {
	addr := listen(t, raw("HTTP/1.1 200 OK\r\n\r\n"))
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	out := askPod(t.Context(), &question{addr: addr, timeout: patience})
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if out.kind != unasked || !errors.Is(out.err, syscall.EMFILE) {
		t.Errorf("%+v, expected not to be asked for want of descriptors", out)
	}
}

func readText(text string) (answer, bool, error) {
	from := &source{r: strings.NewReader(text), left: maxAnswerHead + maxAnswerBody}
	return readAnswer(bufio.NewReaderSize(from, 1<<10), from)
}

// Answers to limits that are none make a stranger of it.
func TestGarbledLimits(t *testing.T) {
	for _, head := range []string{
		"", "X-Watchdog-Max-Queue: 3\r\n",
		"X-Watchdog-Max-Inflight:\r\n", "X-Watchdog-Max-Inflight: many\r\n", "X-Watchdog-Max-Inflight: -1\r\n",
		"X-Watchdog-Max-Inflight: +1\r\n", "X-Watchdog-Max-Inflight: 0x1\r\n", "X-Watchdog-Max-Inflight: 1.5\r\n",
		"X-Watchdog-Max-Inflight: 9999999999\r\n", "X-Watchdog-Max-Inflight: 1\r\nX-Watchdog-Max-Inflight: 1\r\n",
		"X-Watchdog-Max-Inflight: 1\r\nX-Watchdog-Max-Queue: 3 \u00b5\r\n",
		"X-Watchdog-Max-Inflight: 1\r\nX-Watchdog-Max-Queue: 3\r\nX-Watchdog-Max-Queue: 3\r\n",
	} {
		a, _, err := readText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + head + "\r\n")
		if err != nil || a != (answer{status: 200}) {
			t.Errorf("%q: %+v, %v; expected a stranger's", head, a, err)
		}
	}
	for head, want := range map[string]answer{
		"X-Watchdog-Max-Inflight: 0\r\n":                                          {200, true, 0, 0, ""},
		"x-watchdog-max-inflight: 12\r\nX-WATCHDOG-MAX-QUEUE: 999999999\r\n":      {200, true, 12, 999999999, ""},
		"X-Watchdog-Max-Inflight: 000000001\r\nX-Watchdog-Max-Queue: 0\r\n":       {200, true, 1, 0, ""},
		"X-Watchdog-Max-Inflight: \t 5 \t \r\nSomething: X-Watchdog: nothing\r\n": {200, true, 5, 0, ""},
	} {
		a, again, err := readText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + head + "\r\n")
		if err != nil || a != want || !again {
			t.Errorf("%q: %+v, %t, %v; expected %+v and another", head, a, again, err, want)
		}
	}
}

// What is asked: one GET of the one path, no redirect followed, one connection
// for all while it is kept, and a new one when it was closed meanwhile.
func TestAskOverOneConnection(t *testing.T) {
	var conns, asked atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.RequestURI != "/_/ready" || r.Host == "" || r.UserAgent() != "weir" {
			t.Errorf("asked %s %s of host %q by %q", r.Method, r.RequestURI, r.Host, r.UserAgent())
		}
		w.Header().Set("X-Watchdog-Max-Inflight", "1")
		w.Header().Set("Location", "http://"+r.Host+"/elsewhere")
		w.WriteHeader(http.StatusFound)
		fmt.Fprintf(w, "answer %d", asked.Add(1))
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	q := &question{addr: server.Listener.Addr().String(), timeout: patience, keep: true}
	ask := func(n, wantConns int32) {
		t.Helper()
		out := askPod(t.Context(), q)
		if out.kind != answered || out.answer.status != 302 || out.answer.body != fmt.Sprintf("answer %d", n) || asked.Load() != n || conns.Load() != wantConns {
			t.Fatalf("%+v after %d questions over %d connections, expected answer %d over %d", out, asked.Load(), conns.Load(), n, wantConns)
		}
		q.conn = out.conn
	}
	ask(1, 1)
	ask(2, 1)
	ask(3, 1)
	server.CloseClientConnections()
	ask(4, 2)
	q.keep = false
	ask(5, 2)
	if q.conn != nil {
		t.Error("a connection is kept that nobody asked to keep")
	}
	q.connect = true
	if out := askPod(t.Context(), q); out != (outcome{kind: open}) || asked.Load() != 5 {
		t.Errorf("a mere connection: %+v and %d questions, expected none more", out, asked.Load())
	}
}

func TestJudge(t *testing.T) {
	starting := Saying{Nature: Watchdog, MaxInflight: 4, MaxQueue: 2}
	running := Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 4, MaxQueue: 2}
	busy, stopping := running, starting
	busy.Room, stopping.State = false, Stopping
	short := busy
	short.Guarded = true
	stranger, plainUp := Saying{Nature: Plain}, Saying{Nature: Plain, State: Started, Room: true}
	strange := func(status int) outcome { return outcome{kind: answered, answer: answer{status: status}} }
	lost1, lost2 := outcome{kind: nobody, slow: true, misses: 1}, outcome{kind: nobody, slow: true, misses: 2}
	for i, c := range []struct {
		was     Saying
		ready   bool
		out     outcome
		want    Saying
		guessed bool
	}{
		{Saying{}, false, said(200, "ready"), running, false},
		{Saying{}, false, said(204, ""), running, false},
		{Saying{}, false, said(503, "starting"), starting, false},
		{Saying{}, true, said(429, "max_inflight reached"), busy, false},
		{running, true, said(429, "3 requests wait, ready_queue is 2"), busy, false},
		{running, true, said(503, "memory: past its mark"), short, false},
		{Saying{}, false, said(503, "memory: too little is known yet of what a request takes"), short, false},
		{starting, false, said(503, "pids: too little left for one more request"), short, false},
		{running, true, said(503, "fds: past its mark"), short, false},
		{running, true, said(503, "disk: past its mark"), short, false},
		{running, true, said(500, "disk: past its mark"), starting, false},
		{running, true, said(503, "rest: past its mark"), starting, false},
		{running, true, said(503, ""), starting, false},
		{short, true, said(200, "ready"), running, false},
		{short, true, said(429, "max_inflight reached"), busy, false},
		{short, true, said(503, "draining"), stopping, false},
		{short, true, lost1, short, false},
		{short, true, lost2, starting, false},
		{running, true, said(503, "ready_path has not answered yet"), starting, false},
		{running, true, said(500, "ready_path answered 500"), starting, false},
		{running, true, said(503, "dead"), starting, false},
		{running, true, said(503, "draining"), stopping, false},
		{Saying{}, false, said(503, "draining"), stopping, false},
		{starting, false, outcome{kind: nobody}, starting, false},
		{running, true, outcome{kind: nobody}, starting, false},
		{running, true, lost1, running, false},
		{busy, true, lost1, busy, false},
		{running, true, lost2, starting, false},
		{running, true, outcome{kind: silence, misses: 1}, running, false},
		{running, true, outcome{kind: silence, misses: 2}, starting, false},
		{running, true, outcome{kind: silence, misses: 200}, starting, false},
		{running, true, strange(503), starting, false}, // a sidecar's
		{running, true, strange(404), plainUp, false},
		{Saying{}, false, strange(404), stranger, false},
		{Saying{}, true, strange(200), plainUp, false},
		{Saying{}, false, strange(503), Saying{}, false},
		{Saying{}, true, strange(503), plainUp, false},
		{Saying{}, true, outcome{kind: garbage}, plainUp, false},
		{Saying{}, false, outcome{kind: garbage}, stranger, false},
		{Saying{}, true, outcome{kind: silence, misses: 2}, Saying{}, false},
		{Saying{}, true, outcome{kind: silence, misses: 3}, plainUp, true},
		{Saying{}, false, outcome{kind: silence, misses: 3}, Saying{}, false},
		{stranger, true, outcome{kind: open}, plainUp, false},
		{stranger, false, outcome{kind: open}, stranger, false},
		{plainUp, false, outcome{kind: open}, stranger, false},
		{plainUp, true, outcome{kind: nobody}, stranger, false},
		{plainUp, true, lost1, plainUp, false},
		{plainUp, false, lost1, stranger, false},
		{plainUp, true, outcome{kind: silence, misses: 9}, plainUp, true},
		{plainUp, true, strange(503), plainUp, false},
	} {
		if got, guessed := judge(c.was, c.ready, c.out); got != c.want || guessed != c.guessed {
			t.Errorf("%d: %+v, ready %t, %+v: %+v, guessed %t; expected %+v, %t", i, c.was, c.ready, c.out, got, guessed, c.want, c.guessed)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n" + watchdogHead + "Content-Length: 5\r\n\r\nready",
		"HTTP/1.1 503 x\r\n" + watchdogHead + "Transfer-Encoding: chunked\r\n\r\n8\r\ndraining\r\n0\r\n\r\n",
		"HTTP/1.0 404 Not Found\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"SSH-2.0-x\r\n", "HTTP/", "", "\x15\x03\x01", "HTTP/1.1 101 x\r\n\r\n", "HTTP/1.1 302 x\r\nLocation: /\r\n\r\n",
	} {
		f.Add([]byte(s), true, uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, ready bool, was uint8) {
		a, again, err := readText(string(data))
		if err != nil && (a != answer{} || again) {
			t.Fatalf("%+v, %t with an error %v", a, again, err)
		}
		if err == nil && (a.status < 200 || a.status > 999 || len(a.body) > maxAnswerBody || a.maxInflight < 0 || a.maxQueue < 0 || a.maxInflight+a.maxQueue < 0) {
			t.Fatalf("%+v", a)
		}
		if !a.watchdog && (a.maxInflight != 0 || a.maxQueue != 0 || again) {
			t.Fatalf("a stranger is %+v, again %t", a, again)
		}
		out := outcome{kind: answered, answer: a}
		if err != nil {
			out = outcome{kind: silence, misses: was}
		}
		old := Saying{State: State(was % 2), Nature: Nature(was % 3), Room: was%2 == 1 && was&8 != 0}
		s, guessed := judge(old, ready, out)
		if s.Room && s.State != Started || s.Guarded && (s.Room || s.State != Started || s.Nature != Watchdog) || guessed && s.Nature != Plain || s.Nature == Plain && s.State == Started && !ready && s != old {
			t.Fatalf("%+v, ready %t, %+v: %+v, guessed %t", old, ready, out, s, guessed)
		}
	})
}
