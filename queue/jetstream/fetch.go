package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-run/weir/queue"
)

const (
	// pullWait is the longest that one request waits at the server. A server
	// that is killed answers none of those it had.
	pullWait = 5 * time.Second
	// pullGrace is how much later than that an answer may come.
	pullGrace = time.Second
	// pullBytes is the most that one request brings, unless one item has more:
	// it is in memory twice until it is taken.
	pullBytes = 16 << 20
	// dueSlack is by how much clocks and timers of the server may be behind.
	dueSlack = time.Second
)

// Fetch delivers up to n items of a lane.
func (s *Store) Fetch(ctx context.Context, lane queue.Lane, n int, wait time.Duration) ([]queue.Delivery, error) {
	if err := checkLane(lane); err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, nil
	}
	until := time.Now().Add(wait)
	for renewed := false; ; {
		began := time.Now()
		items, answer, err := s.pull(ctx, lane, pullOf(n, s.pullBytes(), min(until.Sub(began), pullWait)))
		switch {
		case len(items) > 0:
			return items, nil
		case ctx.Err() != nil:
			return nil, nil
		case err != nil:
			return nil, told("fetch from "+string(lane), err)
		case answer == gone:
			// Another weir removed the idle consumer, or nobody answers at all.
			s.lanes.of(lane).ready.Store(false)
			if renewed {
				return nil, fmt.Errorf("fetch from %s: %w: the server does not answer for it", lane, queue.ErrAway)
			}
			renewed = true
			continue
		case answer == nothing:
			s.lanes.of(lane).held.dropDue(began.Add(-dueSlack))
		case answer == later && !pause(ctx, min(repeatAfter, max(time.Until(until), 0))):
			return nil, nil
		}
		if renewed = false; time.Until(until) <= 0 {
			return nil, nil
		}
	}
}

// pull is a request for items. no_wait with expires waits for the first of
// them, and no longer.
type pull struct {
	Batch    int           `json:"batch"`
	MaxBytes int           `json:"max_bytes"`
	NoWait   bool          `json:"no_wait"`
	Expires  time.Duration `json:"expires,omitempty"`
}

func pullOf(n, bytes int, wait time.Duration) pull {
	return pull{Batch: n, MaxBytes: bytes, NoWait: true, Expires: max(wait, 0)}
}

func (s *Store) pullBytes() int { return max(pullBytes, s.MaxData()+2*head) }

// pull asks the lane's consumer once.
func (s *Store) pull(ctx context.Context, lane queue.Lane, request pull) ([]queue.Delivery, answer, error) {
	state := s.lanes.of(lane)
	state.RLock()
	defer state.RUnlock()
	if err := s.ensureLane(ctx, lane, state); err != nil {
		return nil, silence, err
	}
	if err := s.resolve(ctx); err != nil {
		return nil, silence, err
	}
	data, err := json.Marshal(request)
	if err != nil {
		return nil, silence, err
	}
	// Room for all items, and what the server has to say.
	arrived := make(chan *nats.Msg, request.Batch+2)
	inbox := s.conn.NewInbox()
	answers, err := s.conn.ChanSubscribe(inbox, arrived)
	if err != nil {
		return nil, silence, err
	}
	subject := "$JS.API.CONSUMER.MSG.NEXT." + s.queueName() + "." + consumerName(lane)
	if err := s.conn.PublishRequest(subject, inbox, data); err != nil {
		answers.Unsubscribe()
		return nil, silence, err
	}
	items, end, err := s.collect(ctx, arrived, request)
	if end == silence && len(items) < request.Batch {
		go s.giveBack(answers, arrived)
	} else {
		answers.Unsubscribe()
	}
	return items, end, err
}

// giveBack ends a request that the server may still answer. What comes
// nevertheless would otherwise be nobody's until its lease is over.
func (s *Store) giveBack(answers *nats.Subscription, arrived <-chan *nats.Msg) {
	over := answers.StatusChanged(nats.SubscriptionClosed)
	if answers.Drain() != nil {
		return // the connection is closed
	}
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	for {
		select {
		case msg := <-arrived:
			respondNak(msg)
		case <-over:
			for len(arrived) > 0 {
				respondNak(<-arrived)
			}
			return
		case <-timer.C:
			return
		}
	}
}

func respondNak(msg *nats.Msg) {
	if msg.Reply != "" {
		msg.Respond([]byte("-NAK"))
	}
}

