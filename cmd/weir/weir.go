package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/weir-run/weir/autoscaler"
	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/gateway"
)

// The bounds of a connection from outside.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 64 << 10
)

// provider is what runs the functions.
type provider interface {
	gateway.Provider
	autoscaler.Provider
	// Run puts functions into the Fleet until ctx ends.
	Run(ctx context.Context, f *fleet.Fleet) error
}

// weir is the whole program: New, Listen, Run.
type weir struct {
	settings *settings
	log      *slog.Logger

	fleet      *fleet.Fleet
	provider   provider
	gateway    *gateway.Gateway
	autoscaler *autoscaler.Autoscaler
	scraper    *autoscaler.Scraper
	// async is nil where nothing keeps asynchronous calls.
	async *async
	// namespace is that of names without one.
	namespace string

	server  http.Server // of requests and the API
	metrics http.Server
	// The listeners, nil before Listen.
	listener, metricsListener net.Listener
}

func newWeir(s *settings, log *slog.Logger) (*weir, error) {
	w := &weir{settings: s, log: log}
	w.fleet = fleet.New(fleet.Config{Log: log, Probe: &fleet.Prober{Log: log}})
	var err error
	if w.namespace, err = w.newProvider(); err != nil {
		return nil, err
	}
	w.scraper = autoscaler.NewScraper()
	front := gateway.Config{
		Fleet: w.fleet, Provider: w.provider, Log: log, Namespace: w.namespace, Share: w.share,
		AsyncMaxBody: s.AsyncMaxBody.val,
		Version:      version, Commit: commit, Orchestration: s.Provider.val,
		User: s.BasicAuthUser.val, Password: s.BasicAuthPassword.val,
		HoldRequests: s.HoldRequests.val, HoldBytes: s.HoldBytes.val, HoldTime: s.HoldTimeout.val, MaxBody: s.MaxBody.val,
		AccessLevel: slog.LevelDebug,
		Explain:     w.explain, Kick: w.kick,
	}
	decider := autoscaler.Config{Fleet: w.fleet, Provider: w.provider, Counter: w.scraper, Log: log}
	if s.stored() {
		w.async = newAsync(w)
		front.Async, front.CheckCallback = w.async, w.async.checkCallback
		decider.Backlog = w.async.backlog
	}
	if w.gateway, err = gateway.New(front); err != nil {
		return nil, err
	}
	decider.Own = w.gateway.Report
	w.autoscaler = autoscaler.New(decider)
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	w.server = http.Server{
		Handler: w.gateway.Handler(), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: errorLog, ConnContext: gateway.ConnContext,
	}
	mux := http.NewServeMux()
	collectors := w.autoscaler.Metrics()
	if w.async != nil {
		collectors = append(collectors, w.async)
	}
	mux.Handle("GET /metrics", w.gateway.MetricsHandler(collectors...))
	mux.Handle(contract.DemandPath, w.gateway.DemandHandler())
	// Alive, also while it drains: that is for readiness to know.
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("ok\n")) })
	w.metrics = http.Server{
		Handler: mux, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readHeaderTimeout, WriteTimeout: 30 * time.Second,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: errorLog,
	}
	return w, nil
}

// Listen takes the ports. A taken one is an error.
func (w *weir) Listen() (err error) {
	if w.listener, err = net.Listen("tcp", w.settings.Listen.val); err != nil {
		return fmt.Errorf("WEIR_LISTEN: %w", err)
	}
	if w.metricsListener, err = net.Listen("tcp", w.settings.MetricsListen.val); err != nil {
		_ = w.listener.Close()
		return fmt.Errorf("WEIR_METRICS_LISTEN: %w", err)
	}
	return nil
}

// Run serves until drain is done, then finishes what is under way; hurry cuts
// that short. What requests need (provider, probes, decisions) ends after the
// last of them.
func (w *weir) Run(drain, hurry context.Context) error {
	defer w.scraper.Close()
	infra, stop := context.WithCancel(context.Background())
	defer stop()
	deciding, decided := context.WithCancel(infra)
	defer decided()
	failed := make(chan error, 8)
	var all, decisions sync.WaitGroup
	start := func(group *sync.WaitGroup, ctx context.Context, what string, run func(context.Context) error) {
		group.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	start(&all, infra, "fleet", w.fleet.Run)
	start(&all, infra, "provider", func(ctx context.Context) error { return w.provider.Run(ctx, w.fleet) })
	start(&all, infra, "gateway", w.gateway.Run)
	start(&decisions, deciding, "autoscaler", w.autoscaler.Run)
	queueing, dequeued := context.WithCancel(infra)
	defer dequeued()
	if w.async != nil {
		start(&all, queueing, "asynchronous calls", func(ctx context.Context) error { return w.async.Run(ctx, w.gateway) })
	}
	for _, s := range []struct {
		server   *http.Server
		listener net.Listener
	}{{&w.server, w.listener}, {&w.metrics, w.metricsListener}} {
		all.Go(func() {
			if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	w.log.Info("weir serves", "version", version, "commit", commit, "provider", w.settings.Provider.val,
		"listen", w.listener.Addr().String(), "metrics", w.metricsListener.Addr().String())

	var err error
	select {
	case err = <-failed:
	case <-drain.Done():
		w.drain(hurry)
	}
	_ = w.server.Close()
	// The queue says what became of its calls before what carries them ends.
	dequeued()
	if w.async != nil {
		<-w.async.ended
	}
	_ = w.gateway.Close()
	// The provider gives the lead back when it ends: no decision after that.
	decided()
	decisions.Wait()
	stop()
	_ = w.metrics.Close()
	all.Wait()
	w.log.Info("weir has stopped")
	return err
}

// drain serves on, unready, until whoever sends requests knows; then it takes
// no more and finishes those under way.
func (w *weir) drain(hurry context.Context) {
	w.gateway.Drain()
	select {
	case <-time.After(w.settings.drainInterval()):
	case <-hurry.Done():
		return
	}
	ctx, cancel := context.WithTimeout(hurry, w.settings.ShutdownTimeout.val)
	defer cancel()
	var queue sync.WaitGroup
	if w.async != nil {
		queue.Go(func() { w.async.drain(ctx) })
	}
	if err := w.server.Shutdown(ctx); err != nil {
		w.log.Warn("requests were cut: they took longer than WEIR_SHUTDOWN_TIMEOUT", "timeout", w.settings.ShutdownTimeout.val)
	}
	queue.Wait() // its calls are under way in the gateway, too
	if err := w.gateway.Wait(ctx); err != nil {
		w.log.Warn("upgraded connections were cut: they took longer than WEIR_SHUTDOWN_TIMEOUT", "timeout", w.settings.ShutdownTimeout.val)
	}
}
