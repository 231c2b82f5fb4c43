package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

// scaled is a Provider that notes what was asked of it.
type scaled struct {
	mu    sync.Mutex
	wakes []function.Ref
	asks  []string
	told  []function.Event
	err   error
}

func (p *scaled) Wake(_ context.Context, ref function.Ref, _ int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes = append(p.wakes, ref)
	return nil
}

func (p *scaled) Scale(_ context.Context, ref function.Ref, replicas int, version string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.asks = append(p.asks, fmt.Sprintf("%s=%d%s", ref, replicas, version))
	}
	return p.err
}

func (p *scaled) Event(_ function.Ref, e function.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, e)
}

func (p *scaled) events() []function.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := p.told
	p.told = nil
	return told
}

func (p *scaled) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *scaled) asked() (wakes []function.Ref, asks []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wakes, asks = p.wakes, p.asks
	p.wakes, p.asks = nil, nil
	return wakes, asks
}

// apiWorld is a gateway whose functions are in namespace fn: echo, which has a
// pod that says what it was sent; asleep, which has none; and echo in far.
type apiWorld struct {
	*Gateway
	fleet    *fleet.Fleet
	provider *scaled
	handler  http.Handler
	// pod is the one behind echo.
	pod *httptest.Server
}

const (
	apiUser     = "admin"
	apiPassword = "open sesame"
)

func newAPIWorld(t testing.TB, change func(*Config)) *apiWorld {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &apiWorld{provider: &scaled{}, fleet: fleet.New(fleet.Config{Log: log})}
	w.pod = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%s %s %s", r.Method, r.RequestURI, body)
	}))
	t.Cleanup(w.pod.Close)
	for _, ref := range []function.Ref{{Name: "echo", Namespace: "fn"}, {Name: "asleep", Namespace: "fn"}, {Name: "echo", Namespace: "far"}} {
		w.put(ref, ref.Name == "echo")
	}
	w.fleet.Synced()
	cfg := Config{
		Fleet: w.fleet, Provider: w.provider, Log: log, Namespace: "fn",
		User: apiUser, Password: apiPassword, Version: "v1.2.3", Commit: "abc", Orchestration: "kubernetes",
		HoldTime: 200 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	w.Gateway, w.handler = g, g.Handler()
	return w
}

// put makes a function with one plain pod, or none.
func (w *apiWorld) put(ref function.Ref, up bool) *fleet.Entry {
	fn := &function.Function{Ref: ref, Kind: function.KindDeployment, Spec: function.Defaults(), Version: "1"}
	if up {
		fn.Replicas = 1
		fn.Pods = []function.Pod{{Name: ref.Name + "-1", UID: ref.String(), Addr: w.pod.Listener.Addr().String(), Ready: true}}
	}
	w.fleet.Put(fn)
	e := w.fleet.Get(ref)
	for _, p := range e.Pods() {
		p.Learn(fleet.Saying{State: fleet.Started, Nature: fleet.Plain, Room: true})
	}
	return e
}

// ask asks the handler without a socket in between; user decides whether with
// credentials.
func (w *apiWorld) ask(method, target, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.RequestURI = target
	if u, err := r.URL.Parse(target); err == nil && strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//") {
		r.URL = u
	}
	r.Host, r.RemoteAddr = "gateway.example.com", "203.0.113.9:1234"
	if change != nil {
		change(r)
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec
}

func asAdmin(r *http.Request) { r.SetBasicAuth(apiUser, apiPassword) }

// raw sends bytes as they are and returns the status line and the body.
func raw(t testing.TB, addr, text string) (status int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(all)
}

