package gateway

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Report is what the gateway carries at this moment.
func (g *Gateway) Report() fleet.Report {
	now := time.Now()
	lanes := g.all()
	r := fleet.Report{Gateway: g.id, Now: now, Functions: make([]fleet.Demand, 0, len(lanes))}
	for _, l := range lanes {
		if l.entry.Load().Gone() {
			continue
		}
		r.Functions = append(r.Functions, l.demand(now))
	}
	return r
}

// demand is what the gateway carries for one function.
func (l *lane) demand(now time.Time) fleet.Demand {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := fleet.Demand{
		Function: l.ref.String(), Calls: l.calls,
		Running: l.running.n, RunningSeconds: l.running.seconds(now),
		Held: l.held.n, HeldSeconds: l.held.seconds(now),
		LastStart: l.lastStart, LastEnd: l.lastEnd, LastWake: l.waking.last,
	}
	l.places.follow(l.entry.Load())
	for _, p := range l.places.all {
		if p.running.at.IsZero() {
			continue // never given anything
		}
		if d.Pods == nil {
			d.Pods = make(map[string]fleet.PodDemand, len(l.places.all))
		}
		about := p.pod.About()
		d.Pods[about.Name] = fleet.PodDemand{UID: about.UID, Running: p.running.n, Seconds: p.running.seconds(now),
			Calls: p.calls, Refused: p.refused}
	}
	return d
}

// DemandHandler answers Report as JSON, for the weir that decides.
func (g *Gateway) DemandHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// A reader that is gone gets nothing more.
		_ = json.NewEncoder(w).Encode(g.Report())
	})
}

// invocations counts the calls of a function that came.
func (g *Gateway) invocations(ref function.Ref) uint64 {
	g.mu.RLock()
	l := g.lanes[ref]
	g.mu.RUnlock()
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}
