package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-run/weir/autoscaler"
)

// result is what came of a scenario.
type result struct {
	scenario
	// Moments, by the tick.
	moments []moments
	waits   []time.Duration
	writes  []autoscaler.Decision

	calls, refused, wakes int

	// gathered is when demand was last gathered. noRoom counts the calls that
	// were held or refused when they came, noted those of the last note.
	gathered      time.Duration
	noRoom, noted int
}

// moments is the state of things at a tick.
type moments struct {
	at                        time.Duration
	load                      float64
	replicas, started, needed int
	// noRoom is that part of the load since the last tick which was held or
	// refused when it came.
	noRoom float64
}

func (r *result) note(w *world) {
	noRoom := float64(r.noRoom-r.noted) / tick.Seconds() * r.service.Seconds()
	r.noted = r.noRoom
	r.moments = append(r.moments, moments{
		at: w.now, load: w.asked(), replicas: w.replicas, started: w.started(), needed: w.needed(), noRoom: noRoom,
	})
}

func (r *result) decided(d autoscaler.Decision) { r.writes = append(r.writes, d) }

func (r *result) finish(w *world) {
	slices.Sort(r.waits)
	// What still waits has no answer.
	r.refused += len(w.held)
}

// short is the longest time for which the started pods could not carry the
// load, were it spread as well as can be.
func (r *result) short() time.Duration {
	var since, longest time.Duration
	began := false
	for _, m := range r.moments {
		if float64(m.started*r.maxInflight) >= m.load {
			began = false
			continue
		}
		if !began {
			since, began = m.at, true
		}
		longest = max(longest, m.at+tick-since)
	}
	return longest
}

// peaks are the most replicas that were there, and that were needed.
func (r *result) peaks() (asked, needed int) {
	for _, m := range r.moments {
		asked, needed = max(asked, m.replicas), max(needed, m.needed)
	}
	return asked, needed
}

// turns counts how often the replicas went the other way.
func (r *result) turns() int {
	turns, direction, last := 0, 0, r.moments[0].replicas
	for _, m := range r.moments {
		step := m.replicas - last
		if step*direction < 0 {
			turns++
		}
		if step != 0 {
			direction = step
		}
		last = m.replicas
	}
	return turns
}

// podSeconds are those that were asked for, and those that were needed.
func (r *result) podSeconds() (asked, needed float64) {
	for _, m := range r.moments {
		asked += float64(m.replicas) * tick.Seconds()
		needed += float64(m.needed) * tick.Seconds()
	}
	return asked, needed
}

func (r *result) refusedShare() float64 { return float64(r.refused) / float64(max(1, r.calls)) }

// wait is the time for a pod that a share of the calls did not exceed.
func (r *result) wait(share float64) time.Duration {
	if len(r.waits) == 0 {
		return 0
	}
	return r.waits[int(share*float64(len(r.waits)-1))]
}

// table is all results, for people.
func table(results []result) string {
	var b strings.Builder
	b.WriteString("| shape | calls | refused | p50, p99 wait for a pod | too few for at most | most replicas, needed | turns | pod-seconds, needed |\n|---|---|---|---|---|---|---|---|\n")
	for i := range results {
		r := &results[i]
		asked, needed := r.peaks()
		podSeconds, ideal := r.podSeconds()
		fmt.Fprintf(&b, "| %s | %d | %.2f %% | %s, %s | %s | %d, %d | %d | %.0f, %.0f |\n",
			r.name, r.calls, 100*r.refusedShare(), seconds(r.wait(0.5)), seconds(r.wait(0.99)), r.short(), asked, needed, r.turns(), podSeconds, ideal)
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
