// Package function says what a function is to weir: a workload that a provider
// runs, the bounds it scales within, and the labels and annotations by which
// its owner asked for that. It knows no provider and no HTTP.
package function

import (
	"errors"
	"time"
)

// What a provider's answer can be, beside nil. Wrapped with what, where and
// what to do about it.
var (
	// ErrNotFound: there is no function of that name.
	ErrNotFound = errors.New("no such function")
	// ErrName: the text is no name of a function.
	ErrName = errors.New("not a function name")
	// ErrConflict: the object was changed since the version that was given.
	ErrConflict = errors.New("changed meanwhile")
	// ErrForbidden: the provider may not do this; its message says what is
	// missing.
	ErrForbidden = errors.New("not allowed")
	// ErrUnavailable: the provider cannot be asked at the moment.
	ErrUnavailable = errors.New("provider unavailable")
	// ErrFull: there is no room for one more replica.
	ErrFull = errors.New("no room for another replica")
	// ErrFixed: the function's replicas are not weir's to change.
	ErrFixed = errors.New("replicas are fixed")
)

// Kinds of workload.
const (
	KindDeployment  = "Deployment"
	KindStatefulSet = "StatefulSet"
	KindProcess     = "Process"
	KindURL         = "URL"
)

// Function is one function as its provider knew it at one moment. It is handed
// around as a pointer and never changed after it was handed out.
type Function struct {
	Ref
	Kind string
	Spec Spec
	// Faults are the settings that could not be used; Spec has the defaults
	// in their place.
	Faults []Fault

	// Replicas is how many are asked for at present, and Version names the
	// state that this was read from, for Scale to compare. Opaque.
	Replicas int
	Version  string
	// Fixed: the replicas run elsewhere (KindURL) and cannot be scaled.
	Fixed bool
	// Autoscaled: another autoscaler moves the replicas between 1 and more,
	// so that weir only wakes it and puts it to sleep.
	Autoscaled bool

	Created time.Time
	Pods    []Pod
	About   About
}

// Pod is one replica as its provider knew it.
type Pod struct {
	// Name is unique within the function at any moment; UID differs whenever
	// the process behind the name is another one (a restarted container too).
	Name, UID string
	// Addr and Metrics are host:port of the function and of its metrics.
	// Empty until known.
	Addr, Metrics string
	// Ready is what the provider itself says: Kubernetes' Ready condition.
	Ready bool
	// Stopping: told to end.
	Stopping bool
	Created  time.Time
	// Grace is what the pod has between TERM and KILL, 0 unknown.
	Grace time.Duration
	// Reason is why no process runs in it at present, one CamelCase word, and
	// LastExit when and how the one before ended. Empty where there is nothing
	// to say; only shown.
	Reason, LastExit string
}

// About is what is only shown: by /system/functions, as OpenFaaS's clients
// read it.
type About struct {
	Image       string
	EnvProcess  string
	EnvVars     map[string]string
	Constraints []string
	Secrets     []string
	Labels      map[string]string
	Annotations map[string]string
	Limits      *Resources
	Requests    *Resources
	ReadOnly    bool
}

// Resources are amounts as the manifest spells them.
type Resources struct {
	Memory string `json:"memory,omitempty"`
	CPU    string `json:"cpu,omitempty"`
}

// Event is something about a function that its owner should see where they
// look first: with `kubectl describe`, in the log.
type Event struct {
	Warning bool
	// Reason is one CamelCase word, Message a sentence.
	Reason, Message string
}
