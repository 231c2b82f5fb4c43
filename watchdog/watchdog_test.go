package watchdog

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	concurrencylimiter "github.com/openfaas/faas-middleware/concurrency-limiter"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/watchdog/logs"
)

// started is a Watchdog of this process that serves until the test ends.
type started struct {
	*Watchdog
	url     string
	metrics string
	log     *lockedBuffer
	stop    context.CancelFunc
	ended   chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startInproc serves h with the settings given as NAME=value.
func startInproc(t *testing.T, h http.HandlerFunc, env ...string) *started {
	t.Helper()
	env = append([]string{"port=0", "metrics_port=0", "healthcheck_interval=0", "TMPDIR=" + t.TempDir()}, env...)
	cfg, err := FromEnv(env, ModeInproc)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Handler = h
	return startWith(t, cfg)
}

func startWith(t *testing.T, cfg Config) *started {
	t.Helper()
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &started{Watchdog: w, log: new(lockedBuffer), ended: make(chan error, 1)}
	w.Stdout, w.Stderr = s.log, s.log
	if err := w.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.url = fmt.Sprintf("http://127.0.0.1:%d", w.Port())
	s.metrics = fmt.Sprintf("http://127.0.0.1:%d/metrics", w.MetricsPort())
	go func() { s.ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-s.ended:
			s.ended <- err
		case <-time.After(20 * time.Second):
			t.Error("Run did not return")
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "ready", func() bool {
		resp, err := http.Get(s.url + contract.ReadyPath)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never came: %s", what)
}

func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Logf("body: %v", err)
	}
	return resp, string(body)
}

// occupy makes h hold n requests until the returned function is called.
func occupy(t *testing.T, url string, n int, inside <-chan struct{}) (wait func()) {
	t.Helper()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			resp, err := http.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
		<-inside
	}
	return all.Wait
}

func TestRefusalIsThatOfFaasMiddleware(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	h := func(w http.ResponseWriter, r *http.Request) { inside <- struct{}{}; <-leave }
	ours := startInproc(t, h, "max_inflight=2")
	theirs := httptest.NewServer(concurrencylimiter.NewConcurrencyLimiter(http.HandlerFunc(h), 2))
	defer theirs.Close()

	defer occupy(t, theirs.URL, 2, inside)()
	defer occupy(t, ours.url, 2, inside)()
	defer close(leave)
	want, wantBody := get(t, theirs.URL)
	got, gotBody := get(t, ours.url)
	if got.StatusCode != want.StatusCode || gotBody != wantBody {
		t.Errorf("refused with %d %q, faas-middleware with %d %q", got.StatusCode, gotBody, want.StatusCode, wantBody)
	}
	for name := range want.Header {
		if name != "Date" && got.Header.Get(name) != want.Header.Get(name) {
			t.Errorf("%s: %q, faas-middleware's %q", name, got.Header.Get(name), want.Header.Get(name))
		}
	}
	if got.Header.Get(contract.HeaderReject) != contract.RejectInflight || got.Header.Get("Retry-After") != "1" {
		t.Errorf("refused without a reason or a time: %v", got.Header)
	}
	if resp, reason := get(t, ours.url+contract.ReadyPath); resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(reason, "max_inflight") {
		t.Errorf("at the limit ready says %d %q", resp.StatusCode, reason)
	}
	if resp, _ := get(t, ours.url+contract.HealthPath); resp.StatusCode != http.StatusOK {
		t.Errorf("at the limit health says %d", resp.StatusCode)
	}
}

func TestHandlerCannotSpeakForTheWatchdog(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(contract.HeaderReject, "memory")
		w.Header().Set(contract.HeaderInternal, "of-watchdog")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	resp, _ := get(t, s.url)
	if resp.Header.Get(contract.HeaderReject) != "" || resp.Header.Get(contract.HeaderInternal) != "" {
		t.Errorf("the handler's own private headers got out: %v", resp.Header)
	}
	if resp.Header.Get("Retry-After") != "7" {
		t.Error("the handler's Retry-After is its own and was lost")
	}
}

func TestPanicReleasesTheSlotAndCutsTheConnection(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
		}
		if r.URL.Path != "/well" {
			panic("on purpose")
		}
	}, "max_inflight=1")
	for _, path := range []string{"/at-once", "/begun", "/at-once", "/begun"} {
		resp, err := http.Get(s.url + path)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: a panic looked like a whole answer", path)
		}
	}
	if resp, _ := get(t, s.url+"/well"); resp.StatusCode != http.StatusOK {
		t.Errorf("after four panics with max_inflight=1: %d", resp.StatusCode)
	}
	eventually(t, "the panic in the log", func() bool { return strings.Contains(s.log.String(), "on purpose") })
}

