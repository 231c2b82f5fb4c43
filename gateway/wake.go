package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

const (
	// wakeTimeout bounds one asking of the provider.
	wakeTimeout = 10 * time.Second
	// An asking that failed is repeated after wakeRetry, then after twice as
	// long each time, up to wakeRetryMax: so late at most are the calls that
	// wait once the provider is back. A thousand functions that are wanted
	// meanwhile ask a thousand times a second. What of that goes out the
	// provider bounds (provider/kube: 200 writes, then 50 a second), who alone
	// knows what it can bear; the rest stands in line there, in wakeTimeout.
	wakeRetry    = 100 * time.Millisecond
	wakeRetryMax = time.Second
	// wakeShown is how long the replicas that were asked for may take to be
	// seen before they are asked for again. A provider that has them already
	// writes nothing then.
	wakeShown = time.Second
	// wakeWanted is how long a wake that nobody waits for is worth repeating.
	wakeWanted = 10 * time.Second
)

// waking is how a function that sleeps gets replicas.
type waking struct {
	// busy: the provider is being asked, or what came of it is waited for.
	busy bool
	// err is how the last asking ended, told what was said of it.
	err, told error
	// last is when somebody last wanted it awake, wanted until when that
	// alone is a reason to ask again.
	last, wanted time.Time

	// began is the start of the present or last wake; started and answered
	// are whether its times were taken.
	began             time.Time
	started, answered bool
}

// wake starts waking a function that sleeps, and what has to wake with it. It
// returns at once.
func (g *Gateway) wake(e *fleet.Entry) {
	now := time.Now()
	l := g.lane(e)
	l.keep(e, now)
	g.accompany(l, e, now)
}

// keep has the function awake, and stay it, as a call would.
func (l *lane) keep(e *fleet.Entry, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waking.last, l.waking.wanted = now, now.Add(wakeWanted)
	l.rouse(e, now)
}

// rouse has the provider asked for replicas if the function has none and
// nobody asks already: once for each sleep, however many calls come. The
// caller holds the lock.
func (l *lane) rouse(e *fleet.Entry, now time.Time) {
	fn := e.Function()
	if fn.Replicas > 0 || fn.Fixed || e.Gone() {
		return
	}
	w := &l.waking
	w.last = now
	if w.busy {
		return
	}
	w.busy, w.err, w.told = true, nil, nil
	w.began, w.started, w.answered = now, false, false
	go l.ask(e)
}

// ask has the provider wake the function until its replicas are seen or nobody
// wants them. No request's context ends it: the client may leave, and the
// others still wait.
func (l *lane) ask(e *fleet.Entry) {
	retry := wakeRetry
	for {
		replicas := e.Function().Spec.AwakeReplicas()
		ctx, cancel := context.WithTimeout(l.g.ctx, wakeTimeout)
		err := l.g.cfg.Provider.Wake(ctx, l.ref, replicas)
		cancel()
		l.asked(err, replicas)
		pause := retry
		if err == nil {
			pause = wakeShown
		}
		if l.shown(e, pause) {
			return
		}
		retry = min(2*retry, wakeRetryMax)
	}
}

// asked notes the provider's answer, and says it where it is news.
func (l *lane) asked(err error, replicas int) {
	l.mu.Lock()
	now := time.Now()
	w := &l.waking
	news := !sameKind(err, w.told)
	w.err = err
	if err != nil {
		w.told = err
	}
	took := now.Sub(w.began)
	l.mu.Unlock()

	log := l.g.cfg.Log.With("function", l.ref.String())
	switch {
	case l.g.ctx.Err() != nil:
		return
	case err == nil:
		l.done.count(familyWakes, "done")
		l.g.metrics.wakeScale.Observe(took.Seconds())
		log.Info("woken", "replicas", replicas, "after", took)
		l.g.cfg.Provider.Event(l.ref, function.Event{Reason: "Woken",
			Message: fmt.Sprintf("a request came while it slept: asked for %d replicas", replicas)})
	default:
		l.done.count(familyWakes, "failed")
		if !news {
			return
		}
		log.Error("not woken", "error", err, "remedy", remedy(err))
		l.g.cfg.Provider.Event(l.ref, function.Event{Warning: true, Reason: "NotWoken",
			Message: fmt.Sprintf("requests wait, and it could not be woken: %v; %s", err, remedy(err))})
	}
}

// shown waits until replicas are seen, or for the pause, and says whether the
// wake is over: they are there, or there is nobody who would want them.
func (l *lane) shown(e *fleet.Entry, pause time.Duration) (over bool) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		changed := e.Changed()
		if l.settle(e, false) {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return l.settle(e, true)
		case <-l.g.ctx.Done():
			return l.settle(e, true)
		}
	}
}

// settle ends the wake if it is over; paused: there was time enough to see it.
func (l *lane) settle(e *fleet.Entry, paused bool) (over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unwanted := l.held.n == 0 && time.Now().After(l.waking.wanted)
	// Of a wake that was seen to be over the replicas may be gone again.
	over = l.waking.started || e.Function().Replicas > 0 || e.Gone() || l.g.ctx.Err() != nil || paused && unwanted
	if over {
		l.waking.busy = false
		if l.waiting() > 0 {
			l.look()
		}
	}
	return over
}

// sawStarted and sawAnswer take the times of a wake that calls waited for.
func (l *lane) sawStarted(now time.Time) {
	if w := &l.waking; !w.started && !w.began.IsZero() {
		w.started = true
		l.g.metrics.wakeStarted.Observe(now.Sub(w.began).Seconds())
	}
}

func (l *lane) sawAnswer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if w := &l.waking; w.started && !w.answered {
		w.answered = true
		l.g.metrics.wakeAnswered.Observe(now.Sub(w.began).Seconds())
	}
}

// kinds are the errors of a provider that differ in what to do about them.
var kinds = []error{function.ErrForbidden, function.ErrUnavailable, function.ErrNotFound, function.ErrConflict, function.ErrFull, function.ErrFixed}

func sameKind(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	for _, kind := range kinds {
		if errors.Is(a, kind) != errors.Is(b, kind) {
			return false
		}
	}
	return true
}

// remedy is what to do about a provider's error.
func remedy(err error) string {
	switch {
	case errors.Is(err, function.ErrForbidden):
		return "give weir the right to scale it"
	case errors.Is(err, function.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return "weir asks again until it answers; see that the provider is up"
	case errors.Is(err, function.ErrNotFound):
		return "it was deleted a moment ago"
	case errors.Is(err, function.ErrFull):
		return "weir asks again, and there is room when other functions stop or have a lower max"
	case errors.Is(err, function.ErrFixed):
		return "start it where it runs"
	}
	return "weir asks again; its log says more"
}

// plainly is a provider's error as clients are told it, who are not to learn
// where the provider is and what it said.
func plainly(err error) string {
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "the provider does not answer"
	}
	return "the provider could not do it"
}
