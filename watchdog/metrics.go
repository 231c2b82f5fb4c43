package watchdog

import (
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/limiter"
)

// metrics are the families of one watchdog, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	rejected *prometheus.CounterVec
	// series caches the children of requests and duration, by method and by
	// code − firstCode.
	series [len(methods) + 1][lastCode - firstCode + 1]atomic.Pointer[series]
}

type series struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// The codes that can be answered, and the methods that have a label of their
// own; any other method is "unknown", so that a client cannot make series.
const firstCode, lastCode = 100, 599

var methods = [...]string{"GET", "POST", "PUT", "HEAD", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}

// gauges is what the state of the watchdog says when it is scraped.
type gauges struct {
	limiter *limiter.Limiter
	ready   func() bool
	cpu     func() (seconds float64, ok bool)
}

// family is one row of the metrics table in the documents.
type family struct{ name, kind, labels, help string }

var families = []family{
	{contract.MetricRequests, "counter", "code, method", "requests answered, the refused ones included"},
	{contract.MetricDuration, "histogram", "code, method", "seconds from the request's head to the answer's end"},
	{contract.MetricInFlight, "gauge", "", "requests that hold a slot now"},
	{contract.MetricInFlightSeconds, "counter", "", "integral of requests in flight over time: its rate is the mean concurrency, exact at any scrape interval"},
	{contract.MetricLastStart, "gauge", "", "when a request last got a slot, in unix seconds; 0 before the first"},
	{contract.MetricMaxInflight, "gauge", "", "requests that may be in flight at once; 0 is no limit"},
	{contract.MetricRejected, "counter", "reason", "requests refused before the handler saw them"},
	{contract.MetricReady, "gauge", "", "1 when /_/ready would answer 200, the function's own ready_path left out"},
	{contract.MetricCPUSeconds, "counter", "", "processor seconds of the container, from its cgroup; outside a container those of the watchdog and its handler"},
}

func help(name string) string {
	for _, f := range families {
		if f.name == name {
			return f.help
		}
	}
	panic("metric " + name + " is not in the table")
}

func newMetrics(g gauges) *metrics {
	codeMethod := []string{"code", "method"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: contract.MetricRequests, Help: help(contract.MetricRequests)}, codeMethod),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: contract.MetricDuration, Help: help(contract.MetricDuration), Buckets: prometheus.DefBuckets}, codeMethod),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: contract.MetricRejected, Help: help(contract.MetricRejected)}, []string{"reason"}),
	}
	for _, reason := range []string{contract.RejectInflight, contract.RejectQueue, contract.RejectDraining} {
		m.rejected.WithLabelValues(reason)
	}
	m.registry.MustRegister(m.requests, m.duration, m.rejected, newGaugeCollector(g),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// answered counts one request.
func (m *metrics) answered(method string, code int, took time.Duration) {
	s := m.find(method, code)
	s.count.Inc()
	s.took.Observe(took.Seconds())
}

func (m *metrics) find(method string, code int) *series {
	index := len(methods)
	for i, known := range methods {
		if method == known {
			index = i
			break
		}
	}
	if code < firstCode || code > lastCode {
		return m.make(index, code)
	}
	cached := &m.series[index][code-firstCode]
	s := cached.Load()
	if s == nil {
		s = m.make(index, code)
		cached.Store(s)
	}
	return s
}

func (m *metrics) make(index, code int) *series {
	method := "unknown"
	if index < len(methods) {
		method = strings.ToLower(methods[index])
	}
	label := strconv.Itoa(code)
	return &series{m.requests.WithLabelValues(label, method), m.duration.WithLabelValues(label, method)}
}

// gaugeCollector reads the limiter once a scrape, so that the families it
// feeds agree with each other.
type gaugeCollector struct {
	gauges
	inFlight, integral, lastStart, max, ready, cpu *prometheus.Desc
}

func newGaugeCollector(g gauges) *gaugeCollector {
	desc := func(name string) *prometheus.Desc { return prometheus.NewDesc(name, help(name), nil, nil) }
	return &gaugeCollector{
		gauges:    g,
		inFlight:  desc(contract.MetricInFlight),
		integral:  desc(contract.MetricInFlightSeconds),
		lastStart: desc(contract.MetricLastStart),
		max:       desc(contract.MetricMaxInflight),
		ready:     desc(contract.MetricReady),
		cpu:       desc(contract.MetricCPUSeconds),
	}
}

func (c *gaugeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.inFlight, c.integral, c.lastStart, c.max, c.ready, c.cpu} {
		out <- d
	}
}

func (c *gaugeCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	s := c.limiter.Stats()
	gauge(c.inFlight, float64(s.Running))
	counter(c.integral, s.RunningSeconds)
	last := 0.0
	if !s.LastStart.IsZero() {
		last = float64(s.LastStart.UnixNano()) / 1e9
	}
	gauge(c.lastStart, last)
	gauge(c.max, float64(max(0, c.limiter.Limit())))
	ready := 0.0
	if c.gauges.ready() {
		ready = 1
	}
	gauge(c.ready, ready)
	if seconds, ok := c.gauges.cpu(); ok {
		counter(c.cpu, seconds)
	}
}
