package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// callbackWait is how long one asking for callbacks stays.
	callbackWait = 30 * time.Second
	// A store that is away is asked again after minAway, and then ever less
	// often up to maxAway.
	minAway = 100 * time.Millisecond
	maxAway = 5 * time.Second
	// callbackStoreTime bounds one asking of the store, also the last one after
	// abort has ended.
	callbackStoreTime = 5 * time.Second
	// callbackUnread is when an item that cannot be read is tried again: a
	// newer weir, or this one after it is one, may read it.
	callbackUnread = time.Minute
)

// run sends callbacks until ctx ends; then those that have begun go on until
// abort ends, and the others are handed back at once. It returns when all have
// ended.
func (c *callbacks) run(ctx, abort context.Context) {
	var workers sync.WaitGroup
	leases, stop := context.WithCancel(context.WithoutCancel(abort))
	leased := make(chan struct{})
	go func() {
		defer close(leased)
		c.extend(leases)
	}()
	defer func() {
		workers.Wait()
		stop()
		<-leased
	}()
	away := minAway
	for ctx.Err() == nil {
		room := c.line.room()
		if room == 0 {
			select {
			case <-c.line.freed:
			case <-ctx.Done():
			}
			continue
		}
		fetched, err := c.host.store.Fetch(ctx, Callbacks, room, callbackWait)
		for _, d := range fetched {
			c.take(ctx, abort, d, &workers)
		}
		if err == nil {
			away = minAway
			continue
		}
		if ctx.Err() == nil {
			c.host.log.Warn("callbacks cannot be fetched", "error", err, "again", away)
			pause(ctx, away)
			away = min(2*away, maxAway)
		}
	}
	for _, e := range c.line.drain() {
		c.handBack(abort, e, 0)
	}
}

