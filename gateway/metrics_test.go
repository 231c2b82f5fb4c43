package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// gather reads the gateway's families as name{label="value",…} → value.
func gather(t *testing.T, g *Gateway) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(g.Metrics()); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if labels != nil {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				got[name] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				got[name] = m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				got[name] = float64(m.Histogram.GetSampleCount())
				got[name+" sum"] = m.Histogram.GetSampleSum()
				for _, b := range m.Histogram.Bucket {
					got[fmt.Sprintf("%s le %v", name, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	g, f, _ := setup(t, nil)
	fn := describe("a", 3, 2)
	fn.Spec.Min = 2
	e := put(f, fn, started(1, 0))
	l := g.lane(e)
	must(t, l).done(took)
	l.exit(200, 30*time.Millisecond)
	l.exit(200, 3*time.Second)
	l.exit(418, time.Hour)
	for code := 600; code < 700; code++ {
		l.exit(code, 0) // a handler's inventions
	}
	l.exit(statusClientLeft, 0)
	must(t, l)
	must(t, l)
	held := &claim{}
	if err := l.enter(held, true); err != nil {
		t.Fatal(err)
	}
	l.done.count(familyRepeats, "cut")
	g.metrics.notFound(404)
	g.metrics.notFound(404)

	got := gather(t, g)
	for name, want := range map[string]float64{
		`gateway_function_invocation_total{code="200",function_name="a.ns"}`:    2,
		`gateway_function_invocation_total{code="418",function_name="a.ns"}`:    1,
		`gateway_function_invocation_total{code="499",function_name="a.ns"}`:    1,
		`gateway_function_invocation_total{code="other",function_name="a.ns"}`:  100,
		`gateway_function_invocation_total{code="404",function_name="unknown"}`: 2,
		`gateway_functions_seconds{code="200",function_name="a.ns"}`:            2,
		`gateway_functions_seconds{code="200",function_name="a.ns"} sum`:        3.03,
		`gateway_functions_seconds{code="200",function_name="a.ns"} le 0.025`:   0,
		`gateway_functions_seconds{code="200",function_name="a.ns"} le 0.05`:    1,
		`gateway_functions_seconds{code="200",function_name="a.ns"} le 5`:       2,
		`gateway_functions_seconds{code="418",function_name="a.ns"} le 120`:     0,
		`gateway_function_invocation_started{function_name="a.ns"}`:             4,
		`gateway_function_invocation_inflight{function_name="a.ns"}`:            3,
		`gateway_service_count{function_name="a.ns"}`:                           3,
		`gateway_service_ready_count{function_name="a.ns"}`:                     2,
		`gateway_service_min{function_name="a.ns"}`:                             2,
		`weir_held_requests{function_name="a.ns"}`:                              1,
		`weir_repeats_total{cause="cut",function_name="a.ns"}`:                  1,
	} {
		if v, ok := got[name]; !ok || !near(v, want) {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	// A name that is gone has no series, though a call of it runs still.
	f.Delete(fn.Ref)
	for name := range gather(t, g) {
		if strings.Contains(name, "a.ns") {
			t.Errorf("the function is gone, and there is %s", name)
		}
	}
}

// What the gateway says of wakes and refusals, by real calls.
func TestMetricsOfAWake(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldRequests = 1 })
	w.sleeper("f", 0, "max_inflight=1")
	first := make(chan answer)
	go func() {
		a, _ := w.do("GET", "/f/request", nil)
		first <- a
	}()
	w.until("one is held", func() bool { return gather(t, w.g)[`weir_held_requests{function_name="f.ns"}`] == 1 })
	if a := w.must("GET", "/f/request", nil); a.code != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("the second: %+v", a)
	}
	if a := <-first; a.code != 200 {
		t.Errorf("the first: %+v", a)
	}
	w.idle("f")
	got := gather(t, w.g)
	for name, want := range map[string]float64{
		`weir_wakes_total{function_name="f.ns",result="done"}`:             1,
		`weir_refusals_total{function_name="f.ns",reason="hold_requests"}`: 1,
		`weir_wake_scale_seconds`:                                          1,
		`weir_wake_started_seconds`:                                        1,
		`weir_wake_first_byte_seconds`:                                     1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	if a, b := got["weir_wake_scale_seconds sum"], got["weir_wake_started_seconds sum"]; a > b {
		t.Errorf("asked after %v s, started after %v s", a, b)
	}
	if a, b := got["weir_wake_started_seconds sum"], got["weir_wake_first_byte_seconds sum"]; a > b {
		t.Errorf("started after %v s, answered after %v s", a, b)
	}
}

// Each call has one line in the log, at the level that was chosen.
func TestEachCallIsLogged(t *testing.T) {
	w := newWorld(t, nil)
	w.started(w.function("f", 1, plainPod(t, "p", handler())), 1)
	w.must("GET", "/f/request?"+strings.Repeat("x", 1000)+"%0A", nil, "X-Call-Id", "this-one")
	w.must("GET", "/f/request", nil, "X-Call-Id", "not/one")
	w.idle("f")
	var lines []string
	w.until("two lines", func() bool {
		lines = nil
		for line := range strings.Lines(w.log.String()) {
			if strings.Contains(line, "msg=call ") {
				lines = append(lines, line)
			}
		}
		return len(lines) == 2
	})
	for _, want := range []string{"level=INFO", "function=f.ns", "method=GET", "status=200", "call_id=this-one", "tries=1"} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%q does not say %s", lines[0], want)
		}
	}
	if len(lines[0]) > 1000 {
		t.Errorf("a path makes a line of %d bytes", len(lines[0]))
	}
	if !strings.Contains(lines[1], "status=400") {
		t.Errorf("%q", lines[1])
	}
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Provider") {
		t.Errorf("made of nothing: %v", err)
	}
}
