package queue_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// Whatever weirs are killed and whatever fails, every call that was
// acknowledged ends, none runs twice at once, and none runs again that was
// said to have ended.
func TestNoCallIsLost(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			in(t, queuetest.Config{Lease: 3 * time.Second}, func(w *world) { lives(t, w, rand.New(rand.NewPCG(seed, 5))) })
		})
	}
}

// lives has up to three weirs begin and be killed while calls come.
func lives(t *testing.T, w *world, random *rand.Rand) {
	var mu sync.Mutex
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	codes := []int{200, 200, 200, 500, 404, 429}
	refs := []function.Ref{fn, {Name: "two", Namespace: "ns"}, {Name: "three", Namespace: "ns"}}
	for i, ref := range refs {
		f := w.function(ref, 1+3*i, nil)
		f.answer = func(r *http.Request) queue.Answer {
			a := takes(time.Duration(chance(1500)) * time.Millisecond)(r)
			a.Status = codes[chance(len(codes))]
			return a
		}
	}
	w.weirs = 3
	w.fault = func(method string, _ queue.Lane) error {
		if chance(40) == 0 {
			return fmt.Errorf("%w: by chance", queue.ErrAway)
		}
		return nil
	}
	w.lost = func(method string, _ queue.Lane) error {
		if (method == "Put" || method == "Save" || method == "Ack") && chance(40) == 0 {
			return fmt.Errorf("%w: answer lost by chance", queue.ErrAway)
		}
		return nil
	}
	weirs := make([]*weir, 3)
	for rank := range weirs {
		weirs[rank] = w.start(rank, nil)
	}
	accepted := map[queue.ID]bool{}
	for range 300 {
		time.Sleep(time.Duration(chance(200)) * time.Millisecond)
		v := weirs[chance(3)]
		m := &queue.Message{Function: refs[chance(3)], Method: "POST", Path: "/", Header: http.Header{}}
		if id, _, err := v.Submit(ctx, m, ""); err == nil {
			accepted[id] = true
		}
		if chance(15) == 0 {
			rank := chance(3)
			if chance(3) == 0 {
				go weirs[rank].end()
			} else {
				weirs[rank].kill()
			}
			// Who is killed has let go of the pods before the next is there.
			time.Sleep(10 * time.Millisecond)
			weirs[rank] = w.start(rank, nil)
		}
	}
	w.until("all have ended", 20*time.Minute, func() bool { return w.mem.Items() == 0 })
	w.mu.Lock()
	w.fault, w.lost = nil, nil
	w.mu.Unlock()
	ran := map[string]int{}
	for _, ref := range refs {
		for _, r := range w.runs(ref) {
			ran[r.id]++
		}
	}
	for id := range accepted {
		call := weirs[0].call(id)
		if !call.State.Ended() || ran[id.String()] < max(1, call.Attempts) {
			t.Errorf("call %s is %s after %d attempts, and ran %d times", id, call.State, call.Attempts, ran[id.String()])
		}
	}
	for _, ref := range refs {
		w.pods.read(ref, func(f *fake) {
			if f.most > f.limit {
				t.Errorf("%d calls of %s at once, its pods take %d", f.most, ref, f.limit)
			}
		})
	}
}

func TestCallbackFollowsTheCall(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		receiver := function.Ref{Name: "receiver", Namespace: "ns"}
		w.function(fn, 1, func(s *function.Spec) { s.Retry.Attempts = 2 }).answer = func(*http.Request) queue.Answer {
			return queue.Answer{Status: 500, Header: http.Header{"X-Mine": {"1"}}, Body: []byte("the answer")}
		}
		got := make(chan *http.Request, 1)
		w.function(receiver, 1, nil).answer = func(r *http.Request) queue.Answer {
			got <- r
			return queue.Answer{Status: 200}
		}
		v := w.start(0, func(c *queue.Config) {
			c.Callbacks = queue.CallbackConfig{Own: []string{"weir.example:8080"}, Namespace: "ns", MaxBody: 1 << 10}
		})
		id := v.submit(fn, func(m *queue.Message) { m.Callback = "http://weir.example:8080/function/receiver/x?y" })
		time.Sleep(500 * time.Millisecond)
		if call := v.call(id); call.Callback != nil {
			t.Errorf("a callback before the end: %+v", call.Callback)
		}
		r := <-got
		body, _ := io.ReadAll(r.Body)
		if string(body) != "the answer" || r.RequestURI != "/x?y" || r.Header.Get("X-Function-Status") != "500" || r.Header.Get("X-Function-Name") != "fn" || r.Header.Get("X-Mine") != "1" {
			t.Errorf("the callback is %s %q with %v", r.RequestURI, body, r.Header)
		}
		time.Sleep(2 * time.Second)
		call := v.want(id, queue.Dead, 2, "attempts: the function answered 500")
		if call.Callback == nil || call.Callback.State != queue.Succeeded {
			t.Errorf("the callback is %+v", call.Callback)
		}
		if n := len(w.runs(fn)); n != 2 {
			t.Errorf("%d runs", n)
		}
		letter, err := v.DeadLetter(ctx, id)
		if err != nil || letter.Callback != nil || letter.CallbackURL == "" {
			t.Errorf("the dead letter says of its callback %+v, %q, %v", letter.Callback, letter.CallbackURL, err)
		}
		// What became of it is forgotten before the dead letter is.
		time.Sleep(2 * queue.DefaultResultKeep)
		if call := v.call(id); call.State != queue.Dead || call.Callback != nil {
			t.Errorf("later the call is %s, with a callback %+v", call.State, call.Callback)
		}
	})
}

