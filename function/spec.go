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
	// at once, requests a second, or milli-CPU. 0 with capacity and queue
	// means the pods' own max_inflight, else DefaultTarget.
	Target     float64
	Proportion float64
	// DownWindow: shrink to no less than what was wanted within it. 0 off.
	DownWindow time.Duration

	// Concurrency bounds the requests at once to a replica without
	// fwatchdog, AsyncConcurrency the async calls at once to the function.
	// 0 none.
	Concurrency      int
	AsyncConcurrency int

	// DependsOn is woken with the function and waited for; StartWithAny
	// wakes this one with any function's first call.
	DependsOn    []Ref
	StartWithAny bool
	// Schedule is nil where hours do not matter.
	Schedule *Schedule

	// Port and MetricsPort as asked for; 0 leaves the choice to the provider.
	Port, MetricsPort int
}

// Defaults of the vocabularies.
const (
	DefaultMax        = 20
	DefaultTarget     = 50
	DefaultCPUTarget  = 500
	DefaultProportion = 0.90
	DefaultZeroAfter  = 15 * time.Minute
	SlimFaasZeroAfter = 300 * time.Second
)

// AwakeReplicas is what a wake asks for: max(1, min, at-start), at most max.
func (s *Spec) AwakeReplicas() int { return min(max(1, s.Min, s.AtStart), max(1, s.Max)) }

// Fault is one setting that could not be used.
type Fault struct {
	// Object is where it stands ("Deployment ns/name, template annotation"),
	// Expected what would have been understood.
	Object, Key, Value, Expected string
}

func (f Fault) String() string {
	return f.Object + ": " + f.Key + "=" + quote(f.Value) + ": expected " + f.Expected
}
