package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSignalsReachTheWholeGroup(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	c, out := startPiped(t, r, helperSpec("signals", "leader"))
	lines := bufio.NewReader(out)
	expect(t, lines, "leader ready", "grandchild ready")
	for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGTERM} {
		if err := c.Signal(sig); err != nil {
			t.Fatal(err)
		}
		expect(t, lines, "leader "+unix.SignalName(sig), "grandchild "+unix.SignalName(sig))
	}
	wait(t, c)
	if _, err := lines.ReadByte(); err != io.EOF {
		t.Errorf("the pipe is held: %v", err)
	}
}

// A leader that joins another group, as some shells do, is still reached.
func TestSignalReachesALeaderThatMoved(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	c, out := startPiped(t, r, helperSpec("moved"))
	lines := bufio.NewReader(out)
	expect(t, lines, "child ready")
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, "child SIGTERM")
	wait(t, c)
	if err := c.Signal(0); !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
}

func TestForward(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	c, out := startPiped(t, r, helperSpec("signals", "leader"))
	lines := bufio.NewReader(out)
	expect(t, lines, "leader ready", "grandchild ready")
	stop := Forward(c)
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH} {
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		expect(t, lines, "leader "+unix.SignalName(sig), "grandchild "+unix.SignalName(sig))
	}
	stop()
	// WINCH harms nobody: it is not forwarded any more, and nothing else was.
	if err := errors.Join(syscall.Kill(os.Getpid(), syscall.SIGWINCH), c.Signal(syscall.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, "leader SIGTERM", "grandchild SIGTERM")
	wait(t, c)
}

// A leader that dies takes its group with it.
func TestKillGroupAtExit(t *testing.T) {
	noLeaks(t)
	r := newReaper(t)
	spec := sh("sleep 1000 & exit 7") // the sleep holds the pipe
	spec.KillGroupAtExit = true
	c, out := startPiped(t, r, spec)
	if _, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("a descendant lives: %v", err)
	}
	if got := wait(t, c); got != (Status{Code: 7}) {
		t.Error(got)
	}
	if err := c.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
}

// byEach runs a test with groups signalled by pidfd and by number.
func byEach(t *testing.T, test func(t *testing.T, wait func(*Child) Status)) {
	t.Run("pidfd", func(t *testing.T) {
		test(t, func(c *Child) Status { return wait(t, c) })
	})
	t.Run("number", func(t *testing.T) {
		test(t, func(c *Child) Status {
			s := wait(t, c)
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.left.fd >= 0 {
				c.left.close()
				c.left.byNumber = true
			}
			return s
		})
	})
}

// The leader is gone and was reaped, its group lives: it can be signalled
// until its last member is gone.
func TestGroupOutlivesItsLeader(t *testing.T) {
	byEach(t, func(t *testing.T, wait func(*Child) Status) {
		noLeaks(t)
		r := newReaper(t)
		c, out := startPiped(t, r, sh("(trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done) & exit 3"))
		lines := bufio.NewReader(out)
		expect(t, lines, "ready")
		if got := wait(c); got != (Status{Code: 3}) {
			t.Error(got)
		}
		if err := errors.Join(c.Signal(0), c.Signal(syscall.SIGUSR1)); err != nil {
			t.Fatal(err)
		}
		expect(t, lines, "usr1")
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := lines.ReadByte(); err != io.EOF {
			t.Errorf("a descendant lives: %v", err)
		}
		eventually(t, "the group is gone", func() bool { return errors.Is(c.Signal(0), os.ErrProcessDone) })
		if err := c.Kill(); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
	})
}

// takeNumber starts a stranger, leader of a group of its own, whose pid is
// that of a process that is gone.
func takeNumber(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid-1), 0); err != nil {
			t.Skipf("numbers cannot be chosen here: %v", err)
		}
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			return cmd
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Skip("the number went to somebody else")
	return nil
}

// A number that was given anew is never signalled: not after a child with no
// descendants, not after a group that outlived its leader.
func TestNewOwnerOfANumberIsSafe(t *testing.T) {
	for name, script := range map[string]string{
		"alone": "exit 0",
		"group": "sleep 1000 & exit 0",
	} {
		t.Run(name, func(t *testing.T) {
			byEach(t, func(t *testing.T, wait func(*Child) Status) {
				r := newReaper(t)
				c, out := startPiped(t, r, sh(script))
				wait(c)
				if name == "group" {
					if err := syscall.Kill(-c.Pid(), syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := out.Read(make([]byte, 1)); err != io.EOF {
					t.Fatal(err)
				}
				eventually(t, "the group is empty", func() bool {
					return errors.Is(syscall.Kill(-c.Pid(), 0), syscall.ESRCH)
				})
				stranger := takeNumber(t, c.Pid())
				defer stranger.Wait()
				defer stranger.Process.Kill()
				for _, sig := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
					if err := c.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
						t.Errorf("signal %d: %v", sig, err)
					}
				}
				if state := procState(c.Pid()); state == "" || state[0] == 'Z' {
					t.Errorf("the stranger was killed: %q", state)
				}
			})
		})
	}
}
