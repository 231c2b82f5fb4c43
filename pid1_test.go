package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/test/programtest"
)

// What an init owes its children, on the built program: as PID 1 of a pid
// namespace and as a subreaper below another init.

// namespaced is the command that runs program as PID 1, with a /proc of its
// own. The test is skipped where that is not permitted.
func namespaced(t testing.TB, program string) *exec.Cmd {
	t.Helper()
	prepare := func(program string) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", `mount -t proc proc /proc && exec "$0"`, program)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:   syscall.CLONE_NEWPID,
			Unshareflags: syscall.CLONE_NEWNS,
		}
		if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
		}
		return cmd
	}
	if out, err := prepare("true").CombinedOutput(); err != nil {
		t.Skipf("no pid namespaces here: %v %s", err, out)
	}
	return prepare(program)
}

// everyInit runs a test as PID 1 and as subreaper.
func everyInit(t *testing.T, test func(t *testing.T, launch func(env ...string) *instance)) {
	t.Run("pid1", func(t *testing.T) {
		parallel(t)
		namespaced(t, fwatchdog(t))
		test(t, func(env ...string) *instance {
			return launchCmd(t, namespaced(t, fwatchdog(t)), env...)
		})
	})
	t.Run("subreaper", func(t *testing.T) {
		parallel(t)
		test(t, func(env ...string) *instance {
			return launch(t, fwatchdog(t), env...)
		})
	})
}

// family is the environment of a watchdog whose handler is testdata/pid1.
func family(t testing.TB, env ...string) []string {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(programtest.FreePort(t))
	return append([]string{
		"mode=http", "prefix_logs=false",
		"fprocess=" + programtest.Build(t, "testdata/pid1"),
		"LISTEN=" + address, "upstream_url=http://" + address,
	}, env...)
}

// ending is a handler that only ends: mode http, and a command that never
// listens.
func ending(t testing.TB, launch func(env ...string) *instance, fprocess string) *instance {
	t.Helper()
	return launch("mode=http", "upstream_url=http://127.0.0.1:"+strconv.Itoa(programtest.FreePort(t)), "fprocess="+fprocess)
}

// count is how often a line stands in what the handler printed.
func (w *instance) count(line string) int {
	n := 0
	for _, l := range strings.Split(w.stdout.String(), "\n") {
		if l == line {
			n++
		}
	}
	return n
}

func (w *instance) wantLine(line string) {
	w.t.Helper()
	programtest.Eventually(w.t, "the handler says "+line, func() bool { return w.count(line) > 0 })
}

func TestInitEveryExitCode(t *testing.T) {
	parallel(t)
	program := fwatchdog(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for code := range 256 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			cmd := exec.Command(program)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "port=0", "metrics_port=0",
				"mode=http", "upstream_url=http://127.0.0.1:1", fmt.Sprintf("fprocess=sh -c 'exit %d'", code)}
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
				t.Errorf("exit %d: %v\n%s", code, cmd.ProcessState, out)
			}
		})
	}
	wg.Wait()
}

func TestInitExitCodes(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "plain"), "#!/bin/sh\n")
	script := filepath.Join(dir, "lost")
	writeFile(t, script, "#!/no/such/interpreter\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		for fprocess, want := range map[string]struct {
			code int
			log  string
		}{
			"sh -c 'exit 0'":                {0, "exit status 0"},
			"sh -c 'exit 1'":                {1, "exit status 1"},
			"sh -c 'exit 42'":               {42, "exit status 42"},
			"sh -c 'exit 255'":              {255, "exit status 255"},
			"sh -c 'kill -HUP $$'":          {128 + 1, "signal: hangup"},
			"sh -c 'kill -QUIT $$'":         {128 + 3, "signal: quit"},
			"sh -c 'kill -KILL $$'":         {128 + 9, "signal: killed"},
			"sh -c 'kill -SEGV $$'":         {128 + 11, "signal: segmentation fault"},
			"sh -c 'kill -TERM $$'":         {128 + 15, "signal: terminated"},
			"no-such-program x":             {127, "no-such-program"},
			"/no/such/program":              {127, "/no/such/program"},
			filepath.Join(dir, "plain"):     {126, "permission denied"},
			dir:                             {126, "is a directory"},
			script:                          {126, "/no/such/interpreter"},
			"sh -c '(sleep 0.1 &); exit 7'": {7, "exit status 7"},
		} {
			w := ending(t, launch, fprocess)
			if code := w.wait(); code != want.code {
				t.Errorf("%s: exit code %d, want %d", fprocess, code, want.code)
			}
			if log := w.stderr.String(); !strings.Contains(log, want.log) {
				t.Errorf("%s: no %q in the log:\n%s", fprocess, want.log, log)
			}
		}
	})
}

// A handler that ends in the middle of its work.
func TestInitExitCodesWhileServing(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		for path, want := range map[string]int{
			"/exit?code=0":     0,
			"/exit?code=3":     3,
			"/raise?signal=15": 128 + 15,
			"/raise?signal=9":  128 + 9,
		} {
			w := launch(family(t)...)
			w.waitReady()
			if a := w.do("GET", path, ""); a.StatusCode != 502 {
				t.Errorf("%s: status %d, want 502", path, a.StatusCode)
			}
			if code := w.wait(); code != want {
				t.Errorf("%s: exit code %d, want %d", path, code, want)
			}
		}
	})
}

