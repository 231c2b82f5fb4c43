package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

const (
	// idleLane is how long a lane is empty before its consumer goes: it costs
	// memory and a folder.
	idleLane = 10 * time.Minute
	// sweepEvery is how often such lanes are looked for.
	sweepEvery = time.Minute
)

// lanes are those of which this weir knows that they have a consumer.
type lanes struct {
	sync.Mutex
	known map[queue.Lane]*laneState
}

type laneState struct {
	// RWMutex is held for reading while the consumer is asked, and for writing
	// while it is removed.
	sync.RWMutex
	making sync.Mutex
	ready  atomic.Bool
	held   held
}

func (l *lanes) of(lane queue.Lane) *laneState {
	l.Lock()
	defer l.Unlock()
	state := l.known[lane]
	if state == nil {
		state = &laneState{}
		l.known[lane] = state
	}
	return state
}

// consumerName is the lane's; names of consumers have no dots.
func consumerName(lane queue.Lane) string {
	sum := sha256.Sum256([]byte(lane))
	return "lane-" + hex.EncodeToString(sum[:16])
}

func (s *Store) laneConsumer(lane queue.Lane) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       consumerName(lane),
		FilterSubject: s.subject(lane),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       s.cfg.Lease,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    4096, // weirs, times those of each that ask at once
	}
}

// ensureLane makes the lane's consumer once. state is held for reading.
func (s *Store) ensureLane(ctx context.Context, lane queue.Lane, state *laneState) error {
	if state.ready.Load() {
		return nil
	}
	state.making.Lock()
	defer state.making.Unlock()
	if state.ready.Load() {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := s.js.CreateOrUpdateConsumer(ctx, s.queueName(), s.laneConsumer(lane)); err != nil {
		return err
	}
	state.ready.Store(true)
	return nil
}

// Backlogs counts what is in each lane.
func (s *Store) Backlogs(ctx context.Context) (map[queue.Lane]queue.Backlog, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := s.queue.Info(ctx, jetstream.WithSubjectFilter(s.cfg.Name+".q.>"))
	if err != nil {
		return nil, told("count the lanes", err)
	}
	all := make(map[queue.Lane]queue.Backlog, len(info.State.Subjects))
	for subject, n := range info.State.Subjects {
		all[s.laneOf(subject)] = queue.Backlog{Items: int(n)}
	}
	s.lanes.emptied(all)
	var doubtful []queue.Lane
	count := func(c *jetstream.ConsumerInfo) {
		lane := s.laneOf(c.Config.FilterSubject)
		b, ok := all[lane]
		if !ok || c.NumAckPending == 0 {
			return
		}
		mine, due := s.lanes.of(lane).held.count(time.Now())
		b.Delivered = max(min(c.NumAckPending, b.Items)-due, 0)
		all[lane] = b
		if due == 0 && c.NumPending == 0 && c.NumAckPending > mine {
			doubtful = append(doubtful, lane)
		}
	}
	switch {
	case len(all) == 0:
		return all, nil
	case len(all)*singly < info.State.Consumers:
		err = s.eachOf(ctx, all, count)
	default:
		err = s.eachConsumer(ctx, count)
	}
	if err == nil {
		err = s.askDue(ctx, doubtful, all)
	}
	if err != nil {
		return nil, told("count what is delivered", err)
	}
	return all, nil
}

// askDue finds out whether something is due again of what another weir was
// given, as when it was killed: a request for less than any item has tells.
func (s *Store) askDue(ctx context.Context, lanes []queue.Lane, all map[queue.Lane]queue.Backlog) error {
	for _, lane := range lanes {
		_, answer, err := s.pull(ctx, lane, pullOf(1, 1, 0))
		if err != nil {
			return err
		}
		if b := all[lane]; answer == tooMuch && b.Delivered > 0 {
			b.Delivered--
			all[lane] = b
		}
	}
	return nil
}

// emptied forgets what was held of lanes in which there is nothing.
func (l *lanes) emptied(full map[queue.Lane]queue.Backlog) {
	l.Lock()
	defer l.Unlock()
	for lane, state := range l.known {
		if full[lane].Items == 0 {
			state.held.clear()
		}
	}
}

// singly is how many consumers a list brings in the time that asking for one
// takes.
const singly = 64

func (s *Store) eachOf(ctx context.Context, all map[queue.Lane]queue.Backlog, do func(*jetstream.ConsumerInfo)) error {
	for lane := range all {
		c, err := s.queue.Consumer(ctx, consumerName(lane))
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue // nobody has fetched from it yet
		} else if err != nil {
			return err
		}
		do(c.CachedInfo())
	}
	return nil
}

