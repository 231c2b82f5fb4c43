package queue

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/weir-run/weir/function"
)

// letterRoom is what a dead letter takes beside the message: what is known of
// the call, without its answer.
const letterRoom = 8 << 10

// Submit keeps a call, and returns once the store has it. It sets m's Nonce,
// and Accepted where that is zero. With a key, a call of the same function and
// key within Config.Window is kept once: the ID is then that of the first, and
// duplicate is true.
func (q *Queue) Submit(ctx context.Context, m *Message, key string) (id ID, duplicate bool, err error) {
	if m.Accepted.IsZero() {
		m.Accepted = time.Now()
	}
	if key == "" {
		if _, err := rand.Read(m.Nonce[:]); err != nil {
			return ID{}, false, err
		}
		id, _, err = q.put(ctx, m, "")
		return id, false, err
	}
	lane := LaneOf(m.Function)
	m.Keyed = true
	if m.Nonce, err = q.nonce(ctx, string(lane), key); err != nil {
		return ID{}, false, err
	}
	// The key has a record of its own, for one of the call could be written
	// over its outcome.
	known := keyRecord(m.Nonce)
	switch found, err := q.cfg.Store.Find(ctx, known); {
	case err == nil:
		return ID{m.Nonce, found.Seq}, true, nil
	case !errors.Is(err, ErrNotFound):
		return ID{}, false, err
	}
	if id, duplicate, err = q.put(ctx, m, m.Nonce.String()); err != nil {
		return ID{}, false, err
	}
	if err := q.cfg.Store.Save(ctx, ID{known, id.Seq}, []byte{recordVersion}, q.cfg.Window); err != nil {
		return ID{}, false, fmt.Errorf("remember the Idempotency-Key: %w", err)
	}
	return id, duplicate, nil
}

// put has the store keep a message, and everybody told.
func (q *Queue) put(ctx context.Context, m *Message, key string) (ID, bool, error) {
	data := m.Encode()
	if most := q.cfg.Store.MaxData() - letterRoom; len(data) > most {
		return ID{}, false, fmt.Errorf("%w: it has %d bytes with its headers, at most %d are taken", ErrTooLarge, len(data), most)
	}
	lane := LaneOf(m.Function)
	q.count(lane, 1) // before it can be fetched, which counts it off
	seq, duplicate, err := q.cfg.Store.Put(ctx, lane, data, key)
	if err != nil || duplicate {
		q.count(lane, -1)
	}
	if err != nil {
		return ID{}, false, err
	}
	if !duplicate {
		q.counts.submitted(m.Function)
		q.announce(lane, m.Function)
	}
	return ID{m.Nonce, seq}, duplicate, nil
}

// count changes what is known to be ready in a lane.
func (q *Queue) count(lane Lane, by int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.ready[lane] + by; n > 0 {
		q.ready[lane] = n
	} else {
		delete(q.ready, lane)
	}
}

// announce says that there is one item more in a lane.
func (q *Queue) announce(lane Lane, ref function.Ref) {
	now := time.Now()
	_, weirs := q.share()
	q.mu.Lock()
	tell := weirs > 1 && now.Sub(q.told[lane]) >= tellEvery
	if tell {
		q.told[lane] = now
	}
	q.mu.Unlock()
	if q.cfg.Fleet.Get(ref) != nil {
		q.kick(lane, true)
	}
	if tell {
		// The others ask the store once a second anyway.
		_ = q.cfg.Store.Tell(append([]byte{newsBacklog}, lane...))
	}
}

// nonce is made of what is given, and cannot be guessed by who does not have
// the store's secret.
func (q *Queue) nonce(ctx context.Context, lane, text string) (n Nonce, err error) {
	q.mu.Lock()
	secret := q.secret
	q.mu.Unlock()
	if secret == nil {
		s, err := q.cfg.Store.Secret(ctx)
		if err != nil {
			return n, err
		}
		secret = &s
		q.mu.Lock()
		q.secret = secret
		q.mu.Unlock()
	}
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(lane))
	mac.Write([]byte{0})
	mac.Write([]byte(text))
	copy(n[:], mac.Sum(nil))
	return n, nil
}

// keyRecord names the record of an Idempotency-Key.
func keyRecord(n Nonce) Nonce { return hashed(append([]byte("key\x00"), n[:]...)) }

func hashed(data []byte) (n Nonce) {
	sum := sha256.Sum256(data)
	copy(n[:], sum[:])
	return n
}

// Backlog is how many calls of a function are ready to run, in all weirs, and
// not at a pod or put off. What other weirs did is late by about a second.
func (q *Queue) Backlog(ref function.Ref) int {
	lane := LaneOf(ref)
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.ready[lane]
	if l := q.lines[lane]; l != nil {
		n += int(l.heldHere.Load())
	}
	return n
}
