package queue

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Run works on calls until ctx ends: what runs then is cut off, and handed
// back for another weir or the next start. Drain before is kinder. It is
// called once.
func (q *Queue) Run(ctx context.Context, pods Pods) error {
	q.mu.Lock()
	if q.running {
		q.mu.Unlock()
		return errors.New("queue: Run was called before")
	}
	q.running, q.pods = true, pods
	q.mu.Unlock()

	for _, part := range []func(context.Context){q.poll, q.hear, q.extend} {
		q.work.Go(func() { part(ctx) })
	}
	fetching, stop := context.WithCancel(ctx)
	q.work.Go(func() { q.callbacks.run(fetching, q.hard) })
	select {
	case <-q.draining:
	case <-ctx.Done():
	}
	stop()
	<-ctx.Done()
	q.stopFetching()
	q.stop()
	q.work.Wait()
	q.silence()
	return nil
}

// Drain has nothing more fetched, hands back what waits here for a pod, and
// returns when what runs has ended. Where ctx ends before, what still runs is
// cut off, and handed back too. Submit, Call and Cancel work on.
func (q *Queue) Drain(ctx context.Context) error {
	q.stopFetching()
	defer context.AfterFunc(ctx, q.stop)()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.idle() {
		return nil // there is nothing to cut off, also where ctx has ended
	}
	for !q.idle() {
		q.gone.Wait()
	}
	return ctx.Err()
}

// idle is called with q locked.
func (q *Queue) idle() bool { return len(q.lines) == 0 && len(q.flights) == 0 }

func (q *Queue) stopFetching() {
	q.drainOnce.Do(func() {
		q.mu.Lock()
		q.closed = true
		q.mu.Unlock()
		close(q.draining)
	})
}

func (q *Queue) isDraining() bool {
	select {
	case <-q.draining:
		return true
	default:
		return false
	}
}

// stop cuts off what runs.
func (q *Queue) stop() {
	if q.hard.Err() == nil {
		time.AfterFunc(lastWords, q.silence)
	}
	q.cut()
}

// poll asks the store what is in its lanes, for what was not heard of.
func (q *Queue) poll(ctx context.Context) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	away := false
	for {
		err := q.look(ctx)
		if ctx.Err() != nil || q.isDraining() {
			return
		}
		if (err != nil) != away {
			away = err != nil
			if away {
				q.cfg.Log.Error("the store of asynchronous calls cannot be asked; none is begun until it answers", "error", err)
			} else {
				q.cfg.Log.Info("the store of asynchronous calls answers again")
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		case <-q.draining:
			return
		}
	}
}

// look takes what the store says of its lanes.
func (q *Queue) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	all, err := q.cfg.Store.Backlogs(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	clear(q.ready)
	for lane, b := range all {
		if n := b.Items - b.Delivered; n > 0 {
			q.ready[lane] = n
		}
	}
	q.forget(all)
	q.mu.Unlock()
	for lane, b := range all {
		ref, ok := refOf(lane)
		if !ok {
			continue
		}
		if b.Items > b.Delivered && q.cfg.Fleet.Get(ref) != nil {
			q.kick(lane, true)
		}
		q.sweepIfDue(lane, ref)
	}
	return nil
}

// forget drops what was remembered of lanes that are empty, and of calls that
// were cancelled long ago. It is called with q locked.
func (q *Queue) forget(all map[Lane]Backlog) {
	now := time.Now()
	for lane, at := range q.told {
		if now.Sub(at) > tellEvery {
			delete(q.told, lane)
		}
	}
	for lane := range q.sweepAt {
		if _, there := all[lane]; !there {
			delete(q.sweepAt, lane)
		}
	}
	for seq, at := range q.cancelled {
		if now.Sub(at) > cancelledKeep {
			delete(q.cancelled, seq)
		}
	}
}

// extend begins the leases of all that is held here anew.
func (q *Queue) extend(ctx context.Context) {
	ticker := time.NewTicker(q.cfg.Store.Lease() / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		q.mu.Lock()
		all := make([]*flight, 0, len(q.flights))
		for _, f := range q.flights {
			all = append(all, f)
		}
		q.mu.Unlock()
		failed := error(nil)
		for _, f := range all {
			if err := f.handle().Extend(); err != nil {
				failed = err
			}
		}
		if failed != nil {
			q.cfg.Log.Warn("asynchronous calls that run may be begun a second time: their leases could not be extended", "error", failed)
		}
	}
}

// News is one letter and what it is about.
const (
	newsBacklog = 'b' // a lane
	newsCancel  = 'c' // an ID
)

// tellEvery bounds the news about one lane.
const tellEvery = 100 * time.Millisecond

func (q *Queue) hear(ctx context.Context) {
	for {
		select {
		case news := <-q.cfg.Store.Heard():
			q.heard(string(news))
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) heard(news string) {
	if news == "" {
		return
	}
	about := news[1:]
	switch news[0] {
	case newsBacklog:
		if ref, ok := refOf(Lane(about)); ok && q.cfg.Fleet.Get(ref) != nil {
			q.kick(Lane(about), true)
		}
	case newsCancel:
		if id, err := ParseID(about); err == nil {
			q.cancelHere(id)
		}
	}
}

// kick has the line of a lane look; fresh says that there may be more to
// fetch.
func (q *Queue) kick(lane Lane, fresh bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[lane]
	if l == nil {
		ref, ok := refOf(lane)
		if !ok || !fresh || q.closed || !q.running {
			return
		}
		l = newLine(q, lane, ref)
		q.lines[lane] = l
		q.work.Go(l.run)
	}
	kick := l.look
	if fresh {
		kick = l.more
	}
	select {
	case kick <- struct{}{}:
	default:
	}
}

// cutLane takes the lane of a function's calls apart.
func cutLane(lane string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(lane, calls)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ".")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ".")
}
