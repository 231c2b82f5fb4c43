package queue

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-run/weir/function"
)

// queueName is the queue_name of OpenFaaS's families: weir has one queue.
const queueName = "weir"

// ageBuckets are of seconds from a call's acceptance to its end.
var ageBuckets = [...]float64{.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400}

// tally is what is counted of one function.
type tally struct {
	submitted, deliveries, refused uint64
	ended                          map[State]uint64
	dead                           map[string]uint64 // by reason, one of a fixed set
	age                            [len(ageBuckets)]uint64
	ages                           uint64
	ageSum                         time.Duration
}

// counts are by function. Those of functions that are gone are dropped when
// they are read.
type counts struct {
	mu    sync.Mutex
	byRef map[function.Ref]*tally
}

func (c *counts) of(ref function.Ref, count func(*tally)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.byRef[ref]
	if t == nil {
		if c.byRef == nil {
			c.byRef = map[function.Ref]*tally{}
		}
		t = &tally{ended: map[State]uint64{}, dead: map[string]uint64{}}
		c.byRef[ref] = t
	}
	count(t)
}

func (c *counts) submitted(ref function.Ref) { c.of(ref, func(t *tally) { t.submitted++ }) }

func (c *counts) delivered(ref function.Ref, refused bool) {
	c.of(ref, func(t *tally) {
		t.deliveries++
		if refused {
			t.refused++
		}
	})
}

func (c *counts) ended(ref function.Ref, call *Call, age time.Duration) {
	c.of(ref, func(t *tally) {
		t.ended[call.State]++
		if call.State == Dead {
			reason, _, _ := strings.Cut(call.Reason, ":")
			t.dead[reason]++
		}
		t.ages++
		t.ageSum += age
		for i, bound := range ageBuckets {
			if age.Seconds() <= bound {
				t.age[i]++
				break
			}
		}
	})
}

// metrics are the families of the queue. A function that does not exist, or
// not any more, has no series.
type metrics struct {
	q *Queue

	pending, processed, submitted, inflight *prometheus.Desc
	age, dead, deliveries, refused          *prometheus.Desc
}

func newMetrics(q *Queue) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	theirs := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("queue_worker_"+name, help, append([]string{"queue_name", "function_name"}, labels...)...)
	}
	return &metrics{
		q:          q,
		pending:    theirs("pending_messages", "Asynchronous calls that are ready to run, in the whole store: each weir that shares it says the same."),
		processed:  theirs("messages_processed_total", "Asynchronous calls that ended here, by how.", "state"),
		submitted:  theirs("messages_submitted_total", "Asynchronous calls that were accepted here."),
		inflight:   theirs("function_invocation_inflight", "Asynchronous calls that this weir has at pods, or waiting for one."),
		age:        desc("weir_async_seconds", "From the acceptance of an asynchronous call to its end.", "function_name"),
		dead:       desc("weir_async_dead_letters_total", "Asynchronous calls that were given up: attempts, expired or undecodable.", "function_name", "reason"),
		deliveries: desc("weir_async_deliveries_total", "Asynchronous calls that were given to the gateway, retries included.", "function_name"),
		refused:    desc("weir_async_refused_total", "Deliveries that a pod refused, however they ended.", "function_name"),
	}
}

// Metrics are the families of the queue and of its callbacks.
func (q *Queue) Metrics() []prometheus.Collector {
	return append([]prometheus.Collector{q.metrics}, q.callbacks.collectors()...)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.pending, m.processed, m.submitted, m.inflight, m.age, m.dead, m.deliveries, m.refused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	q := m.q
	gauge := func(d *prometheus.Desc, value int, ref function.Ref) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), queueName, ref.String())
	}
	for ref, inflight := range q.lineCounts() {
		if q.cfg.Fleet.Get(ref) != nil {
			gauge(m.pending, q.Backlog(ref), ref)
			gauge(m.inflight, inflight, ref)
		}
	}
	q.counts.mu.Lock()
	defer q.counts.mu.Unlock()
	for ref, t := range q.counts.byRef {
		if q.cfg.Fleet.Get(ref) == nil {
			delete(q.counts.byRef, ref)
			continue
		}
		m.collect(ch, ref.String(), t)
	}
}

func (m *metrics) collect(ch chan<- prometheus.Metric, name string, t *tally) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	counter(m.submitted, t.submitted, queueName, name)
	for _, state := range []State{Succeeded, Failed, Dead} {
		counter(m.processed, t.ended[state], queueName, name, string(state))
	}
	counter(m.deliveries, t.deliveries, name)
	counter(m.refused, t.refused, name)
	// Also those at 0: a rate does not see a counter begin at 1.
	for _, reason := range []string{reasonAttempts, reasonExpired, reasonUndecodable} {
		counter(m.dead, t.dead[reason], name, reason)
	}
	buckets, n := make(map[float64]uint64, len(ageBuckets)), uint64(0)
	for i, bound := range ageBuckets {
		n += t.age[i]
		buckets[bound] = n
	}
	ch <- prometheus.MustNewConstHistogram(m.age, t.ages, t.ageSum.Seconds(), buckets, name)
}

// lineCounts is how many calls of each function are at pods, of those with any
// in the store, here, or counted before.
func (q *Queue) lineCounts() map[function.Ref]int {
	all := map[function.Ref]int{}
	q.counts.mu.Lock()
	for ref := range q.counts.byRef {
		all[ref] = 0
	}
	q.counts.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	for lane := range q.ready {
		if ref, ok := refOf(lane); ok {
			all[ref] += 0
		}
	}
	for _, l := range q.lines {
		all[l.ref] = int(l.inflight.Load())
	}
	return all
}
