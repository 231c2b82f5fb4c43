package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEveryExitCode(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	for from := 0; from < 256; from += 32 {
		var batch [32]*Child
		for i := range batch {
			batch[i] = start(t, r, sh(fmt.Sprintf("exit %d", from+i)))
		}
		for i, c := range batch {
			want := Status{Code: from + i}
			if got := wait(t, c); got != want || got.ExitCode() != from+i || got.String() != fmt.Sprintf("exit status %d", from+i) {
				t.Errorf("exit %d: %+v, code %d, %q", from+i, got, got.ExitCode(), got)
			}
		}
	}
}

// The text of a signal is os/exec's, core or not.
func TestEverySignal(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	for sig := syscall.Signal(1); sig < 32; sig++ {
		switch sig {
		case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH, // do not end a process
			syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			continue
		}
		spec := sh(fmt.Sprintf("ulimit -c 0; kill -%d $$", sig))
		got := wait(t, start(t, r, spec))
		if got.Signal != sig || got.ExitCode() != 128+int(sig) {
			t.Errorf("signal %d: %+v, code %d", sig, got, got.ExitCode())
		}
		var exit *exec.ExitError
		if err := exec.Command("sh", spec.Args...).Run(); !errors.As(err, &exit) || exit.Error() != got.String() {
			t.Errorf("signal %d: %q, os/exec says %v", sig, got, err)
		}
	}
	if got := (Status{Signal: syscall.SIGSEGV, Core: true}).String(); got != "signal: segmentation fault (core dumped)" {
		t.Error(got)
	}
}

// Two Reapers and os/exec in one process: each gets all of its own statuses. A
// loop of wait4(-1) beside os/exec takes some of the others'.
func TestNoStatusIsStolen(t *testing.T) {
	noLeaks(t)
	reapers := []*Reaper{newReaper(t), newReaper(t)}
	const each = 500
	var wg sync.WaitGroup
	for who := range 6 {
		wg.Go(func() {
			for i := range each {
				code := (who*each + i) % 256
				spec := sh(fmt.Sprintf("exit %d", code))
				got := -1
				if who >= 4 {
					cmd := exec.Command("/bin/sh", spec.Args...)
					_ = cmd.Run()
					if cmd.ProcessState != nil {
						got = cmd.ProcessState.ExitCode()
					}
				} else {
					c, err := reapers[who%2].Start(spec)
					if err != nil {
						t.Error(err)
						return
					}
					got = wait(t, c).ExitCode()
				}
				if got != code {
					t.Errorf("worker %d: got %d, want %d", who, got, code)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A dead child of someone else that is not waited for hides later ones from a
// look at "any child".
func TestUnwaitedStrangerHidesNobody(t *testing.T) {
	noLeaks(t)
	stranger := exec.Command("true")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stranger is a zombie", func() bool {
		pid, err := peek(unix.P_PID, stranger.Process.Pid)
		return err == nil && pid != 0
	})
	r := newReaper(t)
	for code := range 20 {
		if got := wait(t, start(t, r, sh(fmt.Sprintf("exit %d", code)))).Code; got != code {
			t.Errorf("got %d, want %d", got, code)
		}
	}
	if err := stranger.Wait(); err != nil {
		t.Error(err)
	}
}

func TestOrphansAreReapedAndNoStatusLost(t *testing.T) {
	runHelper(t, "orphans", nil)
}

func TestStoppedChildIsNotDone(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	c, out := startPiped(t, r, helperSpec("signals"))
	lines := bufio.NewReader(out)
	expect(t, lines, "child ready")
	if err := c.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child is stopped", func() bool {
		return strings.HasPrefix(procState(c.Pid()), "T")
	})
	wait(t, start(t, r, sh("exit 0"))) // the loop has seen SIGCHLD since
	select {
	case <-c.Done():
		t.Fatal("a stopped child is done")
	default:
	}
	for _, sig := range []syscall.Signal{syscall.SIGCONT, syscall.SIGTERM} {
		if err := c.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, lines, "child SIGTERM")
	if got := wait(t, c); got != (Status{}) {
		t.Error(got)
	}
}

// The kernel knows of an end that nobody has waited for yet.
func TestEndedBeforeItIsReaped(t *testing.T) {
	cmd := exec.Command("sleep", "1h")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &Child{pid: cmd.Process.Pid}
	if c.Ended() {
		t.Error("a child that runs has ended")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end is seen", c.Ended)
	_ = cmd.Wait()

	noLeaks(t)
	r := newReaper(t)
	c = start(t, r, sh("exit 0"))
	wait(t, c)
	if !c.Ended() {
		t.Error("a child that was reaped has not ended")
	}
}

func procState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return string(stat[strings.LastIndexByte(string(stat), ')')+2:])
}

// expect reads lines until all of want have come, in any order and no others.
func expect(t testing.TB, from *bufio.Reader, want ...string) {
	t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	for len(left) > 0 {
		line, err := from.ReadString('\n')
		if err != nil {
			t.Fatalf("%v, still to come: %v", err, left)
		}
		line = strings.TrimSuffix(line, "\n")
		if !left[line] {
			t.Fatalf("%q, still to come: %v", line, left)
		}
		delete(left, line)
	}
}

// A child that dies before Start has entered it among the children is not
// taken for a stranger.
func TestDeathBeforeItsEntry(t *testing.T) {
	for _, orphans := range []bool{false, true} {
		t.Run(fmt.Sprintf("orphans=%v", orphans), func(t *testing.T) {
			noLeaks(t)
			r := NewReaper(orphans)
			defer r.Close()
			r.forks.RLock() // as Start does
			pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 7"}, &syscall.ProcAttr{})
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the loop has seen the death", func() bool {
				if !r.forks.TryRLock() {
					return true // it waits to judge it
				}
				r.forks.RUnlock()
				return false
			})
			c := &Child{pid: pid, done: make(chan struct{})}
			r.mu.Lock()
			r.children[pid] = c
			r.mu.Unlock()
			r.forks.RUnlock()
			if got := wait(t, c); got != (Status{Code: 7}) {
				t.Error(got)
			}
		})
	}
}

