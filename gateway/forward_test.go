package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

func (w *world) request(path string, header ...string) (seen, answer) {
	w.t.Helper()
	a := w.must("GET", path, nil, header...)
	var s seen
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		w.t.Fatalf("status %d: %q", a.code, a.body)
	}
	return s, a
}

func TestHeadersOfACall(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, plainPod(t, "p", handler())), 1)

	s, a := w.request("/f/request?a=%2F&b//c", "Host", "example.org", "X-Weir-Try", "7")
	id := s.Header.Get("X-Call-Id")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) || a.header.Get("X-Call-Id") != id {
		t.Errorf("X-Call-Id: the function got %q, the client %q", id, a.header.Get("X-Call-Id"))
	}
	at, err := strconv.ParseInt(s.Header.Get("X-Start-Time"), 10, 64)
	if err != nil || time.Since(time.Unix(0, at)).Abs() > patience || a.header.Get("X-Start-Time") != s.Header.Get("X-Start-Time") {
		t.Errorf("X-Start-Time: the function got %q, the client %q", s.Header.Get("X-Start-Time"), a.header.Get("X-Start-Time"))
	}
	if got := s.Header.Get("X-Forwarded-For"); got != "127.0.0.1" {
		t.Errorf("X-Forwarded-For: %q", got)
	}
	if got := s.Header.Get("X-Forwarded-Host"); got != "example.org" || s.Host != "example.org" {
		t.Errorf("X-Forwarded-Host: %q, Host: %q", got, s.Host)
	}
	if got := s.Header["X-Weir-Try"]; got != nil {
		t.Errorf("a client's own X-Weir-Try went on: %q", got)
	}
	if s.URI != "/request?a=%2F&b//c" {
		t.Errorf("the function was asked for %q", s.URI)
	}

	s, a = w.request("/f/request", "X-Call-Id", "mine_1.a-Z", "X-Forwarded-For", "10.0.0.1", "X-Forwarded-For", "10.0.0.2", "X-Forwarded-Host", "front")
	if s.Header.Get("X-Call-Id") != "mine_1.a-Z" || a.header.Get("X-Call-Id") != "mine_1.a-Z" {
		t.Errorf("a caller's own X-Call-Id became %q and %q", s.Header.Get("X-Call-Id"), a.header.Get("X-Call-Id"))
	}
	if got := s.Header["X-Forwarded-For"]; len(got) != 1 || got[0] != "10.0.0.1, 10.0.0.2, 127.0.0.1" {
		t.Errorf("X-Forwarded-For behind others: %q", got)
	}
	if got := s.Header.Get("X-Forwarded-Host"); got != "front" {
		t.Errorf("X-Forwarded-Host of who is in front: %q", got)
	}
	for _, bad := range []string{"a b", strings.Repeat("a", 65), "ü", "a/b", `"`} {
		if a := w.must("GET", "/f/request", nil, "X-Call-Id", bad); a.code != 400 || a.header.Get("X-Call-Id") == bad || !strings.Contains(a.body, "X-Call-Id") {
			t.Errorf("X-Call-Id %q: %+v", bad, a)
		}
	}
	w.idle("f")
}

// What a stranger's program says in a watchdog's name is not believed, and its
// refusals are its answers.
func TestAPlainPodsRefusalIsItsAnswer(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, plainPod(t, "p", handler())), 1)
	a := w.must("POST", "/f/status?code=429", strings.NewReader("hello"))
	if a.code != 429 || a.body != "from the handler" || a.header.Get("X-Watchdog-Reject") != "" {
		t.Errorf("%+v", a)
	}
	w.idle("f")
}

// sleeper wakes a function with one fwatchdog that is there after a while.
func (w *world) sleeper(name string, delay time.Duration, settings ...string) {
	w.function(name, 0)
	w.wake = func(_ context.Context, ref function.Ref, replicas int) error {
		w.function(name, replicas)
		go func() {
			time.Sleep(delay)
			w.function(name, replicas, watchdogPod(w.t, "new", settings...).pod)
		}()
		return nil
	}
}

