package main_test

import (
	"encoding/json"
	"math"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/autoscaler"
	"github.com/weir-run/weir/queue"
)

// burst submits n calls to a function, eight at a time, each of which is to be
// taken, and returns their IDs and when the first was taken.
func (p *program) burst(n int, path string) (ids []string, first time.Time) {
	p.t.Helper()
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	var mu sync.Mutex
	var all sync.WaitGroup
	for range min(n, 8) {
		all.Go(func() {
			for range work {
				id, a, err := p.submit(http.MethodPost, path, "hello")
				mu.Lock()
				if err != nil || id == "" {
					p.t.Errorf("%s: %v %d %q", path, err, a.status(), a.text)
				} else if ids = append(ids, id); len(ids) == 1 {
					first = time.Now()
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
	return ids, first
}

// onceEach checks that every call was processed with 200, and exactly once,
// and returns when the last one ended.
func onceEach(t testing.TB, ids []string, calls map[string]queue.Call, all []entry) (last time.Time) {
	t.Helper()
	begun, done := byCall(all, began), byCall(all, answered)
	for _, id := range ids {
		c := calls[id]
		if c.State != queue.Succeeded || c.Code != http.StatusOK || c.Attempts != 1 {
			t.Errorf("%+v", c)
		}
		if begun[id] != 1 || done[id] != 1 {
			t.Errorf("%s was begun %d times and answered %d times", id, begun[id], done[id])
		}
		if c.Ended.After(last) {
			last = c.Ended
		}
	}
	if len(begun) != len(ids) {
		t.Errorf("%d calls were begun, and %d taken", len(begun), len(ids))
	}
	return last
}

// TestThirtyCallsOfASecond: a function that takes five at once on its only pod
// gets thirty: each is processed, once, and the pod is kept busy.
func TestThirtyCallsOfASecond(t *testing.T) {
	t.Parallel()
	const calls, atOnce = 30, 5
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "slow", ledger, []string{"max_inflight: 5"}, []string{`weir/max: "1"`}))
	p.has("slow", 1)
	ids, first := p.burst(calls, "slow?ms=1000")
	found := p.allEnded(ids)
	all := readLedger(ledger)
	last := onceEach(t, ids, found, all)
	if most := mostAtOnce(all); most > atOnce {
		t.Errorf("%d at once", most)
	}
	if share := p.refusedShare("slow"); share >= .01 {
		t.Errorf("%.1f %% of the deliveries were refused", 100*share)
	}
	// What the handler itself took is the ideal on a machine that is slow.
	took, ideal := last.Sub(first), handled(all)/atOnce
	t.Logf("%d calls of 1 s, %d at once: %v from the first 202 to the last end, %.2f times the handlers' own %v", calls, atOnce, took, took.Seconds()/ideal.Seconds(), ideal)
	if took > ideal*3/2 {
		t.Errorf("%v is more than one and a half times %v", took, ideal)
	}
}

// TestFiveHundredCallsScale: the backlog brings replicas up, by the formula.
func TestFiveHundredCallsScale(t *testing.T) {
	t.Parallel()
	const calls, highest, perReplica = 500, 20, 4 * .9
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "many", ledger, []string{"max_inflight: 5"},
		[]string{`com.openfaas.scale.type: capacity`, `com.openfaas.scale.target: "4"`, `com.openfaas.scale.max: "20"`, `weir/zero: "true"`}))
	ids, first := p.burst(calls, "many?ms=1000")
	reached := 0
	looked := func() (e autoscaler.Explanation) {
		var about struct{ Autoscaling *autoscaler.Explanation }
		about.Autoscaling = &e
		if a, err := p.do(http.MethodGet, "/system/function/many", nil); err == nil && a.StatusCode == http.StatusOK {
			if err := json.Unmarshal([]byte(a.text), &about); err != nil {
				t.Error(err)
			}
		}
		return e
	}
	p.Until("half of them are processed", func() bool {
		e := looked()
		reached = max(reached, e.Replicas)
		return len(byCall(readLedger(ledger), answered)) >= calls/2
	})
	e := looked()
	found := p.allEnded(ids)
	all := readLedger(ledger)
	last := onceEach(t, ids, found, all)
	for _, c := range e.Changes {
		t.Logf("%d to %d: %s", c.From, c.To, c.Why)
	}
	if e.Max != highest || math.Abs(e.Target-perReplica) > 1e-9 {
		t.Errorf("%+v: other settings than the stack's", e)
	}
	if by := int(math.Ceil(max(e.Stable, e.Panic)/perReplica - 1e-9)); e.Panics && e.Wanted < min(by, highest) {
		t.Errorf("%+v: %d are wanted by the formula", e, min(by, highest))
	}
	// How many it takes to be through in six seconds falls while they are
	// worked off: where replicas start slowly the most is not asked for.
	if reached < highest/2 {
		t.Errorf("%d replicas for 500 calls, where up to %d may be", reached, highest)
	}
	if share := p.refusedShare("many"); share >= .01 {
		t.Errorf("%.1f %% of the deliveries were refused", 100*share)
	}
	t.Logf("%d calls of 1 s from zero replicas: %v from the first 202 to the last end; %d at once at most, %v of handlers' time", calls, last.Sub(first), mostAtOnce(all), handled(all))
}

// TestNoisyFunction: whoever has ten thousand calls queued waits for its own
// pods only.
func TestNoisyFunction(t *testing.T) {
	t.Parallel()
	const noise, calls = 10_000, 50
	ledger := ledgerFile(t)
	p := keeping(t, "functions:\n"+recorder(t, "noisy", ledger+".noisy", []string{"max_inflight: 1"}, []string{`weir/max: "1"`})+
		recorder(t, "quiet", ledger, []string{"max_inflight: 5"}, []string{`weir/max: "1"`}), "WEIR_SHUTDOWN_TIMEOUT=1s")
	p.has("noisy", 1)
	p.has("quiet", 1)
	p.taken("noisy?ms=600000", "")
	p.burst(noise, "noisy?ms=600000")
	// A few of them may be on their way to a pod, and come back.
	p.Until("they are queued", func() bool {
		return p.metric(`queue_worker_pending_messages{function_name="noisy.default",queue_name="weir"}`) >= noise
	})
	ids, first := p.burst(calls, "quiet?ms=100")
	last := onceEach(t, ids, p.allEnded(ids), readLedger(ledger))
	t.Logf("%d calls of 100 ms, 5 at once, beside %d queued of another function: %v", calls, noise, last.Sub(first))
	if n := len(byCall(readLedger(ledger+".noisy"), began)); n != 1 {
		t.Errorf("%d calls of the noisy function were begun, which takes one", n)
	}
}
