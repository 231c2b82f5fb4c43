package autoscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-run/weir/function"
)

// change is one decision on its way to the provider.
type change struct {
	fn       *function.Function
	t        *tracked
	decision Decision
	inFlight map[string]int // by pod name
}

// act has a decision written, aside: a provider that is slow holds up no
// other function. No look at this one begins before that is done.
func (a *Autoscaler) act(ctx context.Context, c change) {
	c.t.mu.Lock()
	c.t.writing = true
	c.t.mu.Unlock()
	a.busy.Go(func() {
		defer func() {
			c.t.mu.Lock()
			c.t.writing = false
			c.t.mu.Unlock()
		}()
		select {
		case a.writes <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-a.writes }()
		ctx, cancel := context.WithTimeout(ctx, writeTimeout)
		defer cancel()
		a.write(ctx, c)
	})
}

// write changes the replicas. A conflict is no fault: somebody was quicker,
// and the next look decides on what is then.
func (a *Autoscaler) write(ctx context.Context, c change) {
	ref, d := c.fn.Ref, c.decision
	if d.Replicas < d.From {
		if d.Replicas == 0 && a.stirred(ref) {
			return
		}
		busy := make(map[string]int, len(d.Spare))
		for _, name := range d.Spare {
			busy[name] = c.inFlight[name]
		}
		if err := a.cfg.Provider.Spare(ctx, ref, busy); err != nil {
			a.failed(ref, "spare busy pods of", err)
			return
		}
	}
	// What was decided on a lead that is lost meanwhile is not written. A
	// lead that is lost after this was held when Version was read, and a new
	// leader's write makes that version an old one.
	if !a.cfg.Provider.Leads() {
		return
	}
	err := a.cfg.Provider.Scale(ctx, ref, d.Replicas, c.fn.Version)
	switch {
	case err == nil:
		a.changed(c)
	case errors.Is(err, function.ErrConflict), errors.Is(err, function.ErrNotFound), ctx.Err() != nil:
	default:
		a.failed(ref, fmt.Sprintf("scale %d to %d", d.From, d.Replicas), err)
	}
}

// stirred reports whether a call of the function came through this gateway, or
// an async one was put into the queue, since the decision to put it to sleep
// was made. What comes through another gateway in that moment is retried and
// wakes it again.
func (a *Autoscaler) stirred(ref function.Ref) bool {
	if a.backlog(ref) > 0 {
		return true
	}
	name := ref.String()
	for _, d := range a.cfg.Own().Functions {
		if d.Function == name {
			return d.Running > 0 || d.Held > 0
		}
	}
	return false
}

// failed says once a minute what stands in the way, to the log and to the
// function's owner.
func (a *Autoscaler) failed(ref function.Ref, what string, err error) {
	if a.say(ref.String()+" "+what, "replicas cannot be changed; tried again each second", fmt.Errorf("%s: %s: %w", ref, what, err)) {
		a.cfg.Provider.Event(ref, function.Event{Warning: true, Reason: "ScalingFailed", Message: fmt.Sprintf("%s: %v", what, err)})
	}
}

// changed tells of a change that was made.
func (a *Autoscaler) changed(c change) {
	d, ref := c.decision, c.fn.Ref
	made := Change{At: time.Now(), From: d.From, To: d.Replicas, Reason: d.Reason, Why: d.Why()}
	c.t.mu.Lock()
	c.t.history = append(c.t.history[max(0, len(c.t.history)-historyKept+1):len(c.t.history):len(c.t.history)], made)
	c.t.mu.Unlock()
	a.metrics.changed(ref, d)
	a.cfg.Log.Info("scaled", "function", ref.String(), "from", made.From, "to", made.To, "reason", string(made.Reason), "why", made.Why)
	reason := "ScaledUp"
	if made.To < made.From {
		reason = "ScaledDown"
	}
	a.cfg.Provider.Event(ref, function.Event{Reason: reason, Message: fmt.Sprintf("%d to %d replicas (%s): %s", made.From, made.To, made.Reason, made.Why)})
}
