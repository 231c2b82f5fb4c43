package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/limiter"
	"github.com/weir-run/weir/proxy"
	"github.com/weir-run/weir/watchdog/fork"
)

// newRunner makes the runner of the configured mode.
func (w *Watchdog) newRunner() (runner, error) {
	switch w.cfg.Mode {
	case ModeHTTP:
		p, err := proxy.New(w.cfg.UpstreamURL)
		if err != nil {
			return nil, err
		}
		p.BufferBody, p.MaxBody = w.cfg.BufferHTTP, w.cfg.MaxBody
		if p.BufferBody {
			p.MaxBody = w.buffered()
		}
		w.proxy = p
		w.starting = newGate(max(w.cfg.MaxInflight, minEarly), w.guards)
		w.guards.gate = w.starting
		return w.starting.hold(p.Serve), nil
	case ModeStreaming, ModeSerializing, ModeClassic:
		return w.forkRunner(), nil
	case ModeStatic:
		if _, err := os.Stat(w.cfg.StaticPath); err != nil {
			w.lines.printf("static_path: %v: every request is answered 404 until it exists", err)
		}
		return static(w.cfg.StaticPath), nil
	case ModeInproc:
		if w.cfg.Handler == nil {
			return nil, errors.New("mode inproc: Config.Handler is nil")
		}
		return inproc(w.cfg.Handler), nil
	}
	return nil, fmt.Errorf("unknown mode %q", w.cfg.Mode)
}

// buffered is the bound of what is held in memory for one request.
func (w *Watchdog) buffered() int64 {
	if w.cfg.MaxBody > 0 {
		return w.cfg.MaxBody
	}
	return DefaultBufferedBody
}

func (w *Watchdog) forkRunner() runner {
	h := &fork.Handler{
		Mode:           map[Mode]fork.Mode{ModeStreaming: fork.Streaming, ModeSerializing: fork.Serializing, ModeClassic: fork.Classic}[w.cfg.Mode],
		Reaper:         w.reaper,
		Command:        w.cfg.Command,
		Environ:        w.cfg.Environ,
		ContentType:    w.cfg.ContentType,
		CGIHeaders:     w.cfg.CGIHeaders,
		MaxBuffered:    w.buffered(),
		MaxBody:        w.cfg.MaxBody,
		Stderr:         w.stderr,
		PrefixLogs:     w.cfg.PrefixLogs,
		LogBufferSize:  w.cfg.LogBufferSize,
		Log:            w.lines.stamped(),
		Debug:          w.stdout,
		CombineOutput:  w.cfg.CombineOutput,
		WriteDebug:     w.cfg.WriteDebug,
		DebugHeaders:   w.cfg.DebugHeaders,
		MarshalRequest: w.cfg.MarshalRequest,
	}
	events := strings.HasPrefix(strings.ToLower(w.cfg.ContentType), "text/event-stream")
	return func(rw http.ResponseWriter, r *http.Request, exec, write time.Time) error {
		if events {
			_ = http.NewResponseController(rw).SetWriteDeadline(exec)
			return h.Serve(rw, r, exec)
		}
		return h.Serve(rw, r, earlier(exec, write))
	}
}

// static serves files. A file cannot be told to stop, so the time limit is the
// connection's.
func static(path string) runner {
	files := http.FileServer(http.Dir(path))
	return func(w http.ResponseWriter, r *http.Request, exec, write time.Time) error {
		_ = http.NewResponseController(w).SetWriteDeadline(earlier(exec, write))
		files.ServeHTTP(w, r)
		return nil
	}
}

// minEarly is how many requests may wait for a handler that starts, whatever
// max_inflight is: as many connections as a small container can hold.
const minEarly = 1000

// errStarting: the request was not given to the handler, which has not begun
// to listen.
var errStarting = errors.New("the handler does not listen yet")

// gate holds the requests that come before the handler listens. They hold
// their slots meanwhile; the guards count them from when they pass it.
type gate struct {
	guards *guards
	opened atomic.Bool
	lost   atomic.Bool   // there will be no handler
	open   chan struct{} // closed once the handler listens, or is lost
	once   sync.Once
	room   int64

	passing sync.Mutex // one at a time leaves early
	early   atomic.Int64
}

func newGate(room int, guards *guards) *gate {
	return &gate{open: make(chan struct{}), room: int64(room), guards: guards}
}

func (g *gate) pass() {
	g.once.Do(func() {
		g.opened.Store(true)
		close(g.open)
	})
}

// abandon lets everybody pass to be told that there is no handler.
func (g *gate) abandon() {
	g.lost.Store(true)
	g.pass()
}

// hold makes requests wait for the gate, each at most as long as it may run;
// the time of its run begins after that.
func (g *gate) hold(next runner) runner {
	return func(w http.ResponseWriter, r *http.Request, exec, write time.Time) error {
		if g.opened.Load() {
			return next(w, r, exec, write)
		}
		begin := time.Now()
		if err := g.wait(r.Context(), exec); err != nil {
			return err
		}
		waited := time.Since(begin)
		if !exec.IsZero() {
			exec = exec.Add(waited)
		}
		write = write.Add(waited)
		_ = http.NewResponseController(w).SetWriteDeadline(write.Add(writeSlack))
		return next(w, r, exec, write)
	}
}

func (g *gate) wait(ctx context.Context, until time.Time) error {
	if g.early.Add(1) > g.room {
		g.early.Add(-1)
		return fmt.Errorf("%w and %d requests wait for it", errStarting, g.room)
	}
	early := true
	leave := func() {
		if early {
			g.early.Add(-1)
		}
		early = false
	}
	defer leave()
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-g.open:
	case <-over:
		return fmt.Errorf("%w after exec_timeout", errStarting)
	case <-ctx.Done():
		return context.Canceled
	}
	if g.lost.Load() {
		return nil
	}
	// All who waited would fall upon the handler at once.
	return g.guards.attempt(ctx, func(most int) error {
		g.passing.Lock()
		defer g.passing.Unlock()
		if g.guards.running() >= most {
			return limiter.ErrOver
		}
		leave()
		return nil
	})
}

// writeSlack is what the answer that says "time is over" may take to be
// written once it is.
const writeSlack = time.Second

// sink is where log lines go: whole lines, one Write each.
type sink interface {
	io.Writer
	Flush()
	Close() error
}
