package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

// A replica gets of weir's environment what every program needs and nothing
// that is weir's, and has a folder of its own, where its lock is.
func TestReplicaEnvironment(t *testing.T) {
	s := newSite(t, "functions:\n  env:\n    fprocess: env\n    environment: {cgi_headers: false, port_of_handler: 'at $PORT', LANG: C}\n  pwd:\n    fprocess: pwd\n").open()
	s.scale("env", 2)
	s.scale("pwd", 1)
	seen := map[string]bool{}
	for _, pod := range s.up("env", 2) {
		env := map[string]string{}
		for line := range strings.Lines(s.get(pod.Addr, "/")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			env[name] = value
		}
		for name, want := range map[string]string{
			"PATH": os.Getenv("PATH"), "HOME": "/", "LANG": "C", "port_of_handler": "at " + env["PORT"], "WEIR_BASIC_AUTH_PASSWORD": "",
		} {
			if env[name] != want {
				t.Errorf("%s is %q, expected %q", name, env[name], want)
			}
		}
		for name := range env {
			if !slices.Contains([]string{"PATH", "HOME", "LANG", "TMPDIR", "PORT", "port", "metrics_port", "listen_address", "port_of_handler", "healthcheck_interval", "cgi_headers", "fprocess", "_"}, name) {
				t.Errorf("%s=%s was handed on", name, env[name])
			}
		}
		for _, name := range []string{"PORT", "port", "metrics_port", "TMPDIR"} {
			if env[name] == "" || seen[env[name]] {
				t.Errorf("%s=%s: two have the same", name, env[name])
			}
			seen[env[name]] = true
		}
		if _, err := os.Stat(filepath.Join(env["TMPDIR"], ".lock")); err != nil || !strings.HasPrefix(env["TMPDIR"], s.temp+"/") {
			t.Errorf("temporary folder %s: %v", env["TMPDIR"], err)
		}
	}
	want, err := filepath.EvalSymlinks(filepath.Dir(s.stack))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(s.get(s.up("pwd", 1)[0].Addr, "/")); got != want {
		t.Errorf("works in %s, expected the folder of the stack file, %s", got, want)
	}
}

// Nobody but this machine reaches a replica but through weir.
func TestReplicaListensOnLoopbackOnly(t *testing.T) {
	s := newSite(t, "functions:\n  f: {fprocess: cat, environment: {WATCHDOG_LISTEN_ADDRESS: 0.0.0.0, listen_address: 0.0.0.0}}\n").open()
	s.scale("f", 1)
	pod := s.up("f", 1)[0]
	for _, addr := range []string{pod.Addr, pod.Metrics} {
		_, port, _ := net.SplitHostPort(addr)
		l, err := net.Listen("tcp4", "127.0.0.2:"+port) // taken by who listens on every address
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		_ = l.Close()
	}
}

// No descriptor of weir or of the keeper reaches a handler.
func TestReplicaDescriptors(t *testing.T) {
	s := newSite(t, "functions:\n  ls: {fprocess: ls /proc/self/fd}\n").open()
	s.scale("ls", 1)
	// 3 is that of ls itself, for the folder.
	if got := strings.Fields(s.get(s.up("ls", 1)[0].Addr, "/")); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("a handler has the descriptors %v", got)
	}
}

func TestOutputIsPrefixedByTheReplica(t *testing.T) {
	s := newSite(t, "functions:\n  f:\n    fprocess: sh -c 'echo one line >&2; cat'\n").open()
	s.scale("f", 1)
	s.get(s.up("f", 1)[0].Addr, "/")
	eventually(t, "the line", func() string {
		for line := range strings.Lines(s.out.String()) {
			if strings.HasPrefix(line, "f-1 | ") && strings.HasSuffix(line, "one line\n") {
				return ""
			}
		}
		return s.out.String()
	})
	for line := range strings.Lines(s.out.String()) {
		if !strings.HasPrefix(line, "f-1 | ") {
			t.Errorf("line %q", line)
		}
	}
}

