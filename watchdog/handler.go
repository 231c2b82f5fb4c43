package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	psprocess "github.com/shirou/gopsutil/v3/process"

	"github.com/weir-run/weir/health"
	"github.com/weir-run/weir/watchdog/process"
)

// startHandler starts the one child of http mode. The other modes, and http
// mode without fprocess, have nothing to start.
func (w *Watchdog) startHandler() error {
	if w.cfg.Mode != ModeHTTP {
		w.health.Set(health.Serving)
		w.settled()
		return nil
	}
	if len(w.cfg.Command) == 0 {
		w.lines.printf("no fprocess: proxying to %s", w.cfg.UpstreamURL)
		return nil
	}
	w.lines.printf("Forking: %s, arguments: %q", w.cfg.Command[0], w.cfg.Command[1:])
	stdin, stdinKept, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("handler's stdin: %w", err)
	}
	stdout, stdoutChild, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("handler's stdout: %w", err)
	}
	stderr, stderrChild, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("handler's stderr: %w", err)
	}
	spec := process.Spec{
		Path: w.cfg.Command[0], Args: w.cfg.Command[1:], Env: w.cfg.Environ,
		Stdin: stdin, Stdout: stdoutChild, Stderr: stderrChild,
	}
	if w.ReapOrphans && process.Controls(os.Stdin) {
		spec.Terminal, spec.Stdin = os.Stdin, os.Stdin
	}
	child, err := w.reaper.Start(spec)
	for _, f := range []*os.File{stdin, stdoutChild, stderrChild} {
		_ = f.Close()
	}
	if err != nil {
		for _, f := range []*os.File{stdinKept, stdout, stderr} {
			_ = f.Close()
		}
		return err
	}
	w.child = child
	w.childPID.Store(int64(child.Pid()))
	w.stopForwarding = process.Forward(child)
	w.copyLog("stdout", stdout, w.stdout)
	w.copyLog("stderr", stderr, w.stderr)
	go func() { // the handler's stdin stays open as long as it lives
		<-child.Done()
		_ = stdinKept.Close()
	}()
	return nil
}

// settled is called once requests are served.
func (w *Watchdog) settled() {
	if w.ReapOrphans { // else the program is somebody else's
		forgetStart()
	}
}

// copyLog passes the lines of the handler on until nobody holds the pipe.
func (w *Watchdog) copyLog(name string, from *os.File, to io.Writer) {
	format := func(dst, line []byte) []byte { return append(append(dst, line...), '\n') }
	if w.cfg.PrefixLogs {
		format = func(dst, line []byte) []byte {
			dst = w.lines.appendTime(dst, time.Now())
			dst = append(append(dst, name...), ": "...)
			return append(append(dst, line...), '\n')
		}
	}
	w.handlerLogging.Add(1)
	go func() {
		defer w.handlerLogging.Done()
		defer from.Close()
		if err := process.CopyLines(to, from, w.cfg.LogBufferSize, format); err != nil {
			w.lines.printf("%s of the handler: %v", name, err)
		}
	}()
}

// How often a handler that starts is asked for a connection: at once, then
// with pauses that grow to probeSlowest, so that a start of milliseconds is
// seen in milliseconds and one of minutes costs nothing.
const (
	probeFirst   = 2 * time.Millisecond
	probeSlowest = 50 * time.Millisecond
)

// watchHandler opens the gate when the handler listens and tells of its end.
// It goes on until ctx ends.
func (w *Watchdog) watchHandler(ctx context.Context) <-chan error {
	ended := make(chan error, 1)
	if w.cfg.Mode != ModeHTTP {
		return ended
	}
	go func() {
		err := w.awaitListening(ctx)
		if err == nil {
			w.health.Set(health.Serving)
			w.starting.pass()
			w.settled()
			err = w.awaitEnd(ctx)
		}
		if ctx.Err() == nil {
			ended <- err
		}
	}()
	return ended
}