func (s *Store) eachConsumer(ctx context.Context, do func(*jetstream.ConsumerInfo)) error {
	list := s.queue.ListConsumers(ctx)
	for c := range list.Info() {
		do(c)
	}
	return list.Err()
}

// sweepLanes removes consumers of lanes that were empty for long.
func (s *Store) sweepLanes(ctx context.Context) {
	empty := map[queue.Lane]time.Time{}
	for pause(ctx, sweepEvery) {
		if err := s.sweepOnce(ctx, time.Now(), empty); err != nil && ctx.Err() == nil {
			s.log.Warn("look for lanes that are not used any more", "err", err)
		}
	}
}

// sweepOnce removes consumers of lanes that are in empty for long, which it
// brings up to date.
func (s *Store) sweepOnce(ctx context.Context, now time.Time, empty map[queue.Lane]time.Time) error {
	full, err := s.Backlogs(ctx)
	if err != nil {
		return err
	}
	idle := map[queue.Lane]bool{}
	err = s.eachConsumer(ctx, func(c *jetstream.ConsumerInfo) {
		lane := s.laneOf(c.Config.FilterSubject)
		_, has := full[lane]
		idle[lane] = !has && c.NumAckPending == 0 && c.NumPending == 0 && c.NumWaiting == 0
	})
	if err != nil {
		return err
	}
	for lane := range empty {
		if !idle[lane] {
			delete(empty, lane)
		}
	}
	for lane, is := range idle {
		if !is {
			continue
		}
		if since, known := empty[lane]; !known {
			empty[lane] = now
		} else if now.Sub(since) >= idleLane {
			delete(empty, lane)
			if err := s.dropLane(ctx, lane); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropLane removes the consumer of an empty lane: nobody of this weir asks it
// meanwhile, and it is looked at once more. Of several weirs another one may
// put and fetch within the moment between; the item is then delivered anew,
// as after a kill.
func (s *Store) dropLane(ctx context.Context, lane queue.Lane) error {
	state := s.lanes.of(lane)
	if !state.TryLock() {
		return nil
	}
	defer state.Unlock()
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := s.queue.Consumer(ctx, consumerName(lane))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if info := c.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 || info.NumWaiting > 0 {
		return nil
	}
	state.ready.Store(false)
	if err := s.queue.DeleteConsumer(ctx, consumerName(lane)); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return err
	}
	return nil
}

// readyAgain makes ready at once what was delivered before this server began:
// its weir is the only one of the store, so nobody works on it. The consumers of
// lanes with items go, and are made anew by the next Fetch, so that nothing
// depends on what an earlier server, perhaps a killed one, had noted of
// deliveries. What was put off by Retry comes too.
func (s *Store) readyAgain(ctx context.Context) error {
	listing, cancel := bounded(ctx)
	defer cancel()
	info, err := s.queue.Info(listing, jetstream.WithSubjectFilter(s.cfg.Name+".q.>"))
	if err != nil {
		return err
	}
	var stale []string
	err = s.eachConsumer(listing, func(c *jetstream.ConsumerInfo) {
		if info.State.Subjects[c.Config.FilterSubject] > 0 {
			stale = append(stale, c.Name)
		}
	})
	for _, name := range stale {
		if err == nil {
			err = s.deleteConsumer(ctx, name)
		}
	}
	return err
}

// deleteConsumer has a bound of its own: thousands of lanes take longer than one
// call may.
func (s *Store) deleteConsumer(ctx context.Context, name string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return s.queue.DeleteConsumer(ctx, name)
}
