package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/weir-run/weir/fleet"
)

// readiness is what SlimFaas's clients look at.
type readiness struct {
	Ready     int `json:"NumberReady"`
	Requested int `json:"numberRequested"`
}

// functionReadiness is an element of SlimFaas's list. Its versions differ in
// one name's first letter, and its clients read either.
type functionReadiness struct {
	readiness
	RequestedToo int    `json:"NumberRequested"`
	PodType      string `json:"PodType"`
	Visibility   string `json:"Visibility"`
	// Name is how to call it: without a namespace where that is the default.
	Name string `json:"Name"`
}

func readinessOf(e *fleet.Entry) readiness {
	return readiness{Ready: e.Started(), Requested: e.Function().Replicas}
}

func (a *api) status(w http.ResponseWriter, q *request) { sayJSON(w, readinessOf(q.entry)) }

func (a *api) statuses(w http.ResponseWriter, _ *request) {
	if !a.complete() {
		unread(w)
		return
	}
	sayJSON(w, a.g.statuses())
}

// statuses are all functions' by name.
func (g *Gateway) statuses() []functionReadiness {
	all := make([]functionReadiness, 0, g.cfg.Fleet.Len())
	for e := range g.cfg.Fleet.All() {
		fn, ready := e.Function(), readinessOf(e)
		name := fn.Name
		if fn.Namespace != g.cfg.Namespace {
			name = fn.Ref.String()
		}
		all = append(all, functionReadiness{ready, ready.Requested, fn.Kind, "Public", name})
	}
	slices.SortFunc(all, func(a, b functionReadiness) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

const (
	// maxStreams bounds the connections and goroutines of those who watch.
	maxStreams = 256
	// streamPause is the least time between two events, so that a pod that
	// comes and goes costs its watchers little.
	streamPause = 500 * time.Millisecond
	// streamQuiet is the longest silence: proxies cut what is silent longer,
	// and only a write notices a client that vanished.
	streamQuiet = 15 * time.Second
	// drainLook is how often a stream without news looks whether the gateway
	// drains.
	drainLook = time.Second
	// streamWrite bounds one write to a client that reads slowly.
	streamWrite = 10 * time.Second
)

// feed is what all streams write: one event of the whole state, made once for
// all of them.
type feed struct {
	g *Gateway
	// places are taken by streams.
	places chan struct{}

	mu   sync.Mutex
	made time.Time
	// event is as of until's making: until is closed when it is old.
	event []byte
	until <-chan struct{}
}

func newFeed(g *Gateway) feed {
	return feed{g: g, places: make(chan struct{}, maxStreams)}
}

// stream writes an event now and at every change, as SlimFaas does.
func (a *api) stream(w http.ResponseWriter, q *request) {
	if !a.complete() {
		unread(w)
		return
	}
	select {
	case a.feed.places <- struct{}{}:
		defer func() { <-a.feed.places }()
	default:
		w.Header().Set("Retry-After", "10")
		say(w, http.StatusServiceUnavailable, fmt.Sprintf("%d streams are open, and no more may be", maxStreams))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if q.Method == http.MethodHead { // no body, so nothing to wait for
		return
	}
	a.feed.write(q.Context(), newFlusher(w))
}

// write writes events until ctx or the gateway ends, or the client does not
// take them any more.
func (f *feed) write(ctx context.Context, to flusher) {
	defer to.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.g.ctx, cancel)()
	var last []byte
	for {
		event, old := f.current()
		if !bytes.Equal(event, last) {
			if to.send(event) != nil {
				return
			}
			last = event
		}
		if !f.await(ctx, to, old) || !sleep(ctx, streamPause) {
			return
		}
	}
}

// await waits until a channel is closed, with a sign of life whenever that
// takes long. It says whether to go on: not without ctx or the client, and not
// once the gateway drains, for clients come back by themselves and find
// another.
func (f *feed) await(ctx context.Context, to flusher, closed <-chan struct{}) bool {
	look := time.NewTicker(drainLook)
	defer look.Stop()
	silent := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-closed:
			return !f.g.Draining()
		case <-look.C:
		}
		if f.g.Draining() {
			return false
		}
		if silent += drainLook; silent < streamQuiet {
			continue
		}
		silent = 0
		if to.send([]byte(": still here\n\n")) != nil {
			return false
		}
	}
}

// sleep says whether ctx still goes on afterwards.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// current is the newest event, or one that is not older than streamPause, and
// a channel that is closed once there is a newer one to be made.
func (f *feed) current() (event []byte, old <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.g.cfg.Fleet.Changed()
	if f.event != nil && (f.until == changed || time.Since(f.made) < streamPause) {
		return f.event, f.until
	}
	text, err := json.Marshal(map[string]any{"Functions": f.g.statuses()})
	if err != nil {
		panic("gateway: status as JSON: " + err.Error())
	}
	f.event, f.until, f.made = fmt.Appendf(nil, "event: state\ndata: %s\n\n", text), changed, time.Now()
	return f.event, f.until
}

// flusher writes whole events to one client within streamWrite each.
type flusher struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func newFlusher(w http.ResponseWriter) flusher { return flusher{w, http.NewResponseController(w)} }

func (f flusher) send(event []byte) error {
	// Not every ResponseWriter has deadlines; the server's has.
	_ = f.c.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := f.w.Write(event); err != nil {
		return err
	}
	return f.c.Flush()
}

// end lifts the deadline: the connection may have another request.
func (f flusher) end() { _ = f.c.SetWriteDeadline(time.Time{}) }
