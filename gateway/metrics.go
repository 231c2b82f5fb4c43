package gateway

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/weir-run/weir/fleet"
)

// unknownName is the function_name of calls that named none that exists. No
// function has it: theirs has a dot.
const unknownName = "unknown"

// metrics are those of the gateway as a whole, and the names of all. What is
// counted per function is with its lane, and goes with it: a name that does
// not exist any more, or never did, has no series.
type metrics struct {
	g *Gateway

	wakeScale, wakeStarted, wakeAnswered prometheus.Histogram

	mu      sync.Mutex
	unknown map[int]uint64

	invocations, seconds, started, inflight *prometheus.Desc
	count, ready, least                     *prometheus.Desc
	held, wakes, repeats, refusals, pods    *prometheus.Desc
}

func newMetrics(g *Gateway) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"function_name"}, labels...), nil)
	}
	wake := func(stage, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weir_wake_" + stage + "_seconds", Help: help,
			Buckets: []float64{.005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}})
	}
	return &metrics{
		g:            g,
		unknown:      map[int]uint64{},
		wakeScale:    wake("scale", "From the first request to a sleeping function until its provider has taken the replicas."),
		wakeStarted:  wake("started", "From the first request to a sleeping function until one of its pods serves."),
		wakeAnswered: wake("first_byte", "From the first request to a sleeping function until the first answer to one that waited begins."),

		invocations: desc("gateway_function_invocation_total", "Calls that ended, by the status that was answered.", "code"),
		seconds:     desc("gateway_functions_seconds", "Time from a call's arrival to its end.", "code"),
		started:     desc("gateway_function_invocation_started", "Calls that came."),
		inflight:    desc("gateway_function_invocation_inflight", "Calls that came and have not ended: at a pod, or waiting for one."),
		count:       desc("gateway_service_count", "Replicas that are asked for."),
		ready:       desc("gateway_service_ready_count", "Pods that serve."),
		least:       desc("gateway_service_min", "The least replicas of the function while it is awake."),

		held:     desc("weir_held_requests", "Calls that wait for a pod."),
		wakes:    desc("weir_wakes_total", "Askings of the provider for replicas of a function that slept.", "result"),
		repeats:  desc("weir_repeats_total", "Calls that were tried once more, by what came of the try before.", "cause"),
		refusals: desc("weir_refusals_total", "Calls that the gateway refused.", "reason"),
		pods:     desc("weir_pod_refusals_total", "Tries that a pod refused, by the reason it gave.", "reason"),
	}
}

// Metrics collects the families of the gateway, OpenFaaS's and weir's own.
func (g *Gateway) Metrics() prometheus.Collector { return g.metrics }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.invocations, m.seconds, m.started, m.inflight, m.count, m.ready, m.least,
		m.held, m.wakes, m.repeats, m.refusals, m.pods} {
		ch <- d
	}
	for _, h := range m.wakeTimes() {
		h.Describe(ch)
	}
}

func (m *metrics) wakeTimes() []prometheus.Histogram {
	return []prometheus.Histogram{m.wakeScale, m.wakeStarted, m.wakeAnswered}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, h := range m.wakeTimes() {
		h.Collect(ch)
	}
	m.mu.Lock()
	for code, n := range m.unknown {
		ch <- prometheus.MustNewConstMetric(m.invocations, prometheus.CounterValue, float64(n), unknownName, codeLabel(code))
	}
	m.mu.Unlock()
	for e := range m.g.cfg.Fleet.All() {
		m.collectFunction(ch, e)
	}
	for _, l := range m.g.all() {
		if !l.entry.Load().Gone() {
			m.collectLane(ch, l)
		}
	}
}

func (m *metrics) collectFunction(ch chan<- prometheus.Metric, e *fleet.Entry) {
	fn := e.Function()
	name := fn.Ref.String()
	for desc, value := range map[*prometheus.Desc]int{m.count: fn.Replicas, m.ready: e.Started(), m.least: fn.Spec.Min} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), name)
	}
}

func (m *metrics) collectLane(ch chan<- prometheus.Metric, l *lane) {
	name := l.ref.String()
	l.mu.Lock()
	calls, held, inflight := l.calls, l.held.n, l.running.n+l.held.n
	l.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(m.started, prometheus.CounterValue, float64(calls), name)
	ch <- prometheus.MustNewConstMetric(m.inflight, prometheus.GaugeValue, float64(inflight), name)
	ch <- prometheus.MustNewConstMetric(m.held, prometheus.GaugeValue, float64(held), name)

	o := &l.done
	o.mu.Lock()
	defer o.mu.Unlock()
	for code, out := range o.byCode {
		label := codeLabel(code)
		buckets, n := make(map[float64]uint64, len(secondsBuckets)), uint64(0)
		for i, bound := range secondsBuckets {
			n += out.in[i]
			buckets[bound] = n
		}
		ch <- prometheus.MustNewConstMetric(m.invocations, prometheus.CounterValue, float64(out.n), name, label)
		ch <- prometheus.MustNewConstHistogram(m.seconds, out.n, out.sum.Seconds(), buckets, name, label)
	}
	for which, n := range o.counts {
		ch <- prometheus.MustNewConstMetric(which.desc(m), prometheus.CounterValue, float64(n), name, which.value)
	}
}

// notFound counts a call that named no function.
func (m *metrics) notFound(code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unknown[knownCode(code)]++
}

// otherCode stands for every status without a name: a handler can make up
// hundreds of them.
const otherCode = -1

func knownCode(code int) int {
	if code != statusClientLeft && http.StatusText(code) == "" {
		return otherCode
	}
	return code
}

func codeLabel(code int) string {
	if code == otherCode {
		return "other"
	}
	return strconv.Itoa(code)
}

var secondsBuckets = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// outcome is what became of the calls that ended with one status.
type outcome struct {
	n   uint64
	sum time.Duration
	in  [len(secondsBuckets)]uint64
}

// The families that outcomes counts for, each with a label of its own.
type family int

const (
	familyWakes family = iota
	familyRepeats
	familyRefusals
	familyPods
)

type counter struct {
	family family
	value  string // one of a fixed set, never from outside
}

func (c counter) desc(m *metrics) *prometheus.Desc {
	return [...]*prometheus.Desc{m.wakes, m.repeats, m.refusals, m.pods}[c.family]
}

// outcomes count for one function.
type outcomes struct {
	mu     sync.Mutex
	byCode map[int]*outcome
	counts map[counter]uint64
}

func (o *outcomes) add(code int, took time.Duration) {
	code = knownCode(code)
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.byCode[code]
	if out == nil {
		if o.byCode == nil {
			o.byCode = map[int]*outcome{}
		}
		out = &outcome{}
		o.byCode[code] = out
	}
	out.n++
	out.sum += took
	seconds := took.Seconds()
	for i, bound := range secondsBuckets {
		if seconds <= bound {
			out.in[i]++
			break
		}
	}
}

func (o *outcomes) count(f family, value string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counts == nil {
		o.counts = map[counter]uint64{}
	}
	o.counts[counter{f, value}]++
}
