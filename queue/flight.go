package queue

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
)

// runningAfter is how long a call runs before a record says so: of shorter
// ones only who runs them knows.
const runningAfter = time.Second

// headerStartTime is when the call was accepted, in nanoseconds of Unix time,
// as OpenFaaS has it.
const headerStartTime = "X-Start-Time"

// phase is how far this weir is with a call.
type phase int

const (
	held     phase = iota // waits here for a pod
	going                 // is with the gateway
	settling              // its outcome is being written
)

// flight is a call that was delivered to this weir, until it was acknowledged
// or handed back.
type flight struct {
	q    *Queue
	lane Lane
	id   ID
	m    *Message
	// taken is when it came here.
	taken time.Time
	// placed is when it was given to the gateway, in Unix nanoseconds; 0 before.
	placed atomic.Int64
	// counted: the gateway has said that it counts it.
	counted atomic.Bool
	// line brings it to a pod; nil where it is not to run. waited: it did not
	// go there at once. Both are written before it does.
	line   *line
	waited bool
	// began, refused (for the first time), took, and, if refused, the delay
	// until the next are of this delivery, written before the line is told that
	// it came back.
	began, refused bool
	took, delay    time.Duration
	// done is closed when this weir has nothing to do with the call any more.
	done chan struct{}

	// saving has one while the record of a call that runs is not being written;
	// who takes it for good ends that.
	saving chan struct{}

	mu        sync.Mutex
	delivery  Delivery
	phase     phase
	cancelled bool
	// over: its record says that it has ended, and stays as it is.
	over   bool
	cancel context.CancelFunc // of the delivery to a pod
	rec    *record            // replaced, never changed, once it is here
}

func (f *flight) handle() Delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.delivery
}

func (f *flight) record() *record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rec
}

func (f *flight) setRecord(r *record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rec = r
}

func (f *flight) isCancelled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cancelled
}

// stop cancels the call, and what a pod does for it.
func (f *flight) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancelled = true
	if f.cancel != nil {
		f.cancel()
	}
}

// leave gives up a call that ended elsewhere, or before: the store had
// forgotten that it was delivered.
func (f *flight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	if f.cancel != nil {
		f.cancel()
	}
}

// expiry is when the call has waited for a handler long enough.
func (f *flight) expiry() time.Time { return f.m.Accepted.Add(f.q.cfg.MaxAge) }

// work delivers the call to a pod, or finds that it is not to be delivered.
func (f *flight) work(e *fleet.Entry) ruling {
	if r, ok := f.prepare(); !ok {
		return r
	}
	ctx, cancel := context.WithTimeout(context.WithValue(f.q.hard, placedKey{}, f), f.q.cfg.MaxRun)
	defer cancel()
	f.mu.Lock()
	f.cancel, f.phase = cancel, going
	rec := *f.rec
	rec.State, rec.Started, rec.Next, rec.Reason = Running, time.Now(), time.Time{}, ""
	rec.MaxAttempts = max(1, e.Function().Spec.Retry.Attempts)
	f.rec = &rec
	cancelled := f.cancelled
	f.mu.Unlock()
	if cancelled {
		return f.cancelledRuling()
	}
	req, err := f.request(ctx, &rec)
	if err != nil {
		return f.undecodable(err)
	}
	saver := time.AfterFunc(runningAfter, f.saveRunning)
	f.placed.Store(time.Now().UnixNano())
	a := f.q.pods.Deliver(e, req, f.limit())
	f.took, f.began = time.Since(rec.Started), a.Began
	saver.Stop()
	f.mu.Lock()
	f.cancel, f.phase = nil, settling
	cancelled = f.cancelled
	f.mu.Unlock()
	f.q.counts.delivered(f.m.Function, a.Refused)
	r := f.rule(e, a, ctx.Err(), cancelled)
	f.refused = !a.Began && r.act == putOff && f.q.hard.Err() == nil && r.rec.Refusals == 1
	f.delay = r.delay
	return r
}

// close says what becomes of a call that is not to run any more.
func (f *flight) close() ruling {
	if r, ok := f.prepare(); !ok {
		return r
	}
	return ruling{act: handBack}
}

