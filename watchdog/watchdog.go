// Package watchdog runs, limits, drains and reports a handler: a program that
// speaks HTTP, a program that is run once a request, a folder of files, or an
// http.Handler of the same Go program.
//
// A Watchdog goes New, fields, Listen, Run, Close:
//
//	cfg, err := watchdog.FromEnv(os.Environ(), watchdog.ModeInproc)
//	cfg.Handler = http.HandlerFunc(handle)
//	w, err := watchdog.New(cfg)
//	err = w.Listen()
//	err = w.Run(ctx) // until ctx ends and everything in flight is answered
//
// Several may live in one process.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-run/weir/health"
	"github.com/weir-run/weir/limiter"
	"github.com/weir-run/weir/proxy"
	"github.com/weir-run/weir/watchdog/logs"
	"github.com/weir-run/weir/watchdog/process"
)

// ErrKilled is what Run returns after Kill.
var ErrKilled = errors.New("killed before everything in flight was answered")

// ExitError says that the handler's process ended although nobody had asked
// it to. Code is its exit code, 128+n for signal n.
type ExitError struct {
	Code int
	Text string
}

func (e *ExitError) Error() string { return "handler ended: " + e.Text }

// ExitCode is what a program exits with whose watchdog ended with err: the
// handler's own code, 127 for a handler that was not found, 126 for one that
// cannot be executed, 137 after Kill, 1 for anything else, 0 for nil.
func ExitCode(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.Is(err, process.ErrNotFound):
		return 127
	case errors.Is(err, process.ErrNotExecutable):
		return 126
	case errors.Is(err, ErrKilled):
		return 128 + int(syscall.SIGKILL)
	}
	return 1
}

// Watchdog serves one handler. Its fields are set before Listen.
type Watchdog struct {
	// Stdout and Stderr take the handler's lines; the watchdog's own go to
	// Stderr. New sets them to those of the process.
	Stdout, Stderr io.Writer
	// Version and Commit of the program, for the first line of the log.
	Version, Commit string
	// ReapOrphans says that this process is the watchdog's alone: it waits for
	// every process that is handed to it, which is right for PID 1 and wrong
	// beside os/exec, may give the handler the terminal, and forgets the
	// memory of its start.
	ReapOrphans bool

	cfg     Config
	health  *health.Health
	limiter *limiter.Limiter
	auto    *limiter.Auto // nil unless max_inflight is auto
	guards  *guards
	metrics *metrics
	service serviceTime
	// inLine ends, with the reason, when nobody is to wait any more.
	inLine    context.Context
	endLine   context.CancelCauseFunc
	readAhead sharedRoom
	lines     *lines
	stdout    sink
	stderr    sink
	reaper    *process.Reaper

	run      runner
	asked    *readyCall
	proxy    *proxy.Proxy // http mode only
	starting *gate        // http mode only
	child    *process.Child
	childPID atomic.Int64
	daemon   atomic.Bool // what the handler left serves, and not the handler
	// stopForwarding ends the forwarding of signals to the child.
	stopForwarding func()

	server         *http.Server
	listener       *listener
	connections    connections
	metricsServer  *http.Server
	metricsListen  *listener
	closed         atomic.Bool // the listener takes no connection any more
	kill           chan struct{}
	killOnce       sync.Once
	closeOnce      sync.Once
	handlerLogging sync.WaitGroup
}

// New checks cfg and makes a Watchdog that does nothing yet.
func New(cfg Config) (*Watchdog, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	w := &Watchdog{
		Stdout: os.Stdout, Stderr: os.Stderr,
		cfg:     cfg,
		health:  health.New(),
		limiter: limiter.New(cfg.MaxInflight, cfg.MaxQueue),
		kill:    make(chan struct{}),
	}
	w.inLine, w.endLine = context.WithCancelCause(context.Background())
	return w, nil
}

// maxHeader bounds a request's head. OpenFaaS has the same bound.
const maxHeader = 1 << 20

// idleTimeout closes a kept connection that nobody uses.
const idleTimeout = 120 * time.Second

// Listen takes the two ports and builds the chain; requests are answered from
// Run on. Its error is final: call Close. Listen and Run log the error that
// they return, in the format of the log.
func (w *Watchdog) Listen() error {
	w.stdout, w.stderr = logs.New(w.Stdout), logs.New(w.Stderr)
	w.lines = newLines(w.stderr, w.cfg.LogFormat)
	if w.Version != "" {
		w.lines.printf("Version: %s\tSHA: %s", w.Version, w.Commit)
	}
	err := w.listen()
	if err != nil {
		w.lines.printf("%v", err)
	}
	return err
}

