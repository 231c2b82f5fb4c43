package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
)

// Answers that have no one meaning, or end too soon. want 0: the head went out
// and the client must see that the rest is missing.
var badAnswers = []struct {
	name, answer string
	want         int
}{
	{"nothing", "", 502},
	{"garbage", "\x16\x03\x01\x02\x00garbage", 502},
	{"text", "hello world\n", 502},
	{"half a status line", "HTTP/1.1 2", 502},
	{"half a head", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", 502},
	{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", 502},
	{"HTTP/0.9", "HTTP/0.9 200 OK\r\n\r\n", 502},
	{"lower-case protocol", "http/1.1 200 OK\r\n\r\n", 502},
	{"short status", "HTTP/1.1 20 OK\r\n\r\n", 502},
	{"status with a letter", "HTTP/1.1 2x0 OK\r\n\r\n", 502},
	{"long status", "HTTP/1.1 2000 OK\r\n\r\n", 502},
	{"status below 100", "HTTP/1.1 099 OK\r\n\r\n", 502},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 502},
	{"list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab", 502},
	{"signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab", 502},
	{"empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nab", 502},
	{"huge length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nab", 502},
	{"length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 502},
	{"chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 502},
	{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 502},
	{"two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502},
	{"NUL in a value", "HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", 502},
	{"CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", 502},
	{"folded value", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", 502},
	{"space before the colon", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n", 502},
	{"no colon", "HTTP/1.1 200 OK\r\nX\r\n\r\n", 502},
	{"no name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", 502},
	{"large head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n", 502},
	{"many headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxFields+1) + "\r\n", 502},
	{"endless interim answers", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxHead/20), 502},
	{"only an interim answer", "HTTP/1.1 103 Early Hints\r\n\r\n", 502},
	{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 0},
	{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0},
	{"half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", 0},
	{"bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 0},
	{"empty chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\nabc\r\n0\r\n\r\n", 0},
	{"negative chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n", 0},
	{"huge chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nabc\r\n0\r\n\r\n", 0},
	{"chunk without its end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 0},
	{"chunk that ends in LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 0},
	{"long chunk extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;" + strings.Repeat("x", maxChunkLine) + "\r\nabc\r\n0\r\n\r\n", 0},
	{"bad trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX y\r\n\r\n", 0},
	{"trailer that ends in LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\n\r\n", 0},
	{"half a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n", 0},
}

func status(res *http.Response) string {
	if res == nil {
		return "no answer"
	}
	return res.Status
}

func TestBadAnswers(t *testing.T) {
	checkLeaks(t)
	for _, c := range badAnswers {
		var calls atomic.Int32
		f := newFront(t, mustNew(t, rawUpstream(t, func(conn net.Conn, br *bufio.Reader) {
			if calls.Add(1) == 1 {
				once(c.answer)(conn, br)
				return
			}
			once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(conn, br)
		})))
		res, body, err := get(t, f, "/")
		if c.want == 0 && err == nil {
			t.Errorf("%s: looks complete: %q", c.name, body)
		}
		if c.want != 0 && (err != nil || res.StatusCode != c.want) {
			t.Errorf("%s: %v %v", c.name, status(res), err)
		}
		if err := f.outcome(t); !errors.Is(err, invoke.ErrBadAnswer) {
			t.Errorf("%s: error %v", c.name, err)
		}
		if _, body, err := get(t, f, "/"); err != nil || body != "ok" {
			t.Errorf("%s: the next request: %q %v", c.name, body, err)
		}
	}
}

// Answers that are good in ways one meets.
func TestGoodAnswers(t *testing.T) {
	checkLeaks(t)
	long := strings.Repeat("x", 300<<10)
	for _, c := range []struct {
		name, method, answer, body string
		status                     int
		kept                       bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true},
		{"same length twice", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true},
		{"long", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), long, 200, true},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nok", "ok", 200, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nok", "ok", 200, false},
		{"HTTP/1.0, long", "GET", "HTTP/1.0 200 OK\r\n\r\n" + long, long, 200, false},
		{"HTTP/1.0, length", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 200, false},
		{"HTTP/1.0, kept", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true},
		{"announced close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", 200, false},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b\r\no\r\n001 \r\nk\r\n0\r\n\r\n", "ok", 200, true},
		{"long chunk", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long), long, 200, true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", 200, true},
		{"LF only", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok", 200, true},
		{"no content", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", 204, true},
		{"not modified, with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", 304, true},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "", 200, true},
		{"head, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", 200, true},
		{"interim", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 200, true},
		{"long head", "GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100<<10) + "\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true},
		{"more than announced", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", "ok", 200, false},
		{"body of a HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", 200, false},
		{"odd status", "GET", "HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n", "", 799, true},
	} {
		script := answering(c.answer)
		if !c.kept {
			script = once(c.answer)
		}
		f := newFront(t, mustNew(t, rawUpstream(t, script)))
		for range 2 {
			r, _ := http.NewRequest(c.method, f.URL, nil)
			res, err := f.Client().Do(r)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != c.status || string(body) != c.body {
				t.Errorf("%s: %s, %d bytes, %v", c.name, res.Status, len(body), err)
			}
			if err := f.outcome(t); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if kept := !f.p.pool.empty(); kept != c.kept {
			t.Errorf("%s: connection kept: %v", c.name, kept)
		}
	}
}

// An answer split anywhere is the same answer.
func TestSplitAnswers(t *testing.T) {
	const answer = "HTTP/1.1 103 Hint\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n2\r\nok\r\n0\r\nT: u\r\n\r\n"
	cut := make(chan int, 1)
	f := newFront(t, mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) {
		for {
			if _, _, err := readRequest(br); err != nil {
				return
			}
			n := <-cut
			io.WriteString(c, answer[:n])
			io.WriteString(c, answer[n:])
		}
	})))
	for n := range len(answer) {
		cut <- n
		res, body, err := get(t, f, "/")
		if err != nil || body != "ok" || res.Header.Get("X") != "y" || res.Trailer.Get("T") != "u" {
			t.Fatalf("split at %d: %v %q %v", n, res, body, err)
		}
	}
}

// A handler that reads nothing and hangs, or dies in the middle.
func TestStubbornHandlers(t *testing.T) {
	checkLeaks(t)
	release := make(chan struct{})
	f := newFront(t, mustNew(t, rawUpstream(t, func(net.Conn, *bufio.Reader) { <-release })))
	defer close(release)
	f.exec = 100 * time.Millisecond
	for _, n := range []int{0, 10, inlineBody, 8 << 20} {
		res, err := f.Client().Post(f.URL, "", bytes.NewReader(make([]byte, n)))
		if err == nil {
			res.Body.Close()
		}
		if n <= inlineBody && (err != nil || res.StatusCode != 504) {
			t.Errorf("%d bytes: %v %v", n, status(res), err)
		}
		if err := f.outcome(t); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	dying := newFront(t, mustNew(t, rawUpstream(t, func(c net.Conn, br *bufio.Reader) { br.Peek(1) })))
	for _, n := range []int{0, 10, inlineBody, 8 << 20} {
		res, err := dying.Client().Post(dying.URL, "", bytes.NewReader(make([]byte, n)))
		if err == nil {
			res.Body.Close()
		}
		if n <= inlineBody && (err != nil || res.StatusCode != 502) {
			t.Errorf("%d bytes: %v %v", n, status(res), err)
		}
		if err := dying.outcome(t); !errors.Is(err, invoke.ErrBadAnswer) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

const pythonHandler = `
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = sys.argv[1]
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200)
        if sys.argv[2] == 'length':
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
print(s.server_address[1], flush=True)
s.serve_forever()
`

const nodeHandler = `
const s = require('http').createServer((q, r) => {
  if (process.argv[2] === 'length') r.setHeader('Content-Length', q.headers['content-length']);
  q.pipe(r);
});
s.listen(0, '127.0.0.1', () => console.log(s.address().port));
`

// The servers that functions are made of.
func TestRealHandlers(t *testing.T) {
	for name, args := range map[string][]string{
		"python HTTP/1.0":           {"python3", pythonHandler, "HTTP/1.0", "close"},
		"python HTTP/1.0, length":   {"python3", pythonHandler, "HTTP/1.0", "length"},
		"python HTTP/1.1, length":   {"python3", pythonHandler, "HTTP/1.1", "length"},
		"node, chunked":             {"node", nodeHandler, "chunked"},
		"node, with Content-Length": {"node", nodeHandler, "length"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, mustNew(t, program(t, args[0], args[1], args[2:]...)))
			for _, n := range []int{1, 1000, 1 << 20} {
				sent := bytes.Repeat([]byte("x"), n)
				for range 5 {
					res, err := f.Client().Post(f.URL, "text/plain", bytes.NewReader(sent))
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || res.StatusCode != 200 || !bytes.Equal(got, sent) {
						t.Fatalf("%s, %d of %d bytes, %v", res.Status, len(got), n, err)
					}
				}
			}
		})
	}
}

// program runs a script that prints its port.
func program(t *testing.T, interpreter, script string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(interpreter)
	if err != nil {
		t.Skip(interpreter, " is not installed")
	}
	file := filepath.Join(t.TempDir(), "handler.js")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{file}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("no port: ", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}
