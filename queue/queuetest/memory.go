// Package queuetest is a queue's Store in memory, for tests and simulation, and
// the conformance body that every Store passes.
package queuetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weir-run/weir/queue"
)

// Config is what a Memory is told. Zero is the default.
type Config struct {
	// Lease is how long a delivery may go without Extend, 15 s.
	Lease time.Duration
	// Window is how long the key of a Put is known, 2 min.
	Window time.Duration
	// MaxData bounds one item, 1 MiB. MaxItems bounds all that are queued, and
	// MaxLane those of one lane; 0 is no bound.
	MaxData, MaxItems, MaxLane int
	// Fault is asked before anything is done, with the name of the method; an
	// error is answered, and nothing done. May be nil. It is called unlocked.
	Fault func(method string, lane queue.Lane) error
	// Lost is asked after something was done: an error is answered in its
	// place. May be nil.
	Lost func(method string, lane queue.Lane) error
}

// Memory is what the stores of several weirs share.
type Memory struct {
	cfg    Config
	secret [32]byte

	mu      sync.Mutex
	seq     uint64
	items   map[uint64]*item
	lanes   map[queue.Lane]*lane
	keys    map[string]keyed
	records map[queue.Nonce]record
	letters []queue.Letter // by place
	buried  uint64
	views   []*Store
	now     func() time.Time
}

type item struct {
	queue.Item
	times int
	// until: delivered or put off until then.
	until time.Time
}

type lane struct {
	// fresh were never delivered, oldest first; some of them may be gone. out
	// were delivered or put off.
	fresh []*item
	out   map[uint64]*item
	items int
	// news is closed when there may be more to deliver.
	news chan struct{}
}

type keyed struct {
	seq   uint64
	until time.Time
}

type record struct {
	id    queue.ID
	data  []byte
	until time.Time // zero: for good
}

// NewMemory makes an empty one.
func NewMemory(cfg Config) *Memory {
	cfg.Lease = cmp.Or(cfg.Lease, 15*time.Second)
	cfg.Window = cmp.Or(cfg.Window, 2*time.Minute)
	cfg.MaxData = cmp.Or(cfg.MaxData, 1<<20)
	m := &Memory{
		cfg: cfg, items: map[uint64]*item{}, lanes: map[queue.Lane]*lane{}, keys: map[string]keyed{},
		records: map[queue.Nonce]record{}, now: time.Now,
	}
	copy(m.secret[:], "queuetest: the secret of a store")
	return m
}

// Store is one weir's way to it.
func (m *Memory) Store() *Store {
	s := &Store{m: m, heard: make(chan []byte, heardBuffer)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.views = append(m.views, s)
	return s
}

// Items is how many are queued, in all lanes.
func (m *Memory) Items() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items)
}

// ForgetTimes has what was delivered count as not delivered yet: a server that
// is killed may not have kept it.
func (m *Memory) ForgetTimes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, it := range m.items {
		it.times = 0
	}
}

func (m *Memory) lane(name queue.Lane) *lane {
	l := m.lanes[name]
	if l == nil {
		l = &lane{out: map[uint64]*item{}}
		m.lanes[name] = l
	}
	return l
}

func (l *lane) wake() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

func (l *lane) next() <-chan struct{} {
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return l.news
}

