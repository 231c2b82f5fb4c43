package main_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/bench/cage"
	"github.com/weir-run/weir/test/programtest"
)

// Readiness tells of memory that has run out while something runs, and comes
// back; both are one line of the log, and liveness stands above it.
func TestReadinessTellsOfMemory(t *testing.T) {
	w := startCaged(t, 128*mib, child(t, "hog"))
	for range 2 {
		w.keep(118) // with nothing in flight, so that no request is taken for it
		w.ratio("memory", func(v float64) bool { return v > 0.9 && v <= 1 })
		p, release := w.holdOne()
		w.unready("memory")
		wantReason(t, w.do("GET", "/take", ""), "memory")
		w.keep(0)
		w.waitReady()
		w.ratio("memory", func(v float64) bool { return v < 0.5 })
		wantWhole(t, w.do("GET", "/take", ""), nil, "taken")
		release()
		a, err := p.wait(t)
		wantWhole(t, a, err, "waited")
	}
	if v, ok := w.sample("watchdog_ready"); !ok || v != 1 {
		t.Errorf("watchdog_ready is %v", v)
	}
	if n := w.lines("memory"); n < 4 || n > 8 {
		t.Errorf("%d lines of the log name memory, want about one for each turn:\n%s", n, programtest.Clip(w.stderr.String()))
	}
	w.survived()
}

// All four resources are known in a container.
func TestResourcesAreInTheMetrics(t *testing.T) {
	w := launchCaged(t, cage.Limits{Memory: memLimit, Pids: 200}, "fprocess="+child(t, "hog"))
	w.waitReady()
	for _, resource := range []string{"memory", "fds", "pids", "disk"} {
		w.ratio(resource, func(v float64) bool { return v > 0 && v < 0.9 || resource == "disk" })
	}
	w.keep(128)
	w.ratio("memory", func(v float64) bool { return v > 0.5 && v < 0.75 })
}

// With stuck_timeout a handler that leaks is restarted: liveness fails when a
// guard has been tripped that long with nothing to wait for.
func TestStuckTimeout(t *testing.T) {
	w := startCaged(t, 128*mib, child(t, "hog"), "stuck_timeout=2s")
	w.keep(118)
	w.waitStatus("/_/health", 503)
	if a := w.do("GET", "/_/health", ""); !strings.Contains(a.body, "memory") {
		t.Errorf("liveness says %q, want the reason", a.body)
	}
	w.keep(0)
	w.waitHealthy()
	w.waitReady()
	wantWhole(t, w.do("GET", "/take", ""), nil, "taken")
}

// Work that does get done is no leak, however long a guard stays tripped.
func TestStuckTimeoutSparesWhatWorks(t *testing.T) {
	w := startCaged(t, 128*mib, child(t, "hog"), "stuck_timeout=1s")
	_, one := w.holdOne()
	_, two := w.holdOne()
	defer one()
	defer two()
	w.keep(118)
	w.unready("memory")
	for range 30 { // for three times the timeout two are in flight
		if a := w.do("GET", "/_/health", ""); a.StatusCode != 200 {
			t.Fatalf("liveness says %d %q with two in flight", a.StatusCode, a.body)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Limits are followed when they change: a pod is resized in place.
func TestLimitsThatChange(t *testing.T) {
	w := startCaged(t, 128*mib, child(t, "hog"))
	p, release := w.holdOne()
	w.keep(118)
	w.unready("memory")
	if err := w.cage.SetMemory(512 * mib); err != nil {
		t.Fatal(err)
	}
	w.waitReady()
	w.ratio("memory", func(v float64) bool { return v < 0.5 })
	wantWhole(t, w.do("GET", "/take", ""), nil, "taken")
	if err := w.cage.SetMemory(136 * mib); err != nil {
		t.Fatal(err)
	}
	w.unready("memory")
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "waited")
	w.survived()
}

// What cannot be read guards nothing: it is said once, there is no ratio, and
// nobody is refused for it.
func TestUnreadableSource(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: nothing can be hidden")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	const hide = "mount -t tmpfs none /sys/fs/cgroup"
	if out, err := exec.Command(unshare, "-m", "/bin/sh", "-c", hide).CombinedOutput(); err != nil {
		t.Skipf("no mount in a namespace of its own: %s", out)
	}
	w := launchBy(t, exec.Command(unshare, "-m", "/bin/sh", "-c", hide+` && exec "$0"`, fwatchdog(t)), child(t, "hog"))
	w.ratio("fds", func(v float64) bool { return v > 0 })
	for _, resource := range []string{"memory", "pids"} {
		programtest.Eventually(t, "the log says it", func() bool { return w.lines(resource) > 0 })
		if v, ok := w.sample(`watchdog_resource_usage_ratio{resource="` + resource + `"}`); ok {
			t.Errorf("the ratio of %s is %v", resource, v)
		}
	}
	load := crowd{clients: 20, path: "/take?kib=100&ms=5", time: 2 * time.Second, want: "taken"}
	load.run(w.instance).fair(t)
	for _, resource := range []string{"memory", "pids"} {
		if n := w.lines(resource); n != 1 {
			t.Errorf("%d lines name %s, want 1:\n%s", n, resource, programtest.Clip(w.stderr.String()))
		}
	}
}

// A mark that is none ends the start, and says what would be one.
func TestMarksThatAreNone(t *testing.T) {
	parallel(t)
	bad := map[string]string{
		"max_memory": "120%", "max_fds": "0%", "max_pids": "many", "min_disk": "-1", "stuck_timeout": "-2s",
	}
	env := []string{"mode=http", "fprocess=cat", "upstream_url=http://127.0.0.1:1"}
	for name, value := range bad {
		env = append(env, name+"="+value)
	}
	w := launch(t, fwatchdog(t), env...)
	if code := w.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for name, value := range bad {
		if w.lines(name, value) == 0 {
			t.Errorf("no line names %s and %q:\n%s", name, value, w.stderr.String())
		}
	}
	for _, one := range []string{"max_memory=101%", "max_memory=-5", "max_memory=90 %", "max_fds=NaN%", "max_pids=1e3", "min_disk=100.1%", "min_disk=1Xi", "max_inflight=auto:0"} {
		w := launch(t, fwatchdog(t), "mode=http", "fprocess=cat", "upstream_url=http://127.0.0.1:1", one)
		name, value, _ := strings.Cut(one, "=")
		if code := w.wait(); code != 1 || w.lines(name, value) == 0 {
			t.Errorf("%s: exit code %d, want 1 and a line that names it:\n%s", one, code, w.stderr.String())
		}
	}
}

// A guard that is off refuses nothing, whichever others are on. With all of
// one kind off every request was refused.
func TestGuardsThatAreOff(t *testing.T) {
	parallel(t)
	for _, env := range [][]string{
		{"min_disk=off"},
		{"max_memory=off", "max_fds=off", "max_pids=off"},
		{"max_memory=off", "max_fds=off", "max_pids=off", "min_disk=off"},
	} {
		t.Run(strings.Join(env, " "), func(t *testing.T) {
			parallel(t)
			w := launchBy(t, exec.Command(fwatchdog(t)), child(t, "hog"), env...)
			load := crowd{clients: 4, path: "/take?kib=1&ms=1", time: time.Second, want: "taken"}
			load.run(w.instance).fair(t)
			for _, one := range env {
				name, _, _ := strings.Cut(one, "=")
				_, resource, _ := strings.Cut(name, "_")
				if v, ok := w.sample(`watchdog_resource_usage_ratio{resource="` + resource + `"}`); ok {
					t.Errorf("the ratio of %s is %v", resource, v)
				}
			}
		})
	}
}
