package gateway

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// markOverlap is how much longer than since its mark a function must have been
// still to be left out of a report. A call takes the time before it takes the
// lane's lock, and may wait for that.
const markOverlap = 5 * time.Second

// droppedKeep is longer than changes are asked for and not everything.
const droppedKeep = 2 * time.Minute

// Report is what the gateway carries at this moment.
func (g *Gateway) Report() fleet.Report { return g.report(0) }

// report leaves out what has been as it is since the report of that mark, 0
// nothing. Marks are nanoseconds since the gateway's start, by a clock that
// nobody sets.
func (g *Gateway) report(since int64) fleet.Report {
	now := time.Now()
	mark := max(1, int64(now.Sub(g.began)))
	if since < 0 || since > mark {
		since = 0
	}
	still := g.began.Add(time.Duration(since) - markOverlap)
	r := fleet.Report{Gateway: g.id, Now: now, Mark: mark, Since: since, Functions: []fleet.Demand{}}
	if since > 0 {
		// Else they would be taken to be as they were, and with them functions
		// of their names that come anew. What these carry comes after it.
		for _, ref := range g.droppedSince(still) {
			r.Functions = append(r.Functions, fleet.Demand{Function: ref.String()})
		}
	}
	for _, l := range g.all() {
		if since > 0 && l.stillSince(still) || since == 0 && l.entry.Load().Gone() {
			continue
		}
		r.Functions = append(r.Functions, l.demand(now))
	}
	return r
}

// droppedSince are functions whose lanes were forgotten since then.
func (g *Gateway) droppedSince(t time.Time) (all []function.Ref) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for ref, at := range g.dropped {
		if !at.Before(t) {
			all = append(all, ref)
		}
	}
	return all
}

// stillSince says that nothing was carried for the function since then.
func (l *lane) stillSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running.n > 0 || l.held.n > 0 {
		return false
	}
	for _, at := range [...]time.Time{l.lastStart, l.lastEnd, l.waking.last, l.running.at, l.held.at} {
		if !at.Before(t) {
			return false
		}
	}
	return true
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

// DemandHandler answers Report as JSON, for the weir that decides, or what has
// changed since the one before, if it is this gateway that said that.
func (g *Gateway) DemandHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// A reader that is gone gets nothing more.
		_ = json.NewEncoder(w).Encode(g.report(g.since(r)))
	})
}

// since is the mark after which a request asks for changes, 0 for everything.
func (g *Gateway) since(r *http.Request) int64 {
	q := r.URL.Query()
	mark, err := strconv.ParseInt(q.Get(fleet.QuerySince), 10, 64)
	if err != nil || q.Get(fleet.QueryGateway) != g.id {
		return 0
	}
	return mark
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
