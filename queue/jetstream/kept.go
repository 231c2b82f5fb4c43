package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

func (s *Store) recordSubject(id queue.ID) string {
	return s.cfg.Name + ".r." + id.Nonce.String() + "." + strconv.FormatUint(id.Seq, 36)
}

// Save keeps a record in the place of an earlier one. The server counts whole
// seconds: keep is rounded up.
func (s *Store) Save(ctx context.Context, id queue.ID, record []byte, keep time.Duration) error {
	msg := &nats.Msg{Subject: s.recordSubject(id), Data: record}
	if keep > 0 {
		seconds := int64((keep + time.Second - 1) / time.Second)
		msg.Header = nats.Header{jetstream.MsgTTLHeader: {strconv.FormatInt(seconds, 10) + "s"}}
	}
	return told("save record of "+id.String(), s.publishAgain(ctx, msg))
}

// publishAgain publishes what may be stored twice.
func (s *Store) publishAgain(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		_, err := s.js.PublishMsg(try, msg, jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil || !mayRepeat(err) || !pause(ctx, repeatAfter) {
			return err
		}
	}
}

// Load is the record of a call.
func (s *Store) Load(ctx context.Context, id queue.ID) ([]byte, error) {
	msg, err := s.last(ctx, s.records, s.recordSubject(id))
	if err != nil {
		return nil, told("record of "+id.String(), err)
	}
	return msg.Data, nil
}

// Find is a call of which a record is kept, by its nonce: the one saved last.
func (s *Store) Find(ctx context.Context, nonce queue.Nonce) (queue.ID, error) {
	msg, err := s.last(ctx, s.records, s.cfg.Name+".r."+nonce.String()+".*")
	if err != nil {
		return queue.ID{}, told("record by nonce", err)
	}
	place := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	seq, err := strconv.ParseUint(place, 36, 64)
	if err != nil {
		return queue.ID{}, fmt.Errorf("record %s is not weir's: delete it", msg.Subject)
	}
	return queue.ID{Nonce: nonce, Seq: seq}, nil
}

// Forget drops a record.
func (s *Store) Forget(ctx context.Context, id queue.ID) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return told("forget "+id.String(), s.records.Purge(ctx, jetstream.WithPurgeSubject(s.recordSubject(id))))
}

func (s *Store) last(ctx context.Context, stream jetstream.Stream, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return stream.GetLastMsgForSubject(ctx, subject)
}

// lettersOf is the part of a letter's subject that says the lane.
func lettersOf(lane queue.Lane) string { return strings.ReplaceAll(string(lane), ".", "/") }

func (s *Store) letterSubject(lane, id string) string { return s.cfg.Name + ".d." + lane + "." + id }

// Bury keeps a dead letter until it is dug up.
func (s *Store) Bury(ctx context.Context, lane queue.Lane, id queue.ID, letter []byte) error {
	if err := checkLane(lane); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: s.letterSubject(lettersOf(lane), id.String()), Data: letter,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}}
	err := s.publishAgain(ctx, msg)
	if isWrongLast(err) { // it is there already
		return nil
	}
	return told("bury "+id.String(), err)
}

// Buried lists dead letters.
func (s *Store) Buried(ctx context.Context, lane queue.Lane, after uint64, n int) ([]queue.Letter, error) {
	token := "*"
	if lane != "" {
		if err := checkLane(lane); err != nil {
			return nil, err
		}
		token = lettersOf(lane)
	}
	subject := s.letterSubject(token, "*")
	var all []queue.Letter
	for len(all) < n {
		letter, err := s.nextLetter(ctx, subject, after)
		if errors.Is(err, queue.ErrNotFound) {
			break
		} else if err != nil {
			return nil, err
		}
		all, after = append(all, letter), letter.Seq
	}
	return all, nil
}

func (s *Store) nextLetter(ctx context.Context, subject string, after uint64) (queue.Letter, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	msg, err := s.letters.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(subject))
	if err != nil {
		return queue.Letter{}, told("list dead letters", err)
	}
	return s.letter(msg)
}

// Letter is one dead letter by its call.
func (s *Store) Letter(ctx context.Context, id queue.ID) (queue.Letter, error) {
	msg, err := s.last(ctx, s.letters, s.letterSubject("*", id.String()))
	if err != nil {
		return queue.Letter{}, told("dead letter "+id.String(), err)
	}
	return s.letter(msg)
}

// Unbury drops a dead letter.
func (s *Store) Unbury(ctx context.Context, id queue.ID) error {
	letter, err := s.Letter(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return told("drop dead letter "+id.String(), s.letters.DeleteMsg(ctx, letter.Seq))
}

func (s *Store) letter(msg *jetstream.RawStreamMsg) (queue.Letter, error) {
	lane, text, _ := strings.Cut(strings.TrimPrefix(msg.Subject, s.cfg.Name+".d."), ".")
	id, err := queue.ParseID(text)
	if err != nil {
		return queue.Letter{}, fmt.Errorf("dead letter at %s is not weir's: delete it", msg.Subject)
	}
	return queue.Letter{Lane: queue.Lane(strings.ReplaceAll(lane, "/", ".")), ID: id, Seq: msg.Sequence, Data: msg.Data}, nil
}

// Secret is made by the first weir that asks.
func (s *Store) Secret(ctx context.Context) ([32]byte, error) {
	subject := s.cfg.Name + ".m.secret"
	msg, err := s.last(ctx, s.meta, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		var fresh [32]byte
		rand.Read(fresh[:])
		err = s.publishAgain(ctx, &nats.Msg{Subject: subject, Data: fresh[:],
			Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}})
		if err == nil || isWrongLast(err) { // another weir's may be the first
			msg, err = s.last(ctx, s.meta, subject)
		}
	}
	if err != nil {
		return [32]byte{}, told("secret", err)
	}
	if len(msg.Data) != 32 {
		return [32]byte{}, fmt.Errorf("secret: %s holds %d bytes instead of 32: delete it, and keys of calls that are known are not recognised once", subject, len(msg.Data))
	}
	return [32]byte(msg.Data), nil
}

// heardNews is how much news may wait; more is lost, as news may be.
const heardNews = 1024

// Tell lets every weir that shares the store hear news.
func (s *Store) Tell(news []byte) error {
	return told("tell news", s.conn.Publish(s.cfg.Name+".news", news))
}

// Heard is what is told.
func (s *Store) Heard() <-chan []byte { return s.heard }

func (s *Store) listen() error {
	if _, err := s.conn.Subscribe(s.cfg.Name+".news", s.hear); err != nil {
		return err
	}
	return s.conn.FlushTimeout(callTimeout)
}

func (s *Store) hear(msg *nats.Msg) {
	select {
	case s.heard <- msg.Data:
	default:
	}
}
