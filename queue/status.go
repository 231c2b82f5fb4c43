package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-run/weir/function"
)

// Call is what is known of a call; ErrNotFound where it was never there, or
// its outcome is not kept any more.
func (q *Queue) Call(ctx context.Context, id ID) (Call, error) {
	if f := q.flight(id); f != nil {
		// What is held here waits as if it were not.
		if rec := f.record(); rec.State == Running {
			return rec.Call, nil
		}
	}
	rec, err := q.find(ctx, id)
	if err != nil {
		return Call{}, err
	}
	if rec.Callback != nil {
		state, err := q.callbacks.state(ctx, id, rec.Callback.URL)
		if err != nil {
			return Call{}, err
		}
		if state.Attempts == 0 && state.State == Queued && time.Since(rec.Ended) > q.cfg.ResultKeep {
			// Of a dead letter this is known for longer than what became of its
			// callback.
			state = nil
		}
		rec.Callback = state
	}
	return rec.Call, nil
}

// flight is the call if it is here.
func (q *Queue) flight(id ID) *flight {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f := q.flights[id.Seq]; f != nil && f.id == id {
		return f
	}
	return nil
}

// find is what the store knows of a call. A call leaves the queue after its
// record was kept: so the record is looked for again once there is no item.
func (q *Queue) find(ctx context.Context, id ID) (*record, error) {
	rec, err := q.load(ctx, id)
	if err != nil || rec != nil && rec.State.Ended() {
		return rec, err
	}
	m, err := q.queued(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case m != nil && rec != nil:
		return rec, nil
	case m != nil:
		rec = newRecord(id, m)
		if e := q.cfg.Fleet.Get(m.Function); e != nil {
			rec.MaxAttempts = max(1, e.Function().Spec.Retry.Attempts)
		}
		return rec, nil
	}
	if rec, err = q.load(ctx, id); err != nil || rec != nil {
		return rec, err
	}
	letter, err := q.cfg.Store.Letter(ctx, id)
	if err != nil {
		return nil, err
	}
	rec, _, err = decodeLetter(letter.Data)
	return rec, err
}

// queued is the message of a call that has not left the queue, or nil.
func (q *Queue) queued(ctx context.Context, id ID) (*Message, error) {
	it, err := q.cfg.Store.Get(ctx, id.Seq)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, ok := refOf(it.Lane); !ok {
		return nil, nil
	}
	m, err := Decode(it.Data)
	if err != nil || m.Nonce != id.Nonce || sane(m, it) != nil {
		// Nobody was given an ID of what cannot be read.
		return nil, nil
	}
	return m, nil
}

// cancelledKeep is how long it is remembered that a call was cancelled: longer
// than one can be on its way from the store.
const cancelledKeep = time.Minute

// maxCancelled bounds what is remembered of that.
const maxCancelled = 100_000

// How often a call that moves meanwhile is looked for.
const (
	cancelPause = 50 * time.Millisecond
	cancelTries = 40
)

// sleep says whether ctx had not ended after d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Cancel ends a call that has not ended: one that waits never runs, and one
// that runs is cut off. It returns what the call is then, with ErrEnded where
// it had ended before.
func (q *Queue) Cancel(ctx context.Context, id ID) (Call, error) {
	for tries := 0; ; tries++ {
		f := q.flight(id)
		if f == nil {
			call, again, err := q.cancelQueued(ctx, id)
			if !again {
				return call, err
			}
			// It has moved. Where it is neither here nor there, another weir is
			// about to say what became of it.
			if tries > 0 && !sleep(ctx, cancelPause) || tries > cancelTries {
				return Call{}, fmt.Errorf("%w: another weir is changing the call", ErrAway)
			}
			continue
		}
		f.stop()
		q.kick(f.lane, false)
		select {
		case <-f.done:
		case <-ctx.Done():
			return Call{}, fmt.Errorf("%w: the call is told to end, and has not: %w", ErrAway, ctx.Err())
		}
		if rec := f.record(); rec.State.Ended() {
			call, err := q.Call(ctx, id)
			if err == nil && rec.Reason != reasonCancelled {
				err = ErrEnded
			}
			return call, err
		}
	}
}

// cancelQueued ends a call that is not here. again says that it is here now.
func (q *Queue) cancelQueued(ctx context.Context, id ID) (call Call, again bool, err error) {
	rec, err := q.find(ctx, id)
	if err != nil {
		return Call{}, false, err
	}
	if rec.State.Ended() {
		call, err = q.Call(ctx, id)
		if err == nil {
			err = ErrEnded
		}
		return call, false, err
	}
	// From here on it is not begun where the store delivers it.
	q.remember(id)
	if q.flight(id) != nil {
		return Call{}, true, nil
	}
	if err := q.cfg.Store.Remove(ctx, id.Seq); errors.Is(err, ErrNotFound) {
		return Call{}, true, nil // it ended meanwhile
	} else if err != nil {
		return Call{}, false, err
	}
	if now, err := q.load(ctx, id); err != nil {
		return Call{}, false, err
	} else if now != nil && now.State.Ended() {
		return now.Call, false, ErrEnded
	} else if now != nil {
		rec = now
	}
	done := *rec
	done.State, done.Reason, done.Next, done.Ended = Failed, reasonCancelled, time.Time{}, time.Now()
	if err := q.cfg.Store.Save(ctx, id, done.encode(), q.cfg.ResultKeep); err != nil {
		return Call{}, false, err
	}
	if _, weirs := q.share(); weirs > 1 {
		// It may run in another: there the record is looked at as well.
		_ = q.cfg.Store.Tell(append([]byte{newsCancel}, id.String()...))
	}
	ref, _ := function.ParseRef(done.Function, "")
	q.counts.ended(ref, &done.Call, time.Since(done.Accepted))
	return done.Call, false, nil
}

// remember has a call not begun that may be on its way here.
func (q *Queue) remember(id ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.cancelled) < maxCancelled {
		q.cancelled[id.Seq] = time.Now()
	}
}

// cancelHere is called when another weir has cancelled a call.
func (q *Queue) cancelHere(id ID) {
	q.remember(id)
	if f := q.flight(id); f != nil {
		f.stop()
		q.kick(f.lane, false)
	}
}
