package autoscaler

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// BenchmarkWake is a wake of one function, from its request to its answer:
// alone, and among 10,000 others with 50,000 pods, all of which were called.
// Both take turns, each with an autoscaler that ticks as ever; the ratio is the
// median of those of the rounds' medians.
func BenchmarkWake(b *testing.B) {
	const functions, each = 10_000, 5
	alone, among := newAssembly(b, 0, each, nil), newAssembly(b, functions, each, nil)
	among.callAll(b, 1)
	for _, w := range []*assembly{alone, among} {
		if err := w.world.Add(function.Function{Ref: sleeper, Spec: function.Spec{Min: 1, Max: 20, Zero: true, ZeroAfter: time.Minute}}); err != nil {
			b.Fatal(err)
		}
	}
	var medians [2][]float64
	var ratios []float64
	wakes := 0
	for b.Loop() {
		for i, w := range []*assembly{alone, among} {
			took := w.wakeTurn(b)
			wakes += len(took)
			medians[i] = append(medians[i], middle(took))
		}
		n := len(ratios)
		ratios = append(ratios, medians[1][n]/medians[0][n])
	}
	b.ReportMetric(middle(medians[0]), "alone-µs")
	b.ReportMetric(middle(medians[1]), "among-µs")
	b.ReportMetric(float64(wakes), "wakes")
	b.ReportMetric(middle(ratios), "ratio")
}

var sleeper = function.Ref{Name: "sleeper", Namespace: "ns"}

// wakeTime is two ticks, and a little.
const wakeTime = 2*Tick + Tick/5

// wakeTurn wakes the sleeper again and again while the autoscaler ticks, and
// returns how long each took, in microseconds.
func (w *assembly) wakeTurn(b *testing.B) (took []float64) {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	scaler := w.newScaler()
	go func() { ended <- scaler.Run(ctx) }()
	defer func() { stop(); <-ended }()
	handler := w.gateway.Handler()
	for began := time.Now(); time.Since(began) < wakeTime; {
		w.sleep(b)
		answer, request := httptest.NewRecorder(), httptest.NewRequest("GET", "/function/"+sleeper.Name, nil)
		from := time.Now()
		handler.ServeHTTP(answer, request)
		took = append(took, float64(time.Since(from).Microseconds()))
		if answer.Code != http.StatusOK {
			b.Fatalf("%d %s", answer.Code, answer.Body)
		}
	}
	if writes := w.world.Writes(); len(writes) < 2*len(took)-1 {
		b.Fatalf("%d writes for %d wakes", len(writes), len(took))
	}
	return took
}

// sleep scales the sleeper to zero, and waits until its pod is gone.
func (w *assembly) sleep(b *testing.B) {
	b.Helper()
	if err := w.provider.Scale(b.Context(), sleeper, 0, ""); err != nil {
		b.Fatal(err)
	}
	for {
		known := w.fleet.Changed()
		e := w.fleet.Get(sleeper)
		if e == nil { // its provider is about to tell of it
			<-known
			continue
		}
		changed := e.Changed()
		if e.Function().Replicas == 0 && len(e.Pods()) == 0 {
			return
		}
		select {
		case <-changed:
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		}
	}
}

func middle(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