// extend keeps what is at hand from being delivered again.
func (c *callbacks) extend(ctx context.Context) {
	ticker := time.NewTicker(max(c.host.store.Lease()/3, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, e := range c.line.leased() {
			if err := e.extend(); err != nil {
				// The next one may get through; if none does, the callback is
				// delivered again.
				c.host.log.Warn("lease of a callback not extended", "place", e.delivery.Item().Seq, "error", err)
			}
		}
	}
}

func (c *callbacks) take(ctx, abort context.Context, d Delivery, workers *sync.WaitGroup) {
	e := &errand{delivery: d}
	if ctx.Err() != nil {
		c.handBack(abort, e, 0)
		return
	}
	var err error
	if e.reply, err = decodeReply(d.Item().Data); err != nil {
		c.unread(abort, e, err)
		return
	}
	if e.to, err = c.parse(e.reply.URL); err != nil {
		// It was accepted under other settings, or by another weir.
		e.to, e.bad = &receiver{}, err
	}
	begin, putOff := c.line.place(e, time.Now(), c.random())
	switch {
	case begin:
		workers.Go(func() { c.work(abort, e) })
	case putOff > 0:
		c.handBack(abort, e, putOff)
	}
}

// work sends e and then whatever waits for its place.
func (c *callbacks) work(abort context.Context, e *errand) {
	for e != nil {
		c.metrics.inflight.Inc()
		c.deliver(abort, e)
		c.metrics.inflight.Dec()
		e = c.line.end(e, time.Now())
	}
}

// deliver makes one try and sees to what comes of it.
func (c *callbacks) deliver(abort context.Context, e *errand) {
	state, done := c.before(abort, e)
	if done {
		return
	}
	switch {
	case e.bad != nil:
		state.Reason = short(e.bad.Error())
		c.giveUp(abort, e, state, "refused")
	case time.Since(e.reply.Ended) > c.cfg.MaxAge:
		c.expire(abort, e, state)
	case e.reply.Depth > maxCallbackDepth:
		state.Reason = fmt.Sprintf("%d callbacks have led to one another: this chain seems to have no end", e.reply.Depth-1)
		c.giveUp(abort, e, state, "refused")
	case e.to.own:
		c.call(abort, e, state)
	default:
		c.try(abort, e, state)
	}
}

// before is what earlier deliveries have come to; done is that there is
// nothing to do now.
func (c *callbacks) before(abort context.Context, e *errand) (state *Callback, done bool) {
	// Also the first time: a store that was killed may have lost the count of
	// deliveries.
	ctx, cancel := context.WithTimeout(abort, callbackStoreTime)
	defer cancel()
	kept, err := c.load(ctx, e.reply.Call)
	if err != nil {
		c.host.log.Warn("state of a callback not read", "id", e.reply.Call.String(), "error", err)
		c.handBack(abort, e, maxAway)
		return nil, true
	}
	if kept == nil {
		return &Callback{}, false
	}
	if kept.State.Ended() {
		c.ack(abort, e)
		return nil, true
	}
	// And when it was to come.
	if wait := time.Until(kept.Next); wait > 0 {
		c.handBack(abort, e, wait)
		return nil, true
	}
	return kept, false
}

// call makes the callback a call of weir's own function.
func (c *callbacks) call(abort context.Context, e *errand, state *Callback) {
	m := e.reply.message(e.to, time.Now())
	if m.Callback != "" {
		if err := c.check(m.Callback); err != nil {
			state.Attempts++
			state.Code = http.StatusBadRequest
			state.Reason = short(headerCallback + " of the answer: " + err.Error())
			c.giveUp(abort, e, state, "refused")
			return
		}
	}
	ctx, cancel := context.WithTimeout(abort, callbackStoreTime)
	defer cancel()
	id, _, err := c.host.submit(ctx, m, callbackKey(e.reply.Call))
	switch {
	case errors.Is(err, ErrTooLarge):
		state.Attempts++
		state.Code, state.Reason = http.StatusRequestEntityTooLarge, short(err.Error())
		c.giveUp(abort, e, state, "refused")
	case err != nil:
		c.host.log.Warn("callback not queued", "id", e.reply.Call.String(), "function", m.Function.String(), "error", err)
		c.handBack(abort, e, maxAway)
	default:
		state.Attempts++
		state.Code, state.Reason, state.Call = http.StatusAccepted, "", id.String()
		c.end(abort, e, state, Succeeded, "called")
	}
}

// try sends the callback and judges the answer.
func (c *callbacks) try(abort context.Context, e *errand, state *Callback) {
	code, header, err := c.post(abort, e.to, e.reply)
	if abort.Err() != nil && err != nil {
		c.handBack(abort, e, 0)
		return
	}
	state.Code, state.Reason, state.Next = code, "", time.Time{}
	if errors.Is(err, errRefused) {
		// Nothing was sent, so that it is no attempt.
		state.Reason = explain(err)
		c.giveUp(abort, e, state, "refused")
		return
	}
	state.Attempts++
	c.metrics.tries.WithLabelValues(class(code)).Inc()
	switch {
	case err == nil && code/100 == 2:
		c.end(abort, e, state, Succeeded, "delivered")
	case err == nil && !again(code):
		state.Reason = reasonOf(code, nil)
		if code/100 == 3 {
			state.Reason += ", and redirects are not followed"
		}
		c.giveUp(abort, e, state, "rejected")
	case state.Attempts >= c.cfg.Retry.Attempts:
		state.Reason = reasonOf(code, err)
		c.giveUp(abort, e, state, "attempts")
	default:
		state.Reason = reasonOf(code, err)
		c.later(abort, e, state, header)
	}
}

// wait is how long a callback that did not arrive is put off: as the policy has
// it, or as the receiver asks, though never beyond the callback's age.
func (c *callbacks) wait(state *Callback, header http.Header, now time.Time) time.Duration {
	if wait, asked := retryAfter(&c.cfg.Retry, state.Code, header, now); asked {
		return min(wait, c.cfg.MaxAge)
	}
	return backOff(&c.cfg.Retry, state.Attempts, c.random)
}

// again says which answers are worth another try.
func again(code int) bool {
	return code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code/100 == 5
}

func reasonOf(code int, err error) string {
	if err != nil {
		return explain(err)
	}
	return strings.TrimSpace(fmt.Sprintf("the receiver answered %d %s", code, http.StatusText(code)))
}

func (c *callbacks) expire(abort context.Context, e *errand, state *Callback) {
	reason := "not delivered within " + c.cfg.MaxAge.String()
	if state.Reason != "" {
		reason += "; last: " + state.Reason
	}
	state.Reason = short(reason)
	c.giveUp(abort, e, state, "expired")
}

// later has the callback tried again. That its state is saved first keeps the
// count of attempts over a kill.
func (c *callbacks) later(abort context.Context, e *errand, state *Callback, header http.Header) {
	now := time.Now()
	wait := c.wait(state, header, now)
	state.URL, state.State, state.Next = e.reply.URL, Retrying, now.Add(wait).UTC()
	if state.Next.After(e.reply.Ended.Add(c.cfg.MaxAge)) {
		c.expire(abort, e, state)
		return
	}
	if !c.insist(abort, func(ctx context.Context) error { return c.save(ctx, e.reply.Call, state) }) {
		return
	}
	c.host.log.Info("callback will be tried again", "id", e.reply.Call.String(), "function", e.reply.Function.String(),
		"receiver", e.to.key, "code", state.Code, "reason", state.Reason, "attempts", state.Attempts, "wait", wait)
	c.handBack(abort, e, wait)
}

// giveUp ends a callback that does not reach its receiver. There is no dead
// letter of it: the result of its call is kept with the call all the same.
func (c *callbacks) giveUp(abort context.Context, e *errand, state *Callback, why string) {
	c.host.log.Warn("callback given up", "id", e.reply.Call.String(), "function", e.reply.Function.String(),
		"receiver", e.to.key, "code", state.Code, "reason", state.Reason, "attempts", state.Attempts)
	c.end(abort, e, state, Failed, why)
}

// end saves the outcome and only then drops the callback from its lane.
func (c *callbacks) end(abort context.Context, e *errand, state *Callback, how State, result string) {
	state.URL, state.State, state.Next = e.reply.URL, how, time.Time{}
	if !c.insist(abort, func(ctx context.Context) error { return c.save(ctx, e.reply.Call, state) }) {
		return
	}
	c.metrics.ends.WithLabelValues(result).Inc()
	c.metrics.seconds.Observe(time.Since(e.reply.Ended).Seconds())
	c.ack(abort, e)
}

// unread puts off what cannot be read, and drops it when it is too old.
func (c *callbacks) unread(abort context.Context, e *errand, err error) {
	item := e.delivery.Item()
	if time.Since(item.Stored) < c.cfg.MaxAge {
		c.host.log.Warn("callback cannot be read", "place", item.Seq, "error", err, "again", callbackUnread)
		c.handBack(abort, e, callbackUnread)
		return
	}
	c.host.log.Error("callback dropped: it cannot be read", "place", item.Seq, "bytes", len(item.Data), "error", err)
	c.metrics.ends.WithLabelValues("undecodable").Inc()
	c.ack(abort, e)
}

// ack insists while the store is away. Where it does not work the callback
// comes again, and its state says that it has ended.
func (c *callbacks) ack(abort context.Context, e *errand) {
	e.settle()
	c.insist(abort, func(ctx context.Context) error {
		err := e.delivery.Ack(ctx)
		if err != nil && !errors.Is(err, ErrAway) {
			c.host.log.Warn("callback not acknowledged", "place", e.delivery.Item().Seq, "error", err)
			return nil
		}
		return err
	})
}

// handBack does not insist: what is not handed back comes again when its lease
// ends.
func (c *callbacks) handBack(abort context.Context, e *errand, delay time.Duration) {
	e.settle()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(abort), callbackStoreTime)
	defer cancel()
	if err := e.delivery.Retry(ctx, max(delay, 0)); err != nil {
		c.host.log.Warn("callback not handed back", "place", e.delivery.Item().Seq, "error", err)
	}
}

// insist does it until it is done; false is that abort has ended before, or
// that the store never takes it.
func (c *callbacks) insist(abort context.Context, do func(ctx context.Context) error) bool {
	for away := minAway; ; away = min(2*away, maxAway) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(abort), callbackStoreTime)
		err := do(ctx)
		cancel()
		if err == nil {
			return true
		}
		c.host.log.Warn("outcome of a callback not stored", "error", err, "again", away)
		if abort.Err() != nil || errors.Is(err, ErrTooLarge) {
			return false
		}
		pause(abort, away)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func class(code int) string {
	if code < 100 || code > 999 {
		return "none"
	}
	return string(rune('0'+code/100)) + "xx"
}
