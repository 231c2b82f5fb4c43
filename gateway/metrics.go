package gateway

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{}

// Metrics collects the families of the gateway, OpenFaaS's and weir's own.
func (g *Gateway) Metrics() prometheus.Collector { return &g.metrics }

func (m *metrics) Describe(chan<- *prometheus.Desc) {}

func (m *metrics) Collect(chan<- prometheus.Metric) {}

// unknown counts a call that named no function.
func (m *metrics) unknown(code int) {}
