package watchdog

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/health"
	"github.com/weir-run/weir/watchdog/process"
)

// Run serves until ctx ends and everything in flight is answered, the handler
// ends on its own, or Kill is called. It returns nil after a drain, an
// *ExitError for a handler that ended, process.ErrNotFound or
// process.ErrNotExecutable for one that could not start, ErrKilled after Kill.
func (w *Watchdog) Run(ctx context.Context) error {
	err := w.serve(ctx)
	if err != nil {
		w.lines.printf("%v", err)
	}
	return err
}

func (w *Watchdog) serve(ctx context.Context) error {
	w.announce()
	if w.ReapOrphans {
		defer process.Withstand()()
	}
	defer w.guard()()
	serving := make(chan error, 2)
	go func() { serving <- w.server.Serve(w.listener) }()
	go func() { serving <- w.metricsServer.Serve(w.metricsListen) }()
	if !w.cfg.SuppressLock {
		w.lines.printf("Writing lock-file to: %s", w.cfg.LockPath)
		if err := writeLock(w.cfg.LockPath); err != nil {
			w.stopServing()
			return err
		}
	}
	defer w.unlock()
	if err := w.startHandler(); err != nil {
		w.die()
		w.stopServing()
		return err
	}
	watching, unwatch := context.WithCancel(context.Background())
	var telling sync.WaitGroup
	defer telling.Wait()
	defer unwatch()
	telling.Go(func() { w.tellTurns(watching) })
	ended := w.watchHandler(watching)

	var err error
	select {
	case <-ctx.Done():
		err = w.drain(context.Cause(ctx), ended)
	case err = <-ended:
		w.die()
	case err = <-serving:
		w.die()
	case <-w.kill:
		err = ErrKilled
	}
	unwatch()
	if err != nil {
		w.health.Set(health.Dead)
	}
	w.stopServing()
	w.stopHandler(err)
	w.lines.printf("Exiting. Active connections: %d", w.limiter.Stats().Running)
	return err
}

func (w *Watchdog) announce() {
	c := &w.cfg
	w.lines.printf("Watchdog mode: %s\tfprocess: %q", c.Mode, strings.Join(c.Command, " "))
	w.lines.printf("Timeouts: read: %s write: %s hard: %s health: %s", c.ReadTimeout, c.WriteTimeout, c.ExecTimeout, c.HealthcheckInterval)
	w.lines.printf("Listening on port: %d", w.Port())
	w.lines.printf("Metrics listening on port: %d", w.MetricsPort())
	if c.Mode == ModeStatic {
		w.lines.printf("Serving files at: %s", c.StaticPath)
	}
	if c.SuppressLock {
		w.lines.printf("suppress_lock is set: no lock file for exec probes; %s answers all the same", contract.HealthPath)
	}
	if w.ReapOrphans && os.Getpid() != 1 {
		if err := process.BecomeSubreaper(); err != nil {
			w.lines.printf("not PID 1 and no subreaper (%v): orphans of the handler go to the init of this machine", err)
		} else {
			w.lines.printf("not PID 1: running as subreaper, orphans of the handler are reaped here")
		}
	}
}

// unlock takes the lock file away, once.
func (w *Watchdog) unlock() {
	if w.cfg.SuppressLock || !Locked(w.cfg.LockPath) {
		return
	}
	w.lines.printf("Removing lock-file : %s", w.cfg.LockPath)
	if err := removeLock(w.cfg.LockPath); err != nil {
		w.lines.printf("%v", err)
	}
}

