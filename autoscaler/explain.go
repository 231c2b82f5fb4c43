package autoscaler

import (
	"time"

	"github.com/weir-run/weir/function"
)

// historyKept is how many changes of a function can be looked up.
const historyKept = 10

// Change is one change of replicas that was made.
type Change struct {
	At     time.Time `json:"at"`
	From   int       `json:"from"`
	To     int       `json:"to"`
	Reason Reason    `json:"reason"`
	Why    string    `json:"why"`
}

// Explanation is what is known of a function's scaling, newest change first.
type Explanation struct {
	// Leading is false where another weir decides: ask that one.
	Leading bool `json:"leading"`
	// Reason and Why are those of the last look, whether or not it changed
	// anything.
	Reason   Reason             `json:"reason,omitempty"`
	Why      string             `json:"why,omitempty"`
	Type     function.ScaleType `json:"type,omitempty"`
	Load     float64            `json:"load"`
	Stable   float64            `json:"loadStable"`
	Panic    float64            `json:"loadPanic"`
	Target   float64            `json:"targetPerReplica"`
	Panics   bool               `json:"panicking"`
	Wanted   int                `json:"wanted"`
	Replicas int                `json:"replicas"`
	Started  int                `json:"started"`
	Floor    int                `json:"floor"`
	Max      int                `json:"max"`
	// Backlog is how many async messages were ready to run.
	Backlog int `json:"backlog"`
	// IdleSeconds of the ZeroAfterSeconds that put it to sleep; 0 never.
	IdleSeconds      float64  `json:"idleSeconds"`
	ZeroAfterSeconds float64  `json:"zeroAfterSeconds,omitempty"`
	Changes          []Change `json:"changes"`
}

// Explain says what was last decided of a function and why.
func (a *Autoscaler) Explain(ref function.Ref) any {
	a.mu.Lock()
	t := a.functions[ref]
	a.mu.Unlock()
	e := Explanation{Leading: a.cfg.Provider.Leads(), Changes: []Change{}}
	if t == nil {
		return e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.history) - 1; i >= 0; i-- {
		e.Changes = append(e.Changes, t.history[i])
	}
	d := t.last
	if d.Reason == "" {
		return e
	}
	e.Reason, e.Why, e.Type = d.Reason, d.Why(), d.Type
	e.Load, e.Stable, e.Panic, e.Target, e.Panics = d.Load, d.Stable, d.Panic, d.Target, d.Panicking
	e.Wanted, e.Replicas, e.Started, e.Floor, e.Max = d.Wanted, d.Replicas, d.Started, d.Floor, d.Max
	e.Backlog = d.Backlog
	e.IdleSeconds, e.ZeroAfterSeconds = d.Idle.Seconds(), d.IdleAfter.Seconds()
	return e
}