// A shell may start an init with SIGCHLD ignored or signals blocked. Exit
// codes still come, and the handler starts with neither.
func TestInitWithSIGCHLDIgnored(t *testing.T) {
	parallel(t)
	cmd := exec.Command("sh", "-c", `trap '' CHLD; exec "$0"`, fwatchdog(t))
	w := launchCmd(t, cmd, "mode=http", "upstream_url=http://127.0.0.1:1", "fprocess=sh -c 'exit 5'")
	if code := w.wait(); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
}

func TestInitLeavesSignalsOfTheHandlerAlone(t *testing.T) {
	parallel(t)
	// What is ignored here already is inherited by all: some makes ignore 32.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	here := signalMask(t, string(status), "SigIgn")
	w := start(t, family(t)...)
	handler := w.do("GET", "/status", "").body
	for _, name := range []string{"SigBlk", "SigIgn", "ShdPnd"} {
		if mask := signalMask(t, handler, name); mask&^here != 0 {
			t.Errorf("the handler has %s %x", name, mask)
		}
	}
}

// signalMask is a mask of /proc/PID/status.
func signalMask(t *testing.T, status, name string) uint64 {
	t.Helper()
	for _, line := range strings.Split(status, "\n") {
		if mask, ok := strings.CutPrefix(line, name+":\t"); ok {
			m, err := strconv.ParseUint(mask, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	t.Fatalf("no %s in\n%s", name, status)
	return 0
}

func TestInitSaysWhatItIs(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		w := launch(family(t)...)
		w.waitReady()
		w.stop() // the log is complete then
		says := strings.Contains(w.stderr.String(), "subreaper")
		if want := strings.HasSuffix(t.Name(), "/subreaper"); says != want {
			t.Errorf("the log speaks of a subreaper: %v, want %v", says, want)
		}
	})
}

// wantOnlyTheHandler waits until nothing but the handler is left below the watchdog.
func (w *instance) wantOnlyTheHandler() {
	w.t.Helper()
	var left []process
	programtest.Eventually(w.t, "every orphan is reaped", func() bool {
		left = descendants(w.pid)
		return len(left) == 1
	})
	if left[0].state == "Z" {
		w.t.Errorf("the handler is a zombie")
	}
}

func TestInitReapsEveryOrphan(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		w := launch(family(t)...)
		w.waitReady()
		for _, session := range []string{"", "yes"} {
			wantWhole(t, w.do("GET", "/orphans?n=100&program=true&session="+session, ""), nil, "left")
			w.wantOnlyTheHandler()
		}
		// Orphans that live are the watchdog's own, and reaped when they end.
		wantWhole(t, w.do("GET", "/orphans?n=20&program=sleep+1000&session=yes", ""), nil, "left")
		adopted := func() (all []process) {
			for _, p := range descendants(w.pid) {
				if p.parent == w.pid && p.command == "sleep" {
					all = append(all, p)
				}
			}
			return all
		}
		programtest.Eventually(t, "20 orphans are adopted", func() bool { return len(adopted()) == 20 })
		for _, p := range adopted() {
			p.kill()
		}
		w.wantOnlyTheHandler()
		w.stop()
	})
}

// Forks get their own status while orphans are reaped all around them.
func TestInitStealsNoStatusOfAFork(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		w := launch("mode=serializing", "fprocess=sh -c 'read code; (setsid true &); (setsid sh -c \"true & true &\" &); exit $code'")
		w.waitReady()
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := range 25 {
					code := (worker*25 + i) % 3
					a, err := w.try("POST", "/", strconv.Itoa(code)+"\n")
					switch {
					case err != nil:
						t.Error(err)
					case code == 0 && a.StatusCode != 200, code != 0 && !strings.Contains(a.body, fmt.Sprintf("exit status %d", code)):
						t.Errorf("exit %d: status %d %q", code, a.StatusCode, a.body)
					}
				}
			})
		}
		wg.Wait()
		programtest.Eventually(t, "nothing is left", func() bool { return len(descendants(w.pid)) == 0 })
		w.stop()
	})
}

func TestInitForwardsSignalsToTheGroup(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		w := launch(family(t, "WITH=grandchild")...)
		w.waitReady()
		w.wantLine("grandchild up")
		forwarded := []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}
		for round := 1; round <= 3; round++ {
			for _, sig := range forwarded {
				w.signal(syscall.SIGCONT) // not forwarded
				w.signal(sig)
				for _, who := range []string{"handler ", "grandchild "} {
					line := who + unix.SignalName(sig)
					programtest.Eventually(t, line, func() bool { return w.count(line) == round })
				}
			}
		}
		if a := w.do("GET", "/status", ""); a.StatusCode != 200 {
			t.Errorf("status %d after signals", a.StatusCode)
		}
		w.stop()
		w.wantLine("handler SIGTERM")
		for _, line := range strings.Split(w.stdout.String(), "\n") {
			if strings.HasSuffix(line, "SIGCONT") || strings.HasSuffix(line, "SIGINT") {
				t.Errorf("forwarded: %s", line)
			}
		}
	})
}

