// Package providertest holds what every provider must do, as one body of tests
// that each of them runs over its own world: functions in memory, processes of
// a machine, a cluster.
package providertest

import (
	"context"
	"testing"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Provider is all that weir asks of who runs the functions; gateway and
// autoscaler each ask a part of it.
//
// What each method owes, beside the comments of package gateway:
//
//   - Run puts every function into the Fleet, calls Synced, puts every change,
//     and returns nil when ctx has ended and all that it started has returned.
//     It is called once.
//   - Wake writes once per sleep, however many ask at once and through however
//     many providers of one world. Less than one replica is an error.
//   - Scale writes nothing when it returns an error, and nothing when the
//     function has that many replicas. A negative number, or one that does not
//     fit 31 bits, is an error. Version is compared with Function.Version; a
//     version stays good while nobody changes what the function is asked to
//     be, whatever its pods do.
//   - Spare takes how busy each pod is, by name, in place of what it was told
//     before. Pods that it does not know are ignored.
//   - Wake, Scale and Spare of a function that does not exist return
//     function.ErrNotFound; of one whose replicas run elsewhere, Wake and
//     Scale return function.ErrFixed.
//   - Event never blocks, and nothing depends on it.
//   - Of all providers of a world at most one Leads, and in the end one does,
//     until its Run ends.
type Provider interface {
	Run(ctx context.Context, f *fleet.Fleet) error
	Wake(ctx context.Context, ref function.Ref, replicas int) error
	Scale(ctx context.Context, ref function.Ref, replicas int, version string) error
	Spare(ctx context.Context, ref function.Ref, busy map[string]int) error
	Event(ref function.Ref, e function.Event)
	Leads() bool
	Peers() []string
}

// Function is one to be made.
type Function struct {
	Name string
	// Labels are settings in the vocabulary of weir (`weir/max: "7"`), as
	// labels or as annotations, whichever the world allows for the value. The
	// one that marks the function is among them.
	Labels map[string]string
	// Replicas are asked for from the beginning; more than 0 only where the
	// subject is not Static.
	Replicas int
}

// Write is one change of how many replicas a function is asked to have.
type Write struct{ Old, New int }

// Subject is a fresh, empty world and how to act in it from outside. Funcs that
// cannot do what they are asked end the test by t.Fatal.
type Subject struct {
	// Namespace is where Make makes functions.
	Namespace string
	// New makes a provider of the world.
	New func(t *testing.T) Provider
	// Several: New may be called more than once, for weirs that serve side
	// by side.
	Several bool

	// Make makes a function whose replicas come up by themselves and stay.
	Make func(t *testing.T, fn Function)
	// Writes are all that took effect on the function's replicas so far, in
	// their order, whoever made them. Making it is none.
	Writes func(t *testing.T, ref function.Ref) []Write

	// Static: functions cannot be made or changed once a provider was made.
	// Then Remove, Relabel and Resize are not used.
	Static bool
	// Remove takes a function away with its replicas, Relabel sets all of its
	// labels anew, Resize asks for replicas as a person would.
	Remove  func(t *testing.T, ref function.Ref)
	Relabel func(t *testing.T, ref function.Ref, labels map[string]string)
	Resize  func(t *testing.T, ref function.Ref, replicas int)

	// Running, where not nil, counts the replicas that really run.
	Running func(t *testing.T, ref function.Ref) int
	// Restart, where not nil, has another process take the place of a pod's.
	// The name may stay.
	Restart func(t *testing.T, ref function.Ref, pod string)
	// MakeFixed, where not nil, makes a function whose replicas run elsewhere.
	MakeFixed func(t *testing.T, name string)
	// Unordered: shrinking does not heed Spare (StatefulSets go by ordinal).
	Unordered bool

	// Patience is how long anything may take, a minute where 0.
	Patience time.Duration
	// Ignore holds parts of stacks: goroutines that show one may outlive Run,
	// as those of a connection that is kept for the next provider.
	Ignore []string
}

// Run runs every test, each in a world of its own: open makes one, and has
// t.Cleanup take it away.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*world)
	}{
		{"SyncedAfterTheWholeView", syncedAfterTheWholeView},
		{"EmptyWorldIsSynced", emptyWorldIsSynced},
		{"RunEndsAndLeavesNothing", runEndsAndLeavesNothing},
		{"EventsDoNotBlock", eventsDoNotBlock},
		{"FaultsHarmNobodyElse", faultsHarmNobodyElse},

		{"WakeOnceFromZero", wakeOnceFromZero},
		{"WakeOnceForSeveralWeirs", wakeOnceForSeveralWeirs},
		{"WakeWritesNothingWhenAwake", wakeWritesNothingWhenAwake},
		{"WakeAgainAfterSleep", wakeAgainAfterSleep},
		{"ScaleComparesVersions", scaleComparesVersions},
		{"ScaleOnceOfMany", scaleOnceOfMany},
		{"ScaleWhateverThereIs", scaleWhateverThereIs},
		{"ScaleKeepsWithinBounds", scaleKeepsWithinBounds},
		{"VersionOutlivesPods", versionOutlivesPods},
		{"UnknownFunction", unknownFunction},
		{"FixedFunction", fixedFunction},
		{"OneLeads", oneLeads},

		{"PodsComeAndGo", podsComeAndGo},
		{"ShrinkSparesTheBusy", shrinkSparesTheBusy},
		{"RestartIsAnotherPod", restartIsAnotherPod},

		{"MadeLater", madeLater},
		{"Relabelled", relabelled},
		{"ResizedFromOutside", resizedFromOutside},
		{"Removed", removed},
		{"MadeAnew", madeAnew},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(newWorld(t, open(t))) })
	}
}