// collect takes what comes until the server says that this is all, and all of
// it is there: from a cluster an item comes once most of its servers know that
// it was delivered, which may be after the request was said to be over.
func (s *Store) collect(ctx context.Context, arrived <-chan *nats.Msg, request pull) (items []queue.Delivery, end answer, err error) {
	timer := time.NewTimer(request.Expires + pullGrace)
	defer timer.Stop()
	for want := request.Batch; len(items) < want; {
		select {
		case msg := <-arrived:
			if msg.Reply == "" {
				end, want = answered(msg), delivers(msg, request.Batch, len(items))
				continue
			}
			d, err := s.delivered(msg)
			if err != nil {
				s.log.Error("an item came that cannot be told", "reply", msg.Reply, "err", err)
				continue
			}
			items = append(items, d)
		case <-ctx.Done():
			for _, d := range items {
				d.(*delivery).back()
			}
			return nil, silence, ctx.Err()
		case <-timer.C:
			return items, silence, nil
		}
	}
	return items, end, nil
}

// delivers is how many items of a request the server delivers in all that has
// ended it: those that it does not say are left of the batch. It says nothing
// where it has delivered none, or does not know.
func delivers(msg *nats.Msg, batch, here int) int {
	left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
	if err != nil || left < 0 || left > batch {
		return here
	}
	return max(batch-left, here)
}

// answer is how a server ends a request for items.
type answer int

const (
	silence answer = iota // none came
	nothing               // there is nothing to deliver
	later                 // others wait before us, or the server changes
	tooMuch               // there is something, and it is more than was asked for
	gone                  // there is no such consumer
)

func answered(msg *nats.Msg) answer {
	description := msg.Header.Get("Description")
	switch msg.Header.Get("Status") {
	case "404":
		return nothing
	case "408":
		if description == "Requests Pending" {
			return later
		}
		return nothing
	case "409":
		switch {
		case strings.Contains(description, "Deleted"):
			return gone
		case strings.Contains(description, "MaxBytes"):
			return tooMuch
		}
		return later
	case "503":
		return gone
	}
	return later
}

// delivery is a queue.Delivery.
type delivery struct {
	store *Store
	held  *held
	msg   *nats.Msg
	item  queue.Item
	times int
}

var errAckSubject = errors.New("expected $JS.ACK and nine or twelve parts")

// delivered reads an item from its subject of acknowledgement:
// $JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.TIMES.PLACE.NUMBER.NANOSECONDS.LEFT[.RANDOM]
func (s *Store) delivered(msg *nats.Msg) (*delivery, error) {
	parts := strings.Split(msg.Reply, ".")
	switch {
	case len(parts) == 9:
		parts = parts[2:]
	case len(parts) >= 11:
		parts = parts[4:]
	default:
		return nil, errAckSubject
	}
	times, err1 := strconv.Atoi(parts[2])
	place, err2 := strconv.ParseUint(parts[3], 10, 64)
	stored, err3 := strconv.ParseInt(parts[5], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if s.doubtful(place) {
		times = max(times, 2)
	}
	d := &delivery{store: s, msg: msg, times: times, item: queue.Item{
		Lane: s.laneOf(msg.Subject), Seq: place, Data: msg.Data, Stored: time.Unix(0, stored),
	}}
	d.held = &s.lanes.of(d.item.Lane).held
	d.held.keep(place, time.Now().Add(s.cfg.Lease))
	return d, nil
}

func (d *delivery) Item() queue.Item { return d.item }

func (d *delivery) Times() int { return d.times }

// Ack returns when the server has removed the item.
func (d *delivery) Ack(ctx context.Context) error {
	err := d.store.request(ctx, d.msg.Reply, []byte("+ACK"))
	if err == nil {
		d.held.drop(d.item.Seq)
	}
	return told(fmt.Sprintf("acknowledge item %d", d.item.Seq), err)
}

// Retry has it delivered again after delay.
func (d *delivery) Retry(ctx context.Context, delay time.Duration) error {
	body := "-NAK"
	if delay > 0 {
		body = fmt.Sprintf(`-NAK {"delay":%d}`, delay.Nanoseconds())
	}
	err := d.store.request(ctx, d.msg.Reply, []byte(body))
	if err == nil {
		d.held.extend(d.item.Seq, time.Now().Add(max(delay, 0)))
	}
	return told(fmt.Sprintf("put off item %d", d.item.Seq), err)
}

// Extend begins its lease anew.
func (d *delivery) Extend() error {
	d.held.extend(d.item.Seq, time.Now().Add(d.store.cfg.Lease))
	return told(fmt.Sprintf("extend item %d", d.item.Seq), d.msg.Respond([]byte("+WPI")))
}

// back gives an item back that nobody took.
func (d *delivery) back() {
	d.held.drop(d.item.Seq)
	d.msg.Respond([]byte("-NAK"))
}
