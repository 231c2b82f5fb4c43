module github.com/weir-run/weir

go 1.26.0

require (
	github.com/kelseyhightower/envconfig v1.4.0 // indirect
	github.com/openfaas/faas-middleware v1.2.5 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/shirou/gopsutil/v3 v3.24.5 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
