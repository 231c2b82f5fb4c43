package fleet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// programs is a folder of what the tests run.
var programs string

// build builds them when the first test needs them.
var build = sync.OnceValue(func() error {
	for name, pkg := range map[string]string{"fwatchdog": "..", "hello": "../testdata/handlers/hello"} {
		build := exec.Command("go", "build", "-tags", "nethttpomithttp2", "-o", filepath.Join(programs, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
})

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "fleet-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// fwatchdog is a real one that a test started.
type fwatchdog struct {
	*exec.Cmd
	addr string
	log  bytes.Buffer
	left chan struct{}
}

// freeAddr is an address at which nobody listens yet.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func startWatchdog(t *testing.T, addr string, env ...string) *fwatchdog {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	w := &fwatchdog{Cmd: exec.Command(filepath.Join(programs, "fwatchdog")), addr: addr, left: make(chan struct{})}
	w.Env = append([]string{"PATH=" + os.Getenv("PATH"), "port=" + port, "metrics_port=0", "suppress_lock=true", "max_memory=off"}, env...)
	w.Stdout, w.Stderr = &w.log, &w.log
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = w.Wait()
		close(w.left)
	}()
	t.Cleanup(func() {
		_ = w.Process.Kill()
		<-w.left
		if t.Failed() {
			t.Logf("fwatchdog said:\n%s", w.log.String())
		}
	})
	return w
}

// runFleet runs one that asks, until the test ends.
func runFleet(t testing.TB, pr *Prober) *Fleet {
	t.Helper()
	f := New(Config{Probe: pr})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return f
}

// until waits for what a function's pods are to be.
func until(t testing.TB, e *Entry, what string, holds func() bool) {
	t.Helper()
	end := time.After(patience)
	for {
		changed := e.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond): // not all is a change
		case <-end:
			for _, p := range e.Pods() {
				t.Logf("%s: %v, %+v", p.About().Name, p.State(), *p.Said())
			}
			t.Fatalf("not after %v: %s", patience, what)
		}
	}
}

func TestRealWatchdogsLife(t *testing.T) {
	f := runFleet(t, &Prober{Look: 200 * time.Millisecond})
	about := function.Pod{Name: "a", UID: "1", Addr: freeAddr(t)} // not Ready, and it does not matter
	f.Put(functionOf(refOf(1), about))
	e := f.Get(refOf(1))
	p := e.Pods()[0]
	until(t, e, "being asked while nobody is there", func() bool { return asked(f, p) > 3 || p.entry.Gone() })

	handler := freeAddr(t)
	_, handlerPort, _ := net.SplitHostPort(handler)
	w := startWatchdog(t, about.Addr, "mode=http", "upstream_url=http://"+handler, "http_port="+handlerPort,
		fmt.Sprintf("fprocess=sh -c 'sleep 0.4; exec %s'", filepath.Join(programs, "hello")),
		"max_inflight=1", "max_queue=0", "exec_timeout=60s", "write_timeout=60s", "healthcheck_interval=20s")
	until(t, e, "known as a watchdog while its handler starts", func() bool { return p.Said().Nature == Watchdog && p.State() == Starting })
	until(t, e, "started with room", func() bool { return *p.Said() == Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 1} })

	// Full, which it notices by itself, and by a request that is refused.
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.addr+"/slow?ms=50000", nil)
		res, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			_ = res.Body.Close()
		}
		held <- err
	}()
	until(t, e, "no room while its one slot is taken", func() bool { return p.State() == Started && !p.Said().Room })
	p.Full()
	cancel()
	<-held
	until(t, e, "room when the slot is free", func() bool { return p.Said().Room })

	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, e, "stopping while it drains", func() bool { return p.State() == Stopping })
	_ = w.Process.Kill()
	<-w.left

	// Another one in its place.
	about.UID = "2"
	f.Put(functionOf(refOf(1), about))
	again := e.Pods()[0]
	w = startWatchdog(t, about.Addr, "fprocess=cat", "max_inflight=3", "max_queue=5")
	until(t, e, "the next process started", func() bool {
		return *again.Said() == Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 3, MaxQueue: 5}
	})
	_ = w.Process.Kill()
	<-w.left
	until(t, e, "loss when it is killed", func() bool { return again.State() == Starting })
	startWatchdog(t, about.Addr, "fprocess=cat", "max_inflight=4")
	until(t, e, "found again", func() bool { return again.State() == Started && again.Said().MaxInflight == 4 })
	if p.State() != Stopping {
		t.Error("the first one came back")
	}
}

