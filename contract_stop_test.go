package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// upgraded is an open connection that echoes lines.
type upgraded struct {
	t    testing.TB
	conn io.ReadWriteCloser
	in   *bufio.Reader
}

func (w *instance) upgrade() *upgraded {
	w.t.Helper()
	conn := w.dial()
	fmt.Fprint(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 {
		w.t.Fatalf("no upgrade: %v %v", resp, err)
	}
	return &upgraded{w.t, conn, in}
}

func (u *upgraded) echo(line string) {
	u.t.Helper()
	fmt.Fprintln(u.conn, line)
	if got, err := u.in.ReadString('\n'); err != nil || got != line+"\n" {
		u.t.Fatalf("echo %q, %v", got, err)
	}
}

// An upgraded connection holds a slot, and a drain waits for it.
func TestUpgradedConnectionIsInFlight(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1")
	u := w.upgrade()
	u.echo("before")
	if n, ok := w.sample("http_requests_in_flight"); !ok || n != 1 {
		t.Errorf("http_requests_in_flight is %v, want 1", n)
	}
	wantStatus(t, w.do("GET", "/x", ""), 429)
	w.signal(syscall.SIGTERM)
	programtest.Eventually(t, "the listener is closed", func() bool {
		_, err := w.status("/_/health")
		return err != nil
	})
	u.echo("while it drains")
	u.conn.Close()
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// An event stream is bound by exec_timeout alone; any other answer by
// write_timeout too.
func TestEventStreamOutlivesWriteTimeout(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "write_timeout=1s", "exec_timeout=1h")
	gate := filepath.Join(t.TempDir(), "gate")
	rest := w.readFirst("/stream?type=text/event-stream&name="+gate, "data: first")
	for range 2 { // each lasts as long as write_timeout
		wantOwn(t, w.do("GET", "/hang", ""), 504)
	}
	a, err := w.tryBegun("GET", "/stream?type=text/plain&name="+gate, "")
	wantCut(t, a, err)
	touch(t, gate)
	if got := rest(); got != "data: last" {
		t.Errorf("the rest is %q", got)
	}
}

// shutdown_timeout bounds a drain that would have no end; what is cut looks
// cut.
func TestShutdownTimeoutBoundsTheDrain(t *testing.T) {
	for name, path := range map[string]string{"unanswered": "/hang", "begun": "/stream?name=/no/such/file"} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, "shutdown_timeout=200ms", "exec_timeout=1h", "write_timeout=1h")
			p := w.background("GET", path, "", "X-Id: held")
			programtest.Eventually(t, "the handler has the request", func() bool { return w.saw("held") })
			w.stop()
			if a, err := p.wait(t); err == nil && a.err == nil && a.StatusCode < 500 {
				t.Errorf("a complete-looking %d %q", a.StatusCode, a.body)
			}
		})
	}
	t.Run("fork", func(t *testing.T) {
		parallel(t)
		w := startFork(t, "streaming", "grandchild 1h", "shutdown_timeout=200ms", "exec_timeout=1h", "write_timeout=1h")
		w.background("GET", "/", "")
		var forks []process
		programtest.Eventually(t, "the fork and its child run", func() bool {
			forks = descendants(w.pid)
			return len(forks) == 2
		})
		w.stop()
		for _, p := range forks {
			if p.alive() {
				t.Errorf("process %d (%s) outlives the watchdog", p.pid, p.command)
			}
		}
	})
}

// When the handler crashes, whoever is in flight is told so.
func TestCrashIsAnsweredWith502(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	held, _ := w.hold("bystander")
	culprit := w.background("POST", "/exit?code=3", "x")
	for _, p := range []*pending{held, culprit} {
		a, err := p.wait(t)
		if err != nil {
			t.Fatal(err)
		}
		wantOwn(t, a, 502)
	}
	if code := w.wait(); code != 3 {
		t.Errorf("exit code %d, want the handler's 3", code)
	}
}

// A handler that never listens is answered for, request by request.
func TestHandlerThatNeverListens(t *testing.T) {
	parallel(t)
	w := launchHTTP(t, child(t, "http")+" sleep 1h", "exec_timeout=200ms")
	w.waitHealthy()
	for range 2 {
		a := w.do("POST", "/", "x")
		if a.StatusCode != 503 && a.StatusCode != 504 {
			t.Errorf("status %d %q, want 503 or 504", a.StatusCode, a.body)
		}
		wantOwn(t, a, a.StatusCode)
	}
	if got, err := w.status("/_/ready"); err != nil || got != 503 {
		t.Errorf("ready %d %v, want 503", got, err)
	}
	w.stop()
}

// A handler that is deaf to TERM is killed after kill_grace.
func TestHandlerDeafToTermIsKilled(t *testing.T) {
	parallel(t)
	w := startHTTP(t, "sh "+writeScript(t, "trap '' TERM\n"+child(t, "http")+" &\nwhile :; do wait; done\n"), "kill_grace=200ms")
	handler := descendants(w.pid)
	w.stop()
	for _, p := range handler {
		if p.alive() {
			t.Errorf("process %d (%s) outlives the watchdog", p.pid, p.command)
		}
	}
}