// prepare learns what was known of the call, where there may be something.
func (f *flight) prepare() (r ruling, ok bool) {
	_, weirs := f.q.share()
	redelivered := f.handle().Times() > 1
	// One that waited here may have been cancelled by another weir meanwhile.
	if redelivered || f.waited && weirs > 1 {
		rec, err := f.q.load(f.q.hard, f.id)
		switch {
		case err != nil:
			// What is known of it must be known: it may have ended.
			return ruling{act: handBack, delay: loadPause}, false
		case rec != nil:
			f.setRecord(rec)
		}
	}
	rec, now := f.record(), time.Now()
	switch {
	case rec.State.Ended():
		return ruling{act: acknowledge}, false
	case f.isCancelled():
		return f.cancelledRuling(), false
	case !now.Before(f.expiry()):
		return f.expired(), false
	case rec.Next.After(now):
		// It was delivered early: who put it off was killed meanwhile.
		return ruling{act: handBack, delay: rec.Next.Sub(now)}, false
	}
	return r, true
}

// loadPause is how long a call is put off when its record cannot be read.
const loadPause = time.Second

// limit is how much of the answer's body is wanted. Weir's own become reasons.
func (f *flight) limit() int64 {
	return max(f.q.cfg.ResultSize, f.q.callbacks.limit(f.m), maxReason)
}

// request is the call as a pod gets it.
func (f *flight) request(ctx context.Context, rec *record) (*http.Request, error) {
	m := f.m
	r, err := http.NewRequestWithContext(ctx, m.Method, "http://"+m.Function.String()+"/", nil)
	if err != nil {
		return nil, err
	}
	r.RequestURI, r.Host = m.Path, m.Host
	r.Header = m.Header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header[contract.HeaderCallID] = []string{rec.CallID}
	r.Header[headerStartTime] = []string{strconv.FormatInt(m.Accepted.UnixNano(), 10)}
	r.Header[headerRetry] = []string{strconv.Itoa(rec.Attempts)}
	r.Body, r.ContentLength = http.NoBody, int64(len(m.Body))
	if len(m.Body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(m.Body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.Body)), nil }
	}
	return r, nil
}

// saveRunning keeps a record of a call that runs for long, so that other weirs
// know. It learns from them, too: that it was cancelled, and the news lost.
func (f *flight) saveRunning() {
	select {
	case <-f.saving:
		defer func() { f.saving <- struct{}{} }()
	default:
		return // it has come back
	}
	ctx, cancel := context.WithTimeout(f.q.hard, storeTime)
	defer cancel()
	if rec, err := f.q.load(ctx, f.id); err == nil && rec != nil && rec.State.Ended() {
		f.leave()
		return
	}
	if err := f.q.cfg.Store.Save(ctx, f.id, f.record().encode(), f.q.keepOpen()); err != nil {
		f.q.cfg.Log.Debug("that a call runs is not recorded", "call", f.id.String(), "error", err)
	}
}

// stopSaving returns when no record of a running call can be written any more.
func (f *flight) stopSaving() { <-f.saving }

// take makes a flight of what the store delivered, and enters it. It is nil
// where it is here already; then the newer delivery is the one that counts.
func (q *Queue) take(d Delivery) (f *flight, r ruling) {
	it := d.Item()
	f = &flight{q: q, lane: it.Lane, taken: time.Now(), delivery: d, done: make(chan struct{}), saving: make(chan struct{}, 1)}
	f.saving <- struct{}{}
	m, err := Decode(it.Data)
	if err == nil {
		err = sane(m, it)
	}
	if err != nil {
		f.m = &Message{Accepted: it.Stored}
		f.m.Function, _ = refOf(it.Lane)
		f.id = ID{hashed(it.Data), it.Seq}
		f.rec = newRecord(f.id, f.m)
		r = f.undecodable(err)
	} else {
		f.m, f.id = m, ID{m.Nonce, it.Seq}
		f.rec = newRecord(f.id, m)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if here := q.flights[it.Seq]; here != nil {
		here.mu.Lock()
		here.delivery = d
		here.mu.Unlock()
		return nil, ruling{}
	}
	if _, cancelled := q.cancelled[it.Seq]; cancelled {
		f.cancelled = true
	}
	q.flights[it.Seq] = f
	return f, r
}

// sane looks at what the codec does not know.
func sane(m *Message, it Item) error {
	if LaneOf(m.Function) != it.Lane {
		return fmt.Errorf("it is a call of %s in the lane %s", m.Function, it.Lane)
	}
	if year := m.Accepted.Year(); year < 1970 || year > 9000 {
		return fmt.Errorf("it was accepted in the year %d", year)
	}
	return nil
}

// release says that this weir has nothing to do with the call any more.
func (f *flight) release() {
	f.q.mu.Lock()
	if f.q.flights[f.id.Seq] == f {
		delete(f.q.flights, f.id.Seq)
		f.q.gone.Broadcast()
	}
	f.q.mu.Unlock()
	select {
	case <-f.done:
	default:
		close(f.done)
	}
}