// TestPathsGoByteForByte sends what a cleaning router would change.
func TestPathsGoByteForByte(t *testing.T) {
	w := newAPIWorld(t, nil)
	server := httptest.NewServer(w.handler)
	defer server.Close()
	for target, want := range map[string]string{
		"/function/echo":                      "/",
		"/function/echo/":                     "/",
		"/function/echo?":                     "/?",
		"/function/echo?a=/b&namespace=far":   "/?a=/b&namespace=far",
		"/function/echo.fn/x":                 "/x",
		"/function/echo.far/x":                "/x",
		"/function/echo//x//y":                "//x//y",
		"/function/echo/a%2Fb":                "/a%2Fb",
		"/function/echo/%2e%2e/%2E":           "/%2e%2e/%2E",
		"/function/echo/../../system/info":    "/../../system/info",
		"/function/echo/./x/":                 "/./x/",
		"/function/echo/a;b=c,d@e:f":          "/a;b=c,d@e:f",
		"/function/echo/?q=%zz&&;":            "/?q=%zz&&;",
		"/function/echo/system/functions":     "/system/functions",
		"http://other/function/echo/p?q":      "/p?q",
		"/function/echo/function/asleep/_/ok": "/function/asleep/_/ok",
	} {
		status, body := raw(t, server.Listener.Addr().String(), "PUT "+target+" HTTP/1.1\r\nHost: gateway\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")
		if status != 200 || body != "PUT "+want+" body" {
			t.Errorf("%s: %d %q, want %q", target, status, body, want)
		}
	}
}

// TestHostNamesAFunction: then every path is the function's.
func TestHostNamesAFunction(t *testing.T) {
	w := newAPIWorld(t, nil)
	server := httptest.NewServer(w.handler)
	defer server.Close()
	for _, row := range []struct{ host, target, want string }{
		{"echo.fn", "/", "GET / "},
		{"echo.fn:8080", "/system/functions?x", "GET /system/functions?x "},
		{"ECHO.Fn", "/function/asleep", "GET /function/asleep "},
		{"echo.far", "//a%2Fb/../c", "GET //a%2Fb/../c "},
		{"echo.fn", "http://echo.fn/healthz", "GET /healthz "},
		{"echo.fn", "http://echo.fn", "GET / "},
		{"echo.fn", "http://echo.fn?q", "GET /?q "},
		// Not a function, so weir itself.
		{"echo", "/healthz", "OK\n"},
		{"echo.nowhere", "/healthz", "OK\n"},
		{"echo.fn.svc.cluster.local", "/healthz", "OK\n"},
		{"echo.fn.", "/healthz", "OK\n"},
		{"x.echo.fn", "/healthz", "OK\n"},
		{".fn", "/healthz", "OK\n"},
		{"[::1]:80", "/healthz", "OK\n"},
		{"127.0.0.1:80", "/healthz", "OK\n"},
		{"", "/healthz", "OK\n"},
	} {
		status, body := raw(t, server.Listener.Addr().String(), "GET "+row.target+" HTTP/1.1\r\nHost: "+row.host+"\r\nConnection: close\r\n\r\n")
		if status != 200 || body != row.want {
			t.Errorf("Host %s, %s: %d %q, want %q", row.host, row.target, status, body, row.want)
		}
	}
	// A header that is not the Host names nothing.
	rec := w.ask("GET", "/x", "", func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "echo.fn") })
	if rec.Code != 404 {
		t.Errorf("X-Forwarded-Host: %d", rec.Code)
	}
}

func TestNamesAreChecked(t *testing.T) {
	w := newAPIWorld(t, nil)
	long := strings.Repeat("a", 64)
	for _, path := range []string{"/function/", "/async-function/", "/wake-function/", "/status-function/", "/system/function/", "/system/scale-function/"} {
		method, body := "GET", ""
		if path == "/system/scale-function/" {
			method, body = "POST", `{"replicas":1}`
		}
		for name, want := range map[string]int{
			"": 400, ".": 400, "..": 400, "Echo": 400, "echo%2Efn": 400, "echo.fn.fn": 400, "-x": 400, "x-": 400, long: 400, "e_o": 400, "echo.": 400, ".fn": 400, "@echo": 400, "echo:80": 400,
			"nobody": 404, "echo.nowhere": 404, "asleep.far": 404,
		} {
			if rec := w.ask(method, path+name, body, asAdmin); rec.Code != want {
				t.Errorf("%s%s: %d %s, want %d", path, name, rec.Code, rec.Body, want)
			}
		}
	}
	if wakes, asks := w.provider.asked(); wakes != nil || asks != nil {
		t.Errorf("asked for %v, %v", wakes, asks)
	}
}