func (w *Watchdog) listen() error {
	w.reaper = process.NewReaper(w.ReapOrphans)
	w.guards = w.newGuards()
	w.auto = w.newAuto()
	w.metrics = newMetrics(gauges{
		limiter: w.limiter,
		ready: func() bool {
			status, _ := w.hasRoom()
			return w.health.State() == health.Serving && status == http.StatusOK
		},
		cpu:     cpuSeconds(func() int { return int(w.childPID.Load()) }),
		highest: w.highestInflight(),
		usage:   w.guards.Usage,
	})
	run, err := w.newRunner()
	if err != nil {
		return err
	}
	w.run = run
	w.asked = &readyCall{path: w.cfg.ReadyPath, run: run, limit: w.askedLimit()}
	handler, err := w.handler()
	if err != nil {
		return err
	}
	if err := removeLock(w.cfg.LockPath); err != nil && !w.cfg.SuppressLock {
		return err // a stale one would call a watchdog healthy that is not
	}
	if w.listener, err = listen(w.cfg.ListenAddress, w.cfg.Port); err != nil {
		return fmt.Errorf("port %d: %w", w.cfg.Port, err)
	}
	if w.metricsListen, err = listen(w.cfg.ListenAddress, w.cfg.MetricsPort); err != nil {
		return fmt.Errorf("metrics_port %d: %w", w.cfg.MetricsPort, err)
	}
	w.server = &http.Server{
		Handler:           handler,
		ReadTimeout:       w.cfg.ReadTimeout,
		ReadHeaderTimeout: w.cfg.ReadTimeout,
		WriteTimeout:      w.cfg.WriteTimeout + writeSlack,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          w.lines.std(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, c)
		},
		ConnState: w.connections.follow,
	}
	w.metricsServer = w.newMetricsServer()
	return nil
}

// highestInflight is the bound of an adaptive limit, 0 for a fixed one.
func (w *Watchdog) highestInflight() int {
	if !w.cfg.AutoInflight {
		return 0
	}
	return min(w.cfg.MaxInflight, limiter.MaxLimit)
}

// askedLimit bounds the call of ready_path.
func (w *Watchdog) askedLimit() time.Duration {
	if w.cfg.ExecTimeout > 0 {
		return min(w.cfg.ExecTimeout, w.cfg.WriteTimeout)
	}
	return w.cfg.WriteTimeout
}

// metricsTimeout bounds a scrape in either direction.
const metricsTimeout = 10 * time.Second

func (w *Watchdog) newMetricsServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.metrics.registry, promhttp.HandlerOpts{
		Registry:            w.metrics.registry,
		MaxRequestsInFlight: 8, // a scrape is cheap, a hundred at once are not
		ErrorLog:            w.lines.std(),
	}))
	return &http.Server{
		Handler: mux, ErrorLog: w.lines.std(), MaxHeaderBytes: maxHeader,
		ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, IdleTimeout: idleTimeout,
	}
}

// Port is the port that Listen took for requests, MetricsPort the one for
// scrapes.
func (w *Watchdog) Port() int        { return w.listener.port() }
func (w *Watchdog) MetricsPort() int { return w.metricsListen.port() }

// Kill ends a Run at once: the handler's group is killed, what is in flight is
// cut. It may be called at any time and more than once.
func (w *Watchdog) Kill() { w.killOnce.Do(func() { close(w.kill) }) }

// Close gives back what Listen took and writes out every log line; it waits at
// most logsPatience for a reader that does not read. Run has returned, or was
// never called.
func (w *Watchdog) Close() error {
	var err error
	w.closeOnce.Do(func() {
		if w.listener != nil {
			_ = w.listener.Close()
		}
		if w.metricsListen != nil {
			_ = w.metricsListen.Close()
		}
		if w.proxy != nil {
			w.proxy.Close()
		}
		if w.reaper != nil {
			w.reaper.Close()
		}
		if w.stderr != nil {
			err = closeLogs(w.stdout, w.stderr)
		}
	})
	return err
}

// logsPatience is how long the end waits for whoever reads the log.
const logsPatience = 5 * time.Second

func closeLogs(stdout, stderr sink) error {
	closed := make(chan error, 1)
	go func() { closed <- errors.Join(stdout.Close(), stderr.Close()) }()
	timer := time.NewTimer(logsPatience)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return fmt.Errorf("log: not read for %s, the rest is lost", logsPatience)
	}
}
