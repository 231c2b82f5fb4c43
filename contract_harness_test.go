package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
)

// output collects what a process writes, and counts how many of its bytes are
// an x: what the long lines of the tests are made of.
type output struct {
	programtest.Log
	xs atomic.Int64
}

func (o *output) Write(p []byte) (int, error) {
	o.xs.Add(int64(bytes.Count(p, []byte("x"))))
	return o.Log.Write(p)
}

// exes is how many x came.
func (o *output) exes() int { return int(o.xs.Load()) }

// instance is a watchdog that runs.
type instance struct {
	t      testing.TB
	cmd    *exec.Cmd
	pid    int
	port   int
	metric int
	// dir is its TMPDIR; the lock file is dir/.lock.
	dir            string
	url            string
	stdout, stderr *output
	exited         <-chan struct{}
}

// in is w for a subtest: what fails there fails the subtest.
func (w *instance) in(t testing.TB) *instance {
	sub := *w
	sub.t = t
	return &sub
}

// parallel runs a test beside others, unless all watchdogs share one port.
func parallel(t *testing.T) {
	if os.Getenv("FWATCHDOG_METRICS_PORT") == "" {
		t.Parallel()
	}
}

// launch starts a watchdog with nothing in its environment but PATH, a TMPDIR
// and ports of its own, and env, whose entries win. It does not wait.
func launch(t testing.TB, program string, env ...string) *instance {
	t.Helper()
	return launchCmd(t, exec.Command(program), env...)
}

// launchCmd is launch for a command that is prepared already.
func launchCmd(t testing.TB, cmd *exec.Cmd, env ...string) *instance {
	t.Helper()
	own := []string{"healthcheck_interval=1ms"}
	if fixed := os.Getenv("FWATCHDOG_METRICS_PORT"); fixed != "" {
		own = append(own, "metrics_port="+fixed)
	}
	w := &instance{t: t, cmd: cmd, stdout: new(output), stderr: new(output)}
	if cmd.Stdout == nil {
		cmd.Stdout = w.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = w.stderr
	}
	run := programtest.StartWatchdogBy(t, cmd, append(own, env...)...)
	w.pid, w.port, w.metric, w.dir, w.url, w.exited = run.Pid(), run.Port, run.MetricsPort, run.Dir, run.URL, run.Ended
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stdout of the watchdog:\n%s", programtest.Clip(w.stdout.String()))
			t.Logf("stderr of the watchdog:\n%s", programtest.Clip(w.stderr.String()))
		}
		w.destroy()
	})
	return w
}

// destroy ends the watchdog and everything that it started, by pid.
func (w *instance) destroy() {
	left := descendants(w.pid)
	syscall.Kill(-w.pid, syscall.SIGKILL)
	for _, p := range left {
		p.kill()
	}
	select {
	case <-w.exited:
	case <-time.After(programtest.Patience):
		w.t.Errorf("watchdog %d does not end on SIGKILL", w.pid)
	}
}

// start launches a watchdog and waits until it says that it is ready.
func start(t testing.TB, env ...string) *instance {
	t.Helper()
	w := launch(t, fwatchdog(t), env...)
	w.waitReady()
	return w
}

// startClassic is start for fwatchdog-classic.
func startClassic(t testing.TB, env ...string) *instance {
	t.Helper()
	w := launch(t, fwatchdogClassic(t), env...)
	w.waitHealthy()
	return w
}

// client opens a connection per request and follows nothing.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	Timeout:   2 * programtest.Patience,
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

func (w *instance) waitReady()   { w.t.Helper(); w.waitStatus("/_/ready", 200) }
func (w *instance) waitHealthy() { w.t.Helper(); w.waitStatus("/_/health", 200) }

// waitStatus waits until GET path answers status; a watchdog that exits
// meanwhile fails the test.
func (w *instance) waitStatus(path string, status int) {
	w.t.Helper()
	var last string
	for end := time.Now().Add(programtest.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case <-w.exited:
			w.t.Fatalf("watchdog ended with %d before GET %s was %d", w.code(), path, status)
		default:
		}
		got, err := w.status(path)
		if err == nil && got == status {
			return
		}
		last = fmt.Sprintf("%d %v", got, err)
	}
	w.t.Fatalf("GET %s: want %d, last %s", path, status, last)
}

// status is the status of one GET.
func (w *instance) status(path string) (int, error) {
	resp, err := client.Get(w.url + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// answer is one response, read whole. err is what reading the body said.
type answer struct {
	*http.Response
	body string
	err  error
}

// do sends a request and reads its answer; only a failed exchange fails the
// test, a cut body does not.
func (w *instance) do(method, path, body string, headers ...string) answer {
	w.t.Helper()
	a, err := w.try(method, path, body, headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// try is do that returns what failed.
func (w *instance) try(method, path, body string, headers ...string) (answer, error) {
	return w.tryContext(context.Background(), method, path, body, headers...)
}

func (w *instance) tryContext(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	var src io.Reader
	if body != "" {
		src = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, src)
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	return answer{resp, string(all), err}, nil
}

// signal sends sig to the watchdog alone.
func (w *instance) signal(sig syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(w.pid, sig); err != nil {
		w.t.Fatalf("signal %v: %v", sig, err)
	}
}

// wait is the exit code of the watchdog, which must end in time.
func (w *instance) wait() int {
	w.t.Helper()
	select {
	case <-w.exited:
		return w.code()
	case <-time.After(programtest.Patience):
		w.t.Fatalf("watchdog does not exit")
		return -1
	}
}

// code is the exit code after exited is closed, 128+n for a signal.
func (w *instance) code() int {
	if ws, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return w.cmd.ProcessState.ExitCode()
}

// stop sends TERM and wants the exit code 0.
func (w *instance) stop() {
	w.t.Helper()
	w.signal(syscall.SIGTERM)
	if code := w.wait(); code != 0 {
		w.t.Fatalf("exit code %d after TERM, want 0", code)
	}
}

// lock is the path of the lock file.
func (w *instance) lock() string { return filepath.Join(w.dir, ".lock") }

// wantLog waits for a line of the watchdog's stderr or stdout that contains
// text.
func (w *instance) wantLog(text string) {
	w.t.Helper()
	programtest.Eventually(w.t, "the log says "+strconv.Quote(text), func() bool {
		return strings.Contains(w.stderr.String(), text) || strings.Contains(w.stdout.String(), text)
	})
}