// TestCallsAwaitTheReading: who calls a weir that has just begun is answered
// once it knows what there is, and not before.
func TestCallsAwaitTheReading(t *testing.T) {
	f := fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})
	w := newAPIWorld(t, func(c *Config) { c.Fleet, c.HoldTime, c.HoldRequests = f, patience, 3 })
	answers := make(chan *httptest.ResponseRecorder, 3)
	for _, call := range [][2]string{{"weir", "/function/echo/x"}, {"echo.fn", "/x"}, {"weir", "/function/none"}} {
		go func() {
			answers <- w.ask("GET", call[1], "", func(r *http.Request) { r.Host = call[0] })
		}()
	}
	for end := time.Now().Add(patience); w.handler.(*api).waiting.Load() != 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests wait, want 3", w.handler.(*api).waiting.Load())
		}
	}
	if rec := w.ask("GET", "/function/echo/x", "", nil); rec.Code != 503 {
		t.Errorf("one more than may wait: %d", rec.Code)
	}
	w.fleet = f
	w.put(function.Ref{Name: "echo", Namespace: "fn"}, true)
	f.Synced()
	codes := map[int]int{}
	for range 3 {
		codes[(<-answers).Code]++
	}
	if codes[404] != 1 || codes[200] != 2 {
		t.Errorf("answers %v", codes)
	}
	if n := w.handler.(*api).waiting.Load(); n != 0 {
		t.Errorf("%d wait still", n)
	}
}

// TestNothingIsUnknownBeforeAllIsRead: a 404 would be a lie.
func TestNothingIsUnknownBeforeAllIsRead(t *testing.T) {
	w := newAPIWorld(t, func(c *Config) {
		c.Fleet, c.HoldTime = fleet.New(fleet.Config{Log: c.Log}), 10*time.Millisecond
	})
	at := func(host string) func(*http.Request) {
		return func(r *http.Request) { asAdmin(r); r.Host = host }
	}
	for _, row := range []struct {
		host, method, target string
		want                 int
	}{
		{"weir", "GET", "/function/echo/x", 503},
		{"weir", "GET", "/async-function/echo", 503},
		{"weir", "POST", "/wake-function/echo", 503},
		{"weir", "GET", "/status-function/echo", 503},
		{"weir", "GET", "/status-functions", 503},
		{"weir", "GET", "/status-functions-stream", 503},
		{"weir", "GET", "/system/functions", 503},
		{"weir", "GET", "/system/function/echo", 503},
		{"weir", "GET", "/system/namespaces", 503},
		{"weir", "GET", "/healthz", 503},
		{"weir", "GET", "/function/No", 400},
		{"weir", "GET", "/system/info", 200},
		// A function of that name may turn up.
		{"echo.fn", "GET", "/", 503},
		{"echo.fn", "GET", "/system/info", 503},
		{"weir", "GET", "/nowhere", 404},
		{"gateway.example.com", "GET", "/nowhere", 404},
	} {
		rec := w.ask(row.method, row.target, "", at(row.host))
		if rec.Code != row.want || (row.want == 503) != (rec.Header().Get("Retry-After") != "") {
			t.Errorf("%s %s: %d, Retry-After %q; want %d", row.host, row.target, rec.Code, rec.Header().Get("Retry-After"), row.want)
		}
	}
	w.Gateway.cfg.Fleet.Put(&function.Function{Ref: function.Ref{Name: "echo", Namespace: "fn"}, Spec: function.Defaults()})
	if rec := w.ask("GET", "/status-function/echo", "", nil); rec.Code != 200 {
		t.Errorf("one that was read already: %d", rec.Code)
	}
}

