package health_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-run/weir/health"
)

var states = []health.State{health.Starting, health.Serving, health.Draining, health.Dead}

func ask(t *testing.T, h http.Handler, method string) (*http.Response, string) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestOnlyEverUp(t *testing.T) {
	for _, from := range states {
		for _, to := range states {
			h := health.New()
			h.Set(from)
			h.Set(to)
			if got, want := h.State(), max(from, to); got != want {
				t.Errorf("%v, then %v: %v", from, to, got)
			}
		}
	}
}

// Many set at once: the highest wins, and no reader sees a step back.
func TestSetTogether(t *testing.T) {
	for range 3000 {
		h := health.New()
		var all sync.WaitGroup
		for _, s := range states {
			all.Go(func() { h.Set(s) })
		}
		all.Go(func() {
			var seen []health.State
			for range 100 {
				seen = append(seen, h.State())
			}
			if !slices.IsSorted(seen) {
				t.Errorf("seen in this order: %v", seen)
			}
		})
		all.Wait()
		if h.State() != health.Dead {
			t.Fatalf("%v in the end", h.State())
		}
	}
}

func TestLiveFindsFault(t *testing.T) {
	h := health.New()
	live := h.Live(func() string { return "stuck" })
	probeBoth(t, live, http.StatusOK, "OK") // not asked while starting
	h.Set(health.Serving)
	probeBoth(t, live, http.StatusServiceUnavailable, "stuck")
	h.Set(health.Draining)
	probeBoth(t, live, http.StatusServiceUnavailable, "draining")
}

func TestLive(t *testing.T) {
	for _, c := range []struct {
		state  health.State
		status int
		body   string
	}{
		{health.Starting, 200, "OK"},
		{health.Serving, 200, "OK"},
		{health.Draining, 503, "draining"},
		{health.Dead, 503, "dead"},
	} {
		h := health.New()
		h.Set(c.state)
		probeBoth(t, h.Live(nil), c.status, c.body)
	}
}

func TestReady(t *testing.T) {
	full := func(*http.Request) (int, string) { return 429, "at the limit" }
	fine := func(*http.Request) (int, string) { return 200, "" }
	for _, c := range []struct {
		state  health.State
		check  func(*http.Request) (int, string)
		status int
		body   string
	}{
		{health.Starting, fine, 503, "starting"},
		{health.Serving, nil, 200, "OK"},
		{health.Serving, fine, 200, "OK"},
		{health.Serving, full, 429, "at the limit"},
		{health.Draining, full, 503, "draining"},
		{health.Draining, nil, 503, "draining"},
		{health.Dead, fine, 503, "dead"},
	} {
		h := health.New()
		h.Set(c.state)
		probeBoth(t, h.Ready(c.check), c.status, c.body)
	}
}

// probeBoth asks with GET and HEAD, and with a verb that is neither.
func probeBoth(t *testing.T, h http.Handler, status int, body string) {
	t.Helper()
	got, text := ask(t, h, http.MethodGet)
	if got.StatusCode != status || text != body {
		t.Errorf("GET: %d %q, want %d %q", got.StatusCode, text, status, body)
	}
	head, nothing := ask(t, h, http.MethodHead)
	if head.StatusCode != status || nothing != "" {
		t.Errorf("HEAD: %d %q, want %d and no body", head.StatusCode, nothing, status)
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Cache-Control"} {
		if g, h := got.Header.Get(name), head.Header.Get(name); g != h || g == "" {
			t.Errorf("%s: %q to GET, %q to HEAD", name, g, h)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "get"} {
		res, _ := ask(t, h, method)
		if res.StatusCode != 405 || !strings.Contains(res.Header.Get("Allow"), "GET, HEAD") {
			t.Errorf("%s: %d, Allow %q", method, res.StatusCode, res.Header.Get("Allow"))
		}
	}
}

// A check that is still asking when the drain begins does not call the program
// ready.
func TestDrainDuringCheck(t *testing.T) {
	h := health.New()
	h.Set(health.Serving)
	res, body := ask(t, h.Ready(func(*http.Request) (int, string) {
		h.Set(health.Draining)
		return 200, ""
	}), http.MethodGet)
	if res.StatusCode != 503 || body != "draining" {
		t.Fatalf("%d %q", res.StatusCode, body)
	}
}

// The check is the function's own answer in time, so it is not asked in vain.
func TestCheckOnlyWhileServing(t *testing.T) {
	h := health.New()
	ready := h.Ready(func(*http.Request) (int, string) {
		t.Error("asked while starting")
		return 200, ""
	})
	ask(t, ready, http.MethodGet)
	h.Set(health.Serving)
	asked := false
	ready = h.Ready(func(r *http.Request) (int, string) {
		asked = r.Method == http.MethodHead
		return 200, ""
	})
	ask(t, ready, http.MethodPost)
	if asked {
		t.Error("asked for a POST")
	}
	ask(t, ready, http.MethodHead)
	if !asked {
		t.Error("not asked while serving")
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[health.State]string{0: "starting", 1: "serving", 2: "draining", 3: "dead", 9: "state 9"} {
		if s.String() != want {
			t.Errorf("State(%d) is %q, want %q", int(s), s, want)
		}
	}
}

func BenchmarkLive(b *testing.B) {
	h := health.New()
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		h.Live(nil).ServeHTTP(httptest.NewRecorder(), req)
	}
}