func (w *Watchdog) awaitListening(ctx context.Context) error {
	for pause := probeFirst; ; pause = min(2*pause, probeSlowest) {
		if w.proxy.Probe(ctx) == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-w.childDone():
			timer.Stop()
			if w.child.Status().ExitCode() == 0 && w.descendants() {
				if err := w.pauseFor(ctx, pause); err != nil {
					return err
				}
				continue // it went into the background and may listen yet
			}
			return w.exitError()
		case <-timer.C:
		}
	}
}

// childDone is nil, and never ready, without a child.
func (w *Watchdog) childDone() <-chan struct{} {
	if w.child == nil {
		return nil
	}
	return w.child.Done()
}

func (w *Watchdog) exitError() error {
	s := w.child.Status()
	return &ExitError{Code: s.ExitCode(), Text: s.String()}
}

func (w *Watchdog) pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// daemonPoll is how often a handler that has put itself into the background,
// and so cannot be waited for, is looked at.
const daemonPoll = time.Second

// awaitEnd returns when the handler is gone. One that exits 0 and leaves a
// process that still takes connections is not gone.
func (w *Watchdog) awaitEnd(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.childDone():
	}
	w.childPID.Store(0)
	if w.child.Status().ExitCode() != 0 || w.proxy.Probe(ctx) != nil || !w.descendants() {
		return w.exitError()
	}
	w.daemon.Store(true)
	w.lines.printf("handler exited 0 and left a process that still listens: serving on")
	for w.descendants() {
		if err := w.pauseFor(ctx, daemonPoll); err != nil {
			return err
		}
	}
	return &ExitError{Code: 0, Text: "the process it left in the background is gone"}
}

// descendants says whether a process of the handler is left: in its group, or
// handed to this one as an orphan.
func (w *Watchdog) descendants() bool {
	if !errors.Is(w.child.Signal(0), os.ErrProcessDone) {
		return true
	}
	if !w.ReapOrphans {
		return false
	}
	all, err := psprocess.Processes()
	if err != nil {
		return false
	}
	for _, p := range all {
		if parent, err := p.Ppid(); err == nil && int(parent) == os.Getpid() && !zombie(p) {
			return true
		}
	}
	return false
}

func zombie(p *psprocess.Process) bool {
	status, err := p.Status()
	return err == nil && len(status) > 0 && strings.EqualFold(status[0], psprocess.Zombie)
}

// lastLines bounds the wait for the handler's last lines: a descendant that
// left the group may hold the pipe for ever.
const lastLines = time.Second

// stopHandler ends the child, gently unless err says that it is too late for
// that, and collects its last lines.
func (w *Watchdog) stopHandler(err error) {
	if w.child == nil {
		return
	}
	if errors.Is(err, ErrKilled) {
		_ = w.child.Kill()
	} else {
		_ = w.child.Signal(syscall.SIGTERM)
	}
	w.awaitGroup()
	_ = w.child.Kill() // what is left of the group
	<-w.child.Done()
	w.stopForwarding()
	logged := make(chan struct{})
	go func() { w.handlerLogging.Wait(); close(logged) }()
	select {
	case <-logged:
	case <-time.After(lastLines):
	}
}

// awaitGroup waits until the handler's group is empty, kill_grace is over or
// Kill is called. The leader's end is not enough: below a shell it is not the
// leader that has something to finish.
func (w *Watchdog) awaitGroup() {
	grace := time.NewTimer(w.cfg.KillGrace)
	defer grace.Stop()
	tick := time.NewTicker(quietPoll)
	defer tick.Stop()
	for !errors.Is(w.child.Signal(0), os.ErrProcessDone) {
		select {
		case <-tick.C:
		case <-grace.C:
			w.lines.printf("handler still runs %s after SIGTERM: killing it", w.cfg.KillGrace)
			return
		case <-w.kill:
			return
		}
	}
}
