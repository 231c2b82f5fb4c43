package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

// stored is a request as a queue makes it of what it kept.
func stored(ctx context.Context, method, target, body string, header ...string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, "http://function/", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.RequestURI, r.Host = target, "a.host"
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func brief(a queue.Answer) string {
	return fmt.Sprintf("began %v, %d, reason %q, refused %v, %d bytes %.60q", a.Began, a.Status, a.Reason, a.Refused, a.Size, a.Body)
}

func TestDeliver(t *testing.T) {
	w := newWorld(t, nil)
	e := w.function("f", 1, watchdogPod(t, "one", "max_inflight=2").pod)
	w.started(e, 1)

	a := w.g.Deliver(e, stored(t.Context(), "PROPFIND", "/request?a=%2F&b", "hello", "X-Many", "1", "X-Many", "2",
		"X-Call-Id", "mine", "X-Start-Time", "42", "X-Retry", "3", "X-Weir-Try", "9", "X-Forwarded-For", "10.0.0.1", "X-Forwarded-Host", "first"), 1<<20)
	if !a.Began || a.Status != 200 || a.Reason != "" || a.Refused || a.Took <= 0 || a.Size != int64(len(a.Body)) {
		t.Fatal(brief(a))
	}
	var got seen
	if err := json.Unmarshal(a.Body, &got); err != nil {
		t.Fatal(err)
	}
	h := got.Header
	if got.Method != "PROPFIND" || got.URI != "/request?a=%2F&b" || got.Host != "a.host" || got.Body != 5 ||
		strings.Join(h["X-Many"], ",") != "1,2" || h.Get("X-Call-Id") != "mine" || h.Get("X-Start-Time") != "42" || h.Get("X-Retry") != "3" ||
		h.Get("X-Weir-Try") != "" || h.Get("X-Forwarded-For") != "10.0.0.1" || h.Get("X-Forwarded-Host") != "first" {
		t.Errorf("the handler got %+v", got)
	}
	if a.Header.Get("X-Call-Id") != "mine" || a.Header.Get("X-Duration-Seconds") == "" || a.Header.Get("Connection") != "" {
		t.Errorf("header %v", a.Header)
	}

	// A call that came from nobody's address.
	a = w.g.Deliver(e, stored(t.Context(), "POST", "/request", ""), 1<<20)
	got = seen{}
	if err := json.Unmarshal(a.Body, &got); err != nil {
		t.Fatal(err)
	}
	if _, there := got.Header["X-Forwarded-For"]; there {
		t.Errorf("the handler got %+v", got)
	}

	// A body that is longer than what a call keeps, and an answer that is
	// longer than what is wanted.
	long := strings.Repeat("0123456789", 200_000)
	if a := w.g.Deliver(e, stored(t.Context(), "POST", "/echo", long), 12); a.Status != 200 || a.Size != 2_000_000 || string(a.Body) != "012345678901" {
		t.Error(brief(a))
	}
	if a := w.g.Deliver(e, stored(t.Context(), "POST", "/echo", "x"), 0); a.Status != 200 || a.Size != 1 || len(a.Body) != 0 {
		t.Error(brief(a))
	}
	// What a handler says is its own, also where it looks like a refusal.
	if a := w.g.Deliver(e, stored(t.Context(), "POST", "/status?code=429", ""), 99); !a.Began || a.Status != 429 || a.Reason != "" || a.Refused || string(a.Body) != "from the handler" {
		t.Error(brief(a))
	}
	w.idle("f")
}

// TestDeliverThatIsRefused: what no handler began is no attempt.
func TestDeliverThatIsRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldTime = 300 * time.Millisecond })
	asleep := w.function("asleep", 0)
	if a := w.g.Deliver(asleep, stored(t.Context(), "POST", "/", "x"), 99); a.Began || a.Status != 503 || a.Reason != "not_started" || a.Header.Get("Retry-After") == "" || a.Refused {
		t.Error(brief(a))
	}
	if w.wakes.Load() == 0 {
		t.Error("it was not woken")
	}
	one := watchdogPod(t, "one", "max_inflight=1")
	e := w.function("f", 1, one.pod)
	w.started(e, 1)
	leave := w.occupy(one.pod)
	defer leave()
	a := w.g.Deliver(e, stored(t.Context(), "POST", "/request", "x"), 99)
	if a.Began || a.Status != 429 || a.Reason != "inflight" || !a.Refused {
		t.Error(brief(a))
	}
	w.f.Delete(e.Function().Ref)
	if a := w.g.Deliver(e, stored(t.Context(), "POST", "/", "x"), 99); a.Began || a.Status < 400 || a.Reason == "" {
		t.Errorf("gone: %s", brief(a))
	}
	if a := w.g.Deliver(asleep, stored(t.Context(), "POST", "/", "x", "X-Call-Id", "not one"), 99); a.Began || a.Status != 400 || a.Reason != "call_id" {
		t.Error(brief(a))
	}
	w.idle("asleep")
}