func TestNoResultIsKept(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 1, nil).answer = func(*http.Request) queue.Answer {
			return queue.Answer{Status: 200, Body: []byte("the answer"), Size: 10}
		}
		v := w.start(0, func(c *queue.Config) { c.ResultSize = -1 })
		id := v.submit(fn, nil)
		time.Sleep(time.Second)
		if call := v.want(id, queue.Succeeded, 1, ""); call.Result == nil || len(call.Result.Body) != 0 || call.Result.Size != 10 {
			t.Errorf("the result is %+v", call.Result)
		}
	})
}

func TestMetrics(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		w.function(fn, 2, func(s *function.Spec) { s.Retry.Attempts = 1 }).answer = takes(time.Second)
		gone := function.Ref{Name: "gone", Namespace: "ns"}
		w.function(gone, 1, nil)
		v := w.start(0, nil)
		synctest.Wait() // it has asked the store for the first time, which sets what is counted between
		for range 5 {
			v.submit(fn, nil)
		}
		v.submit(gone, nil)
		time.Sleep(500 * time.Millisecond)
		w.fleet.Delete(gone)
		registry := prometheus.NewRegistry()
		for _, c := range v.Metrics() {
			if err := registry.Register(c); err != nil {
				t.Error(err)
			}
		}
		want := func(all map[string]float64) {
			t.Helper()
			got := gather(t, registry)
			for name := range got {
				if strings.Contains(name, "gone") {
					t.Errorf("a function that is gone has %s", name)
				}
			}
			for name, value := range all {
				if is, there := got[name]; !there || is != value {
					t.Errorf("%s is %v (there: %v), expected %v", name, is, there, value)
				}
			}
		}
		labels := `{function_name=fn.ns,queue_name=weir}`
		want(map[string]float64{
			"queue_worker_pending_messages" + labels: 3, "queue_worker_function_invocation_inflight" + labels: 2,
			"queue_worker_messages_submitted_total" + labels: 5, "weir_async_deliveries_total{function_name=fn.ns}": 0,
			// A rate does not see a counter begin at 1.
			"weir_async_dead_letters_total{function_name=fn.ns,reason=attempts}":    0,
			"weir_async_dead_letters_total{function_name=fn.ns,reason=expired}":     0,
			"weir_async_dead_letters_total{function_name=fn.ns,reason=undecodable}": 0,
			"weir_callbacks_total{result=attempts}":                                 0,
			"weir_callback_tries_total{answer=none}":                                0,
		})
		w.pods.change(fn, func(f *fake) { f.answer = says(200, 404, 500) })
		time.Sleep(2 * time.Second)
		want(map[string]float64{
			"queue_worker_pending_messages" + labels: 0, "queue_worker_function_invocation_inflight" + labels: 0,
			"queue_worker_messages_processed_total{function_name=fn.ns,queue_name=weir,state=succeeded}": 3,
			"queue_worker_messages_processed_total{function_name=fn.ns,queue_name=weir,state=failed}":    1,
			"queue_worker_messages_processed_total{function_name=fn.ns,queue_name=weir,state=dead}":      1,
			"weir_async_deliveries_total{function_name=fn.ns}":                                           5,
			"weir_async_refused_total{function_name=fn.ns}":                                              0,
			"weir_async_dead_letters_total{function_name=fn.ns,reason=attempts}":                         1,
			"weir_async_seconds{function_name=fn.ns}":                                                    5,
		})
	})
}

// gather is each series' value; of a histogram, its count.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := family.GetName() + "{" + strings.Join(labels, ",") + "}"
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]queue.Config{
		"nothing": {},
		"a callback network that is none": {
			Store: queuetest.NewMemory(queuetest.Config{}).Store(), Log: slog.New(slog.DiscardHandler),
			Callbacks: queue.CallbackConfig{Allow: []string{"10.0.0.0/99"}},
		},
	} {
		if _, err := queue.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRunIsCalledOnce(t *testing.T) {
	in(t, queuetest.Config{}, func(w *world) {
		v := w.start(0, nil)
		synctest.Wait()
		if err := v.Run(ctx, nil); err == nil {
			t.Error("it ran twice")
		}
	})
}
