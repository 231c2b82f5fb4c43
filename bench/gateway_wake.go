package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The case of wakes from zero, of one function on this machine. What a
// cluster adds is measured by make e2e.
const (
	wakes    = 10
	wakeName = "waker"
)

// The stages of a wake, in their order, by the histogram that weir keeps of
// each. All begin with the request.
var wakeStages = []struct{ metric, what string }{
	{"weir_wake_scale_seconds_sum", "from the request until the provider has taken the replicas, ms"},
	{"weir_wake_started_seconds_sum", "from the request until the replica serves, ms"},
	{"weir_wake_first_byte_seconds_sum", "from the request until its answer begins at weir, ms"},
}

func gatewayWake(ctx context.Context, s settings, r *report) error {
	g := &group{}
	defer g.stop()
	weir := g.add(s.startWeir(ctx, fmt.Sprintf(`functions:
  %s:
    fprocess: %s role upstream 127.0.0.1:$PORT
    environment: {mode: http}
    labels: {com.openfaas.scale.zero: "true", com.openfaas.scale.max: "1"}
`, wakeName, s.self)))
	if g.err != nil {
		return g.err
	}
	stages, answered, bare := make([][]float64, len(wakeStages)), []float64{}, []float64{}
	for range wakes {
		took, parts, err := wakeOnce(ctx, weir)
		if err != nil {
			return err
		}
		answered = append(answered, took)
		for i, part := range parts {
			stages[i] = append(stages[i], part)
		}
		began := time.Now()
		alone, err := s.watchdogWithChild(ctx, ours, s.fwatchdog)
		if err != nil {
			return err
		}
		bare = append(bare, milliseconds(time.Since(began)))
		alone.stop()
	}
	for i, stage := range wakeStages {
		r.note(fmt.Sprintf("%d wakes: %s", wakes, stage.what), spread(stages[i]))
	}
	r.note(fmt.Sprintf("%d wakes: from the request until its answer is with the client, ms", wakes), spread(answered))
	r.note("the same replica without weir: from its start until it answers, ms", spread(bare))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// wakeOnce puts the function to sleep, calls it, and says how long its client
// and weir say that it took, in milliseconds.
func wakeOnce(ctx context.Context, weir *server) (took float64, parts []float64, err error) {
	if err := asleep(ctx, weir.addr); err != nil {
		return 0, nil, err
	}
	before, err := wakeSums(weir)
	if err != nil {
		return 0, nil, err
	}
	began := time.Now()
	a, err := get(weir.addr, "/function/"+wakeName)
	took = milliseconds(time.Since(began))
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("status %d", a.status)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("call of a function that sleeps: %w", err)
	}
	if parts, err = wakeSums(weir); err != nil {
		return 0, nil, err
	}
	for i := range parts {
		parts[i] = (parts[i] - before[i]) * 1e3
		if parts[i] <= 0 {
			return 0, nil, fmt.Errorf("%s did not grow: it was no wake from zero", wakeStages[i].metric)
		}
	}
	return took, parts, nil
}

func wakeSums(weir *server) ([]float64, error) {
	sums := make([]float64, len(wakeStages))
	for i, stage := range wakeStages {
		var err error
		if sums[i], err = weir.metric(stage.metric); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// asleep has the function scaled to zero, and waits until nothing serves.
func asleep(ctx context.Context, addr string) error {
	resp, err := http.Post("http://"+addr+"/system/scale-function/"+wakeName, "application/json",
		strings.NewReader(`{"serviceName":"`+wakeName+`","replicas":0}`))
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("scale to zero: %s", resp.Status)
	}
	return eventually(ctx, func() error {
		resp, err := http.Get("http://" + addr + describePath + wakeName)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var f described
		if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
			return err
		}
		if f.Replicas+f.AvailableReplicas > 0 {
			return fmt.Errorf("%d replicas, %d of them serve, after the scale to zero", f.Replicas, f.AvailableReplicas)
		}
		return nil
	})
}
