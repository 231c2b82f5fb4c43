package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// The case of calls that wait: so many of them (-queued), and the memory of the
// weir that keeps them.
const (
	queuedCalls = 1_000_000
	queuedMost  = 500_000_000
	// queuedAsked is of how many of them the state is asked.
	queuedAsked = 1000
	// queuedSlice is how long calls are sent before it is looked how many weir
	// has.
	queuedSlice = 2 * time.Second
	// queuedRest is how long nothing happens before memory is looked at.
	queuedRest = 5 * time.Second
)

func asyncQueued(ctx context.Context, s settings, r *report) error {
	store, err := s.asyncStore(heldStack(s))
	if err != nil {
		return err
	}
	weir, err := store.start(ctx)
	if err != nil {
		return err
	}
	defer func() { weir.stop() }()
	bare, err := memoryOf(weir)
	if err != nil {
		return err
	}
	began := time.Now()
	ids, err := s.fillQueue(ctx, weir)
	if err != nil {
		return err
	}
	took := time.Since(began)
	pending, err := settledQueue(ctx, weir)
	if err != nil {
		return err
	}
	if pending < float64(s.queued) {
		return fmt.Errorf("%.0f calls wait, expected %d", pending, s.queued)
	}
	r.note(fmt.Sprintf("%d calls of 1 KiB queued: calls/s, the looks at weir's metrics included", s.queued), fmt.Sprintf("%.0f", pending/took.Seconds()))
	if err := reportMemory(r, weir, "waiting, nothing happens", bare); err != nil {
		return err
	}
	if err := askStates(ctx, r, weir, ids); err != nil {
		return err
	}
	if err := reportMemory(r, weir, fmt.Sprintf("%d asked for", queuedAsked), bare); err != nil {
		return err
	}
	high, err := weir.memory("VmHWM")
	if err != nil {
		return err
	}
	r.bound("resident memory at its highest, calls being taken included", queuedBound, mb(high), high <= queuedMost)
	weir.kill()
	began = time.Now()
	if weir, err = store.start(ctx); err != nil {
		return err
	}
	r.note("killed with -9 and started: until it takes calls, s", fmt.Sprintf("%.2f", time.Since(began).Seconds()))
	again, err := settledQueue(ctx, weir)
	if err != nil {
		return err
	}
	r.bound("of these there after the start", "all", fmt.Sprintf("%.0f of %.0f", again, pending), again >= pending)
	if err := reportMemory(r, weir, "after the start", bare); err != nil {
		return err
	}
	return askStates(ctx, r, weir, ids)
}

var queuedBound = fmt.Sprintf("≤ %d MB", queuedMost/1_000_000)

func mb(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }

// fillQueue queues calls, and returns the IDs of some from all over the queue.
func (s settings) fillQueue(ctx context.Context, weir *server) (ids []string, err error) {
	for had := 0.0; had < float64(s.queued); {
		// What is sent when a slice ends may be kept, and its 202 not seen.
		x, err := load{addr: weir.addr, conns: asyncClients, request: asyncRequest(heldPath), time: queuedSlice}.run(ctx)
		if err == nil {
			err = allGood(gateway, []result{x})
		}
		if err != nil {
			return nil, err
		}
		if had, err = weir.metric("queue_worker_messages_submitted_total"); err != nil {
			return nil, err
		}
		if due := int(min(1, had/float64(s.queued)) * queuedAsked); due > len(ids) {
			more, err := queueUp(ctx, weir.addr, heldPath, due-len(ids))
			if err != nil {
				return nil, err
			}
			ids = append(ids, more...)
		}
	}
	return ids, nil
}

// settledQueue is how many calls wait, once the store has been asked and says
// the same twice.
func settledQueue(ctx context.Context, weir *server) (pending float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		before := pending
		if pending, err = weir.metric("queue_worker_pending_messages"); err == nil && pending > 0 && pending == before {
			return pending, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the number of calls that wait does not settle: %.0f, %.0f, %w", before, pending, err)
		case <-time.After(1500 * time.Millisecond): // weir asks its store once a second
		}
	}
}

// reportMemory holds what is resident against the bound, after a rest.
func reportMemory(r *report, weir *server, when string, bare used) error {
	time.Sleep(queuedRest)
	now, err := memoryOf(weir)
	if err != nil {
		return err
	}
	resident, err := weir.memory("VmRSS")
	if err != nil {
		return err
	}
	r.bound("resident memory, "+when, queuedBound,
		fmt.Sprintf("%s (%.0f of heap in use; %.0f and %.0f without calls)", mb(resident), now.heap/1e6, bare.resident/1e6, bare.heap/1e6), resident <= queuedMost)
	return nil
}

// askStates asks for the state of each, in no order.
func askStates(ctx context.Context, r *report, weir *server, ids []string) error {
	var took []time.Duration
	for _, i := range rand.Perm(len(ids)) {
		began := time.Now()
		state, err := stateOf(ctx, weir.addr, ids[i])
		took = append(took, time.Since(began))
		if err != nil {
			return err
		}
		// The first call is the one that runs.
		if state != "queued" && state != "running" {
			return fmt.Errorf("call %s is %s, expected queued", ids[i], state)
		}
	}
	slices.Sort(took)
	r.note(fmt.Sprintf("state of one of %d calls, one by one: p50 and p99, ms", len(ids)), fmt.Sprintf("%.2f, %.2f", at(took, 0.5), at(took, 0.99)))
	return nil
}

func stateOf(ctx context.Context, addr, id string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+asyncCallPath+id, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return "", fmt.Errorf("state of call %s: %s: %s", id, resp.Status, text)
	}
	var call struct{ State string }
	err = json.NewDecoder(resp.Body).Decode(&call)
	return call.State, err
}
