package fleet

import "time"

// Report is what one gateway carries, as the deciding weir reads it from every
// gateway. Totals count from the gateway's start; Gateway differs at each start,
// so that a reader knows when to begin anew.
type Report struct {
	Gateway string    `json:"gateway"`
	Now     time.Time `json:"now"`
	// Functions are those that were ever called through this gateway; where
	// Since is given, those of them that may differ from what the report with
	// that Mark said. A function that it does not name is as it was then; of one
	// that it names twice, which was deleted and came anew, the second counts.
	Functions []Demand `json:"functions"`
	// Mark names this report to who asks for the changes since; it is never 0.
	// Since is the Mark that was asked for, 0 if Functions are all.
	Mark  int64 `json:"mark,omitempty"`
	Since int64 `json:"since,omitempty"`
}

// The query by which a report of changes is asked for: the Mark, and the Gateway
// that said it. Who does not know them, or was started anew, reports everything.
const (
	QuerySince   = "since"
	QueryGateway = "gateway"
)

// Demand is what one gateway carries for one function.
type Demand struct {
	// Function is NAME.NAMESPACE.
	Function string `json:"function"`
	// Running requests were given to a pod, Held ones wait for one; the
	// seconds are their integrals over time.
	Running        int     `json:"running"`
	Held           int     `json:"held"`
	RunningSeconds float64 `json:"runningSeconds"`
	HeldSeconds    float64 `json:"heldSeconds"`
	// Calls counts the requests that came.
	Calls uint64 `json:"calls"`
	// LastStart is when the last request came, LastEnd when the last one
	// ended, LastWake when a wake was last asked for. Zero is never.
	LastStart time.Time `json:"lastStart,omitzero"`
	LastEnd   time.Time `json:"lastEnd,omitzero"`
	LastWake  time.Time `json:"lastWake,omitzero"`
	// Pods holds what goes to each pod, by name, while it exists.
	Pods map[string]PodDemand `json:"pods,omitempty"`
}

// PodDemand is what one gateway gives to one pod.
type PodDemand struct {
	UID     string  `json:"uid"`
	Running int     `json:"running"`
	Seconds float64 `json:"seconds"`
	// Calls counts tries that the pod took, Refused those that it refused:
	// these are not demand of their own, for the gateway holds or repeats
	// the request.
	Calls   uint64 `json:"calls"`
	Refused uint64 `json:"refused"`
}
