// Package gateway is weir's request path: it finds the function that a request
// names, wakes it, holds the request until a pod has room, hands it over, and
// tries elsewhere what a pod refused. It also answers the API by which
// OpenFaaS's and SlimFaas's clients look at functions.
package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Provider is what the gateway asks of who runs the functions.
type Provider interface {
	// Wake asks for replicas of a function that has none. Where some are
	// asked for already nothing is written and the error is nil. Errors wrap
	// those of package function.
	Wake(ctx context.Context, ref function.Ref, replicas int) error
	// Scale sets the replicas; version names the state that they were decided
	// on (function.ErrConflict when it is no more), or is empty for whatever
	// there is.
	Scale(ctx context.Context, ref function.Ref, replicas int, version string) error
	// Event puts something before the function's owner. It never blocks.
	Event(ref function.Ref, e function.Event)
}

// Config is everything a Gateway is told. Zero bounds are the defaults.
type Config struct {
	Fleet    *fleet.Fleet
	Provider Provider
	Log      *slog.Logger
	// Namespace is that of names without one.
	Namespace string
	// Gateways is how many share the pods' limits, 1 where nil.
	Gateways func() int
	// Share is the same, with this one's place among them: all count alike,
	// from 0. Their shares of a pod's limit then sum up to it. Where nil it is
	// 0 and Gateways; else Gateways is not asked.
	Share func() (rank, gateways int)
	// Explain is what the autoscaler last decided of a function and why, in
	// JSON's terms; nil is nothing. May be nil.
	Explain func(function.Ref) any
	// Async keeps asynchronous calls. Nil where there is no durable store:
	// such calls are refused.
	Async Async
	// AsyncMaxBody bounds the body of an asynchronous call, in bytes.
	AsyncMaxBody int64
	// CheckCallback says what is wrong with an X-Callback-Url, and what would
	// be right. Nil where no callbacks are sent: such calls are refused.
	CheckCallback func(url string) error
	// Kick is told of a function for which requests wait though pods are up:
	// the autoscaler need not wait for its next tick. It never blocks. May be
	// nil.
	Kick func(function.Ref)
	// Version and Commit are the program's, Orchestration the provider's
	// name, for /system/info.
	Version, Commit, Orchestration string

	// User and Password protect what is not open. Without a password only
	// loopback peers may.
	User, Password string

	// Per function: how many requests may wait for a pod, how many bytes of
	// their bodies may be kept meanwhile, and how long one may wait.
	HoldRequests int
	HoldBytes    int64
	HoldTime     time.Duration
	// MaxBody bounds a request body, 0 not.
	MaxBody int64
	// AccessLevel is the level of the one log line that each call has.
	AccessLevel slog.Level
}

// The bounds where Config names none.
const (
	DefaultHoldRequests = 10_000
	DefaultHoldBytes    = 256 << 20
	DefaultHoldTime     = 2 * time.Minute
)

// Gateway is safe for use by many goroutines.
type Gateway struct {
	cfg Config
	// id is this start's, and began when it was, for Report.
	id      string
	began   time.Time
	metrics *metrics

	// ctx is of what goes on without a request: wakes. It ends with Close.
	ctx  context.Context
	stop context.CancelFunc

	draining atomic.Bool

	mu    sync.RWMutex
	lanes map[function.Ref]*lane
	// dropped is when lanes were forgotten, of the last droppedKeep.
	dropped map[function.Ref]time.Time
	// withAny are the functions that wake with any other's call; nil before
	// Run has looked.
	withAny atomic.Pointer[[]*fleet.Entry]
	// depends is Run's; ignored is what it told of last.
	depends dependencies
	ignored atomic.Pointer[map[function.Edge]function.Fault]
}

// New makes a Gateway. It does nothing before it is asked; Run serves those
// who wait and forgets what is gone.
func New(cfg Config) (*Gateway, error) {
	if cfg.Fleet == nil || cfg.Provider == nil || cfg.Log == nil {
		return nil, errors.New("gateway: Fleet, Provider and Log must be given")
	}
	if cfg.HoldRequests <= 0 {
		cfg.HoldRequests = DefaultHoldRequests
	}
	if cfg.HoldBytes <= 0 {
		cfg.HoldBytes = DefaultHoldBytes
	}
	if cfg.HoldTime <= 0 {
		cfg.HoldTime = DefaultHoldTime
	}
	if cfg.AsyncMaxBody <= 0 {
		cfg.AsyncMaxBody = DefaultAsyncMaxBody
	}
	if cfg.Share == nil {
		gateways := cfg.Gateways
		if gateways == nil {
			gateways = func() int { return 1 }
		}
		cfg.Share = func() (int, int) { return 0, gateways() }
	}
	g := &Gateway{cfg: cfg, id: rand.Text(), began: time.Now(), lanes: map[function.Ref]*lane{}, dropped: map[function.Ref]time.Time{}}
	g.metrics = newMetrics(g)
	g.ctx, g.stop = context.WithCancel(context.Background())
	return g, nil
}

// sweepPause is the least time between two looks at the whole fleet. Calls do
// not depend on them.
const sweepPause = 200 * time.Millisecond

// Run keeps what the gateway holds per function in step with the Fleet until
// ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		changed := g.cfg.Fleet.Changed()
		g.sweep()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(sweepPause)
	}
}

// sweep finds who wakes with any call and which dependencies come to nothing,
// and forgets what is gone.
func (g *Gateway) sweep() {
	withAny := []*fleet.Entry{}
	for e := range g.cfg.Fleet.All() {
		if e.Function().Spec.StartWithAny {
			withAny = append(withAny, e)
		}
	}
	g.withAny.Store(&withAny)
	g.depends.tell(g)
	ignored := g.depends.told
	g.ignored.Store(&ignored)
	for _, l := range g.all() {
		if l.tidy() {
			g.drop(l)
		}
	}
}

// drop forgets a lane, unless it is in use again.
func (g *Gateway) drop(l *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.tidy() {
		delete(g.lanes, l.ref)
		now := time.Now()
		maps.DeleteFunc(g.dropped, func(_ function.Ref, at time.Time) bool { return now.Sub(at) > droppedKeep })
		g.dropped[l.ref] = now
		l.close()
	}
}

// Close ends what goes on beside the requests: wakes that are under way, and
// connections that no request uses. Requests that wait for a pod are refused.
func (g *Gateway) Close() error {
	g.stop()
	for _, l := range g.all() {
		l.close()
	}
	return nil
}
