package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// TERM reached the handler at once and its death ended the watchdog, losing
// what was in flight.
func TestTermLosesNothingInFlight(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	gate := filepath.Join(t.TempDir(), "gate")
	p := w.background("GET", "/file?name="+gate, "", "X-Id: held")
	programtest.Eventually(t, "the handler has the request", func() bool { return w.saw("held") })
	w.signal(syscall.SIGTERM)
	w.waitStatusOrClosed("/_/health", 503)
	touch(t, gate)
	a, err := p.wait(t)
	wantWhole(t, a, err, "there")
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// waitStatusOrClosed waits until GET path answers status, or the listener is
// closed already.
func (w *instance) waitStatusOrClosed(path string, status int) {
	w.t.Helper()
	programtest.Eventually(w.t, fmt.Sprintf("GET %s is %d or refused", path, status), func() bool {
		got, err := w.status(path)
		return err != nil || got == status
	})
}

// A handler that exited with 0 went unnoticed: health 200, every call 500.
func TestExitOfTheHandlerIsNoticed(t *testing.T) {
	for _, code := range []int{0, 1, 3, 255} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t)
			w.background("GET", "/exit?code="+strconv.Itoa(code), "")
			if got := w.wait(); got != code {
				t.Errorf("exit code %d, want the handler's %d", got, code)
			}
		})
	}
}

// The watchdog said ready before the handler listened.
func TestNotReadyBeforeTheHandlerListens(t *testing.T) {
	parallel(t)
	gate := filepath.Join(t.TempDir(), "gate")
	w := launchHTTP(t, child(t, "http"), "GATE="+gate)
	w.waitHealthy()
	if got, err := w.status("/_/ready"); err != nil || got != 503 {
		t.Errorf("GET /_/ready: %d %v, want 503 while the handler does not listen", got, err)
	}
	early := w.background("POST", "/echo", "early bird")
	touch(t, gate)
	a, err := early.wait(t)
	wantWhole(t, a, err, "early bird")
	w.waitReady()
}

// healthcheck_interval=0 never exited.
func TestNoHealthcheckIntervalStillExits(t *testing.T) {
	parallel(t)
	w := startFork(t, "streaming", "cat", "healthcheck_interval=0")
	w.stop()
}

// A port that is taken ended the watchdog with 0, the lock written.
func TestTakenPortEndsWithOne(t *testing.T) {
	parallel(t)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	w := launch(t, fwatchdog(t), "mode=streaming", "fprocess=cat", "port="+strconv.Itoa(port))
	if code := w.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	w.wantLog(strconv.Itoa(port))
	if _, err := os.Stat(w.lock()); err == nil {
		t.Error("the lock file was written although nothing is served")
	}
}

// A lock file that cannot be written ended the watchdog with 0 and no word.
func TestUnwritableLockEndsWithOne(t *testing.T) {
	parallel(t)
	w := launch(t, fwatchdog(t), "mode=streaming", "fprocess=cat", "TMPDIR="+filepath.Join(writeScript(t, ""), "no-folder"))
	if code := w.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	w.wantLog("lock")
}

// A metrics port that is taken made the watchdog panic.
func TestTakenMetricsPortEndsWithOne(t *testing.T) {
	parallel(t)
	l, err := net.Listen("tcp", ":"+os.Getenv("FWATCHDOG_METRICS_PORT"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	w := launch(t, fwatchdog(t), "mode=streaming", "fprocess=cat", "metrics_port="+port)
	if code := w.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	w.wantLog(port)
	if strings.Contains(w.stderr.String(), "goroutine ") {
		t.Error("it panics")
	}
}

// The metrics port could not be chosen.
func TestMetricsPortIsASetting(t *testing.T) {
	parallel(t)
	port := programtest.FreePort(t)
	w := startFork(t, "streaming", "cat", "metrics_port="+strconv.Itoa(port))
	w.metric = port
	if n, ok := w.sample("http_requests_in_flight"); !ok || n != 0 {
		t.Errorf("http_requests_in_flight is %v, %v on the port that was asked for", n, ok)
	}
}

// The lock file stayed behind after INT, and after the handler's end.
func TestNoStaleLock(t *testing.T) {
	gone := func(t *testing.T, w *instance) {
		t.Helper()
		w.wait()
		if _, err := os.Stat(w.lock()); err == nil {
			t.Error("the lock file is still there")
		}
	}
	for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startFork(t, "streaming", "cat")
			if _, err := os.Stat(w.lock()); err != nil {
				t.Fatal("no lock file while ready")
			}
			w.signal(sig)
			gone(t, w)
		})
	}
	t.Run("crash", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t)
		if _, err := os.Stat(w.lock()); err != nil {
			t.Fatal("no lock file while ready")
		}
		w.background("GET", "/exit?code=5", "")
		gone(t, w.instance)
	})
}