// Signals race with the end of the child; the race detector watches.
func TestSignalsWhileChildrenEnd(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	for range 50 {
		c := start(t, r, sh("exit 0"))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for c.Signal(syscall.SIGUSR1) == nil {
				}
			})
		}
		if got := wait(t, c); got.Signal != syscall.SIGUSR1 && got != (Status{}) {
			t.Error(got)
		}
		wg.Wait()
	}
}

func TestClose(t *testing.T) {
	noLeaks(t)
	r := NewReaper(false)
	var children []*Child
	for range 5 {
		children = append(children, start(t, r, sh("sleep 1000 & sleep 1000")))
	}
	gone, out := startPiped(t, r, sh("sleep 1000 & exit 0"))
	wait(t, gone)
	r.Close()
	for _, c := range children {
		select {
		case <-c.Done():
			if c.Status().Signal != syscall.SIGKILL {
				t.Error(c.Status())
			}
		default:
			t.Error("Close returned before a child was done")
		}
	}
	if _, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("what a child left lives: %v", err)
	}
	if _, err := r.Start(sh("exit 0")); !errors.Is(err, ErrClosed) {
		t.Errorf("start after Close: %v", err)
	}
	if err := errors.Join(children[0].Kill(), gone.Kill()); !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	r.Close()
}

func TestCloseWhileStarting(t *testing.T) {
	noLeaks(t)
	for range 10 {
		r := NewReaper(false)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					c, err := r.Start(sh("exit 0"))
					if errors.Is(err, ErrClosed) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
					wait(t, c)
				}
			})
		}
		r.Close()
		wg.Wait()
	}
}