func TestCrashLoopBacksOffAndSaysWhy(t *testing.T) {
	t.Parallel()
	s := newSite(t, `functions:
  crash:
    fprocess: sh -c 'echo these were the last words >&2; exit 3'
    environment: {mode: http}
  missing:
    fprocess: ./not-there
    environment: {mode: http}
  fine:
    fprocess: cat
`).open()
	for _, name := range []string{"crash", "missing", "fine"} {
		s.scale(name, 1)
	}
	for _, want := range []string{
		`msg="crash-1: ended with exit status 3 after`, "the next one starts in 1s", "the next one starts in 2s",
		"these were the last words", "event=ReplicaEnded", "missing-1: ended with exit status 127",
	} {
		eventually(t, want, func() string {
			if log := s.log.String(); !strings.Contains(log, want) {
				return log
			}
			return ""
		})
	}
	s.up("fine", 1)
	// It says so of itself, for /system/function/NAME.
	eventually(t, "the pod's reason and last exit", func() string {
		pods := s.fleet.Get(ref("crash")).Function().Pods
		if len(pods) != 1 || pods[0].Reason != "BackOff" ||
			!strings.Contains(pods[0].LastExit, "ended with exit status 3 after") || !strings.Contains(pods[0].LastExit, "these were the last words") {
			return fmt.Sprintf("%+v", pods)
		}
		return ""
	})
	if pods := s.fleet.Get(ref("fine")).Function().Pods; len(pods) != 1 || pods[0].Reason != "" || pods[0].LastExit != "" {
		t.Errorf("one that runs: %+v", pods)
	}
	// It stays a pod without an address, and one that is told to stop while
	// it waits does at once.
	if pods := s.fleet.Get(ref("crash")).Function().Pods; len(pods) != 1 || pods[0].Name != "crash-1" {
		t.Errorf("%+v", pods)
	}
	s.scale("crash", 0)
	s.up("crash", 0)
}

func TestProgramsThatAreNotThere(t *testing.T) {
	s := newSite(t, "functions: {f: {fprocess: cat}}")
	s.open(func(c *Config) { c.Fwatchdog = "/not/there" })
	s.scale("f", 1)
	want := "f-1: start /not/there in " + filepath.Dir(s.stack) + ": no such file or directory"
	eventually(t, want, func() string {
		if log := s.log.String(); !strings.Contains(log, want) {
			return log
		}
		return ""
	})

	cfg := s.config()
	cfg.Keeper = []string{"/not/there"}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context(), fleet.New(fleet.Config{})); err == nil || !strings.Contains(err.Error(), "keeper") {
		t.Errorf("Run without a keeper: %v", err)
	}
	if err := p.Wake(t.Context(), ref("f"), 1); !errors.Is(err, function.ErrUnavailable) {
		t.Errorf("Wake: %v", err)
	}
}

// A port that somebody takes between the choice and the start is no crash.
func TestPortTakenMeanwhile(t *testing.T) {
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip(err)
	}
	s := newSite(t, "functions:\n  f:\n    fprocess: cat\n    environment: {MARK: "+filepath.Join(t.TempDir(), "mark")+"}\n")
	thief := filepath.Join(t.TempDir(), "thief")
	script := "#!/bin/bash\nif mkdir $MARK 2>/dev/null; then PORT=$metrics_port " + hello(t) + " &\n" +
		"until (exec 3<>/dev/tcp/127.0.0.1/$metrics_port) 2>/dev/null; do sleep 0.05; done; fi\nexec " + programtest.BuildFwatchdog(t) + "\n"
	if err := os.WriteFile(thief, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.open(func(c *Config) { c.Fwatchdog = thief })
	s.scale("f", 1)
	s.up("f", 1)
	if log := s.log.String(); strings.Contains(log, "ReplicaEnded") {
		t.Error(log)
	}
	if !strings.Contains(s.out.String(), "address already in use") {
		t.Errorf("no port was taken:\n%s", s.out.String())
	}
}