func TestABurstFromZero(t *testing.T) {
	w := newWorld(t, nil)
	w.sleeper("f", 500*time.Millisecond, "max_inflight=20")
	const calls = 300
	long := bytes.Repeat([]byte("x"), 1<<20)
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			body := []byte("hello")
			if i%10 == 0 {
				body = long
			}
			a, err := w.do("POST", "/f/request", bytes.NewReader(body))
			var s seen
			if err != nil || a.code != 200 || json.Unmarshal([]byte(a.body), &s) != nil || s.Body != len(body) {
				t.Errorf("call %d: %v, status %d, %.200q", i, err, a.code, a.body)
			}
		})
	}
	all.Wait()
	if n := w.wakes.Load(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	if n := w.others.Load(); n != 0 {
		t.Errorf("%d other writes", n)
	}
	w.idle("f")
	if d := w.lane("f").demand(time.Now()); d.Calls != calls || d.Pods["new"].Calls != calls {
		t.Errorf("%+v", d)
	}
	// Warm, the provider is not asked at all.
	for range 50 {
		if a := w.must("POST", "/f/request", strings.NewReader("hello")); a.code != 200 {
			t.Errorf("warm: %d", a.code)
		}
	}
	if w.wakes.Load() != 1 || w.others.Load() != 0 {
		t.Error("a warm request asked the provider")
	}
}

func TestUpgradedConnections(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("plain", 1, plainPod(t, "p", handler())), 1)
	w.started(w.function("watchdog", 1, watchdogPod(t, "w", "max_inflight=1").pod), 1)
	for _, name := range []string{"plain", "watchdog"} {
		t.Run(name, func(t *testing.T) {
			u, _ := url.Parse(w.url)
			conn, err := net.Dial("tcp", u.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "GET /%s/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", name)
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != 101 {
				t.Fatalf("%v, %+v", err, res)
			}
			for _, line := range []string{"one\n", "two\n"} {
				fmt.Fprint(conn, line)
				if got, err := r.ReadString('\n'); err != nil || got != line {
					t.Fatalf("%q, %v", got, err)
				}
			}
			if d := w.lane(name).demand(time.Now()); d.Running != 1 {
				t.Errorf("an open socket does not count: %+v", d)
			}
			conn.Close()
			w.idle(name)
		})
	}
}

func TestEventsAreFlushed(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, watchdogPod(t, "w").pod), 1)
	ctx, leave := context.WithTimeout(t.Context(), patience)
	defer leave()
	req, _ := http.NewRequestWithContext(ctx, "GET", w.url+"/f/events", nil)
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for _, want := range []string{"data: 0\n", "\n", "data: 1\n"} {
		// The function does not go on before the client has read this.
		if got, err := r.ReadString('\n'); err != nil || got != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	leave()
	w.idle("f")
}

func TestLongBodies(t *testing.T) {
	const size = 64 << 20
	w := newWorld(t, nil)
	w.started(w.function("plain", 1, plainPod(t, "p", handler())), 1)
	w.started(w.function("watchdog", 1, watchdogPod(t, "w", "max_inflight=1").pod), 1)
	for _, name := range []string{"plain", "watchdog"} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/chunked=%v", name, chunked), func(t *testing.T) {
				req, _ := http.NewRequest("POST", w.url+"/"+name+"/echo", io.LimitReader(zeros{}, size))
				if !chunked {
					req.ContentLength = size
				}
				res, err := w.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil || res.StatusCode != 200 {
					t.Errorf("status %d, %d bytes, %v", res.StatusCode, n, err)
				}
				w.idle(name)
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestAClientLeavesWhileHeld(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"no body":    func() io.Reader { return nil },
		"short body": func() io.Reader { return strings.NewReader("hello") },
		"kept whole": func() io.Reader { return bytes.NewReader(make([]byte, 64<<10)) },
		// What the kernel takes without this side's reading. The end of a
		// longer body waits at the client.
		"not read":      func() io.Reader { return bytes.NewReader(make([]byte, 65<<10)) },
		"chunked":       func() io.Reader { return io.LimitReader(zeros{}, 5) },
		"more, chunked": func() io.Reader { return io.LimitReader(zeros{}, 30<<10) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.function("f", 0)
			w.wake = func(context.Context, function.Ref, int) error { return nil }
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				req, _ := http.NewRequestWithContext(ctx, "POST", w.url+"/f/echo", body())
				_, err := w.client.Do(req)
				ended <- err
			}()
			l := w.lane("f")
			w.until("the call is held", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.line.n == 1
			})
			leave()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			w.idle("f")
			w.until("it is counted as one that left", func() bool {
				l.done.mu.Lock()
				defer l.done.mu.Unlock()
				return l.done.byCode[statusClientLeft] != nil
			})
		})
	}
}

// A client that closes its side cannot be told from one that left. It is not
// told 200 of a function that never answered.
func TestAHalfClosedClientGetsNoEmptyAnswer(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, plainPod(t, "p", handler())), 1)
	for _, request := range []string{
		"GET /f/sleep?for=3s HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /f/request HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if back, _ := io.ReadAll(c); strings.HasPrefix(string(back), "HTTP/1.1 2") {
			t.Errorf("%q was answered %q", request, back)
		}
	}
	w.idle("f")
}