// The handler learns of TERM when everything it had to do is done.
func TestInitTermComesAfterTheDrain(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
				w := launch(family(t, "WITH=grandchild")...)
				w.waitReady()
				w.wantLine("grandchild up")
				gate := filepath.Join(t.TempDir(), "gate")
				p := w.background("GET", "/until?file="+gate, "")
				w.wantLine("handler asked")
				w.signal(sig)
				programtest.Eventually(t, "the listener is closed", func() bool {
					_, err := w.status("/_/health")
					return err != nil
				})
				w.signal(syscall.SIGUSR1) // what came before it would stand before it
				w.wantLine("handler SIGUSR1")
				if strings.Contains(w.stdout.String(), unix.SignalName(sig)) {
					t.Errorf("the handler was told before the drain:\n%s", w.stdout.String())
				}
				touch(t, gate)
				a, err := p.wait(t)
				wantWhole(t, a, err, "done")
				if code := w.wait(); code != 0 {
					t.Errorf("exit code %d, want 0", code)
				}
				said := w.stdout.String()
				answer, term := strings.Index(said, "handler answers\n"), strings.Index(said, "handler SIGTERM\n")
				if answer < 0 || term < answer || !strings.Contains(said, "grandchild SIGTERM\n") {
					t.Errorf("no TERM to the group after the answer:\n%s", said)
				}
			})
		})
	}
}

// wantAllDead waits until none of these processes lives.
func wantAllDead(t testing.TB, all []process) {
	t.Helper()
	programtest.Eventually(t, "the handler's group is dead", func() bool {
		for _, p := range all {
			if p.alive() {
				return false
			}
		}
		return true
	})
}

func TestInitSecondTermKills(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		w := launch(family(t, "WITH=grandchild", "DEAF=yes")...)
		w.waitReady()
		w.wantLine("grandchild up")
		p := w.background("GET", "/until?file=/no/such/file", "")
		w.wantLine("handler asked")
		group := descendants(w.pid)
		w.signal(syscall.SIGTERM)
		programtest.Eventually(t, "the drain has begun", func() bool {
			_, err := w.status("/_/health")
			return err != nil
		})
		w.signal(syscall.SIGTERM)
		if code := w.wait(); code != 128+9 {
			t.Errorf("exit code %d, want 137", code)
		}
		wantAllDead(t, group)
		if a, err := p.wait(t); err == nil && a.err == nil && a.StatusCode == 200 {
			t.Errorf("the request that was cut looks answered: %q", a.body)
		}
	})
}

// A group that does not care for TERM is killed after kill_grace.
func TestInitKillsWhoStays(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		w := launch(family(t, "WITH=grandchild", "DEAF=yes", "kill_grace=100ms")...)
		w.waitReady()
		w.wantLine("grandchild up")
		group := descendants(w.pid)
		w.stop()
		wantAllDead(t, group)
		for _, line := range []string{"handler SIGTERM", "grandchild SIGTERM"} {
			if w.count(line) != 1 {
				t.Errorf("%q %d times, want 1", line, w.count(line))
			}
		}
	})
}

// The handler leaves on TERM, a descendant in its group does not.
func TestInitKillsWhoIsLeftInTheGroup(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		script := filepath.Join(t.TempDir(), "handler")
		env := family(t)
		for i, e := range env {
			if program, ok := strings.CutPrefix(e, "fprocess="); ok {
				writeFile(t, script, "#!/bin/sh\nDEAF=yes "+program+" grandchild &\nexec "+program+"\n")
				env[i] = "fprocess=sh " + script
			}
		}
		w := launch(env...)
		w.waitReady()
		w.wantLine("grandchild up")
		group := descendants(w.pid)
		w.stop()
		wantAllDead(t, group)
	})
}

// A handler that puts itself into the background is served on, signalled, and
// missed when it goes.
func TestInitHandlerInTheBackground(t *testing.T) {
	everyInit(t, func(t *testing.T, launch func(env ...string) *instance) {
		background := func() *instance {
			env := family(t)
			for i, e := range env {
				if program, ok := strings.CutPrefix(e, "fprocess="); ok {
					env[i] = "fprocess=sh -c '" + program + " & exit 0'"
				}
			}
			w := launch(env...)
			w.waitReady()
			w.wantLog("exited 0")
			w.signal(syscall.SIGUSR1)
			w.wantLine("handler SIGUSR1")
			if a := w.do("GET", "/status", ""); a.StatusCode != 200 {
				t.Errorf("status %d", a.StatusCode)
			}
			return w
		}
		w := background()
		group := descendants(w.pid)
		w.stop()
		w.wantLine("handler SIGTERM")
		wantAllDead(t, group)

		w = background()
		w.background("GET", "/exit?code=3", "")
		w.wait() // nobody knows that one's code
	})
}