func TestTimeoutIsAnsweredWhileAnInprocHandlerGoesOn(t *testing.T) {
	leave := make(chan struct{})
	var late atomic.Value
	done := make(chan struct{})
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		<-r.Context().Done()
		<-leave
		w.Header().Set("Late", "yes")
		_, err := io.WriteString(w, "too late")
		late.Store(fmt.Sprint(err))
	}, "exec_timeout=50ms", "max_inflight=1")
	resp, body := get(t, s.url)
	if resp.StatusCode != http.StatusGatewayTimeout || resp.Header.Get(contract.HeaderInternal) != contract.InternalWatchdog {
		t.Errorf("time over: %d %q %v", resp.StatusCode, body, resp.Header)
	}
	if resp, _ := get(t, s.url); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a handler that goes on lost its slot: %d", resp.StatusCode)
	}
	close(leave)
	<-done
	if late.Load() != http.ErrHandlerTimeout.Error() {
		t.Errorf("a late write returned %v", late.Load())
	}
	eventually(t, "slot back", func() bool { return s.limiter.Stats().Running == 0 })
}

func TestOnlyAShorterPositiveXTimeoutCounts(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		d, ok := r.Context().Deadline()
		fmt.Fprintf(w, "%v %v", ok, time.Until(d) > 20*time.Second)
	}, "exec_timeout=1m", "write_timeout=1m")
	for value, want := range map[string]string{
		"": "true true", "10s": "true false", "0s": "true true", "-1s": "true true",
		"10m": "true true", "soon": "true true", "5": "true true",
	} {
		if _, body := get(t, s.url, contract.HeaderTimeout, value); body != want {
			t.Errorf("X-Timeout %q: %q, want %q", value, body, want)
		}
	}
}

func TestReadyPathIsAskedOnceForMany(t *testing.T) {
	var calls atomic.Int32
	var code atomic.Int32
	code.Store(http.StatusTeapot)
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" {
			if calls.Add(1) > 1 && len(r.Header) != 0 {
				t.Errorf("the call carries headers of whoever asked: %v", r.Header)
			}
			time.Sleep(20 * time.Millisecond)
			w.WriteHeader(int(code.Load()))
		}
	})
	s.cfg.ReadyPath, s.asked.path = "/ready", "/ready"
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if resp, _ := get(t, s.url+contract.ReadyPath); resp.StatusCode != http.StatusTeapot {
				t.Errorf("ready says %d, the function 418", resp.StatusCode)
			}
		})
	}
	all.Wait()
	if n := calls.Load(); n > 2 {
		t.Errorf("50 who asked at once made %d calls", n)
	}
	code.Store(http.StatusOK)
	eventually(t, "the function's new word", func() bool {
		resp, _ := get(t, s.url+contract.ReadyPath)
		return resp.StatusCode == http.StatusOK
	})
	if _, body := get(t, s.metrics); strings.Contains(body, `code="418"`) {
		t.Error("the call of ready_path is in the metrics")
	}
}

func TestDrainAnswersWhatWaitsInTheKernel(t *testing.T) {
	l, err := listen("", 0)
	if err != nil {
		t.Fatal(err)
	}
	var waiting []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.port()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		waiting = append(waiting, c)
	}
	l.finish()
	for i := range waiting {
		c, err := l.Accept()
		if err != nil {
			t.Fatalf("connection %d of 20 was lost: %v", i, err)
		}
		defer c.Close()
	}
	if _, err := l.Accept(); err != net.ErrClosed {
		t.Errorf("then %v", err)
	}
}

func TestFinishWakesABlockedAccept(t *testing.T) {
	l, err := listen("", 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { _, err := l.Accept(); got <- err }()
	l.finish()
	if err := <-got; err != net.ErrClosed {
		t.Errorf("Accept returned %v", err)
	}
}

func TestAKeptConnectionIsRefusedOnceTheListenerIsClosed(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			inside <- struct{}{}
			<-leave
		}
	})
	kept, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	answers := bufio.NewReader(kept)
	ask := func() *http.Response {
		fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := ask(); resp.StatusCode != http.StatusOK || resp.Close {
		t.Fatalf("%v", resp)
	}
	wait := occupy(t, s.url+"/slow", 1, inside)
	s.stop()
	eventually(t, "closed listener", s.closed.Load)
	resp := ask()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get(contract.HeaderReject) != contract.RejectDraining || !resp.Close {
		t.Errorf("on a kept connection: %d %v close=%v", resp.StatusCode, resp.Header, resp.Close)
	}
	close(leave)
	wait()
}

