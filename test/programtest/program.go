package programtest

import (
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Log keeps what is written to it, and can be read meanwhile. Its zero value is
// empty.
type Log struct {
	mu  sync.Mutex
	all []byte
}

// kept is far above what any test reads of a log.
const kept = 16 << 20

// Write keeps p, as long as there is not too much.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p[:min(len(p), kept-len(l.all))]...)
	return len(p), nil
}

// String is all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.all)
}

// Clip shortens a text for those who read what a test says: its begin and its
// end.
func Clip(s string) string {
	const most = 16 << 10
	if len(s) <= most {
		return s
	}
	return s[:most/4] + "\n…\n" + s[len(s)-most*3/4:]
}

// Program is one that runs.
type Program struct {
	*exec.Cmd
	// Log is all that it writes for which its Cmd named no other place.
	Log *Log
	// Ended is closed when it has ended.
	Ended <-chan struct{}

	t testing.TB
	// left are what it had started when it was killed; they have a group of
	// their own, and would stay for good.
	left []Process
}

// Start starts a command in a process group of its own, unless it has a session
// of its own. When the test ends it is killed with its group and all that it had
// started then, or when the test killed it; where the test failed the log is
// shown.
func Start(t testing.TB, cmd *exec.Cmd) *Program {
	t.Helper()
	ended := make(chan struct{})
	p := &Program{Cmd: cmd, Log: new(Log), Ended: ended, t: t}
	if cmd.Stdout == nil {
		cmd.Stdout = p.Log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.Log
	}
	// A descendant that outlives it must not keep Wait from returning: it may
	// hold the pipes.
	cmd.WaitDelay = 2 * time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		if !p.Over() {
			p.remember()
			_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
			p.Wait()
		}
		for _, process := range p.left {
			process.Kill()
		}
		if said := p.Log.String(); t.Failed() && said != "" {
			t.Logf("%s (process %d) said:\n%s", filepath.Base(cmd.Path), p.Pid(), Clip(said))
		}
	})
	return p
}

// Pid is its number.
func (p *Program) Pid() int { return p.Process.Pid }

// Signal sends it one.
func (p *Program) Signal(sig syscall.Signal) {
	p.t.Helper()
	if sig == syscall.SIGKILL {
		p.remember()
	}
	if err := p.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %v to %s: %v", sig, filepath.Base(p.Path), err)
	}
}

// Kill ends it, and it alone, as kill -9 does, until the test ends. It may have
// ended before.
func (p *Program) Kill() {
	p.t.Helper()
	p.remember()
	_ = p.Process.Kill()
	p.Wait()
}

// remember notes what it has started, and keeps it from starting more: it is
// about to be killed.
func (p *Program) remember() {
	if p.Over() || syscall.Kill(p.Pid(), syscall.SIGSTOP) != nil {
		return
	}
	p.left = append(p.left, Descendants(p.Pid())...)
}

// Over says whether it has ended.
func (p *Program) Over() bool {
	select {
	case <-p.Ended:
		return true
	default:
		return false
	}
}

// Wait waits for its end, which must come in time, and returns its Code.
func (p *Program) Wait() int {
	p.t.Helper()
	select {
	case <-p.Ended:
		return p.Code()
	case <-time.After(Patience):
		p.t.Errorf("%s (process %d) does not end", filepath.Base(p.Path), p.Pid())
		return -1
	}
}

// Code is the exit code of one that has ended, 128+n after a signal.
func (p *Program) Code() int {
	if status, ok := p.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return p.ProcessState.ExitCode()
}