// A watchdog whose guards let nothing run has started, and says so by itself.
func TestRealWatchdogShortOfDisk(t *testing.T) {
	for name, setting := range map[string]string{"disk": "min_disk=100%", "fds": "max_fds=1"} {
		t.Run(name, func(t *testing.T) {
			w := startWatchdog(t, freeAddr(t), "fprocess=cat", "max_inflight=3", setting)
			f := runFleet(t, &Prober{})
			f.Put(functionOf(refOf(1), function.Pod{Name: "a", UID: "1", Addr: w.addr}))
			e := f.Get(refOf(1))
			p := e.Pods()[0]
			until(t, e, "started, and guarded", func() bool {
				return *p.Said() == Saying{State: Started, Nature: Watchdog, Guarded: true, MaxInflight: 3}
			})
			if e.Started() != 1 {
				t.Errorf("%d started", e.Started())
			}
			p.Lost()
			until(t, e, "guarded again", func() bool { return p.Said().Guarded })
		})
	}
}

// asked is how often a pod was asked since it came into its class.
func asked(f *Fleet, p *Pod) uint32 {
	pr := f.cfg.Probe
	pr.mu.Lock()
	defer pr.mu.Unlock()
	return p.watch.tries
}

// A plain server, such as OpenFaaS's own watchdog, which has a /_/ready too but
// does not say what we ask for, is asked once, and never over HTTP again.
func TestRealPlainServer(t *testing.T) {
	var questions, conns atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		questions.Add(1)
		_, _ = io.WriteString(w, "OK")
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	f := runFleet(t, &Prober{Look: 20 * time.Millisecond})
	about := function.Pod{Name: "a", UID: "1", Addr: server.Listener.Addr().String()}
	f.Put(functionOf(refOf(1), about))
	e := f.Get(refOf(1))
	p := e.Pods()[0]
	until(t, e, "known as plain, and not started", func() bool { return *p.Said() == Saying{Nature: Plain} })
	ready := about
	ready.Ready = true
	f.Put(functionOf(refOf(1), ready))
	until(t, e, "started when the provider says ready", func() bool { return *p.Said() == Saying{Nature: Plain, State: Started, Room: true} })
	for deadline := time.Now().Add(patience); conns.Load() < 5; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections: it is not looked at", conns.Load())
		}
	}
	if n := questions.Load(); n != 1 {
		t.Errorf("it was asked %d times over HTTP, expected once", n)
	}
	p.Lost()
	until(t, e, "found again", func() bool { return p.State() == Started })
	server.Close()
	until(t, e, "lost when its port closes", func() bool { return p.State() == Starting })
	if n := questions.Load(); n != 1 {
		t.Errorf("it was asked %d times over HTTP, expected once", n)
	}
}

// A redirect, garbage and a port that only listens: none harms the others.
func TestStrangers(t *testing.T) {
	var followed atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer target.Close()
	w := startWatchdog(t, freeAddr(t), "fprocess=cat", "max_inflight=2")
	addrs := []string{
		w.addr,
		listen(t, raw("HTTP/1.1 302 Found\r\nLocation: "+target.URL+"/\r\nContent-Length: 0\r\n\r\n")),
		listen(t, raw("220 mail ESMTP\r\n")),
		listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }),
		listen(t, raw("HTTP/1.1 200 OK\r\n"+strings.Repeat("X-Large: "+strings.Repeat("a", 1000)+"\r\n", 1000)+"\r\n")),
	}
	var pods []function.Pod
	for i, addr := range addrs {
		pods = append(pods, function.Pod{Name: fmt.Sprint(i), UID: fmt.Sprint(i), Addr: addr, Ready: true})
	}
	f := runFleet(t, &Prober{Timeout: 500 * time.Millisecond})
	f.Put(functionOf(refOf(1), pods...))
	e := f.Get(refOf(1))
	until(t, e, "all started, the first a watchdog, the others plain", func() bool {
		for i, p := range e.Pods() {
			if s := p.Said(); s.State != Started || (s.Nature == Watchdog) != (i == 0) || (s.Nature == Plain) != (i != 0) {
				return false
			}
		}
		return true
	})
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}