// drain serves on for healthcheck_interval while everybody learns that this
// watchdog goes away, then closes the listener and lets what runs finish.
func (w *Watchdog) drain(cause error, ended <-chan error) error {
	reason := "stopping"
	if cause != nil && !errors.Is(cause, context.Canceled) {
		reason = cause.Error()
	}
	w.lines.printf("%s: no new connections in %s", reason, w.cfg.HealthcheckInterval)
	w.health.Set(health.Draining)
	w.unlock()
	if err := w.pause(w.cfg.HealthcheckInterval, ended); err != nil {
		return err
	}
	w.closed.Store(true)
	w.listener.finish()
	s := w.limiter.Stats()
	w.lines.printf("No new connections allowed, draining: %d requests", s.Running+s.Waiting)

	finish, cancel := context.WithTimeout(context.Background(), w.cfg.ShutdownTimeout)
	defer cancel()
	quiet := w.whenQuiet(finish)
	select {
	case <-quiet:
	case err := <-ended:
		w.die()
		return err
	case <-w.kill:
		return ErrKilled
	}
	if finish.Err() != nil {
		w.lines.printf("shutdown_timeout of %s is over: %d requests are cut", w.cfg.ShutdownTimeout, w.limiter.Stats().Running)
		w.refuseLine()
	}
	return nil
}

// lineAnswers is what requests in line get to be told that they will not run.
const lineAnswers = 100 * time.Millisecond

// refuseLine tells everybody in line that there will be no slot.
func (w *Watchdog) refuseLine() {
	if w.limiter.Waiting() == 0 {
		return
	}
	w.endLine(errStopping)
	ctx, cancel := context.WithTimeout(context.Background(), lineAnswers)
	defer cancel()
	<-w.whenQuiet(ctx) // early when nothing runs either
}

// pause waits for d, or for a reason not to.
func (w *Watchdog) pause(d time.Duration, ended <-chan error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-ended:
		w.die()
		return err
	case <-w.kill:
		return ErrKilled
	}
}

// quietPoll is how often a drain looks whether anything is left: often enough
// that nobody waits for it, seldom enough that it costs nothing.
const quietPoll = 5 * time.Millisecond

// lateHeads is how long, after the last answer, a request is waited for of which
// only a part has come.
const lateHeads = 5 * time.Second

// whenQuiet is closed when nothing is in flight or in line and no connection is
// in the middle of a request, or when ctx ends. http.Server's Shutdown will not
// do: what it has accepted and not read when that begins is dropped.
func (w *Watchdog) whenQuiet(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(quietPoll)
		defer tick.Stop()
		select {
		case <-w.listener.finished: // who waits to be accepted would not be seen
		case <-ctx.Done():
			return
		}
		for busy := time.Now(); ; {
			now := time.Now()
			if w.answering() {
				busy = now
			} else if now.Sub(busy) >= lateHeads || !w.connections.asking(now) {
				if !w.answering() { // an upgrade meanwhile
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return done
}

// answering says whether a request is in flight, in line, or not wholly
// answered. An upgraded connection is one in flight.
func (w *Watchdog) answering() bool {
	return w.limiter.Running() > 0 || w.limiter.Waiting() > 0 || w.connections.answering()
}

// dyingAnswers is what requests in flight get to be told of the handler's end.
const dyingAnswers = 2 * time.Second

// die answers 502 to whoever is in flight or in line when there is no handler
// any more.
func (w *Watchdog) die() {
	w.health.Set(health.Dead)
	w.unlock()
	w.closed.Store(true)
	w.endLine(errDead)
	if w.starting != nil {
		w.starting.abandon()
	}
	w.listener.finish()
	w.awaitQuiet(dyingAnswers)
}

func (w *Watchdog) awaitQuiet(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	select {
	case <-w.whenQuiet(ctx):
	case <-w.kill:
	}
}

// stopServing ends both servers and every connection that is left, and waits
// a moment for the runners to notice.
func (w *Watchdog) stopServing() {
	w.endLine(errStopping) // else a request that is cut hands its slot on
	if w.proxy != nil {
		w.proxy.Close()
	}
	_ = w.server.Close()
	_ = w.metricsServer.Close()
	for end := time.Now().Add(cutRequests); w.limiter.Stats().Running > 0 && time.Now().Before(end); {
		time.Sleep(quietPoll)
	}
}

// cutRequests is what the runners of requests that are cut get to end their
// processes.
const cutRequests = time.Second
