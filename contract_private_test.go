package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// hold keeps one request in the http child until release is called.
func (s *served) hold(id string) (p *pending, release func()) {
	s.t.Helper()
	gate := filepath.Join(s.t.TempDir(), "gate")
	p = s.background("GET", "/file?name="+gate, "", "X-Id: "+id)
	programtest.Eventually(s.t, "the handler has the request", func() bool { return s.saw(id) })
	return p, func() { touch(s.t, gate) }
}

// Health and readiness, in every verb, idle and at the limit.
func TestPrivateEndpoints(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=1")
	check := func(method, path string, status int, body string) {
		t.Helper()
		a := w.do(method, path, "")
		if a.StatusCode != status || body != "" && strings.TrimSpace(a.body) != body {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, a.StatusCode, a.body, status, body)
		}
		if method == "HEAD" && a.body != "" {
			t.Errorf("HEAD %s has a body: %q", path, a.body)
		}
	}
	both := func(ready int) {
		t.Helper()
		check("GET", "/_/health", 200, "OK")
		check("HEAD", "/_/health", 200, "")
		check("GET", "/_/ready", ready, "")
		check("HEAD", "/_/ready", ready, "")
	}
	both(200)
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"} {
		check(method, "/_/health", 405, "")
		check(method, "/_/ready", 405, "")
	}
	a := w.do("GET", "/_/ready", "")
	if inflight, queue := a.Header.Get("X-Watchdog-Max-Inflight"), a.Header.Get("X-Watchdog-Max-Queue"); inflight != "1" || queue != "0" {
		t.Errorf("X-Watchdog-Max-Inflight %q, X-Watchdog-Max-Queue %q; want 1 and 0", inflight, queue)
	}
	p, release := w.hold("one")
	both(429)
	release()
	held, err := p.wait(t)
	wantWhole(t, held, err, "there")
	w.waitReady()

	// Neither counted, nor limited, nor logged.
	if n, ok := w.sample(`http_requests_total{code="405",method="post"}`); ok {
		t.Errorf("private requests are counted: %v", n)
	}
	if all := w.stderr.String(); strings.Contains(all, "/_/") {
		t.Errorf("private requests are logged:\n%s", programtest.Clip(all))
	}
	// Other paths below /_/ are the function's.
	if h := w.inspect(w.do("GET", "/_/other", "")); h.URI != "/_/other" {
		t.Errorf("the handler saw %q", h.URI)
	}
}

// ready_path hands the function's own status on, when all else is well.
func TestReadyPathAsksTheFunction(t *testing.T) {
	parallel(t)
	for _, status := range []int{200, 204, 418, 503} {
		w := startMisbehavingUntil(t, status, "ready_path=/status?code="+strconv.Itoa(status), "max_inflight=1")
		if a := w.do("GET", "/_/health", ""); a.StatusCode != 200 {
			t.Errorf("health %d", a.StatusCode)
		}
		p, release := w.hold("one")
		w.waitStatus("/_/ready", 429)
		release()
		p.wait(t)
		w.stop()
	}
}

// startMisbehavingUntil is startMisbehaving that waits for another status of
// /_/ready than 200.
func startMisbehavingUntil(t testing.TB, ready int, env ...string) *served {
	t.Helper()
	w := launchHTTP(t, child(t, "http"), env...)
	w.waitStatus("/_/ready", ready)
	w.waitHandler()
	return w
}

// In http mode the watchdog also serves a handler on a unix socket, and one
// that it did not start.
func TestUpstreams(t *testing.T) {
	t.Run("unix", func(t *testing.T) {
		parallel(t)
		socket := filepath.Join(t.TempDir(), "s")
		w := start(t, "mode=http", "fprocess="+child(t, "http"), "LISTEN="+socket, "upstream_url=unix://"+socket)
		wantWhole(t, w.do("POST", "/echo", "through"), nil, "through")
		w.stop()
	})
	t.Run("base path", func(t *testing.T) {
		parallel(t)
		for base, want := range map[string]string{"/base": "/base/x?y=1", "/base/": "/base/x?y=1", "/": "/x?y=1"} {
			address := "127.0.0.1:" + strconv.Itoa(programtest.FreePort(t))
			w := &served{instance: start(t, "mode=http", "fprocess="+child(t, "http"), "LISTEN="+address, "http_upstream_url=http://"+address+base,
				"upstream_url=http://127.0.0.1:1/never")}
			if h := w.inspect(w.do("GET", "/x?y=1", "")); h.URI != want {
				t.Errorf("base %s: the handler saw %q, want %q", base, h.URI, want)
			}
			w.stop()
		}
	})
	t.Run("proxy only", func(t *testing.T) {
		parallel(t)
		first := startMisbehaving(t)
		w := start(t, "mode=http", "upstream_url=http://"+first.address)
		wantWhole(t, w.do("POST", "/echo", "through"), nil, "through")
		w.stop()
	})
}