// What is too long is told of with its bound, by the name of the setting.
func TestABodyOverItsBound(t *testing.T) {
	w := newWorld(t, func(cfg *Config) { cfg.MaxBody = 1000 })
	w.started(w.function("f", 1, plainPod(t, "p", handler())), 1)
	for name, body := range map[string]io.Reader{
		"with a length": strings.NewReader(strings.Repeat("x", 1001)),
		"in chunks":     io.MultiReader(strings.NewReader(strings.Repeat("x", 1001))),
	} {
		a := w.must("POST", "/f/request", body)
		if a.code != http.StatusRequestEntityTooLarge || !strings.Contains(a.body, "1000 bytes") || !strings.Contains(a.body, "WEIR_MAX_BODY") {
			t.Errorf("%s: %+v", name, a)
		}
	}
	w.idle("f")
}

// What callers are refused for is in the log, once for all of them.
func TestRefusalsAreTold(t *testing.T) {
	w := newWorld(t, func(cfg *Config) { cfg.HoldTime = 100 * time.Millisecond })
	w.function("f", 1)
	for range 3 {
		if a := w.must("GET", "/f/request", nil); a.code != http.StatusServiceUnavailable || !strings.Contains(a.body, "their log says why") {
			t.Errorf("%+v", a)
		}
	}
	if n := strings.Count(w.log.String(), `msg="calls refused"`); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
	if !strings.Contains(w.log.String(), "calls=1 reason=not_started") {
		t.Error("the line does not say why")
	}
}

// storm calls a function from many clients until stop, and counts the answers.
type storm struct {
	w     *world
	stop  atomic.Bool
	all   sync.WaitGroup
	mu    sync.Mutex
	codes map[int]int
	odd   []string
}

func (w *world) storm(clients int, method, path string) *storm {
	s := &storm{w: w, codes: map[int]int{}}
	for range clients {
		s.all.Go(func() {
			for !s.stop.Load() {
				var body io.Reader
				if method == "POST" {
					body = strings.NewReader("hello")
				}
				a, err := w.do(method, path, body)
				if err != nil {
					a.code = -1
				}
				s.mu.Lock()
				s.codes[a.code]++
				if a.code != 200 && len(s.odd) < 5 {
					s.odd = append(s.odd, fmt.Sprintf("%d %v %q", a.code, err, a.body))
				}
				s.mu.Unlock()
			}
		})
	}
	return s
}

func (s *storm) count(code int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.codes[code]
}

// after waits for so many more answers of 200.
func (s *storm) after(n int) {
	s.w.t.Helper()
	goal := s.count(200) + n
	s.w.until("more answers", func() bool { return s.count(200) >= goal })
}

func (s *storm) end() map[int]int {
	s.stop.Store(true)
	s.all.Wait()
	return s.codes
}

func TestAPodIsKilledUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	one, two := watchdogPod(t, "one", "max_inflight=8"), watchdogPod(t, "two", "max_inflight=8")
	e := w.function("f", 2, one.pod, two.pod)
	w.started(e, 2)
	gets := w.storm(4, "GET", "/f/sleep?for=20ms")
	posts := w.storm(4, "POST", "/f/sleep?for=20ms")
	gets.after(50)
	one.Kill()
	gets.after(50)
	// The provider sees it later, and what comes in its place.
	three := watchdogPod(t, "three", "max_inflight=8")
	w.function("f", 2, two.pod, three.pod)
	gets.after(50)
	two.Kill()
	gets.after(50)
	if codes := gets.end(); len(codes) != 1 {
		t.Errorf("idempotent requests were answered %v; %q", codes, gets.odd)
	}
	codes := posts.end()
	for code := range codes {
		if code != 200 && code != 502 {
			t.Errorf("other requests were answered %v; %q", codes, posts.odd)
		}
	}
	if codes[502] > 8 {
		t.Errorf("%d requests are said to have been at pods that had 8 at most", codes[502])
	}
	w.idle("f")
}

func TestAPodDrainsUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	one, two := watchdogPod(t, "one", "max_inflight=8", "healthcheck_interval=100ms"), watchdogPod(t, "two", "max_inflight=8")
	w.started(w.function("f", 2, one.pod, two.pod), 2)
	posts := w.storm(8, "POST", "/f/sleep?for=5ms")
	posts.after(50)
	if err := one.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-one.Ended
	posts.after(50)
	if codes := posts.end(); len(codes) != 1 {
		t.Errorf("answered %v; %q", codes, posts.odd)
	}
	w.idle("f")
}

