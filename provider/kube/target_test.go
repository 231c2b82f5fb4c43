package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/function"
)

// Our own write is known before the watch tells of it, and forgotten when the
// watch tells of something newer.
func TestOwnWriteIsKnownAtOnce(t *testing.T) {
	v, _, _ := newTestView("ns")
	readAll(v, "ns")
	ref := function.Ref{Name: "f", Namespace: "ns"}
	seen := func(version string, generation int64, replicas int32) {
		d := deployment("ns", "f", "u", map[string]string{"app": "f"}, marked)
		d.ResourceVersion, d.Generation, d.Spec.Replicas = version, generation, &replicas
		v.workload(readDeployment(d))
	}
	expect := func(when, version string, generation int64, replicas int) target {
		t.Helper()
		got, err := v.find(ref)
		if err != nil || got.version != version || got.generation != generation || got.replicas != replicas {
			t.Errorf("%s: %+v, %v; expected version %s, generation %d, replicas %d", when, got, err, version, generation, replicas)
		}
		return got
	}
	seen("9", 4, 1)
	before := expect("as seen", "9", 4, 1)
	v.wrote(before, "10", 0) // longer, and newer
	expect("written", "10", 0, 0)
	seen("9", 4, 1)
	expect("seen again from before", "10", 0, 0)
	seen("10", 5, 0)
	expect("seen", "10", 5, 0)
	v.wrote(before, "8", 7)
	expect("a write that is known to be past", "10", 5, 0)
	seen("11", 6, 3)
	expect("somebody else's", "11", 6, 3)
}

// A process that was halted finds out by the clock that it leads no more.
func TestLeaseOfAHaltedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLease(Config{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		now := time.Now()
		if l.held() {
			t.Error("held before it was asked for")
		}
		l.term.Store(&ctx)
		l.renewed.Store(&now)
		time.Sleep(leaseDuration - time.Millisecond)
		if !l.held() {
			t.Error("lost before its time")
		}
		time.Sleep(time.Millisecond)
		if l.held() {
			t.Error("held after its time")
		}
		again := time.Now()
		l.renewed.Store(&again)
		if !l.held() {
			t.Error("not held though it was renewed")
		}
		if cancel(); l.held() {
			t.Error("held though the term has ended")
		}
	})
}