func TestTwentyReplicas(t *testing.T) {
	s := newSite(t, "functions:\n  many:\n    fprocess: "+hello(t)+"\n    environment: {mode: http}\n").open()
	begin := time.Now()
	s.scale("many", 20)
	pods := s.up("many", 20)
	listening := time.Since(begin)
	said := map[string]bool{}
	for _, pod := range pods {
		said[s.get(pod.Addr, "/")] = true
	}
	t.Logf("20 replicas listen after %v, answered after %v", listening.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	if len(said) != 20 {
		t.Errorf("%d handlers answered: %v", len(said), said)
	}
	s.scale("many", 3)
	s.up("many", 3)
	eventually(t, "17 ended", func() string {
		if n := len(s.watchdogs("many")); n != 3 {
			return fmt.Sprint(n, " run")
		}
		return ""
	})
}

func TestBounds(t *testing.T) {
	s := newSite(t, "functions:\n  a: {fprocess: cat, labels: {weir/max: 3}}\n  b: {fprocess: cat}\n  c: {fprocess: cat}\n")
	s.open(func(c *Config) { c.MaxReplicas = 5 })
	s.scale("a", 4)
	s.up("a", 3)
	s.scale("b", 4)
	s.up("b", 2)
	for _, want := range []string{"4 replicas were asked for, its max is 3", "4 replicas were asked for, and all functions together may have 5, of which 3 are taken"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%q was not said in\n%s", want, s.log.String())
		}
	}
	for what, err := range map[string]error{
		"wake":  s.Wake(t.Context(), ref("c"), 1),
		"scale": s.Scale(t.Context(), ref("b"), 3, ""),
	} {
		if !errors.Is(err, function.ErrFull) {
			t.Errorf("%s on a full machine: %v", what, err)
		}
	}
	s.scale("b", 1)
	if err := s.Wake(t.Context(), ref("c"), 1); err != nil {
		t.Error(err)
	}
	s.up("c", 1)
}

// A replica that does not end in its time is killed, and what it ran with it.
func TestFrozenReplicaIsKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, "functions:\n  f:\n    fprocess: "+hello(t)+"\n    environment: {mode: http, shutdown_timeout: 0, kill_grace: 0}\n").open()
	s.scale("f", 1)
	s.get(s.up("f", 1)[0].Addr, "/")
	if err := unix.Kill(s.watchdogs("f")[0], unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.scale("f", 0)
	s.up("f", 0)
	if !strings.Contains(s.log.String(), "replica killed") {
		t.Error(s.log.String())
	}
}

// greeter is a stack whose replicas differ by a variable.
func greeter(t *testing.T, greeting string) string {
	return "functions:\n  f:\n    fprocess: " + hello(t) + "\n    environment: {mode: http, GREETING: " + greeting + "}\n"
}

func TestReload(t *testing.T) {
	s := newSite(t, greeter(t, "one")+"  old: {fprocess: cat}\n").open()
	s.scale("f", 2)
	s.scale("old", 1)
	before := s.up("f", 2)
	s.up("old", 1)

	// Faults change nothing.
	s.write(greeter(t, "two") + "  new: {fproces: cat}\n")
	if err := s.Reload(); err == nil || !strings.Contains(err.Error(), s.stack+":5: new.fproces") {
		t.Errorf("Reload of a file with a fault: %v", err)
	}
	if err := os.Remove(s.stack); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Reload of no file: %v", err)
	}
	s.up("old", 1)
	if now := s.up("f", 2); now[0].UID != before[0].UID || now[1].UID != before[1].UID {
		t.Error("replicas were replaced")
	}

	// At each moment two listen that are not stopping.
	s.write(greeter(t, "two") + "  new: {fprocess: cat}\n")
	least := 2
	watched := make(chan struct{})
	ctx, watching := context.WithCancel(t.Context())
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			changed := s.fleet.Changed()
			n := 0
			for _, pod := range s.fleet.Get(ref("f")).Function().Pods {
				if pod.Ready && !pod.Stopping {
					n++
				}
			}
			least = min(least, n)
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two new replicas", func() string {
		pods := s.fleet.Get(ref("f")).Function().Pods
		if len(pods) != 2 {
			return fmt.Sprintf("%d pods", len(pods))
		}
		for _, pod := range pods {
			if pod.UID == before[0].UID || pod.UID == before[1].UID || !pod.Ready {
				return fmt.Sprintf("%+v", pods)
			}
		}
		return ""
	})
	watching()
	<-watched
	if least < 2 {
		t.Errorf("meanwhile only %d listened", least)
	}
	for _, pid := range s.watchdogs("f") {
		if got := environmentOf(pid, "GREETING"); got != "two" {
			t.Errorf("GREETING is %q", got)
		}
	}
	if s.fleet.Get(ref("old")) != nil || s.fleet.Get(ref("new")) == nil {
		t.Error("a function that was taken out is there, or one that was put in is not")
	}
	eventually(t, "no process of the function that was taken out", func() string {
		if n := len(s.watchdogs("old")); n > 0 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if n := s.fleet.Get(ref("f")).Function().Replicas; n != 2 {
		t.Errorf("%d replicas are asked for", n)
	}
}

// A definition whose replicas never serve leaves the old ones alone, and the
// next good one takes their place.
func TestReloadOfWhatDoesNotServe(t *testing.T) {
	t.Parallel()
	s := newSite(t, greeter(t, "one")).open()
	s.scale("f", 2)
	before := s.up("f", 2)
	s.write("functions: {f: {fprocess: sh -c 'exit 1', environment: {mode: http}}}")
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one has failed twice", func() string {
		if log := s.log.String(); !strings.Contains(log, "the next one starts in 2s") {
			return log
		}
		return ""
	})
	for i, pod := range s.fleet.Get(ref("f")).Function().Pods[:2] {
		if pod.UID != before[i].UID || pod.Stopping {
			t.Errorf("%+v, before %+v", pod, before[i])
		}
		s.get(pod.Addr, "/")
	}
	s.write(greeter(t, "two"))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two of the newest", func() string {
		for _, pid := range s.watchdogs("f") {
			if got := environmentOf(pid, "GREETING"); got != "two" {
				return fmt.Sprintf("GREETING is %q", got)
			}
		}
		return ""
	})
	s.up("f", 2)
}

