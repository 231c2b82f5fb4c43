package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/bench/cage"
	"github.com/weir-run/weir/test/programtest"
)

// wantReason fails unless the answer is a clean refusal for this reason.
func wantReason(t testing.TB, a answer, reason string) {
	t.Helper()
	wantOwn(t, a, 503)
	if got := a.Header.Get("X-Watchdog-Reject"); got != reason || a.Header.Get("Retry-After") == "" {
		t.Errorf("X-Watchdog-Reject %q, Retry-After %q; want %q and a number", got, a.Header.Get("Retry-After"), reason)
	}
	if !strings.Contains(a.body, reason) && reason != "fds" && reason != "pids" {
		t.Errorf("the body %q does not name %q", a.body, reason)
	}
}

// unready waits until readiness fails for want of a resource, and checks that
// liveness does not.
func (w *instance) unready(reason string) {
	w.t.Helper()
	var a answer
	programtest.Eventually(w.t, "readiness says 503 and "+reason, func() bool {
		a = w.do("GET", "/_/ready", "")
		return a.StatusCode == 503 && strings.Contains(a.body, reason)
	})
	if strings.Count(strings.TrimSpace(a.body), "\n") > 0 {
		w.t.Errorf("the body of /_/ready is %q, want one line", a.body)
	}
	if a := w.do("GET", "/_/health", ""); a.StatusCode != 200 {
		w.t.Errorf("liveness says %d %q while it refuses", a.StatusCode, a.body)
	}
}

// ratio waits until the ratio of a resource is known and ok holds for it.
func (w *instance) ratio(resource string, ok func(float64) bool) {
	w.t.Helper()
	programtest.Eventually(w.t, "watchdog_resource_usage_ratio of "+resource, func() bool {
		v, known := w.sample(`watchdog_resource_usage_ratio{resource="` + resource + `"}`)
		return known && ok(v)
	})
}

// shell runs a script in front of the watchdog, which takes its place.
func shell(t testing.TB, script string) *exec.Cmd {
	return exec.Command("/bin/sh", "-c", script+`; exec "$0"`, fwatchdog(t))
}

// launchBy starts a watchdog and a handler on LISTEN by a command of its own.
func launchBy(t testing.TB, cmd *exec.Cmd, handler string, env ...string) *served {
	t.Helper()
	address := fmt.Sprint("127.0.0.1:", programtest.FreePort(t))
	w := launchCmd(t, cmd, append([]string{
		"mode=http", "fprocess=" + handler, "upstream_url=http://" + address, "LISTEN=" + address,
	}, env...)...)
	s := &served{w, address, ""}
	s.waitReady()
	s.waitHandler()
	return s
}

// A handler that never closes what it opens is stopped short of the error that
// it would run into: EMFILE.
func TestHandlerThatLeaksDescriptors(t *testing.T) {
	parallel(t)
	for name, c := range map[string]struct {
		script  string
		handler func() string
	}{
		// The watchdog raises its own soft limit; Python stays at the one that
		// it was given.
		"soft limit": {"ulimit -Sn 256", func() string { return interpreter(t, "python3") + " '" + child(t, "hog.py") + "'" }},
		// A handler in Go goes up to the hard limit.
		"hard limit": {"ulimit -n 256", func() string { return child(t, "hog") }},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := launchBy(t, shell(t, c.script), c.handler())
			a := w.do("GET", "/fds?n=170&ms=20", "")
			wantWhole(t, a, nil, "leaked")
			for range 1000 {
				if a = w.do("GET", "/fds?n=1&ms=20", ""); a.StatusCode != 200 {
					break
				}
			}
			wantReason(t, a, "fds")
			w.unready("fds")
			w.ratio("fds", func(v float64) bool { return v >= 229.0/256 && v < 1 })
			if n, ok := w.sample(`watchdog_rejected_total{reason="fds"}`); !ok || n < 1 {
				t.Errorf("watchdog_rejected_total is %v", n)
			}
			w.wantLog("fds")
		})
	}
}

// The watchdog's own descriptors count too: connections that do nothing use
// them up.
func TestOwnDescriptorsAreGuarded(t *testing.T) {
	parallel(t)
	w := launchBy(t, shell(t, "ulimit -n 128"), child(t, "hog"))
	// It has some 15 of its own, and the mark is at 115.
	var idle []net.Conn
	for range 106 {
		idle = append(idle, w.dial())
	}
	w.unready("fds")
	wantReason(t, w.do("GET", "/take", ""), "fds")
	for _, conn := range idle {
		conn.Close()
	}
	w.waitReady()
	wantWhole(t, w.do("GET", "/take", ""), nil, "taken")
	w.ratio("fds", func(v float64) bool { return v < 0.8 })
}

