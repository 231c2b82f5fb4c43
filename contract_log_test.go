package main_test

import (
	"encoding/json"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-run/weir/test/programtest"
)

// The first line says version and commit; a request has one line; probes have
// none.
func TestAccessLog(t *testing.T) {
	t.Run("http", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t)
		w.do("POST", "/echo?q=1", "hello")
		w.do("GET", "/status?code=418", "")
		w.do("GET", "/probed", "", "User-Agent: kube-probe/1.30")
		w.stop() // the log is complete then
		log := w.stderr.String()
		if first, _, _ := strings.Cut(log, "\n"); !strings.Contains(first, programtest.Version) || !strings.Contains(first, programtest.Commit) {
			t.Errorf("first line %q, want version and commit", first)
		}
		for _, want := range []string{
			`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d POST /echo\?q=1 - 200 OK - ContentLength: 5B \(\d+\.\d{4}s\)$`,
			`(?m)^\S+ \S+ GET /status\?code=418 - 418 I'm a teapot - ContentLength: 0B \(\d+\.\d{4}s\)$`,
		} {
			if n := len(regexp.MustCompile(want).FindAllString(log, -1)); n != 1 {
				t.Errorf("%d lines match %s:\n%s", n, want, log)
			}
		}
		if strings.Contains(log, "/probed") {
			t.Error("a kubelet's probe is logged")
		}
	})
	for _, name := range []string{"log_callid", "log_call_id"} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, name+"=true")
			w.do("GET", "/a", "", "X-Call-Id: abc-123")
			w.do("GET", "/b", "")
			w.stop()
			for _, want := range []string{`GET /a - 200 OK .*s\) \[abc-123\]\n`, `GET /b - 200 OK .*s\) \[none\]\n`} {
				if !regexp.MustCompile(want).MatchString(w.stderr.String()) {
					t.Errorf("no line matches %s:\n%s", want, w.stderr.String())
				}
			}
		})
	}
	t.Run("hostile", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t, "log_callid=true")
		w.raw("GET /x HTTP/1.1\r\nHost: x\r\nX-Call-Id: a] 2026/01/01 forged\r\nConnection: close\r\n\r\n")
		w.raw("GET /" + strings.Repeat("z", 100_000) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		w.stop()
		for line := range strings.Lines(w.stderr.String()) {
			if strings.Contains(line, "forged") || len(line) > 5000 {
				t.Errorf("a request writes into the log what it likes: %.200q", line)
			}
		}
	})
	for _, mode := range []string{"streaming", "serializing"} {
		t.Run(mode, func(t *testing.T) {
			parallel(t)
			w := startFork(t, mode, "cat")
			w.do("POST", "/p", "hello")
			w.stop()
			if !regexp.MustCompile(`(?m)^\S+ \S+ POST /p - 200 - ContentLength: 5B \(\d+\.\d{4}s\)$`).MatchString(w.stderr.String()) {
				t.Errorf("no access line:\n%s", w.stderr.String())
			}
		})
	}
	t.Run("json", func(t *testing.T) {
		parallel(t)
		w := startMisbehaving(t, "log_format=json", "log_callid=true")
		w.do("POST", "/echo", "hello", "X-Call-Id: abc-123")
		w.stop()
		requests := 0
		lines := strings.Split(strings.TrimSpace(w.stderr.String()), "\n")
		for _, line := range lines {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Errorf("line %q is not JSON: %v", line, err)
			}
			if fields["status"] == 200.0 && fields["method"] == "POST" && fields["uri"] == "/echo" && fields["call_id"] == "abc-123" && fields["bytes"] == 5.0 {
				requests++
			}
		}
		if requests != 1 {
			t.Errorf("%d lines of the request, want 1:\n%s", requests, w.stderr.String())
		}
	})
}

// families reads the metrics with Prometheus' own parser.
func (w *instance) families() map[string]*dto.MetricFamily {
	w.t.Helper()
	resp, err := client.Get("http://127.0.0.1:" + strconv.Itoa(w.metric) + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return families
}

// value is the value of a family's metric with these labels, in the order of
// their names; the count of a histogram.
func value(f *dto.MetricFamily, labels ...string) (float64, bool) {
	for _, m := range f.GetMetric() {
		var got []string
		for _, l := range m.GetLabel() {
			got = append(got, l.GetValue())
		}
		if slices.Equal(got, labels) {
			switch {
			case m.Gauge != nil:
				return m.Gauge.GetValue(), true
			case m.Counter != nil:
				return m.Counter.GetValue(), true
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount()), true
			}
		}
	}
	return 0, false
}

// The families that OpenFaaS has, and those of ours.
func TestMetrics(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "max_inflight=3")
	want := func(v float64, family string, labels ...string) {
		t.Helper()
		if got, ok := value(w.families()[family], labels...); !ok || got != v {
			t.Errorf("%s%v is %v, %v; want %v", family, labels, got, ok, v)
		}
	}
	want(0, "http_requests_in_flight")
	want(0, "http_requests_in_flight_seconds_total")
	want(0, "http_last_request_start_timestamp_seconds")
	want(3, "watchdog_max_inflight")
	want(1, "watchdog_ready")
	want(0, "watchdog_rejected_total", "inflight")
	before := time.Now()
	p, release := w.hold("one")
	want(1, "http_requests_in_flight")
	release()
	a, err := p.wait(t)
	wantWhole(t, a, err, "there")
	for range 2 {
		w.do("POST", "/echo", "x")
	}
	w.do("GET", "/status?code=404", "")
	w.do("BREW", "/status?code=418", "")
	programtest.Eventually(t, "nothing is in flight", func() bool {
		v, ok := value(w.families()["http_requests_in_flight"])
		return ok && v == 0
	})
	for _, family := range []string{"http_requests_total", "http_request_duration_seconds"} {
		want(1, family, "200", "get")
		want(2, family, "200", "post")
		want(1, family, "404", "get")
		want(1, family, "418", "unknown")
	}
	took := time.Since(before).Seconds()
	if v, _ := value(w.families()["http_requests_in_flight_seconds_total"]); v <= 0 || v > 5*took {
		t.Errorf("http_requests_in_flight_seconds_total is %v after %v s", v, took)
	}
	if v, _ := value(w.families()["http_last_request_start_timestamp_seconds"]); v < float64(before.Unix()) || v > float64(time.Now().Unix()+1) {
		t.Errorf("http_last_request_start_timestamp_seconds is %v", v)
	}
	histogram := w.families()["http_request_duration_seconds"].GetMetric()[0].GetHistogram()
	var bounds []float64
	for _, b := range histogram.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) {
			bounds = append(bounds, b.GetUpperBound())
		}
	}
	if !slices.Equal(bounds, []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}) {
		t.Errorf("the buckets are %v", bounds)
	}
	if resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(w.metric) + "/"); err == nil {
		resp.Body.Close()
	}
}

// A storm of made-up methods makes one series.
func TestStrangeMethodsMakeOneSeries(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t)
	for i := range 50 {
		w.do("M"+strconv.Itoa(i), "/status", "")
	}
	programtest.Eventually(t, "all are counted", func() bool {
		v, _ := value(w.families()["http_requests_total"], "200", "unknown")
		return v == 50
	})
	if n := len(w.families()["http_requests_total"].GetMetric()); n != 1 {
		t.Errorf("%d series, want 1", n)
	}
}
