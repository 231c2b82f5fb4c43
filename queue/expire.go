package queue

import (
	"context"
	"errors"
	"time"

	"github.com/weir-run/weir/function"
)

const (
	// sweepBatch is how many calls of a function that cannot run are looked at
	// at once.
	sweepBatch = 16
	// sweepAgain is when a lane is looked at again whose oldest call has
	// expired and could not be had: it runs, or was put off.
	sweepAgain = 30 * time.Second
)

// sweepIfDue buries what has expired of a function that is gone or cannot run.
// Those of one that can are found when it is their turn. Nothing is fetched
// unless the oldest has expired, and what somebody has is not delivered: so no
// call is buried that runs.
func (q *Queue) sweepIfDue(lane Lane, ref function.Ref) {
	now := time.Now()
	e := q.cfg.Fleet.Get(ref)
	if e != nil {
		rank, weirs := q.share()
		if room, _, _ := q.pods.Room(e); room > 0 || (rank+turn(e))%weirs != 0 {
			return
		}
	} else if rank, _ := q.share(); rank != 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.sweeping[lane] || now.Before(q.sweepAt[lane]) {
		return
	}
	q.sweeping[lane] = true
	q.work.Go(func() {
		at := q.sweep(lane)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.sweeping, lane)
		q.sweepAt[lane] = at
	})
}

// sweep buries what has expired in a lane and says when to look again.
func (q *Queue) sweep(lane Lane) time.Time {
	for {
		ctx, cancel := context.WithTimeout(q.hard, storeTime)
		oldest, err := q.cfg.Store.Oldest(ctx, lane)
		cancel()
		now := time.Now()
		switch expires := oldest.Stored.Add(q.cfg.MaxAge); {
		case errors.Is(err, ErrNotFound):
			return time.Time{}
		case err != nil:
			return now.Add(sweepAgain)
		case now.Before(expires):
			return expires
		}
		if q.isDraining() || !q.sweepSome(lane) {
			return now.Add(sweepAgain)
		}
	}
}

// sweepSome buries some of what has expired, and says whether there was any.
func (q *Queue) sweepSome(lane Lane) (some bool) {
	ctx, cancel := context.WithTimeout(q.hard, storeTime)
	defer cancel()
	got, err := q.cfg.Store.Fetch(ctx, lane, sweepBatch, 0)
	if err != nil {
		q.cfg.Log.Debug("expired asynchronous calls not fetched", "lane", string(lane), "error", err)
	}
	for _, d := range got {
		f, r := q.take(d)
		if f == nil {
			continue
		}
		if r.rec == nil {
			r = f.close()
		}
		some = some || r.act == bury
		f.settle(r)
	}
	return some
}
