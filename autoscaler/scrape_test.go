package autoscaler

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/watchdog"
)

// podAt makes a pod whose metrics are at an address, as a Fleet knows it.
func podAt(metrics string) *fleet.Pod {
	f := fleet.New(fleet.Config{})
	ref := function.Ref{Name: "f", Namespace: "ns"}
	f.Put(&function.Function{Ref: ref, Pods: []function.Pod{{Name: "f-1", UID: "1", Metrics: metrics}}})
	return f.Get(ref).Pods()[0]
}

// serve runs a real watchdog around a handler and returns host:port of the
// function and of the metrics.
func serve(t *testing.T, maxInflight int, h http.HandlerFunc) (address, metrics string) {
	t.Helper()
	cfg := watchdog.Defaults(watchdog.ModeInproc)
	cfg.Port, cfg.MetricsPort, cfg.Handler, cfg.MaxInflight = 0, 0, h, maxInflight
	cfg.SuppressLock, cfg.HealthcheckInterval = true, 0
	w, err := watchdog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = w.Close()
	})
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	return at(w.Port()), at(w.MetricsPort())
}

// What a real watchdog counts is what the scraper reads, refusals included.
func TestScrapeOfAWatchdog(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	address, metrics := serve(t, 1, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-leave
	})
	s := NewScraper()
	defer s.Close()
	read := func() Counters {
		t.Helper()
		c, err := s.Read(t.Context(), podAt(metrics))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := read(); c.Requests != 0 || !c.LastStart.IsZero() || c.MaxInflight != 1 || c.At.IsZero() {
		t.Errorf("before: %+v", c)
	}
	begun := time.Now()
	done := make(chan int)
	call := func() {
		resp, err := http.Get("http://" + address)
		if err != nil {
			t.Error(err)
			done <- 0
			return
		}
		_ = resp.Body.Close()
		done <- resp.StatusCode
	}
	go call()
	<-entered
	go call()
	if code := <-done; code != http.StatusTooManyRequests {
		t.Fatalf("the second call: %d", code)
	}
	first := read()
	if first.InFlight != 1 || first.Rejected != 1 || first.Requests != 1 || first.LastStart.Before(begun.Add(-time.Second)) {
		t.Errorf("one runs, one was refused: %+v", first)
	}
	close(leave)
	<-done
	second := read()
	if second.InFlight != 0 || second.Requests != 2 || second.InFlightSeconds <= first.InFlightSeconds {
		t.Errorf("after: %+v", second)
	}
}

func TestScrapeOfStrangers(t *testing.T) {
	endless := func(w http.ResponseWriter, r *http.Request) {
		for range 4096 {
			if _, err := io.WriteString(w, "# "+strings.Repeat("x", 1022)+"\n"); err != nil {
				return
			}
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another program": {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "up 1\n") }, "no watchdog_ready"},
		"a page":          {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") }, "metrics of pod f-1"},
		"not found":       {http.NotFound, "404"},
		"a redirect":      {http.RedirectHandler("/elsewhere", http.StatusFound).ServeHTTP, "302"},
		"endless":         {endless, "unexpected end"},
		"empty":           {func(http.ResponseWriter, *http.Request) {}, "no watchdog_ready"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.answer)
			defer server.Close()
			s := NewScraper()
			defer s.Close()
			_, err := s.Read(t.Context(), podAt(strings.TrimPrefix(server.URL, "http://")))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, expected %q", err, test.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("watchdog_ready 1\nhttp_requests_total{code=\"200\",method=\"get\"} 3\nwatchdog_rejected_total{reason=\"draining\"} 9\n")
	f.Add("watchdog_ready NaN\nhttp_requests_in_flight +Inf\nhttp_last_request_start_timestamp_seconds 1e300\nwatchdog_max_inflight -4\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, v := range []float64{c.InFlight, c.InFlightSeconds, c.Requests, c.Rejected, c.CPUSeconds, c.Queued, c.QueuedSeconds, float64(c.MaxInflight)} {
			if !(v >= 0 && v < 1e30) {
				t.Fatalf("%v of %q", v, text)
			}
		}
	})
}

func TestWhatEndsIsNoDemand(t *testing.T) {
	c, err := parse(strings.NewReader("watchdog_ready 1\nwatchdog_rejected_total{reason=\"draining\"} 9\nwatchdog_rejected_total{reason=\"handler\"} 7\nwatchdog_rejected_total{reason=\"inflight\"} 2\nwatchdog_rejected_total{reason=\"memory\"} 3\n"))
	if err != nil || c.Rejected != 5 {
		t.Errorf("%v %v", c.Rejected, err)
	}
}

func BenchmarkParse(b *testing.B) {
	const text = `# HELP http_requests_in_flight requests that hold a slot now
# TYPE http_requests_in_flight gauge
http_requests_in_flight 3
# TYPE http_requests_in_flight_seconds_total counter
http_requests_in_flight_seconds_total 12345.678901
# TYPE http_requests_total counter
http_requests_total{code="200",method="get"} 123456
http_requests_total{code="429",method="get"} 12
# TYPE watchdog_rejected_total counter
watchdog_rejected_total{reason="inflight"} 12
watchdog_rejected_total{reason="queue"} 0
watchdog_rejected_total{reason="draining"} 0
watchdog_rejected_total{reason="memory"} 0
# TYPE watchdog_cpu_seconds_total counter
watchdog_cpu_seconds_total 99.5
# TYPE watchdog_max_inflight gauge
watchdog_max_inflight 5
# TYPE watchdog_ready gauge
watchdog_ready 1
`
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(strings.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}
