package main

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestSumOf(t *testing.T) {
	const text = "# HELP a b\n# TYPE a counter\na{x=\"y z\"} 2\na{x=\"1\"} 1e3\na_sum 7\nb 0.5\nc{} x\n"
	for name, want := range map[string]float64{"a": 1002, "a_sum": 7, "b": 0.5} {
		if got, err := sumOf(text, name); err != nil || got != want {
			t.Errorf("%s: %g, %v; want %g", name, got, err, want)
		}
	}
	if _, err := sumOf(text, "a_"); !errors.Is(err, errNoMetric) {
		t.Errorf("a name that is not there: %v", err)
	}
	if _, err := sumOf(text, "c"); err == nil {
		t.Error("a value that is no number is taken")
	}
}

// The rival asks about each call once, on a kept connection, before it
// forwards it.
func TestAsking(t *testing.T) {
	var asked, connected atomic.Int64
	provider := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		describing().ServeHTTP(w, r)
	}))
	provider.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connected.Add(1)
		}
	}
	provider.Start()
	defer provider.Close()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.RequestURI())
	}))
	defer backend.Close()
	front := httptest.NewServer(askingOf(strings.TrimPrefix(backend.URL, "http://"), strings.TrimPrefix(provider.URL, "http://")))
	defer front.Close()
	for range 5 {
		resp, err := http.Get(front.URL + "/function/plain/a/b?c=d")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(body) != "/a/b?c=d" {
			t.Errorf("%d %q, %v", resp.StatusCode, body, err)
		}
	}
	if asked.Load() != 5 || connected.Load() != 1 {
		t.Errorf("asked %d times on %d connections, want 5 on 1", asked.Load(), connected.Load())
	}
	provider.Close()
	resp, err := http.Get(front.URL + "/function/plain/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("without a provider: %d", resp.StatusCode)
	}
}

// TestSendBurst: every request is in one count, and all are there at once.
func TestSendBurst(t *testing.T) {
	const n = 200
	var came atomic.Int64
	all := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn := came.Add(1)
		if turn == n {
			close(all)
		}
		<-all // nobody is answered before all have come
		switch turn % 4 {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			_, _ = io.WriteString(w, "another body")
		case 3:
			_, _ = io.Copy(w, r.Body)
		}
	}))
	defer server.Close()
	b := sendBurst(strings.TrimPrefix(server.URL, "http://"), "/f", n)
	if want := map[int]int{200: n / 2, 503: n / 4}; !maps.Equal(b.Statuses, want) || b.Wrong != n/4 || b.Failed != n/4 {
		t.Errorf("%+v", b)
	}
	if b.First.IsZero() || b.Last.Before(b.First) || b.Fault == "" {
		t.Errorf("first %v, last %v, %q", b.First, b.Last, b.Fault)
	}
}