// occupy has somebody else take the only place of a pod, until leave.
func (w *world) occupy(pod function.Pod) (leave func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		r, _ := http.NewRequestWithContext(ctx, "POST", "http://"+pod.Addr+"/sleep?for=1h", nil)
		if res, err := http.DefaultTransport.RoundTrip(r); err == nil {
			res.Body.Close()
		}
	}()
	w.until("the pod is full", func() bool {
		res, err := w.client.Get("http://" + pod.Addr + "/_/ready")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 429
	})
	return func() { cancel(); <-left }
}

// TestDeliverAfterARefusal: what one pod refused goes on as soon as there is
// room.
func TestDeliverAfterARefusal(t *testing.T) {
	w := newWorld(t, nil)
	one := watchdogPod(t, "one", "max_inflight=1")
	e := w.function("f", 1, one.pod)
	w.started(e, 1)
	leave := w.occupy(one.pod)
	defer leave()
	answers := make(chan queue.Answer, 1)
	go func() { answers <- w.g.Deliver(e, stored(t.Context(), "POST", "/request", "x"), 99) }()
	w.until("it is refused", func() bool { return w.lane("f").done.refusedPods() > 0 })
	leave()
	if a := <-answers; !a.Began || a.Status != 200 || !a.Refused || a.Reason != "" {
		t.Error(brief(a))
	}
	w.idle("f")
}

// refusedPods counts the tries that pods refused.
func (o *outcomes) refusedPods() (n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c, times := range o.counts {
		if c.family == familyPods {
			n += times
		}
	}
	return n
}

// TestDeliverThatBreaksOff: what a handler may have begun is an attempt.
func TestDeliverThatBreaksOff(t *testing.T) {
	w := newWorld(t, nil)
	var tries atomic.Int64
	broken := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/none", func(http.ResponseWriter, *http.Request) {
		tries.Add(1)
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/half", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", "10")
		rw.Header().Set("X-Half", "yes")
		fmt.Fprint(rw, "half")
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/wait", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		tries.Add(1)
		<-r.Context().Done()
		close(broken)
	})
	mux.HandleFunc("/more", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "</early>")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Set("Trailer", "X-End")
		rw.Header().Set("Keep-Alive", "timeout=5")
		rw.WriteHeader(http.StatusCreated)
		fmt.Fprint(rw, "whole")
		rw.Header().Set("X-End", "end")
	})
	e := w.function("f", 1, plainPod(t, "one", mux))
	w.started(e, 1)
	for _, c := range []struct {
		method, path string
		tries        int64
	}{{"POST", "/none", 1}, {"GET", "/none", 1}, {"POST", "/half", 0}, {"GET", "/half", 0}} {
		tries.Store(0)
		a := w.g.Deliver(e, stored(t.Context(), c.method, c.path, ""), 99)
		if !a.Began || a.Status != 502 || a.Reason != "cut" || a.Header.Get("X-Half") != "" || bytes.Contains(a.Body, []byte("half")) || tries.Load() != c.tries {
			t.Errorf("%s %s, %d tries: %s", c.method, c.path, tries.Load(), brief(a))
		}
	}
	if a := w.g.Deliver(e, stored(t.Context(), "POST", "/more", ""), 99); a.Status != 201 || string(a.Body) != "whole" || a.Reason != "" ||
		a.Header.Get("X-End") != "" || a.Header.Get("Keep-Alive") != "" || a.Header.Get("Trailer") != "" {
		t.Errorf("%s, %v", brief(a), a.Header)
	}

	ctx, cancel := context.WithCancel(t.Context())
	tries.Store(0)
	go func() {
		w.until("the handler has it", func() bool { return tries.Load() == 1 })
		cancel()
	}()
	a := w.g.Deliver(e, stored(ctx, "POST", "/wait", "x"), 99)
	if !a.Began || a.Status != 499 || a.Reason != "cancelled" || a.Size != 0 {
		t.Error(brief(a))
	}
	select {
	case <-broken:
	case <-time.After(patience):
		t.Error("the handler does not see that the call was cancelled")
	}
	// In line nothing has begun.
	asleep := w.function("asleep", 0)
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		w.until("it waits", func() bool { return w.g.underWay() == 1 })
		cancel()
	}()
	if a := w.g.Deliver(asleep, stored(ctx, "POST", "/wait", "x"), 99); a.Began || a.Status != 499 || a.Reason != "cancelled" {
		t.Error(brief(a))
	}
	w.idle("f")
	w.idle("asleep")
}

