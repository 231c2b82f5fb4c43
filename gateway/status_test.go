package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// events reads a stream of them: the data of each state event, or "" of a
// comment.
type events struct {
	t *testing.T
	s *bufio.Scanner
}

func (e *events) next() string {
	e.t.Helper()
	var lines []string
	for e.s.Scan() {
		if e.s.Text() == "" {
			break
		}
		lines = append(lines, e.s.Text())
	}
	if len(lines) == 1 && strings.HasPrefix(lines[0], ":") {
		return ""
	}
	if len(lines) != 2 || lines[0] != "event: state" || !strings.HasPrefix(lines[1], "data: ") {
		e.t.Fatalf("not an event: %q, %v", lines, e.s.Err())
	}
	return strings.TrimPrefix(lines[1], "data: ")
}

// ready is the NumberReady that an event has of a function, -1 without it.
func ready(t *testing.T, event, name string) int {
	t.Helper()
	var state struct{ Functions []functionReadiness }
	if err := json.Unmarshal([]byte(event), &state); err != nil {
		t.Fatalf("%v: %s", err, event)
	}
	for _, f := range state.Functions {
		if f.Name == name {
			return f.Ready
		}
	}
	return -1
}

func TestStatusStream(t *testing.T) {
	w := newAPIWorld(t, nil)
	server := httptest.NewServer(w.handler)
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/status-functions-stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	stream := &events{t, bufio.NewScanner(resp.Body)}
	first := stream.next()
	if ready(t, first, "echo") != 1 || ready(t, first, "asleep") != 0 || ready(t, first, "echo.far") != 1 || ready(t, first, "new") != -1 {
		t.Errorf("first %s", first)
	}
	w.put(function.Ref{Name: "new", Namespace: "fn"}, true)
	for ready(t, stream.next(), "new") != 1 {
	}
	w.fleet.Delete(function.Ref{Name: "new", Namespace: "fn"})
	for ready(t, stream.next(), "new") != -1 {
	}
	// Draining sends the client away.
	w.Drain()
	for stream.s.Scan() {
	}
	if err := stream.s.Err(); err != nil {
		t.Errorf("the end: %v", err)
	}
	leave()
}

// recorder is a client that takes events, or does not.
type recorder struct {
	mu     sync.Mutex
	header http.Header
	events []string
	err    error
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(int)     {}
func (r *recorder) Flush()              {}
func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, string(b))
	return len(b), r.err
}

func (r *recorder) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.events
	r.events = nil
	return taken
}

// bubble is a fleet of one function and its handler, without sockets.
func bubble(t *testing.T) (*Gateway, http.Handler, *fleet.Fleet) {
	log := slog.New(slog.DiscardHandler)
	f := fleet.New(fleet.Config{Log: log})
	g, err := New(Config{Fleet: f, Provider: &scaled{}, Log: log, Namespace: "fn"})
	if err != nil {
		t.Fatal(err)
	}
	f.Put(function1(0))
	f.Synced()
	return g, g.Handler(), f
}

func function1(replicas int) *function.Function {
	return &function.Function{Ref: function.Ref{Name: "one", Namespace: "fn"}, Spec: function.Defaults(), Replicas: replicas}
}

// TestStatusStreamCoalesces: a thousand changes in a moment are one event or
// two, the last of which is how it is.
func TestStatusStreamCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, h, f := bubble(t)
		ctx, leave := context.WithCancel(t.Context())
		clients := []*recorder{{header: http.Header{}}, {header: http.Header{}}}
		var all sync.WaitGroup
		for _, c := range clients {
			r := httptest.NewRequestWithContext(ctx, "GET", "/status-functions-stream", nil)
			all.Go(func() { h.ServeHTTP(c, r) })
		}
		synctest.Wait()
		for i := range 1000 {
			f.Put(function1(i))
			synctest.Wait()
		}
		time.Sleep(3 * streamPause)
		synctest.Wait()
		for _, c := range clients {
			got := c.taken()
			if len(got) < 2 || len(got) > 4 || !strings.Contains(got[len(got)-1], `"numberRequested":999`) {
				t.Errorf("%d events, the last %s", len(got), got[len(got)-1])
			}
		}
		// A change of nothing that is shown is no event.
		f.Put(function1(999))
		time.Sleep(2 * streamPause)
		if got := clients[0].taken(); len(got) != 0 {
			t.Errorf("nothing new, but %q", got)
		}
		// In silence there is a sign of life.
		time.Sleep(streamQuiet + time.Second)
		synctest.Wait()
		if got := clients[0].taken(); len(got) != 1 || !strings.HasPrefix(got[0], ":") {
			t.Errorf("in silence %q", got)
		}
		leave()
		all.Wait()
		_ = g.Close()
	})
}

// TestStatusEventIsSharedForAWhile: however many read it, and however often it
// changes.
func TestStatusEventIsSharedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, f := bubble(t)
		feed := newFeed(g)
		first, old := feed.current()
		f.Put(function1(1))
		again, stillOld := feed.current()
		if &again[0] != &first[0] || stillOld != old {
			t.Error("a new event was made at once")
		}
		select {
		case <-old:
		default:
			t.Error("the channel of an old event is open")
		}
		time.Sleep(streamPause)
		if event, _ := feed.current(); !strings.Contains(string(event), `"numberRequested":1`) {
			t.Errorf("later still %s", event)
		}
		_ = g.Close()
	})
}

// TestStatusStreamsEnd: with a client that takes nothing, and with the gateway.
func TestStatusStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, h, _ := bubble(t)
		broken := &recorder{header: http.Header{}, err: errors.New("gone")}
		h.ServeHTTP(broken, httptest.NewRequest("GET", "/status-functions-stream", nil))
		if got := broken.taken(); len(got) != 1 {
			t.Errorf("after the first failed write %d more", len(got)-1)
		}
		var all sync.WaitGroup
		all.Go(func() {
			h.ServeHTTP(&recorder{header: http.Header{}}, httptest.NewRequest("GET", "/status-functions-stream", nil))
		})
		synctest.Wait()
		_ = g.Close()
		all.Wait()
	})
}

// TestStatusStreamsAreBounded: and none stays behind, or the bubble would not
// end.
func TestStatusStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, h, _ := bubble(t)
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range maxStreams {
			r := httptest.NewRequestWithContext(ctx, "GET", "/status-functions-stream", nil)
			all.Go(func() { h.ServeHTTP(&recorder{header: http.Header{}}, r) })
		}
		synctest.Wait()
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", "/status-functions-stream", nil))
		if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
			t.Errorf("one more: %d", rec.Code)
		}
		leave()
		all.Wait()
		rec = httptest.NewRecorder()
		ctx, leave = context.WithCancel(t.Context())
		leave()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "GET", "/status-functions-stream", nil))
		if rec.Code != 200 {
			t.Errorf("a place is free again, but %d", rec.Code)
		}
		_ = g.Close()
	})
}