// put is called with m locked.
func (m *Memory) put(name queue.Lane, data []byte, key string) (uint64, bool, error) {
	now := m.now()
	if key != "" {
		key = string(name) + "\x00" + key
		if k, ok := m.keys[key]; ok && now.Before(k.until) {
			return k.seq, true, nil
		}
	}
	l := m.lane(name)
	switch {
	case len(data) > m.cfg.MaxData:
		return 0, false, fmt.Errorf("%w: %d bytes, at most %d", queue.ErrTooLarge, len(data), m.cfg.MaxData)
	case m.cfg.MaxItems > 0 && len(m.items) >= m.cfg.MaxItems:
		return 0, false, fmt.Errorf("%w: it has %d items", queue.ErrFull, len(m.items))
	case m.cfg.MaxLane > 0 && l.items >= m.cfg.MaxLane:
		return 0, false, fmt.Errorf("%w: lane %s has %d items", queue.ErrFull, name, l.items)
	}
	m.seq++
	it := &item{Item: queue.Item{Lane: name, Seq: m.seq, Data: slices.Clone(data), Stored: now}}
	m.items[it.Seq] = it
	l.fresh = append(l.fresh, it)
	l.items++
	if key != "" {
		m.keys[key] = keyed{it.Seq, now.Add(m.cfg.Window)}
	}
	l.wake()
	return it.Seq, false, nil
}

// remove is called with m locked.
func (m *Memory) remove(seq uint64) bool {
	it := m.items[seq]
	if it == nil {
		return false
	}
	delete(m.items, seq)
	l := m.lane(it.Lane)
	delete(l.out, seq)
	l.items--
	return true
}

// take delivers up to n items; due is when there may be another, zero if that
// is not known. It is called with m locked.
func (m *Memory) take(name queue.Lane, n int) (taken []queue.Delivery, due time.Time) {
	now := m.now()
	l := m.lane(name)
	var again []*item
	for _, it := range l.out {
		if !it.until.After(now) {
			again = append(again, it)
		} else if due.IsZero() || it.until.Before(due) {
			due = it.until
		}
	}
	slices.SortFunc(again, func(a, b *item) int { return cmp.Compare(a.Seq, b.Seq) })
	give := func(it *item) {
		it.times++
		it.until = now.Add(m.cfg.Lease)
		l.out[it.Seq] = it
		taken = append(taken, &delivery{m, it.Item, it.times})
	}
	for _, it := range again[:min(n, len(again))] {
		give(it)
	}
	for len(taken) < n && len(l.fresh) > 0 {
		it := l.fresh[0]
		l.fresh[0] = nil
		l.fresh = l.fresh[1:]
		if m.items[it.Seq] == it {
			give(it)
		}
	}
	return taken, due
}

type delivery struct {
	m     *Memory
	item  queue.Item
	times int
}

func (d *delivery) Item() queue.Item { return d.item }
func (d *delivery) Times() int       { return d.times }

// Ack implements queue.Delivery. Who had the item before its lease was over
// may end it still.
func (d *delivery) Ack(ctx context.Context) error {
	return d.m.do(ctx, "Ack", d.item.Lane, func() error {
		d.m.remove(d.item.Seq)
		return nil
	})
}

// own is the item while this delivery is its last and the lease is not over.
// It is called with m locked.
func (d *delivery) own() *item {
	it := d.m.items[d.item.Seq]
	if it == nil || it.times != d.times || !it.until.After(d.m.now()) {
		return nil
	}
	return it
}

func (d *delivery) Retry(ctx context.Context, delay time.Duration) error {
	return d.m.do(ctx, "Retry", d.item.Lane, func() error {
		if it := d.own(); it != nil {
			it.until = d.m.now().Add(max(0, delay))
			d.m.lane(d.item.Lane).wake()
		}
		return nil
	})
}

func (d *delivery) Extend() error {
	return d.m.do(context.Background(), "Extend", d.item.Lane, func() error {
		if it := d.own(); it != nil {
			it.until = d.m.now().Add(d.m.cfg.Lease)
		}
		return nil
	})
}

// do runs f with m locked, between the faults.
func (m *Memory) do(ctx context.Context, method string, lane queue.Lane, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", queue.ErrAway, err)
	}
	if m.cfg.Fault != nil {
		if err := m.cfg.Fault(method, lane); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := f()
	m.mu.Unlock()
	if err == nil && m.cfg.Lost != nil {
		err = m.cfg.Lost(method, lane)
	}
	return err
}
