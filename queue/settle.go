package queue

import (
	"context"
	"errors"
	"time"
)

// How the store is asked again when it is away: what became of a call must be
// written before the call may leave it.
const (
	minStoreWait = 100 * time.Millisecond
	maxStoreWait = 5 * time.Second
	// storeTime bounds one asking.
	storeTime = 10 * time.Second
)

// settle does as ruled, and gives up only where the Queue has ended: then the
// call is delivered again. later is when it will be, if it was put off.
func (f *flight) settle(r ruling) (later time.Time) {
	defer f.release()
	f.stopSaving()
	f.mu.Lock()
	f.phase = settling
	if f.over {
		r = ruling{act: acknowledge}
	}
	f.mu.Unlock()
	switch r.act {
	case acknowledge:
		f.ack()
	case handBack:
		return f.retry(r.delay)
	case putOff:
		if f.cancelledElsewhere() {
			f.ack()
			return time.Time{}
		}
		if f.keep(r.rec, f.q.keepOpen()) {
			return f.retry(r.delay)
		}
	case end, bury:
		f.end(r)
	}
	return time.Time{}
}

// end writes the outcome of a call, what is least likely to be there already
// last.
func (f *flight) end(r ruling) {
	r.rec.Result = f.q.result(r.answer)
	if r.rec.Reason != reasonCancelled && f.m.Callback != "" && !r.rec.Undecodable {
		r.rec.Callback = &Callback{URL: f.m.Callback, State: Queued}
	}
	if r.act == bury && !f.bury(r.rec) {
		return
	}
	if r.rec.Callback != nil && !f.insist("callback", func(ctx context.Context) error {
		return f.q.callbacks.put(ctx, f.m, f.id, &r.rec.Call, r.answer)
	}) {
		return
	}
	if f.keep(r.rec, f.q.cfg.ResultKeep) && f.ack() {
		f.q.counts.ended(f.m.Function, &r.rec.Call, time.Since(f.m.Accepted))
		if r.act == bury {
			f.q.cfg.Log.Warn("asynchronous call given up", "function", r.rec.Function, "call", r.rec.ID, "reason", r.rec.Reason, "attempts", r.rec.Attempts, "code", r.rec.Code)
		}
	}
}

// result is what is kept of an answer.
func (q *Queue) result(a *Answer) *Result {
	if a == nil || a.Status == 0 {
		return nil
	}
	body := a.Body[:min(int64(len(a.Body)), q.cfg.ResultSize)]
	return &Result{ContentType: short(a.Header.Get("Content-Type")), Body: body, Size: max(a.Size, int64(len(a.Body)))}
}

// keep saves a record. Where it is larger than the store takes, the result goes.
func (f *flight) keep(rec *record, keep time.Duration) bool {
	f.setRecord(rec)
	return f.insist("record", func(ctx context.Context) error {
		err := f.q.cfg.Store.Save(ctx, f.id, rec.encode(), keep)
		if errors.Is(err, ErrTooLarge) && rec.Result != nil && rec.Result.Body != nil {
			smaller := *rec
			smaller.Result = &Result{ContentType: rec.Result.ContentType, Size: rec.Result.Size}
			err = f.q.cfg.Store.Save(ctx, f.id, smaller.encode(), keep)
		}
		return err
	})
}

func (f *flight) ack() bool {
	return f.insist("acknowledgement", func(ctx context.Context) error { return f.handle().Ack(ctx) })
}

// retry has the call delivered again. It is not this weir's any more from then
// on, for the next delivery may be here. The lease, which was extended a third
// of it ago or less, is not outlived: then it is delivered again anyway, and
// this would disturb who has it.
func (f *flight) retry(delay time.Duration) (later time.Time) {
	f.release()
	ctx, cancel := context.WithTimeout(f.q.lasting, f.q.cfg.Store.Lease()/2)
	defer cancel()
	at := time.Now().Add(delay)
	if f.insistFor(ctx, "handing back", func(ctx context.Context) error { return f.handle().Retry(ctx, delay) }) {
		return at
	}
	return time.Time{}
}

// cancelledElsewhere says whether another weir has cancelled the call while it
// ran here: its record then says so already.
func (f *flight) cancelledElsewhere() bool {
	if _, weirs := f.q.share(); weirs < 2 {
		return false
	}
	rec, err := f.q.load(f.q.lasting, f.id)
	return err == nil && rec != nil && rec.State.Ended()
}

// insist does something with the store until it is done, or the Queue has
// ended. Meanwhile the lease is extended.
func (f *flight) insist(what string, do func(context.Context) error) bool {
	return f.insistFor(f.q.lasting, what, do)
}

func (f *flight) insistFor(most context.Context, what string, do func(context.Context) error) bool {
	for wait := minStoreWait; ; wait = min(2*wait, maxStoreWait) {
		ctx, cancel := context.WithTimeout(most, storeTime)
		err := do(ctx)
		cancel()
		if err == nil || errors.Is(err, ErrNotFound) {
			return true
		}
		if most.Err() != nil {
			f.q.cfg.Log.Warn("what became of an asynchronous call is not written: it is delivered again", "call", f.id.String(), "what", what, "error", err)
			return false
		}
		if wait == minStoreWait {
			f.q.cfg.Log.Warn("what became of an asynchronous call is not written yet", "call", f.id.String(), "what", what, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-most.Done():
		}
	}
}

// load is the record of a call; nil is none.
func (q *Queue) load(ctx context.Context, id ID) (*record, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	data, err := q.cfg.Store.Load(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := decodeRecord(data)
	if err != nil {
		// It is not worth the call: what is lost is its number of attempts.
		q.cfg.Log.Warn("record of an asynchronous call cannot be read", "call", id.String(), "error", err)
		return nil, nil
	}
	return rec, nil
}
