package queue

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/weir-run/weir/function"
)

// CallbackConfig says how the answers of ended calls reach their
// X-Callback-Url, and which they may reach.
//
// Only http and https are spoken, redirects are not followed, and no proxy of
// the environment is used. Addresses of this host, loopback, link-local,
// metadata of clouds, multicast and what is reserved are refused. Private
// networks such as 10.0.0.0/8 are not, for receivers live in the cluster.
type CallbackConfig struct {
	// Allow lists hosts, addresses and networks (CIDR) that may be reached
	// though they would be refused. Of a host every address is allowed.
	Allow []string
	// Own lists what weir itself is called, as HOST or HOST:PORT. A callback
	// there is no request but a call of the function that its path names.
	Own []string
	// Namespace is that of functions named without one in such a path.
	Namespace string
	// Timeout bounds one try, from the look-up of the name to the answer's
	// end; 0 is 30 seconds.
	Timeout time.Duration
	// MaxBody is how much of a function's answer is carried. A body that is
	// cut is so said in X-Weir-Cut.
	MaxBody int64
	// Retry is when a callback is tried again: on 408, 429, every 5xx, and
	// where there was no answer. Its Codes do not count. Zero is 10 attempts,
	// the waits between them doubling from 5 seconds to 10 minutes: half an
	// hour in all.
	Retry function.Retry
	// MaxAge is how long after the end of its call a callback is tried at
	// all; 0 is 24 hours.
	MaxAge time.Duration
	// RootCAs are who vouches for https receivers; nil is the system's.
	RootCAs *x509.CertPool
	// Resolver looks names up; nil is the system's.
	Resolver *net.Resolver
}

// maxCallbackDepth bounds chains of callbacks that go to weir's own functions
// whose answers have callbacks: longer ones go round in circles.
const maxCallbackDepth = 16

// callbackHost is what callbacks need of the Queue that they are part of.
type callbackHost struct {
	store Store
	log   *slog.Logger
	// submit is Queue.Submit: a second submit of one key is no second call.
	submit func(ctx context.Context, m *Message, key string) (ID, bool, error)
	// keep is how long the outcome of a callback can be asked for.
	keep time.Duration
}

// callbacks work off the lane Callbacks. A callback is sent at least once: as
// often as it takes, and now and then once more.
type callbacks struct {
	cfg   CallbackConfig
	host  callbackHost
	guard *addressGuard
	own   map[string]bool
	send  http.RoundTripper
	// random spreads waits: in [0,1).
	random  func() float64
	metrics callbackMetrics
	line    callbackLine
}

func newCallbacks(cfg CallbackConfig, host callbackHost) (*callbacks, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 24 * time.Hour
	}
	if cfg.Retry.Attempts == 0 {
		cfg.Retry.Attempts = 10
	}
	if cfg.Retry.MinWait == 0 && cfg.Retry.MaxWait == 0 {
		cfg.Retry.MinWait, cfg.Retry.MaxWait = 5*time.Second, 10*time.Minute
	}
	if cfg.Retry.Jitter == "" {
		cfg.Retry.Jitter = function.EqualJitter
	}
	c := &callbacks{cfg: cfg, host: host, random: rand.Float64, metrics: newCallbackMetrics()}
	var err error
	if c.guard, err = newAddressGuard(cfg.Allow); err != nil {
		return nil, err
	}
	if c.own, err = ownHosts(cfg.Own); err != nil {
		return nil, err
	}
	c.line.init()
	c.send = c.transport()
	return c, nil
}

// limit is how much of the answer to m its callback carries.
func (c *callbacks) limit(m *Message) int64 {
	if m.Callback == "" {
		return 0
	}
	return max(c.cfg.MaxBody, 0)
}

