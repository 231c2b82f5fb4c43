package e2e

import (
	"fmt"
	"testing"
	"time"
)

// zero is a function that sleeps unless it is called.
func zero(name string, annotations map[string]string) fn {
	a := map[string]string{"weir/function": "true", "weir/zero": "true", "weir/zero-after": "1h"}
	for k, v := range annotations {
		a[k] = v
	}
	return fn{Name: name, Annotations: a}
}

func urls(weirs []weir) []string {
	var all []string
	for _, w := range weirs {
		all = append(all, w.url)
	}
	return all
}

// mixed is GETs, and POSTs of 5 B and 1 MB.
func mixed(path string) func(n int64) shot {
	return func(n int64) shot {
		switch n % 6 {
		case 0, 1, 2:
			return shot{Path: path}
		case 3, 4:
			return shot{Path: path, Body: noise(n, 5)}
		}
		return shot{Path: path, Body: noise(n, 1<<20)}
	}
}

// A burst of 300 requests over both weirs wakes a sleeping function by one
// write, and every one of them is answered by a pod that was not there before.
func TestBurstFromZero(t *testing.T) {
	needNode(t)
	r := sharedRelease(t)
	f := r.deploy(t, zero("burst", nil))
	var median, last []time.Duration
	rounds := long(1, 20)
	for range rounds {
		f.scale(t, 0)
		f.asleep(t)
		res := f.burst(t)
		median, last = append(median, quantile(res.Took, .5)), append(last, quantile(res.Took, 1))
	}
	measured.add(fmt.Sprintf("%d × zero → 300 at once over two weirs, 5 B and 1 MB among them", rounds),
		fmt.Sprintf("median %s, last %s", ms(quantile(median, .5)), ms(quantile(last, 1))), "all 200 of new pods, 1 write from 0")
}

func (f *function) burst(t *testing.T) *result {
	t.Helper()
	if n := f.endpoints(t); n != 0 {
		t.Fatalf("%d endpoints before the first request", n)
	}
	mark, begin := f.r.c.mark(t), time.Now()
	res := fire(t, load{URLs: urls(f.r.weirs(t, 2)), Clients: 300, N: 300, Next: mixed(f.path())}).wait()
	res.clean(t, "burst")
	if res.OK != 300 || len(res.Pods) == 0 {
		t.Errorf("%d of 300 answered, by %v", res.OK, res.Pods)
	}
	for pod, started := range res.Started {
		if started.Before(begin) {
			t.Errorf("pod %s answered, which runs since %v, before the burst", pod, started)
		}
	}
	fromZero := 0
	for _, w := range f.writes(t, mark, 0) {
		t.Log(w)
		if w.Old == 0 && w.New > 0 && w.byWeir() && w.Done {
			fromZero++
		}
	}
	if fromZero != 1 {
		t.Errorf("%d writes from zero, want 1", fromZero)
	}
	return res
}

// The load of OpenFaaS's gateway PR 1734: 300 clients without a pause, from
// zero. Its gateway asked the provider once for each request; weir asks it
// nothing.
func TestLoadFromZeroReadsNothing(t *testing.T) {
	c := needNode(t)
	r := sharedRelease(t)
	f := r.deploy(t, zero("env", map[string]string{"weir/max": "4"}))
	f.asleep(t)
	weirs := r.weirs(t, 2)
	mark := c.mark(t)
	running := fire(t, load{URLs: urls(weirs), Clients: 300, Next: func(int64) shot { return shot{Path: f.path()} }})
	lasts := long(10*time.Second, time.Minute)
	time.Sleep(lasts)
	res := running.stop()
	res.clean(t, "300 clients")
	reads, events := map[string]int{}, 0
	for _, call := range c.audit(t, mark) {
		if call.byWeir() && call.reads() {
			reads[call.Verb+" "+call.ObjectRef.Resource]++
			events++
		}
	}
	if events*10 > res.Done {
		t.Errorf("%d reads of the API server for %d requests: more than a tenth: %v", events, res.Done, reads)
	}
	fromZero, refused := 0, 0
	for _, w := range f.writes(t, mark, 0) {
		t.Log(w)
		switch {
		case w.Old == 0 && w.Done:
			fromZero++
		case !w.Done:
			refused++
		}
		if w.Done && w.New < w.Old {
			t.Errorf("shrunk under load: %v", w)
		}
	}
	if fromZero != 1 {
		t.Errorf("%d writes from zero, want 1", fromZero)
	}
	measured.add(fmt.Sprintf("300 clients for %v from zero, over two weirs", lasts),
		fmt.Sprintf("%d requests, %d errors, %.0f/s on %d pods; median %s, 99 %% %s; reads of the API server: %d; writes from 0: %d; writes settled after another's: %d",
			res.Done, len(res.Failures), float64(res.Done)/res.End.Sub(res.Begin).Seconds(), len(res.Pods),
			ms(quantile(res.Took, .5)), ms(quantile(res.Took, .99)), events, fromZero, refused),
		"no error, reads ≤ a tenth of the requests")
}

// From zero and back, with nothing but what any cluster offers.
func TestFromZeroAndBack(t *testing.T) {
	need(t)
	r := sharedRelease(t)
	f := r.deploy(t, zero("back", map[string]string{"weir/zero-after": "3s"}))
	for range long(2, 30) {
		f.asleep(t)
		begin := time.Now()
		res := fire(t, load{URLs: urls(r.weirs(t, 2)), Clients: 20, N: 20, Next: mixed(f.path())}).wait()
		res.clean(t, "from zero")
		for pod, started := range res.Started {
			if started.Before(begin) {
				t.Errorf("pod %s answered, which runs since %v, before anybody asked", pod, started)
			}
		}
	}
	f.asleep(t)
}