// A burst of forks stays below the limit of processes: what does not fit is
// refused, and no fork fails.
func TestForksStayBelowTheLimitOfProcesses(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	w := launchCaged(t, cage.Limits{Pids: 40}, "mode=streaming", "fprocess="+sleep+" 0.3")
	w.waitReady()
	load := crowd{clients: 100, path: "/", pause: hammering, want: "", reasons: "pids"}
	first := load.run(w.instance)
	first.fair(t)
	load.time = 4 * time.Second
	y := load.run(w.instance)
	y.fair(t)
	if first.refused["pids"]+y.refused["pids"] == 0 {
		t.Error("nothing was refused: this is no load")
	}
	if y.mean < 5 {
		t.Errorf("%.1f in flight on average, where 40 processes fit", y.mean)
	}
	w.waitReady()
	w.ratio("pids", func(v float64) bool { return v > 0 && v < 0.9 })
	w.stop()
}

// Without the guard the same burst fails.
func TestWithoutPidsGuardForksFail(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	w := launchCaged(t, cage.Limits{Pids: 40}, "mode=streaming", "fprocess="+sleep+" 0.3", "max_pids=off")
	w.waitReady()
	y := crowd{clients: 100, path: "/", pause: hammering, time: time.Second, want: "", reasons: "pids"}.run(w.instance)
	t.Log(y)
	if len(y.odd) == 0 {
		t.Error("every request was answered")
	}
}

// diskful is a watchdog that watches a small disk of its own, in its own
// mount namespace: the disk ends with it.
func diskful(t testing.TB, options string, env ...string) (w *served, disk string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: no disk of its own")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command(unshare, "-m", "mount", "-t", "tmpfs", "-o", options, "none", dir).CombinedOutput(); err != nil {
		t.Skipf("no mount in a namespace of its own: %s", out)
	}
	cmd := exec.Command(unshare, "-m", "/bin/sh", "-c", `mount -t tmpfs -o `+options+` none "$0" && exec "$1"`, dir, fwatchdog(t))
	w = launchBy(t, cmd, child(t, "hog"), append([]string{"disk_path=" + dir}, env...)...)
	return w, fmt.Sprintf("/proc/%d/root%s", w.pid, dir)
}

// A full disk is refused for, also when nothing runs, and when there is room
// again it is not.
func TestDiskThatIsFull(t *testing.T) {
	parallel(t)
	t.Run("bytes", func(t *testing.T) {
		parallel(t)
		w, disk := diskful(t, "size=8m", "min_disk=25%")
		w.ratio("disk", func(v float64) bool { return v >= 0 && v < 0.5 })
		wantWhole(t, w.do("GET", "/take", ""), nil, "taken")
		file := filepath.Join(disk, "full")
		writeFile(t, file, strings.Repeat("x", 7*mib))
		w.unready("disk")
		wantReason(t, w.do("GET", "/take", ""), "disk")
		w.ratio("disk", func(v float64) bool { return v > 0.75 && v <= 1 })
		w.wantLog("disk")
		os.Remove(file)
		w.waitReady()
		wantWhole(t, w.do("GET", "/take", ""), nil, "taken")
	})
	t.Run("absolute", func(t *testing.T) {
		parallel(t)
		w, disk := diskful(t, "size=8m", "min_disk=6Mi")
		writeFile(t, filepath.Join(disk, "some"), strings.Repeat("x", 3*mib))
		w.unready("disk")
		wantReason(t, w.do("GET", "/take", ""), "disk")
	})
	t.Run("inodes", func(t *testing.T) {
		parallel(t)
		w, disk := diskful(t, "size=64m,nr_inodes=100", "min_disk=10%")
		for i := range 92 {
			writeFile(t, filepath.Join(disk, fmt.Sprint(i)), "")
		}
		w.unready("disk")
		wantReason(t, w.do("GET", "/take", ""), "disk")
		for i := range 50 {
			os.Remove(filepath.Join(disk, fmt.Sprint(i)))
		}
		w.waitReady()
	})
	t.Run("off", func(t *testing.T) {
		parallel(t)
		w, disk := diskful(t, "size=8m", "min_disk=off")
		writeFile(t, filepath.Join(disk, "full"), strings.Repeat("x", 8*mib-64<<10))
		load := crowd{clients: 2, path: "/take", time: time.Second, want: "taken"}
		load.run(w.instance).fair(t)
	})
}
