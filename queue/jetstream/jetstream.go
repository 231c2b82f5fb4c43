// Package jetstream keeps calls in NATS JetStream: in a server inside this
// process, whose files are in a folder, or in servers elsewhere. It is a
// queue.Store, and the only package that knows NATS.
//
// What is kept where, and what is promised of it, is in
// docs/decisions/0016-where-calls-are-kept.md.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

// Config says where calls are kept. Either Dir or URL is given.
type Config struct {
	// Name begins the names of all streams and subjects: letters, digits, '-'
	// and '_'. Weirs with one Name on the same servers share their calls.
	// Empty is "weir".
	Name string
	Log  *slog.Logger

	// Dir is the folder of a server inside this process. No other process may
	// use it meanwhile.
	Dir string
	// Sync has the server inside this process write through to the disk before
	// it says that it has something: that survives a power cut too.
	Sync bool
	// Listen is a host:port at which the server inside this process takes
	// connections of others, for `nats` and the like; empty opens no port.
	// Beyond loopback it needs User and Password, or Token.
	Listen string
	// Reserve is how much of Dir's file system Put leaves free, in bytes, so
	// that outcomes still fit. 0 is 64 MiB or, of a larger one, a fiftieth,
	// but never more than 1 GiB.
	Reserve int64

	// URL names servers elsewhere, separated by commas.
	URL string
	// Replicas is on how many of these servers each thing is kept; 0 is 1.
	Replicas int
	// Credentials is a .creds file, NKey a file with a seed.
	Credentials, NKey     string
	User, Password, Token string
	// CA is a file of certificates that a server's is checked against, instead
	// of the system's. Certificate and Key are this client's own.
	CA, Certificate, Key string

	// MaxData is the most bytes of one item, 0 is 1 KiB less than 8 MiB. Servers elsewhere have
	// their own bound (max_payload).
	MaxData int
	// MaxBytes bounds all queued items together, 0 is 16 GiB, or 4 GiB on
	// servers elsewhere, which set it aside at once; MaxLane how many items one
	// lane may have, 0 is 1,000,000.
	MaxBytes, MaxLane int64
	// RecordBytes and MaxRecords bound the records: the oldest give way. 0 is
	// 1 GiB and 1,000,000.
	RecordBytes, MaxRecords int64
	// LetterBytes bounds the dead letters: a new one is refused. 0 is 1 GiB.
	LetterBytes int64
	// Window is how long a key of Put is known, 0 is 2 minutes. The server
	// keeps about 150 bytes of memory for each Put of the last Window: only of
	// those with a key where it is inside this process, of all elsewhere.
	Window time.Duration
	// Lease is how long a delivered item may go without Extend; 0 is 15 s.
	Lease time.Duration
}

const (
	defaultName    = "weir"
	defaultMaxData = 8<<20 - head // beyond 8 MiB NATS warns
	defaultBytes   = 16 << 30
	defaultOutside = 4 << 30
	defaultLane    = 1_000_000
	defaultKept    = 1 << 30
	defaultRecords = 1_000_000
	defaultWindow  = 2 * time.Minute
	defaultLease   = 15 * time.Second
)

// callTimeout bounds every call whose context has no earlier end. A cluster
// that loses a server has chosen another leader in less.
const callTimeout = 10 * time.Second

// tryTimeout is how long one try of a call that may be repeated waits.
const tryTimeout = 3 * time.Second

// head is what subject and headers add to an item's bytes, at most.
const head = 1 << 10

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (c *Config) complete() error {
	if (c.Dir == "") == (c.URL == "") {
		return errors.New("a store of calls needs a folder or the URL of a NATS server, and not both")
	}
	if c.Name == "" {
		c.Name = defaultName
	}
	if !nameForm.MatchString(c.Name) {
		return fmt.Errorf("%q cannot begin the names of streams: expected 1 to 64 letters, digits, - and _", c.Name)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dir != "" && c.Replicas > 1 {
		return errors.New("replicas need NATS servers of their own: the one inside weir is alone")
	}
	setDefault(&c.Replicas, 1)
	setDefault(&c.MaxData, defaultMaxData)
	if c.URL != "" {
		setDefault(&c.MaxBytes, defaultOutside)
	}
	setDefault(&c.MaxBytes, defaultBytes)
	setDefault(&c.MaxLane, defaultLane)
	setDefault(&c.RecordBytes, defaultKept)
	setDefault(&c.MaxRecords, defaultRecords)
	setDefault(&c.LetterBytes, defaultKept)
	setDefault(&c.Window, defaultWindow)
	setDefault(&c.Lease, defaultLease)
	return nil
}

func setDefault[T int | int64 | time.Duration](value *T, standard T) {
	if *value == 0 {
		*value = standard
	}
}

// Store is a queue.Store. Close it.
type Store struct {
	cfg    Config
	log    *slog.Logger
	server *inside // nil where the servers are elsewhere
	conn   *nats.Conn
	js     jetstream.JetStream

	queue, records, letters, meta jetstream.Stream

	lanes  lanes
	doubt  doubt
	warm   warm
	heard  chan []byte
	denied atomic.Pointer[string] // what a server last refused this user

	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ queue.Store = (*Store)(nil)

// Open begins the server inside this process, or connects to those elsewhere,
// and makes what is missing there. An error that wraps queue.ErrAway may be
// over later, any other needs somebody's hand.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: cfg.Log, heard: make(chan []byte, heardNews)}
	s.lanes.known = map[queue.Lane]*laneState{}
	if err := s.open(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if s.cfg.Dir != "" {
		server, err := startInside(ctx, s.cfg)
		if err != nil {
			return fmt.Errorf("store of calls in %s: %w", s.cfg.Dir, err)
		}
		s.server = server
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if err := s.streams(ctx); err != nil {
		return err
	}
	s.doubt.last, s.doubt.connection = s.queue.CachedInfo().State.LastSeq, s.connection()
	if err := s.listen(); err != nil {
		return told("hear news", err)
	}
	if s.server != nil {
		s.warm.folder, s.warm.drop = s.server.messages(s.queueName()), s.dropBlock
		if err := s.readyAgain(ctx); err != nil {
			return fmt.Errorf("make ready what an earlier weir was given: %w", err)
		}
	}
	background, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.sweepLanes(background) })
	if s.server != nil {
		s.running.Go(func() { s.server.watch(background) })
	}
	return nil
}

// Close ends the connection, and the server inside this process: it returns
// when its files are closed.
func (s *Store) Close() error {
	if s.stop != nil {
		s.stop()
	}
	s.running.Wait()
	if s.conn != nil {
		s.conn.Close()
	}
	if s.server != nil {
		s.server.close()
	}
	return nil
}

// Lease is how long a delivered item may go without Extend.
func (s *Store) Lease() time.Duration { return s.cfg.Lease }

// MaxData is the most bytes that Put takes.
func (s *Store) MaxData() int {
	return min(s.cfg.MaxData, max(int(s.conn.MaxPayload())-head, 0))
}

// bounded is ctx with an end.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}
