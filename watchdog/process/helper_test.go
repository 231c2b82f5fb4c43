package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for a condition; the machine may be busy.
const patience = 30 * time.Second

// helperEnv makes the test binary be one of helpers instead: a handler, or a
// process whose state a test must not share.
const helperEnv = "PROCESS_TEST_HELPER"

// quickExit keeps the race detector from sleeping a second at every exit.
const quickExit = "GORACE=atexit_sleep_ms=0"

var helpers = map[string]func() error{
	"signals":  helpSignals,
	"moved":    helpMoved,
	"orphans":  helpOrphans,
	"limit":    helpLimit,
	"terminal": helpTerminal,
	"notty":    helpNoTerminal,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		os.Unsetenv(helperEnv) // not for its children
		if err := helpers[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helperSpec runs the helper name as a child.
func helperSpec(name string, args ...string) Spec {
	return Spec{Path: "/proc/self/exe", Args: args, Env: append(os.Environ(), quickExit, helperEnv+"="+name)}
}

// runHelper runs the helper name to its end, which must be good.
func runHelper(t *testing.T, name string, with func(*exec.Cmd)) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), quickExit, helperEnv+"="+name)
	if with != nil {
		with(cmd)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func newReaper(t testing.TB) *Reaper {
	r := NewReaper(false)
	t.Cleanup(r.Close)
	return r
}

func sh(script string) Spec {
	return Spec{Path: "sh", Args: []string{"-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func start(t testing.TB, r *Reaper, s Spec) *Child {
	t.Helper()
	c, err := r.Start(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wait(t testing.TB, c *Child) Status {
	t.Helper()
	select {
	case <-c.Done():
		return c.Status()
	case <-time.After(patience):
		t.Fatalf("child %d is not done", c.Pid())
		return Status{}
	}
}

// startPiped starts s with stdout in a pipe that the test reads.
func startPiped(t testing.TB, r *Reaper, s Spec) (*Child, *os.File) {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	if err := out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	s.Stdout = in
	c := start(t, r, s)
	in.Close()
	return c, out
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// noLeaks fails t when, after all its clean-up, there are more goroutines,
// descriptors or children than now.
func noLeaks(t *testing.T) {
	t.Helper()
	// The runtime's own, which come with the first use and stay.
	warm := make(chan os.Signal, 1)
	signal.Notify(warm, syscall.SIGCHLD)
	signal.Stop(warm)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	t.Cleanup(func() {
		eventually(t, "goroutines and descriptors are given back", func() bool {
			return runtime.NumGoroutine() <= goroutines && descriptors(t) <= files
		})
		if _, err := peek(unix.P_ALL, 0); !errors.Is(err, syscall.ECHILD) {
			t.Errorf("a child is left: %v", err)
		}
	})
}

// helpSignals prints every signal it gets. With an argument it starts another
// of itself in its group first, which says its lines with a prefix.
func helpSignals() error {
	got := make(chan os.Signal, 64)
	signal.Notify(got, append([]os.Signal{syscall.SIGTERM}, forwarded...)...)
	who := "child"
	if len(os.Args) > 1 {
		who = os.Args[1]
	}
	if who == "leader" {
		cmd := exec.Command("/proc/self/exe", "grandchild")
		cmd.Env = append(os.Environ(), quickExit, helperEnv+"=signals")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	fmt.Println(who, "ready")
	for s := range got {
		fmt.Println(who, unix.SignalName(s.(syscall.Signal)))
		if s == syscall.SIGTERM {
			return nil
		}
	}
	return nil
}

// helpMoved is a signals that has left its group for its parent's.
func helpMoved() error {
	group, err := unix.Getpgid(os.Getppid())
	if err != nil {
		return err
	}
	if err := unix.Setpgid(0, group); err != nil {
		return err
	}
	return helpSignals()
}

// helpOrphans is a subreaper whose children leave orphans behind, by double
// fork and in sessions of their own, while it starts others and looks at every
// status.
func helpOrphans() error {
	if err := BecomeSubreaper(); err != nil {
		return err
	}
	r := NewReaper(true)
	const workers, each = 8, 40
	env := []string{"PATH=" + os.Getenv("PATH")}
	faults := make(chan error, workers)
	for w := range workers {
		go func() {
			faults <- func() error {
				for i := range each {
					code := (w*each + i) % 256
					script := fmt.Sprintf("(true &); (setsid sh -c 'true & true &' &); (sh -c 'exit 9' &); exit %d", code)
					c, err := r.Start(Spec{Path: "sh", Args: []string{"-c", script}, Env: env})
					if err != nil {
						return err
					}
					if _, err := r.Start(Spec{Path: "/no/such/program"}); !errors.Is(err, ErrNotFound) {
						return fmt.Errorf("missing program: %w", err)
					}
					<-c.Done()
					if got := c.Status(); got != (Status{Code: code}) {
						return fmt.Errorf("exit %d: status is %v", code, got)
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		if err := <-faults; err != nil {
			return err
		}
	}
	// Orphans of orphans may still be about: none may stay.
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := peek(unix.P_ALL, 0); errors.Is(err, syscall.ECHILD) {
			break
		}
		if time.Now().After(end) {
			return errors.New("orphans are left")
		}
	}
	r.Close()
	return nil
}

// helpLimit may have no more processes than it has threads.
func helpLimit() error {
	r := NewReaper(false)
	// Threads that the runtime may need while it cannot make one.
	var release []*os.File
	for range 8 {
		pr, pw, err := os.Pipe()
		if err != nil {
			return err
		}
		pr.Fd() // blocking: a read takes a thread
		go io.Copy(io.Discard, pr)
		release = append(release, pw)
	}
	time.Sleep(50 * time.Millisecond) // luck would only cost a thread
	for _, pw := range release {
		pw.Close()
	}
	spec := Spec{Path: "/bin/true"}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &old); err != nil {
		return err
	}
	none := old
	none.Cur = 1
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &none); err != nil {
		return err
	}
	_, err := r.Start(spec)
	if rerr := unix.Setrlimit(unix.RLIMIT_NPROC, &old); rerr != nil {
		return rerr
	}
	if !errors.Is(err, syscall.EAGAIN) {
		return fmt.Errorf("start over the limit: %v, want EAGAIN", err)
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotExecutable) {
		return fmt.Errorf("start over the limit blames the program: %w", err)
	}
	c, err := r.Start(spec)
	if err != nil {
		return fmt.Errorf("start after the limit was lifted: %w", err)
	}
	<-c.Done()
	r.Close()
	return nil
}

// helpTerminal has its stdin as the controlling terminal and gives it away.
func helpTerminal() error {
	if !Controls(os.Stdin) {
		return errors.New("stdin is not the controlling terminal")
	}
	// Writers of the background would stop.
	settings, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return err
	}
	settings.Lflag |= unix.TOSTOP
	if err := unix.IoctlSetTermios(0, unix.TCSETS, settings); err != nil {
		return err
	}
	r := NewReaper(false)
	defer r.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	// -m: the shell itself must be able to take and give the terminal.
	c, err := r.Start(Spec{
		Path: "sh", Args: []string{"-mc", "read line && echo got $line; sh -c 'exit 4' <&0; exit $?"},
		Env: os.Environ(), Stdin: os.Stdin, Stdout: in, Terminal: os.Stdin,
	})
	if err != nil {
		return err
	}
	in.Close()
	if front, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err != nil || front != c.Pid() {
		return fmt.Errorf("foreground group is %d, the child's is %d, %w", front, c.Pid(), err)
	}
	// The child reads a line: it comes when this one was seen.
	if _, err := os.Stdin.WriteString("from the background\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "got hello\n" {
		return fmt.Errorf("child said %q, %w", line, err)
	}
	<-c.Done()
	if got := c.Status().ExitCode(); got != 4 {
		return fmt.Errorf("exit code %d", got)
	}
	return nil
}

// helpNoTerminal has a terminal that does not control it.
func helpNoTerminal() error {
	if Controls(os.Stdin) {
		return errors.New("stdin is the controlling terminal")
	}
	r := NewReaper(false)
	defer r.Close()
	c, err := r.Start(Spec{Path: "/bin/true", Terminal: os.Stdin})
	if err != nil {
		return err
	}
	<-c.Done()
	if c.Status() != (Status{}) {
		return errors.New(c.Status().String())
	}
	return nil
}
