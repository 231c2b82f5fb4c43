// Package contract holds the names that a function's watchdog and its gateway
// agree on: paths, headers, header values and metric families. It has no
// behaviour; both programs import it so that neither can drift.
package contract

// The two private paths of a watchdog. Every other path is the function's.
const (
	HealthPath = "/_/health"
	ReadyPath  = "/_/ready"
)

// DemandPath is where a weir tells the others what it carries, on its metrics
// listener: a fleet.Report in JSON.
const DemandPath = "/demand"

// Headers, in canonical form.
const (
	// HeaderReject says why a request was refused before the handler saw it.
	// Its presence makes it safe to send the request elsewhere.
	HeaderReject = "X-Watchdog-Reject"
	// HeaderInternal marks an answer that the watchdog wrote, not the handler.
	HeaderInternal = "X-Openfaas-Internal"
	// HeaderDuration is the time the handler took, in seconds, as %f.
	HeaderDuration = "X-Duration-Seconds"
	// HeaderTimeout is a caller's own, shorter limit: a Go duration.
	HeaderTimeout = "X-Timeout"
	// HeaderCallID identifies a call through gateway, watchdog and handler.
	HeaderCallID = "X-Call-Id"
	// HeaderTry is the gateway's count of the tries of a request that an
	// instance has seen something of; the first does not carry it.
	HeaderTry = "X-Weir-Try"
	// HeaderMaxInflight and HeaderMaxQueue are said by /_/ready.
	HeaderMaxInflight = "X-Watchdog-Max-Inflight"
	HeaderMaxQueue    = "X-Watchdog-Max-Queue"
)

// Values of HeaderInternal.
const (
	InternalWatchdog   = "of-watchdog"
	InternalMiddleware = "faas-middleware"
)

// Values of HeaderReject, and of the reason label of MetricRejected.
const (
	RejectInflight = "inflight"
	RejectQueue    = "queue"
	RejectDraining = "draining"
	// RejectHandler comes with 502: the handler has ended, and had begun
	// nothing of the request.
	RejectHandler = "handler"
	// What too little is left of.
	RejectMemory = "memory"
	RejectFds    = "fds"
	RejectPids   = "pids"
	RejectDisk   = "disk"
)

// Metric families of the watchdog.
const (
	MetricRequests        = "http_requests_total"
	MetricDuration        = "http_request_duration_seconds"
	MetricInFlight        = "http_requests_in_flight"
	MetricInFlightSeconds = "http_requests_in_flight_seconds_total"
	MetricLastStart       = "http_last_request_start_timestamp_seconds"
	MetricMaxInflight     = "watchdog_max_inflight"
	MetricHighestInflight = "watchdog_max_inflight_highest"
	MetricQueueDepth      = "watchdog_queue_depth"
	MetricQueueSeconds    = "watchdog_queue_depth_seconds_total"
	MetricQueueRatio      = "queue_ratio"
	MetricQueueWait       = "watchdog_queue_wait_seconds"
	MetricRejected        = "watchdog_rejected_total"
	MetricResourceUsage   = "watchdog_resource_usage_ratio"
	MetricReady           = "watchdog_ready"
	MetricCPUSeconds      = "watchdog_cpu_seconds_total"
)
