package programtest_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

func TestMain(m *testing.M) { os.Exit(programtest.Run(m)) }

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %q %v", url, response.Status, text, err)
	}
	return string(text)
}

func TestBuildsOnce(t *testing.T) {
	path := programtest.BuildFwatchdog(t)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	again := programtest.BuildFwatchdog(t)
	after, err := os.Stat(again)
	if err != nil || path != again || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("%s, then %s: %v", path, again, err)
	}
	if classic := programtest.BuildFwatchdogClassic(t); classic == path {
		t.Error("other flags, and the same program")
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), programtest.Version) || !strings.Contains(string(out), programtest.Commit) {
		t.Errorf("%q, %v", out, err)
	}
}

func TestFreePorts(t *testing.T) {
	seen := map[int]bool{}
	for range 100 {
		port := programtest.FreePort(t)
		if seen[port] {
			t.Errorf("%d came twice", port)
		}
		seen[port] = true
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}

func TestWatchdog(t *testing.T) {
	w := programtest.StartWatchdog(t, "fprocess=cat", "max_inflight=7", "max_inflight=3").Ready()
	if text := get(t, w.MetricsURL); !strings.Contains(text, "watchdog_max_inflight 3\n") {
		t.Errorf("the metrics do not say 3:\n%s", text)
	}
	w.Signal(syscall.SIGSTOP)
	w.Kill()
	if code := w.Code(); code != 128+9 {
		t.Errorf("code %d of one that was killed", code)
	}
	if !strings.Contains(w.Log.String(), programtest.Version) {
		t.Errorf("in the log: %q", w.Log.String())
	}
}

// TestNothingIsLeft: a handler has a group of its own, so that it outlives a
// fwatchdog that is killed.
func TestNothingIsLeft(t *testing.T) {
	for name, kill := range map[string]func(*programtest.Watchdog){
		"at the end": func(*programtest.Watchdog) {},
		"before":     func(w *programtest.Watchdog) { w.Kill() },
		"by signal":  func(w *programtest.Watchdog) { w.Signal(syscall.SIGKILL); w.Wait() },
	} {
		var handlers []programtest.Process
		t.Run(name, func(t *testing.T) {
			port := strconv.Itoa(programtest.FreePort(t))
			w := programtest.StartWatchdog(t, "mode=http", "upstream_url=http://127.0.0.1:"+port,
				"fprocess="+programtest.Build(t, "testdata/functions/hello"), "PORT="+port).Ready()
			handlers = programtest.Descendants(w.Pid())
			kill(w)
			if len(handlers) == 0 || handlers[0].Gone() {
				t.Errorf("the handler does not outlive its watchdog: %v", handlers)
			}
		})
		for _, p := range handlers {
			programtest.Eventually(t, name+": the handler is gone", p.Gone)
		}
	}
}

// TestWeirAgain: a weir that is killed is started again on its folder, and
// nothing of either is left.
func TestWeirAgain(t *testing.T) {
	hello := programtest.Build(t, "testdata/functions/hello")
	w := programtest.NewLocalWeir(t, "functions:\n  hello:\n    fprocess: "+hello+"\n    environment: {mode: http}\n")
	for range 2 {
		w.Launch().Ready()
		get(t, w.URL+"/function/hello")
		get(t, w.MetricsURL)
		if len(w.Processes("fwatchdog")) == 0 {
			t.Errorf("no fwatchdog among %v", w.Processes(""))
		}
		w.Kill()
	}
	w.Gone()
}
