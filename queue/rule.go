package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Reasons of calls that have failed or are dead.
const (
	reasonCancelled   = "cancelled"
	reasonAttempts    = "attempts"
	reasonExpired     = "expired"
	reasonUndecodable = "undecodable"
)

// act is what is done with a call that was delivered here.
type act int

const (
	// acknowledge: all of it is written already.
	acknowledge act = iota
	// handBack: it is as it was, and to be delivered again after delay.
	handBack
	// putOff: its record is kept, and it is delivered again after delay.
	putOff
	// end: its record and its callback are kept, and it is acknowledged.
	end
	// bury: as end, and it is kept among the dead letters.
	bury
)

// ruling is what becomes of a call, and why.
type ruling struct {
	act   act
	delay time.Duration
	rec   *record
	// answer is the last one; nil where there was none.
	answer *Answer
}

func (f *flight) cancelledRuling() ruling {
	rec := *f.record()
	rec.State, rec.Reason, rec.Next, rec.Ended = Failed, reasonCancelled, time.Time{}, time.Now()
	return ruling{act: end, rec: &rec}
}

func (f *flight) expired() ruling {
	rec := *f.record()
	rec.State, rec.Next, rec.Ended = Dead, time.Time{}, time.Now()
	rec.Reason = because(reasonExpired, rec.Reason)
	return ruling{act: bury, rec: &rec}
}

// because is a reason, and what led to it.
func because(reason, why string) string {
	if why == "" {
		return reason
	}
	return reason + ": " + why
}

func (f *flight) undecodable(err error) ruling {
	rec := *f.record()
	rec.State, rec.Reason, rec.Next, rec.Ended = Dead, because(reasonUndecodable, err.Error()), time.Time{}, time.Now()
	rec.Undecodable = true
	return ruling{act: bury, rec: &rec}
}

// rule says what becomes of a call that came back from a pod. cut is why its
// context had ended, if it had.
func (f *flight) rule(e *fleet.Entry, a Answer, cut error, cancelled bool) ruling {
	rec := *f.record()
	now := time.Now()
	if cut != nil && a.Reason != "" {
		switch {
		case cancelled:
			return f.cancelledRuling()
		case errors.Is(cut, context.DeadlineExceeded) && a.Began:
			a.Status, a.Reason = http.StatusGatewayTimeout, fmt.Sprintf("it ran for longer than %v", f.q.cfg.MaxRun)
		case errors.Is(cut, context.DeadlineExceeded):
			a.Reason = fmt.Sprintf("no pod took it within %v", f.q.cfg.MaxRun)
		case f.q.hard.Err() != nil:
			// weir stops: what it cut off was no attempt.
			rec.State, rec.Started = waiting(&rec), time.Time{}
			return ruling{act: putOff, rec: &rec}
		}
	}
	r := judge(&rec, a, e.Function().Spec.Retry, moment{now, f.expiry(), f.q.random, int(f.line.refusals.Load())})
	if cancelled && r.act == putOff {
		f.setRecord(r.rec)
		return f.cancelledRuling()
	}
	return r
}

// waiting is the state of a call without an outcome that is not at a pod.
func waiting(rec *record) State {
	if rec.Attempts > 0 {
		return Retrying
	}
	return Queued
}

// moment is when a call is judged, and until when it may wait. random is in
// [0,1). refusals is how many of the function's calls were refused in a row.
type moment struct {
	now, expiry time.Time
	random      func() float64
	refusals    int
}

// judge says what becomes of a call by the answer to it. rec is changed.
func judge(rec *record, a Answer, rules function.Retry, at moment) ruling {
	if !a.Began {
		rec.State = waiting(rec)
		rec.Refusals++
		rec.Reason = refusalOf(a)
		// At its expiry it is looked at once more, and buried.
		delay := min(refusalWait(max(rec.Refusals, at.refusals), at.random), max(0, at.expiry.Sub(at.now)))
		rec.Next = at.now.Add(delay)
		return ruling{act: putOff, delay: delay, rec: rec}
	}
	rec.Refusals = 0
	rec.Attempts++
	rec.MaxAttempts = max(1, rules.Attempts)
	rec.Code, rec.Ended, rec.Seconds = a.Status, at.now, a.Took.Seconds()
	rec.Reason, rec.Next = "", time.Time{}
	why := fmt.Sprintf("the function answered %d", a.Status)
	if a.Reason != "" {
		why = reasonOfWeir(a)
	}
	r := ruling{act: end, rec: rec, answer: &a}
	switch {
	case !triedAgain(&rules, &a):
		rec.State = Succeeded
		if a.Status >= http.StatusBadRequest {
			rec.State, rec.Reason = Failed, why
		}
		return r
	case rec.Attempts >= rec.MaxAttempts:
		return r.dead(because(reasonAttempts, why))
	}
	delay, asked := retryAfter(&rules, a.Status, a.Header, at.now)
	if !asked {
		delay = backOff(&rules, rec.Attempts, at.random)
	}
	rec.Next = at.now.Add(delay)
	if rec.Next.After(at.expiry) {
		return r.dead(because(reasonExpired, why))
	}
	rec.State, rec.Reason = Retrying, why
	return ruling{act: putOff, delay: delay, rec: rec, answer: &a}
}

func (r ruling) dead(reason string) ruling {
	r.act = bury
	r.rec.State, r.rec.Reason, r.rec.Next = Dead, reason, time.Time{}
	return r
}

// refusalOf is why no handler began a call.
func refusalOf(a Answer) string {
	if a.Reason != "" {
		return reasonOfWeir(a)
	}
	return fmt.Sprintf("refused with %d", a.Status)
}

// reasonOfWeir is the reason of what is no function's answer, and what was said
// of it: the reason alone is one of a metric's few words.
func reasonOfWeir(a Answer) string {
	said := string(a.Body[:min(len(a.Body), maxReason)])
	return short(because(a.Reason, strings.TrimSpace(said)))
}

// refusals is how long a call waits that no handler began: half of the wait is
// by chance, so that those refused together do not come back together.
var refusals = function.Retry{MinWait: time.Second, MaxWait: 30 * time.Second, Jitter: function.EqualJitter}

func refusalWait(n int, random func() float64) time.Duration {
	return backOff(&refusals, n, random)
}