// put queues the callback of a call that has ended, if it has one. state is
// the call as it ended, a its last answer or nil. A second put for one call
// within the store's window does nothing.
func (c *callbacks) put(ctx context.Context, m *Message, id ID, state *Call, a *Answer) error {
	if m.Callback == "" {
		return nil
	}
	r := &reply{
		Call: id, CallID: m.CallID, Function: m.Function, URL: m.Callback,
		State: state.State, Reason: short(state.Reason), Status: state.Code,
		Took: time.Duration(state.Seconds * float64(time.Second)), Ended: state.Ended,
		Attempts: state.Attempts, MaxAttempts: state.MaxAttempts, Depth: depthOf(m.Header) + 1,
	}
	if r.CallID == "" {
		r.CallID = id.String()
	}
	if a != nil {
		r.Header, r.HeaderCut = replyHeader(a.Header)
		r.Body, r.Size = a.Body, max(a.Size, int64(len(a.Body)))
		r.Body = r.Body[:min(int64(len(r.Body)), c.limit(m))]
		r.Status, r.Took = a.Status, a.Took
	}
	if r.Status == 0 {
		r.Status = http.StatusGatewayTimeout // no function has answered
	}
	if r.Ended.IsZero() {
		r.Ended = time.Now()
	}
	_, _, err := c.host.store.Put(ctx, Callbacks, r.encodeWithin(c.host.store.MaxData()), callbackKey(id))
	if err != nil {
		return fmt.Errorf("callback of call %s: %w", id, err)
	}
	return nil
}

func callbackKey(id ID) string { return "callback-" + id.String() }

// callbackRecord is where the state of a call's callback is kept: beside the
// record of the call, so that neither overwrites the other.
func callbackRecord(id ID) ID {
	sum := sha256.Sum256(append([]byte("callback\x00"), id.Nonce[:]...))
	return ID{Nonce: Nonce(sum[:len(id.Nonce)]), Seq: id.Seq}
}

// state is what became of the callback of a call that has ended and had one,
// to url.
func (c *callbacks) state(ctx context.Context, id ID, url string) (*Callback, error) {
	kept, err := c.load(ctx, id)
	if err != nil {
		return nil, err
	}
	if kept == nil {
		kept = &Callback{URL: url, State: Queued}
	}
	return kept, nil
}

// load is the record of a callback, or nil while there is none.
func (c *callbacks) load(ctx context.Context, id ID) (*Callback, error) {
	data, err := c.host.store.Load(ctx, callbackRecord(id))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("callback of call %s: %w", id, err)
	}
	kept := &Callback{}
	if err := json.Unmarshal(data, kept); err != nil {
		// It is not worth the callback: what is lost is a count of attempts.
		c.host.log.Warn("state of a callback cannot be read", "id", id.String(), "error", err)
		return nil, nil
	}
	return kept, nil
}

func (c *callbacks) save(ctx context.Context, id ID, state *Callback) error {
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("callback of call %s: %w", id, err)
	}
	keep := c.host.keep
	if !state.State.Ended() {
		keep += c.cfg.MaxAge
	}
	return c.host.store.Save(ctx, callbackRecord(id), data, keep)
}

// callbackMetrics have no label of a receiver: those are of senders' choice.
type callbackMetrics struct {
	tries    *prometheus.CounterVec
	ends     *prometheus.CounterVec
	inflight prometheus.Gauge
	seconds  prometheus.Histogram
}

func newCallbackMetrics() callbackMetrics {
	m := callbackMetrics{
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_callback_tries_total",
			Help: "Callbacks that were sent, by the class of what was answered: 2xx, 3xx, 4xx, 5xx, or none."}, []string{"answer"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_callbacks_total",
			Help: "Callbacks that ended, by how: delivered, called (a function of this weir), rejected by the receiver, refused by weir, attempts or expired (given up), undecodable."}, []string{"result"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_callbacks_in_flight",
			Help: "Callbacks that are being sent."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weir_callback_seconds",
			Help: "From the end of a call to the end of its callback.", Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 60, 300, 1800, 7200, 86400}}),
	}
	for _, result := range []string{"delivered", "called", "rejected", "refused", "attempts", "expired", "undecodable"} {
		m.ends.WithLabelValues(result)
	}
	for _, answer := range []string{"2xx", "3xx", "4xx", "5xx", "none"} {
		m.tries.WithLabelValues(answer)
	}
	return m
}

func (c *callbacks) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.metrics.tries, c.metrics.ends, c.metrics.inflight, c.metrics.seconds}
}
