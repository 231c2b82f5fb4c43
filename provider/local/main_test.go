package local

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/test/programtest"
)

// patience bounds every wait for a condition; the machine may be busy.
const patience = time.Minute

// What the test binary is instead of tests, by its first argument.
const (
	asKeeper = "as-keeper"
	asWeir   = "as-weir"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case asKeeper:
			os.Exit(Keep(os.Args[2]))
		case asWeir:
			os.Exit(beWeir(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(programtest.Run(m))
}

func hello(t testing.TB) string { return programtest.Build(t, "testdata/functions/hello") }

// keeperCommand runs this binary as a keeper. The race detector would have it
// sleep a second at its end.
func keeperCommand(t testing.TB) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", exe, asKeeper}
}

// site is a stack file with a provider of it.
type site struct {
	t     testing.TB
	stack string
	temp  string
	log   programtest.Log // of the provider
	out   programtest.Log // of the replicas
	// fwatchdog is the program of the replicas.
	fwatchdog string
	*Provider
	fleet *fleet.Fleet
	stop  func()
}

// newSite writes a stack file; open makes and runs its provider.
func newSite(t testing.TB, stack string) *site {
	t.Helper()
	s := &site{t: t, stack: filepath.Join(t.TempDir(), "stack.yaml"), temp: t.TempDir(), stop: func() {}, fwatchdog: programtest.BuildFwatchdog(t)}
	s.write(stack)
	return s
}

func (s *site) write(stack string) {
	s.t.Helper()
	if err := os.WriteFile(s.stack, []byte(stack), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) config() Config {
	return Config{
		Stack: s.stack, Namespace: "default", Fwatchdog: s.fwatchdog, Keeper: keeperCommand(s.t),
		Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "WEIR_BASIC_AUTH_PASSWORD=secret"},
		TempDir: s.temp, Output: &s.out,
		Log: slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (s *site) open(change ...func(*Config)) *site {
	s.t.Helper()
	cfg := s.config()
	for _, c := range change {
		c(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Provider, s.fleet = p, fleet.New(fleet.Config{Log: cfg.Log, Probe: &fleet.Prober{Log: cfg.Log}})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	var probing sync.WaitGroup
	probing.Go(func() { _ = s.fleet.Run(ctx) })
	go func() { over <- p.Run(ctx, s.fleet) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-over; err != nil {
			s.t.Errorf("Run: %v", err)
		}
		probing.Wait()
		s.nothingLeft()
		if s.t.Failed() {
			s.t.Logf("log:\n%s\noutput:\n%s", s.log.String(), s.out.String())
		}
	}
	s.t.Cleanup(s.stop)
	select {
	case <-s.fleet.Complete():
	case <-time.After(patience):
		s.t.Fatal("not synced")
	}
	return s
}

// nothingLeft checks that neither a process nor a folder remains.
func (s *site) nothingLeft() {
	s.t.Helper()
	defer func() {
		for _, pid := range s.pids() { // of a test that failed
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}()
	eventually(s.t, "no process is left", func() string { return strings.Join(s.processes(), "\n") })
	if left, _ := filepath.Glob(filepath.Join(s.temp, "*")); len(left) != 0 {
		s.t.Errorf("left in the temporary folder: %v", left)
	}
}

// processes are all that carry the site's folder in their environment or their
// command: replicas and what descends from them, and the keeper.
func (s *site) processes() (found []string) {
	for _, pid := range processes() {
		if text := describe(pid); strings.Contains(text, s.temp+"/") && pid != os.Getpid() {
			command, _, _ := strings.Cut(text, "\n")
			found = append(found, fmt.Sprintf("%d %s", pid, command))
		}
	}
	return found
}

// describe is the command of a process, and below it its environment. A zombie has
// neither.
func describe(pid int) string {
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return strings.ReplaceAll(string(command), "\x00", " ") + "\n" + strings.ReplaceAll(string(environ), "\x00", "\n")
}

// watchdogs are the pids of a function's fwatchdogs.
func (s *site) watchdogs(name string) (pids []int) {
	for _, pid := range processes() {
		text := describe(pid)
		if strings.HasPrefix(text, s.fwatchdog+" ") && strings.Contains(text, "\nTMPDIR="+s.temp+"/") && strings.Contains(text, "/"+name+"-") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// eventually waits until amiss returns nothing.
func eventually(t testing.TB, what string, amiss func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		wrong := amiss()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v: %s", what, patience, wrong)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func ref(name string) function.Ref { return function.Ref{Name: name, Namespace: "default"} }

// scale asks for replicas.
func (s *site) scale(name string, n int) {
	s.t.Helper()
	if err := s.Scale(context.Background(), ref(name), n, ""); err != nil {
		s.t.Fatal(err)
	}
}

// up waits until exactly n replicas listen and none is stopping.
func (s *site) up(name string, n int) []function.Pod {
	s.t.Helper()
	var pods []function.Pod
	eventually(s.t, fmt.Sprintf("%d replicas of %s", n, name), func() string {
		pods = s.fleet.Get(ref(name)).Function().Pods
		if len(pods) != n {
			return fmt.Sprintf("%d pods", len(pods))
		}
		for _, p := range pods {
			if p.Addr == "" || !p.Ready || p.Stopping {
				return fmt.Sprintf("%+v", p)
			}
		}
		return ""
	})
	return pods
}

// get calls a pod until it answers 200 and returns the body.
func (s *site) get(addr, path string) (body string) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	eventually(s.t, "an answer of "+addr, func() string {
		resp, err := client.Get("http://" + addr + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		body = string(text)
		if resp.StatusCode != http.StatusOK {
			return resp.Status + " " + body
		}
		return ""
	})
	return body
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