func TestAJSONLogIsJSON(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {}, "log_format=json", "log_call_id=true")
	get(t, s.url+"/x?y=1", contract.HeaderCallID, "abc-1")
	get(t, s.url+"/x?y=2", contract.HeaderCallID, "no\"good")
	eventually(t, "request lines", func() bool { return strings.Count(s.log.String(), `"msg":"request"`) == 2 })
	for _, line := range strings.Split(strings.TrimSpace(s.log.String()), "\n") {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}") {
			t.Errorf("not JSON: %s", line)
		}
	}
	if log := s.log.String(); !strings.Contains(log, `"call_id":"abc-1"`) || !strings.Contains(log, `"call_id":"invalid"`) {
		t.Errorf("call IDs: %s", log)
	}
}

func TestKubeProbeIsNotLogged(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {})
	get(t, s.url+"/probed", "User-Agent", "kube-probe/1.35")
	get(t, s.url+"/asked")
	eventually(t, "the line of the second", func() bool { return strings.Contains(s.log.String(), "GET /asked - 200 - ContentLength: 0B (") })
	if strings.Contains(s.log.String(), "/probed") {
		t.Error("a probe is in the log")
	}
}

func TestTwoWatchdogsInOneProcess(t *testing.T) {
	one := startInproc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "one") })
	two := startInproc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "two") })
	if _, body := get(t, one.url); body != "one" {
		t.Error(body)
	}
	if _, body := get(t, two.url); body != "two" {
		t.Error(body)
	}
	if _, body := get(t, two.metrics); !strings.Contains(body, `http_requests_total{code="200",method="get"} 1`) {
		t.Error("the metrics of two watchdogs mix")
	}
}

func TestLockNotWritableEndsTheStart(t *testing.T) {
	cfg, err := FromEnv([]string{"port=0", "metrics_port=0"}, ModeInproc)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Handler = http.NotFoundHandler()
	cfg.LockPath = filepath.Join("/proc", "no-such-folder", ".lock")
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Stdout, w.Stderr = io.Discard, io.Discard
	if err := w.Listen(); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "suppress_lock") {
		t.Errorf("Run: %v", err)
	}
}

// A refusal that leaves an unread body on a kept connection would make the
// rest of that body the next request of whoever shares the connection.
func TestRefusalOfABodyCannotSmuggleARequest(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	var seen atomic.Int32
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/smuggled" {
			seen.Add(1)
			return
		}
		inside <- struct{}{}
		<-leave
	}, "max_inflight=1", "read_timeout=300ms")
	wait := occupy(t, s.url, 1, inside)
	defer wait()
	defer close(leave)
	for _, head := range []string{
		"Content-Length: 100\r\n", "Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n", head)
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("%q: %v %v", head, resp, err)
		}
		// The body, when the answer and read_timeout are over.
		time.Sleep(400 * time.Millisecond)
		fmt.Fprint(c, "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Error(err)
		}
		if next, err := http.ReadResponse(in, nil); err == nil {
			t.Errorf("%q: the body was answered as a request: %d", head, next.StatusCode)
		}
		c.Close()
	}
	if seen.Load() > 0 {
		t.Error("a body reached the handler as a request")
	}
}

func TestCloseDoesNotWaitForEverForALogReader(t *testing.T) {
	w := &Watchdog{}
	block := make(chan struct{})
	defer close(block)
	w.stdout, w.stderr = logs.New(io.Discard), logs.New(writerFunc(func(p []byte) (int, error) { <-block; return len(p), nil }))
	fmt.Fprintln(w.stderr, "never read")
	if err := w.Close(); err == nil {
		t.Error("lines were lost and Close said nothing")
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The end of an HTTP/1.0 answer is the connection's: only a reset says that it
// came too early.
func TestACutAnswerIsNoEndForHTTP10(t *testing.T) {
	s := startInproc(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, "exec_timeout=100ms")
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	if answer, err := io.ReadAll(c); err == nil {
		t.Errorf("looks whole: %q", answer)
	}
}

func TestHeadersThatDoNotFitAFork(t *testing.T) {
	cfg, err := FromEnv([]string{"port=0", "metrics_port=0", "fprocess=cat", "log_format=json", "healthcheck_interval=0",
		"TMPDIR=" + t.TempDir(), "PATH=/bin:/usr/bin"}, ModeClassic)
	if err != nil {
		t.Fatal(err)
	}
	s := startWith(t, cfg)
	resp, body := get(t, s.url, "Much", strings.Repeat("x", 200<<10))
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	get(t, s.url)
	eventually(t, "classic's lines as JSON", func() bool { return strings.Contains(s.log.String(), `"msg":"Forking fprocess."`) })
}
