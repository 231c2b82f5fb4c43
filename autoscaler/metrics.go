package autoscaler

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-run/weir/function"
)

// metrics are about functions that exist: forget drops the others.
type metrics struct {
	target    *prometheus.GaugeVec
	decisions *prometheus.CounterVec
	leading   prometheus.GaugeFunc
}

func newMetrics(a *Autoscaler) *metrics {
	return &metrics{
		target: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gateway_service_target_load", Help: "load that one replica should carry, proportion included",
		}, []string{"function_name", "scaling_type"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_scale_decisions_total", Help: "changes of replicas that were written",
		}, []string{"function_name", "direction", "reason"}),
		leading: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_leading", Help: "1 where this weir decides on replicas",
		}, func() float64 {
			if a.cfg.Provider.Leads() {
				return 1
			}
			return 0
		}),
	}
}

// Metrics are the autoscaler's families.
func (a *Autoscaler) Metrics() []prometheus.Collector {
	return []prometheus.Collector{a.metrics.target, a.metrics.decisions, a.metrics.leading}
}

func (m *metrics) load(ref function.Ref, d Decision) {
	if d.Type != "" && d.Target > 0 {
		m.target.WithLabelValues(ref.String(), string(d.Type)).Set(d.Target)
	}
}

func (m *metrics) changed(ref function.Ref, d Decision) {
	direction := "up"
	if d.Replicas < d.From {
		direction = "down"
	}
	m.decisions.WithLabelValues(ref.String(), direction, string(d.Reason)).Inc()
}

func (m *metrics) drop(ref function.Ref) {
	of := prometheus.Labels{"function_name": ref.String()}
	m.target.DeletePartialMatch(of)
	m.decisions.DeletePartialMatch(of)
}
