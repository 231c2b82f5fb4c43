package jetstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

// repeatAfter is how long a call that nobody answered waits before its next
// try.
const repeatAfter = 100 * time.Millisecond

// Put appends data to a lane: queue.Store says how. Where servers are
// elsewhere it is repeated while its context lives; a key of its own keeps it
// from being stored twice.
func (s *Store) Put(ctx context.Context, lane queue.Lane, data []byte, key string) (uint64, bool, error) {
	what := "put into " + string(lane)
	if err := checkLane(lane); err != nil {
		return 0, false, err
	}
	if len(data) > s.MaxData() {
		return 0, false, fmt.Errorf("%s: %w: %d bytes, %d fit", what, queue.ErrTooLarge, len(data), s.MaxData())
	}
	if s.server != nil {
		if err := s.server.room(int64(len(data))); err != nil {
			return 0, false, fmt.Errorf("%s: %w", what, err)
		}
	}
	msg := &nats.Msg{Subject: s.subject(lane), Data: data}
	switch {
	case key != "":
		msg.Header = nats.Header{jetstream.MsgIDHeader: {messageID(lane, key)}}
	case s.server == nil:
		msg.Header = nats.Header{jetstream.MsgIDHeader: {rand.Text()}}
	}
	ack, err := s.publish(ctx, msg)
	if err != nil {
		return 0, false, told(what, err)
	}
	return ack.Sequence, ack.Duplicate && key != "", nil
}

// messageID tells a lane's key from the same key of another lane; a key may
// hold anything.
func messageID(lane queue.Lane, key string) string {
	sum := sha256.Sum256([]byte(string(lane) + "\x00" + key))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// publish stores a message, and repeats it only where the server would see
// that it has it.
func (s *Store) publish(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, named := msg.Header[jetstream.MsgIDHeader]
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		ack, err := s.js.PublishMsg(try, msg, jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil || !named || !mayRepeat(err) || !pause(ctx, repeatAfter) {
			return ack, err
		}
	}
}

// request asks until somebody answers: for what may be said twice.
func (s *Store) request(ctx context.Context, subject string, data []byte) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		_, err := s.conn.RequestWithContext(try, subject, data)
		cancel()
		if err == nil || !mayRepeat(err) || !pause(ctx, repeatAfter) {
			return err
		}
	}
}

// pause waits, and says whether the context still lives.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Get is what was put at a place and has not been acknowledged or removed.
func (s *Store) Get(ctx context.Context, seq uint64) (queue.Item, error) {
	if seq == 0 {
		return queue.Item{}, fmt.Errorf("item 0: %w", queue.ErrNotFound)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if s.server != nil {
		if err := s.warm.enter(ctx, seq); err != nil {
			return queue.Item{}, err
		}
	}
	msg, err := s.queue.GetMsg(ctx, seq)
	if err != nil {
		return queue.Item{}, told(fmt.Sprintf("item %d", seq), err)
	}
	return s.item(msg), nil
}

// Oldest is the first item of a lane.
func (s *Store) Oldest(ctx context.Context, lane queue.Lane) (queue.Item, error) {
	if err := checkLane(lane); err != nil {
		return queue.Item{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	msg, err := s.queue.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(s.subject(lane)))
	if err != nil {
		return queue.Item{}, told("oldest of "+string(lane), err)
	}
	return s.item(msg), nil
}

// Remove takes an item out of its lane.
func (s *Store) Remove(ctx context.Context, seq uint64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return told(fmt.Sprintf("remove item %d", seq), s.queue.DeleteMsg(ctx, seq))
}

func (s *Store) item(msg *jetstream.RawStreamMsg) queue.Item {
	return queue.Item{Lane: s.laneOf(msg.Subject), Seq: msg.Sequence, Data: msg.Data, Stored: msg.Time}
}

// Subjects: NAME.q.LANE is an item, NAME.r.NONCE.PLACE a record,
// NAME.d.LANE.ID a dead letter with '/' for the lane's dots, NAME.m.… what is
// the same for all weirs, NAME.news is not kept.

func (s *Store) subject(lane queue.Lane) string { return s.cfg.Name + ".q." + string(lane) }

func (s *Store) laneOf(subject string) queue.Lane {
	return queue.Lane(strings.TrimPrefix(subject, s.cfg.Name+".q."))
}

// maxLane is longer than the name of any function and its namespace.
const maxLane = 400

// checkLane refuses what would be several lanes, or none, as a subject.
func checkLane(lane queue.Lane) error {
	if lane == "" || len(lane) > maxLane {
		return fmt.Errorf("lane %.50q: expected 1 to %d characters", lane, maxLane)
	}
	for token := range strings.SplitSeq(string(lane), ".") {
		if token == "" || strings.IndexFunc(token, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) >= 0 {
			return fmt.Errorf("lane %q: expected names of letters, digits, - and _ with single dots between them", lane)
		}
	}
	return nil
}
