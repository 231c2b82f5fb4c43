package queue

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// CallbackSender is callbacks by themselves, for tests beside a real Store.
type CallbackSender struct{ *callbacks }

// CallbackParts is what a test puts in their place.
type CallbackParts struct {
	Store  Store
	Log    *slog.Logger
	Submit func(ctx context.Context, m *Message, key string) (ID, bool, error)
	// Send is in place of the network; nil is the network.
	Send http.RoundTripper
	// Random is always this.
	Random float64
	// Local are in place of this host's addresses.
	Local []net.Addr
}

func NewCallbackSender(cfg CallbackConfig, parts CallbackParts) (*CallbackSender, error) {
	c, err := newCallbacks(cfg, callbackHost{store: parts.Store, log: parts.Log, submit: parts.Submit, keep: 6 * time.Hour})
	if err != nil {
		return nil, err
	}
	if parts.Send != nil {
		c.send = parts.Send
	}
	c.random = func() float64 { return parts.Random }
	if parts.Local != nil {
		c.guard.local = func() ([]net.Addr, error) { return parts.Local, nil }
	}
	return &CallbackSender{c}, nil
}

func (s *CallbackSender) Check(url string) error { return s.check(url) }

func (s *CallbackSender) Put(ctx context.Context, m *Message, id ID, state *Call, a *Answer) error {
	return s.put(ctx, m, id, state, a)
}

func (s *CallbackSender) Run(ctx, abort context.Context) { s.run(ctx, abort) }

func (s *CallbackSender) State(ctx context.Context, id ID, url string) (*Callback, error) {
	return s.state(ctx, id, url)
}

func (s *CallbackSender) Collectors() []prometheus.Collector { return s.collectors() }

// What tests of callbacks know.
const (
	HeaderDepth      = headerDepth
	MaxCallbackDepth = maxCallbackDepth
	AtReceiver       = callbacksAtReceiver
	AtOnce           = callbacksAtOnce
)