// TestDeliverWakes has a call wait for the pod that it woke.
func TestDeliverWakes(t *testing.T) {
	w := newWorld(t, nil)
	e := w.function("f", 0)
	if room, started, _ := w.g.Room(e); room != 0 || started != 0 {
		t.Errorf("room %d on %d", room, started)
	}
	answers := make(chan queue.Answer, 1)
	go func() { answers <- w.g.Deliver(e, stored(t.Context(), "POST", "/echo", "here"), 99) }()
	w.until("it is woken", func() bool { return w.wakes.Load() == 1 })
	_, _, changed := w.g.Room(e)
	w.function("f", 1, watchdogPod(t, "one", "max_inflight=3").pod)
	if a := <-answers; !a.Began || a.Status != 200 || string(a.Body) != "here" {
		t.Error(brief(a))
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Error("nobody says that there is room now")
	}
	if room, started, _ := w.g.Room(e); room != 3 || started != 1 {
		t.Errorf("room %d on %d", room, started)
	}
	w.idle("f")
}

// TestDeliverSurvivesAPanic: nothing above a Deliver catches one.
func TestDeliverSurvivesAPanic(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Log = slog.New(fragile{c.Log.Handler()}) })
	e := w.function("f", 1, plainPod(t, "one", handler()))
	w.started(e, 1)
	a := w.g.Deliver(e, stored(t.Context(), "POST", "/echo", "x"), 99)
	if !a.Began || a.Status != 502 || a.Reason != "cut" || a.Size != 0 || !strings.Contains(w.log.String(), "a broken log") {
		t.Error(brief(a))
	}
	w.idle("f")
}

// fragile panics at the line that ends each call.
type fragile struct{ slog.Handler }

func (f fragile) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "call" {
		panic("a broken log")
	}
	return f.Handler.Handle(ctx, r)
}

// TestBacklogOfTwo: two gateways that give pods what their shares leave room
// for are refused next to nothing, however uneven the shares.
func TestBacklogOfTwo(t *testing.T) {
	const calls = 1000
	w := newWorld(t, nil)
	one, two := watchdogPod(t, "one", "max_inflight=5").pod, watchdogPod(t, "two", "max_inflight=5").pod
	e := w.function("f", 2, one, two)
	w.started(e, 2)
	var refused, failed, given atomic.Int64
	done := make(chan struct{}, 2)
	rooms := 0
	for rank := range 2 {
		cfg := w.g.cfg
		cfg.Share = func() (int, int) { return rank, 2 }
		g, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		room, _, _ := g.Room(e)
		rooms += room
		go func() {
			defer func() { done <- struct{}{} }()
			ends := make(chan struct{}, calls)
			running := 0
			for given.Load() < calls || running > 0 {
				room, started, changed := g.Room(e)
				if started != 2 {
					failed.Add(1)
				}
				for ; room > 0 && given.Add(1) <= calls; room-- {
					running++
					go func() {
						a := g.Deliver(e, stored(t.Context(), "POST", "/sleep?for=10ms", "x"), 99)
						if a.Refused {
							refused.Add(1)
						}
						if !a.Began || a.Status != 200 {
							failed.Add(1)
						}
						ends <- struct{}{}
					}()
				}
				select {
				case <-changed:
				case <-ends:
					running--
				}
			}
		}()
	}
	start := time.Now()
	<-done
	<-done
	t.Logf("%d calls in %v, %d refused", calls, time.Since(start), refused.Load())
	if rooms != 10 || refused.Load() >= calls/100 || failed.Load() > 0 {
		t.Errorf("room %d, %d refused, %d failed", rooms, refused.Load(), failed.Load())
	}
}
