// Package gateway is weir's request path: it finds the function that a request
// names, wakes it, holds the request until a pod has room, hands it over, and
// tries elsewhere what a pod refused. It also answers the API by which
// OpenFaaS's and SlimFaas's clients look at functions.
package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Provider is what the gateway asks of who runs the functions.
type Provider interface {
	// Wake asks for replicas of a function that has none. Where some are
	// asked for already nothing is written and the error is nil. Errors wrap
	// those of package function.
	Wake(ctx context.Context, ref function.Ref, replicas int) error
	// Scale sets the replicas; version names the state that they were decided
	// on (function.ErrConflict when it is no more), or is empty for whatever
	// there is.
	Scale(ctx context.Context, ref function.Ref, replicas int, version string) error
	// Event puts something before the function's owner. It never blocks.
	Event(ref function.Ref, e function.Event)
}

// Config is everything a Gateway is told. Zero bounds are the defaults.
type Config struct {
	Fleet    *fleet.Fleet
	Provider Provider
	Log      *slog.Logger
	// Namespace is that of names without one.
	Namespace string
	// Gateways is how many share the pods' limits, 1 where nil.
	Gateways func() int
	// Explain is what the autoscaler last decided of a function and why, in
	// JSON's terms; nil is nothing. May be nil.
	Explain func(function.Ref) any
	// Version and Commit are the program's, Orchestration the provider's
	// name, for /system/info.
	Version, Commit, Orchestration string

	// User and Password protect what is not open. Without a password only
	// loopback peers may.
	User, Password string

	// Per function: how many requests may wait for a pod, how many bytes of
	// their bodies may be kept meanwhile, and how long one may wait.
	HoldRequests int
	HoldBytes    int64
	HoldTime     time.Duration
	// MaxBody bounds a request body, 0 not.
	MaxBody int64
}

// The bounds where Config names none.
const (
	DefaultHoldRequests = 10_000
	DefaultHoldBytes    = 256 << 20
	DefaultHoldTime     = 2 * time.Minute
)