// TestPrivatePaths answers for the function, and wakes nothing.
func TestPrivatePaths(t *testing.T) {
	w := newAPIWorld(t, nil)
	full := w.put(function.Ref{Name: "full", Namespace: "fn"}, true)
	full.Pods()[0].Full()
	for _, row := range []struct {
		method, target string
		want           int
	}{
		{"GET", "/function/echo/_/health", 200},
		{"GET", "/function/echo/_/ready", 200},
		{"HEAD", "/function/echo/_/ready", 200},
		{"GET", "/function/echo/_/ready?x=y", 200},
		{"GET", "/function/asleep/_/health", 200},
		{"GET", "/function/asleep/_/ready", 503},
		{"GET", "/function/asleep/%5f/ready", 503},
		{"GET", "/function/asleep/_%2Fready", 503},
		{"GET", "/function/asleep/_/%72eady", 503},
		{"GET", "/function/full/_/ready", 429},
		{"GET", "/async-function/asleep/_/ready", 503},
		{"POST", "/function/asleep/_/ready", 405},
		{"GET", "/function/nobody/_/health", 404},
	} {
		if rec := w.ask(row.method, row.target, "", nil); rec.Code != row.want {
			t.Errorf("%s %s: %d %s, want %d", row.method, row.target, rec.Code, rec.Body, row.want)
		}
	}
	if rec := w.ask("GET", "/_/ready", "", func(r *http.Request) { r.Host = "asleep.fn" }); rec.Code != 503 {
		t.Errorf("by Host: %d", rec.Code)
	}
	if wakes, _ := w.provider.asked(); wakes != nil {
		t.Errorf("woke %v", wakes)
	}
	// Everything else below /_/ is the function's.
	for _, path := range []string{"/_/other", "/_/ready/", "//_/ready", "/_/Ready"} {
		if rec := w.ask("GET", "/function/echo"+path, "", nil); rec.Body.String() != "GET "+path+" " {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
}

func TestWakeRoute(t *testing.T) {
	w := newAPIWorld(t, nil)
	for _, method := range []string{"GET", "POST"} {
		if rec := w.ask(method, "/wake-function/echo", "", nil); rec.Code != 200 {
			t.Errorf("%s of one that is up: %d", method, rec.Code)
		}
	}
	if wakes, _ := w.provider.asked(); wakes != nil {
		t.Errorf("woke %v", wakes)
	}
	if rec := w.ask("GET", "/wake-function/asleep", "", nil); rec.Code != 202 {
		t.Errorf("one that sleeps: %d", rec.Code)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if wakes, _ := w.provider.asked(); len(wakes) > 0 {
			if wakes[0].String() != "asleep.fn" {
				t.Errorf("woke %v", wakes)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing woke")
		}
	}
	rec := w.ask("DELETE", "/wake-function/asleep", "", nil)
	if rec.Code != 405 || rec.Header().Get("Allow") != "GET, POST" {
		t.Errorf("DELETE: %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
}

func TestHealthz(t *testing.T) {
	w := newAPIWorld(t, nil)
	if rec := w.ask("GET", "/healthz", "", nil); rec.Code != 200 {
		t.Errorf("%d", rec.Code)
	}
	w.Drain()
	if rec := w.ask("GET", "/healthz", "", nil); rec.Code != 503 {
		t.Errorf("draining: %d", rec.Code)
	}
}

// BenchmarkRoute is what finding the function adds to a call.
func BenchmarkRoute(b *testing.B) {
	w := newAPIWorld(b, func(c *Config) {
		c.Async = &unkept{}
	})
	r := httptest.NewRequest("POST", "/async-function/echo/some/path?q=1", nil)
	r.Host = "127.0.0.1:31112"
	rec := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		w.handler.ServeHTTP(rec, r)
	}
}

// unkept is a queue that is fast.
type unkept struct{ scripted }

func (*unkept) Submit(context.Context, *queue.Message, string) (queue.ID, bool, error) {
	return firstID, false, nil
}
