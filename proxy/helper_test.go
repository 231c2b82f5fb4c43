package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/test/programtest"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// discard takes what net/http says about the faults that tests cause.
var discard = log.New(io.Discard, "", 0)

// byCall is what new fronts have as theirs.
var byCall bool

// TestByCall has a Call pass what Serve passes.
func TestByCall(t *testing.T) {
	byCall = true
	t.Cleanup(func() { byCall = false })
	for name, test := range map[string]func(*testing.T){
		"BadAnswers": TestBadAnswers, "GoodAnswers": TestGoodAnswers, "SplitAnswers": TestSplitAnswers,
		"RealHandlers": TestRealHandlers, "AgainstReverseProxy": TestAgainstReverseProxy,
		"Target": TestTarget, "TargetsOfOthers": TestTargetsOfOthers, "UnixUpstream": TestUnixUpstream,
		"Unreachable": TestUnreachable, "IdleConnectionsEnd": TestIdleConnectionsEnd,
		"SilentlyClosedConnections": TestSilentlyClosedConnections, "SlowAnswer": TestSlowAnswer,
		"ClientGone": TestClientGone, "RequestBodies": TestRequestBodies, "Flushes": TestFlushes,
		"FullDuplex": TestFullDuplex, "EarlyAnswer": TestEarlyAnswer, "CutUpload": TestCutUpload,
		"ExpectContinue": TestExpectContinue, "ConstantMemory": TestConstantMemory,
		"ConnectionStaysAfterUpload": TestConnectionStaysAfterUpload,
		"Upgrade":                    TestUpgrade, "UpgradeRefused": TestUpgradeRefused, "CloseEndsUpgrades": TestCloseEndsUpgrades,
		"UpgradeClientGone": TestUpgradeClientGone, "MaxBody": TestMaxBody, "StubbornHandlers": TestStubbornHandlers,
		"RepeatOnKeptConnection": TestRepeatOnKeptConnection,
	} {
		t.Run(name, test)
	}
}

// recorder sees how far a Proxy went with an answer.
type recorder struct {
	http.ResponseWriter
	begun bool
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(code int) {
	w.begun = w.begun || code >= 200
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// front is a server that treats the errors of a Proxy as the watchdog does.
type front struct {
	*httptest.Server
	p    *Proxy
	exec time.Duration
	// byCall serves each request by the one Try of a Call; exec is then the
	// bound of the answer's head.
	byCall bool
	// errs has room for what the tests of one front cause.
	errs chan error
}

func newFront(t testing.TB, p *Proxy) *front {
	t.Helper()
	f := &front{p: p, byCall: byCall, errs: make(chan error, 1024)}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Config.ConnContext = ConnContext
	f.Config.ErrorLog = discard
	f.Start()
	t.Cleanup(func() {
		f.Close()
		p.Close()
	})
	return f
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	var exec time.Time
	if f.exec > 0 {
		exec = time.Now().Add(f.exec)
	}
	var err error
	if f.byCall {
		c := NewCall(rec, r)
		defer c.Close()
		c.HeaderTimeout, c.MaxBody = f.exec, f.p.MaxBody
		if err = c.Try(f.p); err != nil && err.(*TryError).Stage != Begun {
			c.Own()
		}
	} else {
		err = f.p.Serve(rec, r, exec, time.Time{})
	}
	select {
	case f.errs <- err:
	default:
	}
	if err == nil {
		return
	}
	if rec.begun {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Fault", "yes")
	http.Error(w, err.Error(), statusOf(err))
}

func statusOf(err error) int {
	var request *invoke.RequestError
	switch {
	case errors.As(err, &request):
		return request.Status
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return 499
	case errors.Is(err, invoke.ErrUnreachable), errors.Is(err, invoke.ErrBadAnswer):
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// outcome waits for the end of the next invocation.
func (f *front) outcome(t testing.TB) error {
	t.Helper()
	select {
	case err := <-f.errs:
		return err
	case <-time.After(patience):
		t.Fatal("the invocation has not ended")
		return nil
	}
}

// dial opens a connection to the front.
func (f *front) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", f.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// expireAll closes what is idle.
func (p *pool) expireAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}

// upstream serves with h and returns a front before it.
func upstream(t testing.TB, h http.Handler) *front {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = discard
	s.Start()
	t.Cleanup(s.Close)
	return newFront(t, mustNew(t, s.URL))
}

func mustNew(t testing.TB, url string) *Proxy {
	t.Helper()
	p, err := New(url)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rawUpstream runs script for every connection it takes and closes it after.
func rawUpstream(t testing.TB, script func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu    sync.Mutex
		open  = map[net.Conn]bool{}
		group sync.WaitGroup
	)
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			group.Go(func() {
				defer func() {
					c.Close()
					mu.Lock()
					delete(open, c)
					mu.Unlock()
				}()
				script(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return "http://" + l.Addr().String()
}

// readRequest reads one request whole.
func readRequest(br *bufio.Reader) (*http.Request, []byte, error) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(r.Body)
	return r, body, err
}

// answering serves every request of a connection with the same bytes.
func answering(answer string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, br *bufio.Reader) {
		for {
			if _, _, err := readRequest(br); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

// once serves one request with the bytes and closes.
func once(answer string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, br *bufio.Reader) {
		if _, _, err := readRequest(br); err == nil {
			io.WriteString(c, answer)
		}
	}
}

// get asks the front and returns status and body; err is a cut body.
func get(t testing.TB, f *front, path string) (*http.Response, string, error) {
	t.Helper()
	res, err := f.Client().Get(f.URL + path)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// checkLeaks compares goroutines of this package and descriptors with those
// of now, when the test has ended. It must come first in a test.
func checkLeaks(t testing.TB) {
	t.Helper()
	fds := descriptors(t)
	t.Cleanup(func() {
		programtest.Eventually(t, "goroutines to end", func() bool { return len(ours()) == 0 })
		programtest.Eventually(t, "descriptors to be closed", func() bool { return descriptors(t) <= fds })
	})
}

// ours returns the stacks of goroutines that a Proxy runs.
func ours() (stacks []string) {
	buf := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, f := range []string{"(*upload).run", "(*tunnel).copy", "(*exchange).serve"} {
			if strings.Contains(stack, "proxy."+f) {
				stacks = append(stacks, stack)
			}
		}
	}
	return stacks
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("descriptors cannot be counted here: ", err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// sendRaw sends bytes to the front and reads one answer.
func sendRaw(t testing.TB, f *front, request string) (*http.Response, string, error) {
	t.Helper()
	c := f.dial(t)
	if _, err := io.WriteString(c, request); err != nil {
		return nil, "", fmt.Errorf("write: %w", err)
	}
	method, _, _ := strings.Cut(request, " ")
	return readAnswer(bufio.NewReader(c), method)
}

// readAnswer reads one final answer, whole.
func readAnswer(br *bufio.Reader, method string) (*http.Response, string, error) {
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return nil, "", err
		}
		if res.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		return res, string(body), err
	}
}
