package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a condition. It is long because the machine
// may be busy with other packages; no test passes by waiting for it. PATIENCE
// shortens it, to watch tests fail.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("PATIENCE")); err == nil {
		return d
	}
	return 30 * time.Second
}()

// nextPort starts at a place of this process's own. Ports are taken below the
// kernel's ephemeral range, so that no outgoing connection can hold one.
var nextPort atomic.Uint32

const firstPort, lastPort = 10000, 32000

// freePort is a TCP port that nothing listens on. Until the test ends no other
// call returns it, in no process: the name of a socket in the abstract
// namespace is the claim.
func freePort(t testing.TB) int {
	t.Helper()
	nextPort.CompareAndSwap(0, uint32(os.Getpid()*97%(lastPort-firstPort)+1))
	for range lastPort - firstPort {
		port := firstPort + int(nextPort.Add(1))%(lastPort-firstPort)
		claim, err := net.Listen("unix", fmt.Sprintf("@weir-test-port-%d", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			claim.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { claim.Close() })
		return port
	}
	t.Fatal("no free port")
	return 0
}

// output collects what a process writes: all of it up to kept, and of all of
// it how many of its bytes are an x.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
	xs  int
}

// kept is far above what any test reads of a log.
const kept = 16 << 20

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.xs += bytes.Count(p, []byte("x"))
	o.buf.Write(p[:min(len(p), kept-o.buf.Len())])
	return len(p), nil
}

// exes is how many x came: what the long lines of the tests are made of.
func (o *output) exes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.xs
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

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
	exited         chan struct{}
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
	w := &instance{t: t, cmd: cmd, port: freePort(t), metric: freePort(t), dir: t.TempDir(),
		stdout: new(output), stderr: new(output), exited: make(chan struct{})}
	if fixed := os.Getenv("FWATCHDOG_METRICS_PORT"); fixed != "" {
		w.metric, _ = strconv.Atoi(fixed)
	}
	all := append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + w.dir,
		"TMPDIR=" + w.dir,
		"port=" + strconv.Itoa(w.port),
		"metrics_port=" + strconv.Itoa(w.metric),
		"healthcheck_interval=1ms",
	}, env...)
	cmd.Env = lastWins(all)
	for _, e := range cmd.Env {
		if v, ok := strings.CutPrefix(e, "port="); ok {
			w.port, _ = strconv.Atoi(v)
		}
	}
	w.url = "http://127.0.0.1:" + strconv.Itoa(w.port)
	if cmd.Stdout == nil {
		cmd.Stdout = w.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = w.stderr
	}
	// A descendant that outlives the watchdog must not keep Wait from
	// returning: it may hold the pipes.
	cmd.WaitDelay = 2 * time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.pid = cmd.Process.Pid
	go func() {
		cmd.Wait()
		close(w.exited)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stdout of the watchdog:\n%s", clip(w.stdout.String()))
			t.Logf("stderr of the watchdog:\n%s", clip(w.stderr.String()))
		}
		w.destroy()
	})
	return w
}

// clip shortens what a failed test prints.
func clip(s string) string {
	const most = 8 << 10
	if len(s) <= most {
		return s
	}
	return s[:most/2] + "\n…\n" + s[len(s)-most/2:]
}

// lastWins drops the entries of an environment that a later one replaces, and
// those that are set to nothing.
func lastWins(env []string) []string {
	var out []string
	seen := map[string]bool{}
	for i := len(env) - 1; i >= 0; i-- {
		name, value, _ := strings.Cut(env[i], "=")
		if !seen[name] && value != "" {
			out = append(out, env[i])
		}
		seen[name] = true
	}
	return out
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
	case <-time.After(patience):
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
	Timeout:   2 * patience,
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
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
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
	case <-time.After(patience):
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

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", patience, what)
}

// wantLog waits for a line of the watchdog's stderr or stdout that contains
// text.
func (w *instance) wantLog(text string) {
	w.t.Helper()
	eventually(w.t, "the log says "+strconv.Quote(text), func() bool {
		return strings.Contains(w.stderr.String(), text) || strings.Contains(w.stdout.String(), text)
	})
}
