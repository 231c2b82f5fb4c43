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
	c := needNode(t)
	r := sharedRelease(t)
	f := r.deploy(t, zero("burst", nil))
	f.asleep(t)
	if n := f.endpoints(t); n != 0 {
		t.Fatalf("%d endpoints before the first request", n)
	}
	mark, begin := c.mark(t), time.Now()
	res := fire(t, load{URLs: urls(r.weirs(t, 2)), Clients: 300, N: 300, Next: mixed(f.path())}).wait()
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
		if w.Old == 0 && w.byWeir() && w.Done {
			fromZero++
		}
	}
	if fromZero != 1 {
		t.Errorf("%d writes from zero, want 1", fromZero)
	}
	measured.add("zero → 300 at once over two weirs, 5 B and 1 MB among them", fmt.Sprintf("all 200; median %s, last %s; %d write from 0",
		ms(quantile(res.Took, .5)), ms(quantile(res.Took, 1)), fromZero), "all 200, 1 write")
}
