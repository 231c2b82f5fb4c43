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
	"github.com/weir-run/weir/limiter/guard"
)

// metrics are the families of one watchdog, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	rejected *prometheus.CounterVec
	// queueWait takes the seconds that a request stood in line for its slot.
	queueWait prometheus.Histogram
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
	// highest is the bound of an adaptive limit, 0 for a fixed one.
	highest int
	ready   func() bool
	cpu     func() (seconds float64, ok bool)
	// usage is the share of each resource that is in use; one that is not
	// known is not in it.
	usage func() map[guard.Resource]float64
}

// family is one row of the metrics table in the documents.
type family struct{ name, kind, labels, help string }

var families = []family{
	{contract.MetricRequests, "counter", "code, method", "requests answered, the refused ones included"},
	{contract.MetricDuration, "histogram", "code, method", "seconds from the request's head to the answer's end"},
	{contract.MetricInFlight, "gauge", "", "requests that hold a slot now"},
	{contract.MetricInFlightSeconds, "counter", "", "integral of requests in flight over time: its rate is the mean concurrency, exact at any scrape interval"},
	{contract.MetricLastStart, "gauge", "", "when a request last got a slot, in unix seconds; 0 before the first"},
	{contract.MetricMaxInflight, "gauge", "", "requests that may be in flight at once, at present; 0 is no limit"},
	{contract.MetricHighestInflight, "gauge", "", "with `max_inflight=auto`: what watchdog_max_inflight may rise to; else absent"},
	{contract.MetricQueueDepth, "gauge", "", "requests that wait for a slot now"},
	{contract.MetricQueueSeconds, "counter", "", "integral of waiting requests over time: its rate is the mean length of the queue"},
	{contract.MetricQueueRatio, "gauge", "", "waiting requests over watchdog_max_inflight; 0 without a limit"},
	{contract.MetricQueueWait, "histogram", "", "seconds that requests waited for the slot they got; those that got one at once, or never, are left out"},
	{contract.MetricRejected, "counter", "reason", "requests refused before the handler saw them"},
	{contract.MetricResourceUsage, "gauge", "resource", "share in use of the limit of `memory`, `fds` (the fuller of watchdog and handler), `pids`, `disk` (bytes or inodes, the fuller); absent where it is not known or the guard is off"},
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
		queueWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: contract.MetricQueueWait, Help: help(contract.MetricQueueWait), Buckets: prometheus.DefBuckets}),
	}
	for _, reason := range []string{
		contract.RejectInflight, contract.RejectQueue, contract.RejectDraining,
		contract.RejectHandler, contract.RejectMemory, contract.RejectFds, contract.RejectPids, contract.RejectDisk,
	} {
		m.rejected.WithLabelValues(reason)
	}
	m.registry.MustRegister(m.requests, m.duration, m.rejected, m.queueWait, newGaugeCollector(g),
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
	inFlight, integral, lastStart, max, highest *prometheus.Desc
	queued, waited, ratio                       *prometheus.Desc
	ready, cpu, used                            *prometheus.Desc
}

func newGaugeCollector(g gauges) *gaugeCollector {
	desc := func(name string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help(name), labels, nil)
	}
	return &gaugeCollector{
		gauges:    g,
		inFlight:  desc(contract.MetricInFlight),
		integral:  desc(contract.MetricInFlightSeconds),
		lastStart: desc(contract.MetricLastStart),
		max:       desc(contract.MetricMaxInflight),
		highest:   desc(contract.MetricHighestInflight),
		queued:    desc(contract.MetricQueueDepth),
		waited:    desc(contract.MetricQueueSeconds),
		ratio:     desc(contract.MetricQueueRatio),
		ready:     desc(contract.MetricReady),
		cpu:       desc(contract.MetricCPUSeconds),
		used:      desc(contract.MetricResourceUsage, "resource"),
	}
}

func (c *gaugeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.inFlight, c.integral, c.lastStart, c.max, c.highest,
		c.queued, c.waited, c.ratio, c.ready, c.cpu, c.used,
	} {
		out <- d
	}
}

func (c *gaugeCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	s, limit := c.limiter.Stats(), c.limiter.Limit()
	gauge(c.inFlight, float64(s.Running))
	counter(c.integral, s.RunningSeconds)
	last := 0.0
	if !s.LastStart.IsZero() {
		last = float64(s.LastStart.UnixNano()) / 1e9
	}
	gauge(c.lastStart, last)
	gauge(c.max, float64(limit))
	if c.gauges.highest > 0 {
		gauge(c.highest, float64(c.gauges.highest))
	}
	gauge(c.queued, float64(s.Waiting))
	counter(c.waited, s.WaitingSeconds)
	gauge(c.ratio, float64(s.Waiting)/float64(max(1, limit)))
	ready := 0.0
	if c.gauges.ready() {
		ready = 1
	}
	gauge(c.ready, ready)
	if seconds, ok := c.gauges.cpu(); ok {
		counter(c.cpu, seconds)
	}
	if c.gauges.usage != nil {
		for resource, share := range c.gauges.usage() {
			gauge(c.used, share, string(resource))
		}
	}
}