// The handler's last lines were lost, and its exit code became 1.
func TestLastWordsAndExitCodeSurvive(t *testing.T) {
	parallel(t)
	const lines = 3000
	w := startMisbehaving(t)
	w.background("GET", "/shout?code=7&n="+strconv.Itoa(lines), "")
	if code := w.wait(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	all := w.stderr.String() + w.stdout.String()
	for i := range lines {
		if !strings.Contains(all, fmt.Sprintf("last words %d\n", i)) {
			t.Fatalf("line %d of %d is lost", i, lines)
		}
	}
}

// suppress_lock made health answer 503 for ever.
func TestSuppressedLockKeepsHealth(t *testing.T) {
	parallel(t)
	w := startFork(t, "streaming", "cat", "suppress_lock=true")
	if got, err := w.status("/_/health"); err != nil || got != 200 {
		t.Errorf("GET /_/health: %d %v, want 200", got, err)
	}
	if _, err := os.Stat(w.lock()); err == nil {
		t.Error("a lock file is there")
	}
	w.stop()
}

// As PID 1, orphans were never reaped.
func TestOrphansAreReaped(t *testing.T) {
	parallel(t)
	unshare := []string{"--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command("unshare", append(unshare, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace here: %v: %s", err, out)
	}
	// Each request leaves two orphans in sessions of their own; they end soon.
	script := writeScript(t, "for i in 1 2; do setsid sleep 0.1 >/dev/null 2>&1 </dev/null & done\necho ok\n")
	cmd := exec.Command("unshare", append(unshare, fwatchdog(t))...)
	w := launchCmd(t, cmd, "mode=serializing", "fprocess=sh "+script)
	w.waitReady()
	for range 10 {
		wantWhole(t, w.do("GET", "/", ""), nil, "ok\n")
	}
	var left []process
	programtest.Eventually(t, "every orphan ended and was reaped", func() bool {
		left = descendants(w.pid)
		return len(left) == 1 // the watchdog itself
	})
}

// Every end has the code that a container runtime expects.
func TestExitCodes(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "plain")
	touch(t, notExecutable)
	for name, c := range map[string]struct {
		env  []string
		code int
		says string
	}{
		"no fprocess":    {[]string{"mode=streaming"}, 1, "fprocess"},
		"bad mode":       {[]string{"mode=afterburn", "fprocess=cat"}, 1, "afterburn"},
		"no upstream":    {[]string{"mode=http", "fprocess=cat"}, 1, "upstream_url"},
		"not found":      {[]string{"mode=http", "fprocess=/no/such/program", "upstream_url=http://127.0.0.1:9"}, 127, "/no/such/program"},
		"not executable": {[]string{"mode=http", "fprocess=" + notExecutable, "upstream_url=http://127.0.0.1:9"}, 126, notExecutable},
		"killed":         {[]string{"mode=http", "fprocess=sh -c 'kill -9 $$'", "upstream_url=http://127.0.0.1:9"}, 137, "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := launch(t, fwatchdog(t), c.env...)
			if code := w.wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if all := w.stderr.String() + w.stdout.String(); !strings.Contains(all, c.says) {
				t.Errorf("says %q, want it to name %q", all, c.says)
			} else if strings.Contains(all, "goroutine ") {
				t.Errorf("it panics: %q", all)
			}
			if _, err := os.Stat(w.lock()); err == nil {
				t.Error("the lock file is there after the end")
			}
		})
	}
}