// A function that is put to sleep just as requests come is woken by them, and
// none of them is lost.
func TestPutToSleepUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	var mu sync.Mutex // of now and serial
	var now *process
	serial := 0
	start := func() {
		serial++
		now = watchdogPod(t, fmt.Sprintf("p%d", serial), "max_inflight=4", "healthcheck_interval=50ms")
		w.function("f", 1, now.pod)
	}
	w.wake = func(context.Context, function.Ref, int) error {
		mu.Lock()
		defer mu.Unlock()
		if w.f.Get(function.Ref{Name: "f", Namespace: "ns"}).Function().Replicas == 0 {
			start()
		}
		return nil
	}
	w.function("f", 0)
	posts := w.storm(8, "POST", "/f/sleep?for=5ms")
	for range 3 {
		posts.after(30)
		mu.Lock()
		old := now
		_ = old.Process.Signal(syscall.SIGTERM)
		stopping := old.pod
		stopping.Stopping = true
		w.function("f", 0, stopping)
		mu.Unlock()
		<-old.Ended
	}
	posts.after(30)
	if codes := posts.end(); len(codes) != 1 {
		t.Errorf("answered %v; %q", codes, posts.odd)
	}
	if n := w.wakes.Load(); n != 4 {
		t.Errorf("woken %d times, expected one for each sleep", n)
	}
	w.idle("f")
}

// Two gateways that do not know of each other fill the same pod twice over:
// what it refuses is held and tried again, and no client sees a 429.
func TestTwoGatewaysShareAPod(t *testing.T) {
	pod := watchdogPod(t, "w", "max_inflight=3")
	one, two := newWorld(t, nil), newWorld(t, nil)
	var storms []*storm
	for _, w := range []*world{one, two} {
		w.started(w.function("f", 1, pod.pod), 1)
		storms = append(storms, w.storm(6, "POST", "/f/sleep?for=2ms"))
	}
	refused := func() (n uint64) {
		for _, w := range []*world{one, two} {
			n += w.lane("f").demand(time.Now()).Pods["w"].Refused
		}
		return n
	}
	for _, s := range storms {
		s.after(200)
	}
	one.until("the pod has refused", func() bool { return refused() > 0 })
	for _, s := range storms {
		if codes := s.end(); len(codes) != 1 {
			t.Errorf("answered %v; %q", codes, s.odd)
		}
		s.w.idle("f")
	}
}

// A pod that others keep full refuses nearly all: still each request gets
// through, and none is refused to the client.
func TestARefusalStorm(t *testing.T) {
	w := newWorld(t, nil)
	pod := watchdogPod(t, "w", "max_inflight=1")
	w.started(w.function("f", 1, pod.pod), 1)
	var stop atomic.Bool
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for !stop.Load() {
				if res, err := w.client.Get("http://" + pod.pod.Addr + "/sleep?for=1ms"); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	s := w.storm(10, "POST", "/f/sleep?for=1ms")
	s.after(50)
	codes := s.end()
	stop.Store(true)
	others.Wait()
	if len(codes) != 1 {
		t.Errorf("answered %v; %q", codes, s.odd)
	}
	w.idle("f")
}

// Where the pods are full until the hold ends the client gets their own last
// word.
func TestAPodRefusesUntilTheHoldEnds(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldTime = 300 * time.Millisecond })
	pod := watchdogPod(t, "w", "max_inflight=1")
	w.started(w.function("f", 1, pod.pod), 1)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+pod.pod.Addr+"/sleep?for=1m", nil)
	go func() {
		if res, err := w.client.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	w.until("the pod is busy", func() bool {
		res, err := w.client.Get("http://" + pod.pod.Addr + "/_/ready")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 429
	})
	begin := time.Now()
	a := w.must("POST", "/f/echo", strings.NewReader("hello"))
	if a.code != 429 || a.header.Get("X-Watchdog-Reject") != "inflight" || a.header.Get("Retry-After") == "" || a.header.Get("X-Call-Id") == "" {
		t.Errorf("%+v", a)
	}
	if held := time.Since(begin); held < 300*time.Millisecond {
		t.Errorf("refused after %v, before the hold ended", held)
	}
	w.idle("f")
}

// cutter is a pod that hangs up on the first requests that it gets.
type cutter struct {
	cuts  int64
	got   atomic.Int64
	tries sync.Map
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == contract.ReadyPath {
		http.NotFound(w, r)
		return
	}
	n := c.got.Add(1)
	c.tries.Store(n, r.Header.Get("X-Weir-Try"))
	_, _ = io.Copy(io.Discard, r.Body)
	if n <= c.cuts {
		panic(http.ErrAbortHandler)
	}
	fmt.Fprint(w, "at last")
}

