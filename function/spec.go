package function

import "time"

// ScaleType is what load a function is scaled by.
type ScaleType string

// The types. Queue counts async messages that are ready to run.
const (
	Capacity ScaleType = "capacity"
	RPS      ScaleType = "rps"
	CPU      ScaleType = "cpu"
	Queue    ScaleType = "queue"
)

// Spec is how a function is to be scaled and called: what its owner wrote,
// with the defaults of the vocabulary that marked it in every other place.
type Spec struct {
	// Min and Max bound the replicas of an awake function, 1 ≤ Min ≤ Max.
	Min, Max int
	// AtStart is how many a wake asks for, if more than Min; 0 unset.
	AtStart int
	// Zero: put to sleep after ZeroAfter without a call.
	Zero      bool
	ZeroAfter time.Duration

	Type ScaleType
	// Target is the load one replica should carry at Proportion 1: requests
	// at once, requests a second, or milli-CPU. 0 is what TargetFor says.
	Target     float64
	Proportion float64
	// DownWindow: shrink to no less than what was wanted within it. 0 off.
	DownWindow time.Duration

	// Concurrency bounds the requests at once to a replica without
	// fwatchdog, AsyncConcurrency the async calls at once to the function.
	// 0 none.
	Concurrency      int
	AsyncConcurrency int

	// Retry is of asynchronous calls.
	Retry Retry

	// DependsOn is woken with the function and waited for; StartWithAny
	// wakes this one with any function's first call.
	DependsOn    []Ref
	StartWithAny bool
	// DependsOnKey is where DependsOn was read, for what is said of it.
	DependsOnKey string
	// Schedule is nil where hours do not matter.
	Schedule *Schedule

	// Port and MetricsPort as asked for; 0 leaves the choice to the provider.
	Port, MetricsPort int
}

// Defaults of the vocabularies.
const (
	DefaultMax        = 20
	DefaultProportion = 0.90
	DefaultZeroAfter  = 15 * time.Minute
	SlimFaasZeroAfter = 300 * time.Second
	// Where neither the owner nor a pod names a target: requests at once,
	// requests a second, or milli-CPU.
	DefaultTarget    = 50
	DefaultCPUTarget = 500
	// Waits before an async call is tried again.
	DefaultRetryMinWait  = 10 * time.Second
	DefaultRetryMaxWait  = 120 * time.Second
	SlimFaasRetryMinWait = 2 * time.Second
	SlimFaasRetryMaxWait = 8 * time.Second
)

// Bounds of what an owner may ask for. A value beyond is a Fault, for it is a
// slip of the hand rather than a wish.
const (
	// MaxReplicas is more than one function can have of what a Kubernetes
	// cluster is tested for (150,000 pods), and small enough that no sum of
	// pods overflows.
	MaxReplicas = 10_000
	// MaxConcurrency and MaxTarget bound requests at once, requests a second
	// and milli-CPU of one pod.
	MaxConcurrency = 1_000_000
	MaxTarget      = 1_000_000
	// MinProportion keeps target × proportion away from zero.
	MinProportion = 0.01
	// MinZeroAfter is the shortest idle time that the ticks of a decider can
	// tell from none; MaxZeroAfter is a year.
	MinZeroAfter = time.Second
	MaxZeroAfter = 365 * 24 * time.Hour
	// MaxDownWindow bounds what a decider must remember of each function.
	MaxDownWindow = time.Hour
	// MaxDependsOn bounds what one request can wake.
	MaxDependsOn = 64
	// MaxRetryAttempts is more than a day has of the shortest waits that make
	// sense, and MaxRetryWait is that day, which is how long a call is kept.
	MaxRetryAttempts = 10_000
	MaxRetryWait     = 24 * time.Hour
)

// Defaults is the Spec of a function that weir/function marks and nothing
// else is said of.
func Defaults() Spec {
	spec, _, _ := Parse(Sources{Annotations: map[string]string{weirPrefix + "function": "true"}})
	return spec
}

// AwakeReplicas is what a wake asks for: max(1, min, at-start), at most max.
func (s *Spec) AwakeReplicas() int { return min(max(1, s.Min, s.AtStart), max(1, s.Max)) }

// TargetFor is the load that one replica should carry at Proportion 1, given
// the limit that the pods say they have (0: none said).
func (s *Spec) TargetFor(maxInflight int) float64 {
	switch {
	case s.Target > 0:
		return s.Target
	case s.Type == CPU:
		return DefaultCPUTarget
	case s.Type == RPS:
		return DefaultTarget
	case maxInflight > 0:
		return float64(maxInflight)
	case s.Concurrency > 0:
		return float64(s.Concurrency)
	}
	return DefaultTarget
}

// Fault is one setting that could not be used.
type Fault struct {
	// Object is where it stands ("Deployment ns/name, template annotation"),
	// Expected what would have been understood.
	Object   string `json:"object"`
	Key      string `json:"key"`
	Value    string `json:"value"`
	Expected string `json:"expected"`
}

func (f Fault) String() string {
	return f.Object + ": " + f.Key + "=" + quote(f.Value) + ": expected " + f.Expected
}
