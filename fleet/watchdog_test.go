package fleet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

func TestMain(m *testing.M) { os.Exit(programtest.Run(m)) }

func startWatchdog(t *testing.T, addr string, env ...string) *programtest.Watchdog {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return programtest.StartWatchdog(t, append([]string{"port=" + port, "max_memory=off"}, env...)...)
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
	about := function.Pod{Name: "a", UID: "1", Addr: programtest.FreeAddr(t)} // not Ready, and it does not matter
	f.Put(functionOf(refOf(1), about))
	e := f.Get(refOf(1))
	p := e.Pods()[0]
	until(t, e, "being asked while nobody is there", func() bool { return asked(f, p) > 3 || p.entry.Gone() })

	handler := programtest.FreeAddr(t)
	_, handlerPort, _ := net.SplitHostPort(handler)
	w := startWatchdog(t, about.Addr, "mode=http", "upstream_url=http://"+handler, "http_port="+handlerPort,
		fmt.Sprintf("fprocess=sh -c 'sleep 0.4; exec %s'", programtest.Build(t, "testdata/handlers/hello")),
		"max_inflight=1", "max_queue=0", "exec_timeout=60s", "write_timeout=60s", "healthcheck_interval=20s")
	until(t, e, "known as a watchdog while its handler starts", func() bool { return p.Said().Nature == Watchdog && p.State() == Starting })
	until(t, e, "started with room", func() bool { return *p.Said() == Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 1} })

	// Full, which it notices by itself, and by a request that is refused.
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.Addr+"/slow?ms=50000", nil)
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

	w.Signal(syscall.SIGTERM)
	until(t, e, "stopping while it drains", func() bool { return p.State() == Stopping })
	w.Kill()

	// Another one in its place.
	about.UID = "2"
	f.Put(functionOf(refOf(1), about))
	again := e.Pods()[0]
	w = startWatchdog(t, about.Addr, "fprocess=cat", "max_inflight=3", "max_queue=5")
	until(t, e, "the next process started", func() bool {
		return *again.Said() == Saying{State: Started, Nature: Watchdog, Room: true, MaxInflight: 3, MaxQueue: 5}
	})
	w.Kill()
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
			w := startWatchdog(t, programtest.FreeAddr(t), "fprocess=cat", "max_inflight=3", setting)
			f := runFleet(t, &Prober{})
			f.Put(functionOf(refOf(1), function.Pod{Name: "a", UID: "1", Addr: w.Addr}))
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
	w := startWatchdog(t, programtest.FreeAddr(t), "fprocess=cat", "max_inflight=2")
	addrs := []string{
		w.Addr,
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
