package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Config is everything a Queue is told. Zero bounds are the defaults.
type Config struct {
	Store Store
	Fleet *fleet.Fleet
	Log   *slog.Logger
	// Share is this weir's rank among those that work on the same store, from
	// 0, and how many they are. Nil: it is alone.
	Share func() (rank, weirs int)

	// MaxAge is how long a call may wait for a handler to begin it.
	MaxAge time.Duration
	// MaxRun bounds one delivery to a pod, the wait for it included.
	MaxRun time.Duration
	// ResultKeep is how long the outcome of a call can be asked for, and
	// ResultSize how much of an answer's body is kept with it: nothing where it
	// is less than 0.
	ResultKeep time.Duration
	ResultSize int64
	// Window is how long an Idempotency-Key is known.
	Window time.Duration

	// Callbacks is how answers reach their X-Callback-Url.
	Callbacks CallbackConfig
}

// The bounds where Config names none.
const (
	DefaultMaxAge     = 24 * time.Hour
	DefaultMaxRun     = 12 * time.Hour
	DefaultResultKeep = time.Hour
	DefaultResultSize = 64 << 10
	DefaultWindow     = time.Hour
)

const (
	// pollEvery is how often the store is asked what is in its lanes: what was
	// put by another weir, and not heard of, is late by this much.
	pollEvery = time.Second
	// pollTime bounds one asking.
	pollTime = 10 * time.Second
	// lastWords is how long a Queue that is stopped may still write to the
	// store what became of its calls.
	lastWords = 5 * time.Second
)

// Queue works on the asynchronous calls of a Store. It is safe for use by many
// goroutines.
type Queue struct {
	cfg     Config
	pods    Pods
	counts  counts
	metrics *metrics
	// random is in [0,1).
	random    func() float64
	callbacks *callbacks

	// draining is closed when nothing more is to be fetched.
	draining  chan struct{}
	drainOnce sync.Once
	// hard ends what runs; lasting, some time later, what is still written.
	hard    context.Context
	cut     context.CancelFunc
	lasting context.Context
	silence context.CancelFunc
	work    sync.WaitGroup // lines and sweeps

	mu      sync.Mutex
	running bool // Run was called
	closed  bool // no new line is begun
	secret  *[32]byte
	lines   map[Lane]*line
	flights map[uint64]*flight
	// gone is told when a line or a flight has gone.
	gone *sync.Cond
	// ready is what the store has ready in each lane, as far as is known.
	ready map[Lane]int
	told  map[Lane]time.Time
	// cancelled are calls, by place, that may be on their way here.
	cancelled map[uint64]time.Time
	// sweepAt is when the oldest item of a lane may have expired.
	sweepAt  map[Lane]time.Time
	sweeping map[Lane]bool
}

// New makes a Queue. Calls can be submitted and asked for at once; they are
// worked on by Run.
func New(cfg Config) (*Queue, error) {
	if cfg.Store == nil || cfg.Fleet == nil || cfg.Log == nil {
		return nil, errors.New("queue: Store, Fleet and Log must be given")
	}
	if cfg.Share == nil {
		cfg.Share = func() (int, int) { return 0, 1 }
	}
	cfg.MaxAge = cmp.Or(max(0, cfg.MaxAge), DefaultMaxAge)
	cfg.MaxRun = cmp.Or(max(0, cfg.MaxRun), DefaultMaxRun)
	cfg.ResultKeep = cmp.Or(max(0, cfg.ResultKeep), DefaultResultKeep)
	cfg.ResultSize = max(0, cmp.Or(cfg.ResultSize, DefaultResultSize))
	cfg.Window = cmp.Or(max(0, cfg.Window), DefaultWindow)
	q := &Queue{
		cfg: cfg, random: rand.Float64, draining: make(chan struct{}),
		lines: map[Lane]*line{}, flights: map[uint64]*flight{}, ready: map[Lane]int{}, told: map[Lane]time.Time{},
		cancelled: map[uint64]time.Time{}, sweepAt: map[Lane]time.Time{}, sweeping: map[Lane]bool{},
	}
	q.gone = sync.NewCond(&q.mu)
	q.hard, q.cut = context.WithCancel(context.Background())
	q.lasting, q.silence = context.WithCancel(context.Background())
	var err error
	if q.callbacks, err = newCallbacks(cfg.Callbacks, callbackHost{store: cfg.Store, log: cfg.Log, submit: q.Submit, keep: cfg.ResultKeep}); err != nil {
		return nil, fmt.Errorf("callbacks: %w", err)
	}
	q.metrics = newMetrics(q)
	return q, nil
}

// share is this weir's rank and the number of weirs, both usable.
func (q *Queue) share() (rank, weirs int) {
	rank, weirs = q.cfg.Share()
	weirs = max(1, weirs)
	return min(max(0, rank), weirs-1), weirs
}

// keepOpen is how long the record of a call without an outcome is kept: longer
// than any call can be without one.
func (q *Queue) keepOpen() time.Duration { return q.cfg.MaxAge + q.cfg.MaxRun + time.Hour }

// refOf is the function whose calls are in a lane.
func refOf(lane Lane) (function.Ref, bool) {
	namespace, name, ok := cutLane(string(lane))
	return function.Ref{Name: name, Namespace: namespace}, ok
}
