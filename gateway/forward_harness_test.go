package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

// patience bounds every wait for a condition; the machine may be busy.
const patience = time.Minute

// What the test binary is instead of tests, by its first argument.
const (
	asHandler = "as-handler" // a function's, at the port of the second
	asClients = "as-clients" // many clients of one URL
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case asHandler:
			fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Args[2], handler()))
			os.Exit(1)
		case asClients:
			os.Exit(beClients(os.Args[2:]))
		}
	}
	os.Exit(programtest.Run(m))
}

// seen is what the handler's /request says of the request that it got.
type seen struct {
	Method, URI, Host string
	Header            http.Header
	Body              int
}

// handler is the function of the tests.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/request", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, r.Header, int(n)})
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.Query().Get("for"))
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "slept")
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		w.Header().Set("X-Watchdog-Reject", "inflight")
		w.WriteHeader(code)
		fmt.Fprint(w, "from the handler")
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			if i == 1 {
				// The last one comes only once the client is seen to have
				// had the others: it asks for it by hanging up.
				<-r.Context().Done()
			}
		}
	})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_, _ = io.Copy(conn, buf)
	})
	return mux
}

// world is a gateway behind a real server, over a fleet that probes.
type world struct {
	*provider
	t   testing.TB
	g   *Gateway
	f   *fleet.Fleet
	url string
	log programtest.Log

	client *http.Client
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, provider: &provider{}}
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.f = fleet.New(fleet.Config{Log: log, Probe: &fleet.Prober{Log: log}})
	cfg := Config{Fleet: w.f, Provider: w.provider, Log: log, Namespace: "ns", HoldTime: patience}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.g, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.f.Synced()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.f.Run(ctx) })
	running.Go(func() { _ = w.g.Run(ctx) })
	w.url = w.listen()
	w.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		stop()
		running.Wait()
		w.g.Close()
		if t.Failed() {
			said := w.log.String()
			t.Logf("the gateway said:\n…%s", said[max(0, len(said)-8<<10):])
		}
	})
	return w
}

// listen serves the gateway's functions at /NAME/.
func (w *world) listen() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name, rest, _ := strings.Cut(r.RequestURI[1:], "/")
		e := w.f.Get(function.Ref{Name: name, Namespace: "ns"})
		if e == nil {
			http.NotFound(rw, r)
			return
		}
		w.g.serve(rw, r, e, "/"+rest)
	}), ErrorLog: slog.NewLogLogger(slog.NewTextHandler(&w.log, nil), slog.LevelError)}
	go func() { _ = server.Serve(l) }()
	w.t.Cleanup(func() { _ = server.Close() })
	return "http://" + l.Addr().String()
}

// function puts a function with the given pods.
func (w *world) function(name string, replicas int, pods ...function.Pod) *fleet.Entry {
	fn := describe(name, replicas, 0)
	fn.Pods = pods
	w.f.Put(fn)
	return w.f.Get(fn.Ref)
}

// until waits for a condition.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (w *world) started(e *fleet.Entry, n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d started pods", n), func() bool { return e.Started() == n })
}

// answer is one that a client got.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (w *world) do(method, path string, body io.Reader, header ...string) (answer, error) {
	req, err := http.NewRequest(method, w.url+path, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	res, err := w.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(got)}, err
}

func (w *world) must(method, path string, body io.Reader, header ...string) answer {
	w.t.Helper()
	a, err := w.do(method, path, body, header...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) lane(name string) *lane {
	return w.g.lane(w.f.Get(function.Ref{Name: name, Namespace: "ns"}))
}

// idle waits until nothing of a function's calls is left.
func (w *world) idle(name string) {
	w.t.Helper()
	l := w.lane(name)
	w.until("no call left", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.running.n == 0 && l.held.n == 0 && !l.watching
	})
	empty(w.t, l)
}

// plainPod is a pod without fwatchdog, in this process.
func plainPod(t testing.TB, name string, h http.Handler) function.Pod {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return function.Pod{Name: name, UID: name, Addr: l.Addr().String(), Ready: true, Created: time.Now()}
}

// process is a fwatchdog with the handler above.
type process struct {
	*programtest.Watchdog
	pod function.Pod
}

// watchdogPod starts one. Its settings are NAME=value.
func watchdogPod(t testing.TB, name string, settings ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	upstream := strconv.Itoa(programtest.FreePort(t))
	w := programtest.StartWatchdog(t, append([]string{"max_memory=off",
		"mode=http", "fprocess=" + self + " " + asHandler + " " + upstream, "upstream_url=http://127.0.0.1:" + upstream,
		"exec_timeout=120s", "write_timeout=120s", "read_timeout=120s"}, settings...)...)
	return &process{w, function.Pod{Name: name, UID: name, Addr: w.Addr, Created: time.Now()}}
}