func TestWhatIsRepeated(t *testing.T) {
	for _, c := range []struct {
		method      string
		cuts        int64
		code, tries int
	}{
		{"GET", 0, 200, 1},
		{"GET", 2, 200, 3},
		{"PUT", 1, 200, 2},
		{"DELETE", 1, 200, 2},
		{"GET", 9, 502, 3},
		{"POST", 1, 502, 1},
		{"PATCH", 1, 502, 1},
	} {
		t.Run(fmt.Sprintf("%s, %d cut", c.method, c.cuts), func(t *testing.T) {
			w := newWorld(t, nil)
			pod := &cutter{cuts: c.cuts}
			w.started(w.function("f", 1, plainPod(t, "p", pod)), 1)
			a := w.must(c.method, "/f/", strings.NewReader("hello"))
			if a.code != c.code || int(pod.got.Load()) != c.tries {
				t.Errorf("status %d after %d tries: %s", a.code, pod.got.Load(), a.body)
			}
			for n := range pod.got.Load() {
				want := ""
				if n > 0 {
					want = fmt.Sprint(n + 1)
				}
				if got, _ := pod.tries.Load(n + 1); got != want {
					t.Errorf("try %d said X-Weir-Try %q", n+1, got)
				}
			}
			w.idle("f")
		})
	}
}

// Where everything fails, repeats are a tenth of the calls and what was saved
// up.
func TestRepeatsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	pod := &cutter{cuts: 1 << 60}
	w.started(w.function("f", 1, plainPod(t, "p", pod)), 1)
	const calls = 400
	begin := time.Now()
	for range calls {
		if a := w.must("GET", "/f/", nil); a.code != 502 {
			t.Fatalf("%+v", a)
		}
	}
	most := calls*(1+budgetShare) + budgetFloor + budgetRate*time.Since(begin).Seconds() + 1
	if got := float64(pod.got.Load()); got > most {
		t.Errorf("%d calls became %.0f tries, expected at most %.0f", calls, got, most)
	}
}

// An answer that breaks off must not look whole.
func TestHalfAnAnswerIsCut(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, plainPod(t, "p", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "half of it")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))), 1)
	if a, err := w.do("GET", "/f/", nil); err == nil {
		t.Errorf("the client takes it for whole: %+v", a)
	}
	w.idle("f")
}

func TestAPodThatIsNotThere(t *testing.T) {
	w := newWorld(t, nil)
	dead := function.Pod{Name: "dead", UID: "dead", Addr: programtest.FreeAddr(t), Ready: true}
	e := w.function("f", 2, dead, plainPod(t, "p", handler()))
	w.started(e, 1)
	// It was there when it was last heard.
	e.Pods()[0].Learn(plain)
	for range 20 {
		if a := w.must("POST", "/f/echo", strings.NewReader("hello")); a.code != 200 || a.body != "hello" {
			t.Errorf("%+v", a)
		}
	}
	w.idle("f")
}

func TestBodiesAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxBody, c.HoldBytes = 1<<20, 10_000 })
	w.started(w.function("f", 1, plainPod(t, "p", handler())), 1)
	if a := w.must("POST", "/f/echo", bytes.NewReader(make([]byte, 1<<20+1))); a.code != 413 {
		t.Errorf("too long: %d", a.code)
	}
	if a := w.must("POST", "/f/request", io.LimitReader(zeros{}, 1<<20+1)); a.code != 413 {
		t.Errorf("too long, in chunks: %d", a.code)
	}
	if a := w.must("POST", "/f/request", bytes.NewReader(make([]byte, 1<<20))); a.code != 200 {
		t.Errorf("as long as may be: %d %q", a.code, a.body)
	}
	w.function("asleep", 0)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			ctx, leave := context.WithTimeout(t.Context(), patience)
			defer leave()
			req, _ := http.NewRequestWithContext(ctx, "POST", w.url+"/asleep/echo", bytes.NewReader(make([]byte, 3000)))
			if res, err := w.client.Do(req); err == nil {
				res.Body.Close()
			}
		})
	}
	w.until("three are held", func() bool { return w.lane("asleep").kept.Load() == 9000 })
	a := w.must("POST", "/asleep/echo", bytes.NewReader(make([]byte, 3000)))
	if a.code != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "10000 bytes") {
		t.Errorf("%+v", a)
	}
	w.function("asleep", 1, plainPod(t, "q", handler()))
	all.Wait()
	w.idle("asleep")
}