// A bad label is told of when it comes or changes, and harms nobody.
func TestBadLabelsAreToldOnce(t *testing.T) {
	stack := func(max string) string { return "functions: {a: {fprocess: cat, labels: {weir/max: " + max + "}}}" }
	s := newSite(t, stack("lots")).open()
	for _, max := range []string{"lots", "lots", "more", "more", "5"} {
		s.write(stack(max))
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(s.log.String(), "event=BadSetting"); n != 2 {
		t.Errorf("told %d times, expected 2:\n%s", n, s.log.String())
	}
	if fn := s.fleet.Get(ref("a")).Function(); fn.Spec.Max != 5 || len(fn.Faults) != 0 {
		t.Errorf("%+v", fn)
	}
}

// The sample stack runs as it is.
func TestSampleStack(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"hello", "wc", "slow"} {
		path := programtest.Build(t, "testdata/functions/"+name)
		to := filepath.Join(root, "bin", "functions", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.Link(path, to)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("../../testdata/stack.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "")
	s.stack = filepath.Join(root, "testdata", "stack.yaml")
	if err := os.Mkdir(filepath.Dir(s.stack), 0o700); err != nil {
		t.Fatal(err)
	}
	s.write(string(text))
	s.open()
	for name, want := range map[string]string{"hello": "Hello, world", "slow": "1ms later"} {
		s.scale(name, 1)
		if body := s.get(s.up(name, 1)[0].Addr, "/?ms=1"); !strings.HasPrefix(body, want) {
			t.Errorf("%s answered %q", name, body)
		}
	}
	s.scale("wc", 1)
	resp, err := http.Post("http://"+s.up("wc", 1)[0].Addr, "", strings.NewReader("two words\nand three more"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil || strings.Join(strings.Fields(body.String()), " ") != "1 5 24" {
		t.Errorf("wc answered %q, %v", body.String(), err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// How long from the wake until fwatchdog listens, and until its handler has
// answered through it.
func BenchmarkWake(b *testing.B) {
	s := newSite(b, "functions:\n  f:\n    fprocess: "+hello(b)+"\n    environment: {mode: http}\n").open()
	var listen, answer time.Duration
	n := 0
	for b.Loop() {
		begin := time.Now()
		s.scale("f", 1)
		addr := s.up("f", 1)[0].Addr
		listen += time.Since(begin)
		s.get(addr, "/")
		answer += time.Since(begin)
		n++
		b.StopTimer()
		s.scale("f", 0)
		s.up("f", 0)
		b.StartTimer()
	}
	b.ReportMetric(float64(listen.Milliseconds())/float64(n), "ms-to-listen")
	b.ReportMetric(float64(answer.Milliseconds())/float64(n), "ms-to-answer")
}