// While it drains, a watchdog says so, goes on serving and closes what it
// answers.
func TestDrainSaysSoAndServesOn(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "healthcheck_interval=1h")
	w.signal(syscall.SIGTERM)
	w.waitStatus("/_/ready", 503)
	w.waitStatus("/_/health", 503)
	programtest.Eventually(t, "the lock file is gone", func() bool {
		_, err := os.Stat(w.lock())
		return os.IsNotExist(err)
	})
	a := w.do("POST", "/echo", "still here")
	wantWhole(t, a, nil, "still here")
	raw := w.raw("GET /status HTTP/1.1\r\nHost: x\r\n\r\n") // returns because the watchdog closes
	if !strings.Contains(raw, "\r\nConnection: close\r\n") {
		t.Errorf("answer while draining without Connection: close: %q", raw)
	}
	if v, ok := w.sample("watchdog_ready"); ok && v != 0 {
		t.Errorf("watchdog_ready is %v while draining", v)
	}
	w.signal(syscall.SIGTERM) // the second one ends it now
	if code := w.wait(); code == 0 {
		t.Error("exit code 0 after a second TERM, which cuts what runs")
	}
}

// Over the limit a request is refused at once, in OpenFaaS's own words, and
// the handler does not see it.
func TestRefusalOverTheLimit(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=2")
	var waits []func()
	for _, id := range []string{"one", "two"} {
		p, release := w.hold(id)
		waits = append(waits, func() {
			release()
			a, err := p.wait(t)
			wantWhole(t, a, err, "there")
		})
	}
	for _, method := range []string{"GET", "POST", "PUT"} {
		a := w.do(method, "/x", "body", "X-Id: refused")
		wantStatus(t, a, 429)
		if want := "Concurrent request limit exceeded. Max concurrent requests: 2\n"; a.body != want {
			t.Errorf("body %q, want %q", a.body, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "text/plain", "X-OpenFaaS-Internal": "faas-middleware", "X-Watchdog-Reject": "inflight", "Retry-After": "1",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	if w.saw("refused") {
		t.Error("the handler saw a request that was refused")
	}
	for _, wait := range waits {
		wait()
	}
	wantStatus(t, w.do("GET", "/status", ""), 200)
	if n, _ := w.sample(`watchdog_rejected_total{reason="inflight"}`); n != 3 {
		t.Errorf("watchdog_rejected_total is %v, want 3", n)
	}
}

// A request that comes on a kept connection when the listener is closed already
// is refused, so that it can be sent elsewhere.
func TestKeptConnectionIsRefusedAfterTheListenerClosed(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	conn := w.dial()
	in := bufio.NewReader(conn)
	exchange := func(id string) answer {
		t.Helper()
		fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: x\r\nX-Id: %s\r\nContent-Length: 4\r\n\r\nbody", id)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		return answer{resp, string(body), err}
	}
	wantWhole(t, exchange("first"), nil, "body")
	p, release := w.hold("last")
	w.signal(syscall.SIGTERM)
	programtest.Eventually(t, "the listener is closed", func() bool {
		_, err := w.status("/_/health")
		return err != nil
	})
	a := exchange("second")
	wantOwn(t, a, 503)
	if a.Header.Get("X-Watchdog-Reject") != "draining" || a.Header.Get("Retry-After") == "" || !a.Close {
		t.Errorf("the refusal's header is %v, close %v", a.Header, a.Close)
	}
	if w.saw("second") {
		t.Error("the handler saw the refused request")
	}
	release()
	held, err := p.wait(t)
	wantWhole(t, held, err, "there")
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Requests that were sent ahead on one connection are answered up to the one
// that says close, and the rest is not half served.
func TestPipelineInADrain(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	gate := filepath.Join(t.TempDir(), "gate")
	conn := w.dial()
	fmt.Fprintf(conn, "GET /file?name=%s HTTP/1.1\r\nHost: x\r\nX-Id: first\r\n\r\nGET /status HTTP/1.1\r\nHost: x\r\nX-Id: second\r\n\r\n", gate)
	programtest.Eventually(t, "the handler has the first request", func() bool { return w.saw("first") })
	w.signal(syscall.SIGTERM)
	programtest.Eventually(t, "the listener is closed", func() bool {
		_, err := w.status("/_/health")
		return err != nil
	})
	touch(t, gate)
	raw, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(raw); !strings.HasPrefix(text, "HTTP/1.1 200 ") || !strings.HasSuffix(text, "\r\n\r\nthere") || !strings.Contains(text, "\r\nConnection: close\r\n") {
		t.Errorf("answer %q, want the first whole, with Connection: close, and no more", text)
	}
	if w.saw("second") {
		t.Error("the handler saw the second request, which has no answer")
	}
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// -version and -run-healthcheck need no settings.
func TestFlags(t *testing.T) {
	run := func(env []string, args ...string) (code int, stdout, stderr string) {
		cmd := exec.Command(fwatchdog(t), args...)
		cmd.Env = env
		var o, e output
		cmd.Stdout, cmd.Stderr = &o, &e
		cmd.Run()
		return cmd.ProcessState.ExitCode(), o.String(), e.String()
	}
	dir := t.TempDir()
	env := []string{"TMPDIR=" + dir}
	for _, flag := range []string{"-version", "--version"} {
		code, stdout, stderr := run(env, flag)
		if all := stdout + stderr; code != 0 || !strings.Contains(all, programtest.Version) || !strings.Contains(all, programtest.Commit) {
			t.Errorf("%s: %d %q, want 0 and %s, %s", flag, code, all, programtest.Version, programtest.Commit)
		}
	}
	for _, flag := range []string{"-run-healthcheck", "--run-healthcheck"} {
		os.Remove(filepath.Join(dir, ".lock"))
		if code, stdout, stderr := run(env, flag); code != 1 || stdout != "" || stderr != "unable to find lock file.\n" {
			t.Errorf("%s without lock: %d %q %q", flag, code, stdout, stderr)
		}
		touch(t, filepath.Join(dir, ".lock"))
		if code, _, stderr := run(env, flag); code != 0 || stderr != "" {
			t.Errorf("%s with lock: %d %q", flag, code, stderr)
		}
	}
	if code, _, stderr := run(env, "-no-such-flag"); code == 0 || strings.Contains(stderr, "goroutine") {
		t.Errorf("an unknown flag: %d %q", code, stderr)
	}
}

// Bad settings end the start with 1, all named at once.
func TestBadSettingsAreNamedAllAtOnce(t *testing.T) {
	parallel(t)
	bad := map[string]string{
		"read_timeout": "soon", "write_timeout": "0", "exec_timeout": "-5s", "max_inflight": "many", "suppress_lock": "perhaps",
		"log_buffer_size": "1MB?", "prefix_logs": "yess", "healthcheck_interval": "1 hour", "log_format": "xml",
		"ready_path": "no-slash", "upstream_url": "gopher://x",
	}
	env := []string{"mode=http", "fprocess=cat"}
	for name, value := range bad {
		env = append(env, name+"="+value)
	}
	w := launch(t, fwatchdog(t), env...)
	if code := w.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for name, value := range bad {
		found := false
		for line := range strings.Lines(w.stderr.String()) {
			found = found || strings.Contains(line, name) && strings.Contains(line, value)
		}
		if !found {
			t.Errorf("no line names %s and %q:\n%s", name, value, w.stderr.String())
		}
	}
	if _, err := os.Stat(w.lock()); err == nil {
		t.Error("the lock file is there")
	}
}

// The environment is the handler's: it gets it as it was, and what is meant
// for it alone does not configure the watchdog.
func TestEnvironmentIsTheHandlers(t *testing.T) {
	parallel(t)
	w := startFork(t, "serializing", "env",
		"PORT=1", "MODE=static", "FPROCESS=false", "MAX_INFLIGHT=banana", "Port=2",
		"WATCHDOG_METRICS_PORT=tcp://10.0.0.1:8081", "odd name=kept", "EMPTY_=", "WATCHDOG_CONTENT_TYPE=text/x-wins", "content_type=text/x-loses")
	a := w.do("GET", "/", "")
	wantStatus(t, a, 200)
	if got := a.Header.Get("Content-Type"); got != "text/x-wins" {
		t.Errorf("Content-Type %q, want that of WATCHDOG_CONTENT_TYPE", got)
	}
	var got []string
	for _, e := range strings.Split(strings.TrimSpace(a.body), "\n") {
		if !strings.HasPrefix(e, "Http_") {
			got = append(got, e)
		}
	}
	want := slices.Clone(w.cmd.Env)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the handler's environment is\n%q, the watchdog was given\n%q", got, want)
	}
}
