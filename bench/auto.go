package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// The auto case: each handler behind a fwatchdog with max_inflight=auto:200,
// and behind others with a fixed limit. Clients send their next request when
// they have the answer to the last; a client that is refused comes back after
// autoPause, half as long to half as long again.
const (
	autoBound = "max_inflight=auto:200"
	autoPause = 100 * time.Millisecond
	// autoSettle is when the bounds begin to hold, after the start and after
	// the slow minute.
	autoSettle = 30 * time.Second
	autoTime   = 20 * time.Second
	slowTime   = time.Minute
	// A fixed limit needs no time to settle, but the long requests of a mix
	// do.
	fixedWarm = 3 * time.Second
	fixedTime = 8 * time.Second
)

// autoShape is a handler, its clients, and the fixed limits among which the
// best one is.
type autoShape struct {
	name, shape string
	clients     int
	fixed       []int
	slow        bool // slows down for slowTime, after autoSettle
}

var autoShapes = []autoShape{
	{"8 slots of 10 ms", shapeSlots, 100, []int{4, 8, 12, 64}, false},
	{"20 ms, twice as long for every 8 past 16", shapeBends, 100, []int{8, 16, 20, 64}, false},
	{"mix of 5 ms and 2 s", shapeMix, 200, []int{50, 100, 200}, false},
	{"8 slots of 10 ms, after a minute of 100 ms", shapeSlots, 100, []int{4, 8, 12, 64}, true},
}

// autoLimit takes some six minutes: the slow minute and the times to settle.
func autoLimit(ctx context.Context, s settings, r *report) error {
	best := map[string]result{} // the third is the first one's handler
	for _, shape := range autoShapes {
		if _, ok := best[shape.shape]; !ok {
			fixed, err := shape.sweep(ctx, s, r)
			if err != nil {
				return err
			}
			best[shape.shape] = fixed
		}
		got, err := shape.measure(ctx, s, autoBound)
		if err != nil {
			return err
		}
		r.figure(shape.name+", auto", []result{got})
		of := best[shape.shape]
		r.atLeast(shape.name+": goodput, share of the best fixed limit's", []float64{got.rate() / of.rate()}, 0.9)
		r.atMost(shape.name+": p99, times that limit's", []float64{got.p99() / of.p99()}, 2)
	}
	return nil
}

// p99 is in microseconds.
func (r result) p99() float64 {
	if len(r.latencies) == 0 {
		return 0
	}
	return float64(r.latencies[(len(r.latencies)-1)*99/100].Nanoseconds()) / 1e3
}

// sweep is the fixed limit of the most good answers; of those within a
// fiftieth of that, which is what one machine differs from itself, the one of
// the lowest p99.
func (a autoShape) sweep(ctx context.Context, s settings, r *report) (best result, err error) {
	a.slow = false
	for _, limit := range a.fixed {
		got, err := a.measure(ctx, s, fmt.Sprintf("max_inflight=%d", limit))
		if err != nil {
			return best, err
		}
		r.figure(fmt.Sprintf("%s, %d", a.name, limit), []result{got})
		if got.good == 0 {
			continue
		}
		if best.good == 0 || got.rate() > 1.02*best.rate() || got.rate() > 0.98*best.rate() && got.p99() < best.p99() {
			best = got
		}
	}
	if best.good == 0 {
		return best, fmt.Errorf("%s: no good answer with any fixed limit", a.name)
	}
	return best, nil
}

// measure runs the handler with one setting of its watchdog.
func (a autoShape) measure(ctx context.Context, s settings, limit string) (result, error) {
	g := &group{}
	defer g.stop()
	handler := g.add(s.own(ctx, a.name, "shaped", a.shape))
	if g.err != nil {
		return result{}, g.err
	}
	watchdog := g.add(s.watchdog(ctx, limit, s.fwatchdog,
		"mode=http", "fprocess=sleep infinity", "http_upstream_url=http://"+handler.addr, limit))
	if g.err != nil {
		return result{}, g.err
	}
	l := load{
		addr: watchdog.addr, pid: watchdog.pid(), conns: a.clients, request: request("GET", "/work", ""),
		pause: autoPause, warm: fixedWarm, time: fixedTime,
	}
	if limit == autoBound {
		l.warm, l.time = autoSettle, autoTime
	}
	if !a.slow {
		return l.run(ctx)
	}
	l.warm += slowTime + autoSettle
	driven, done := context.WithCancelCause(ctx)
	var slowing sync.WaitGroup
	slowing.Go(func() {
		if err := slowMinute(driven, handler.addr); err != nil {
			done(err)
		}
	})
	got, err := l.run(driven)
	done(nil)
	slowing.Wait()
	return got, err
}

// slowMinute makes the handler at addr slow, after autoSettle and for
// slowTime.
func slowMinute(ctx context.Context, addr string) error {
	for _, step := range []struct {
		after time.Duration
		path  string
	}{{autoSettle, "/slow"}, {slowTime, "/fast"}} {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(step.after):
		}
		a, err := get(addr, step.path)
		if err != nil {
			return fmt.Errorf("%s of the handler: %w", step.path, err)
		}
		if a.status != http.StatusOK {
			return fmt.Errorf("%s of the handler: status %d", step.path, a.status)
		}
	}
	return nil
}
