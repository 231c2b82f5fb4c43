package e2e

import (
	"fmt"
	"testing"
)

// The example of OpenFaaS's article on back pressure: 500 calls of a second to
// a function whose pods take five at once, scaled to four for each. Nobody is
// refused, and every change of replicas is what the formula says.
func TestCapacityFollowsTheFormula(t *testing.T) {
	c := needNode(t)
	const (
		target  = 4
		highest = 20
		// atOnce of these calls ask for ceil(50 / (4 × 0.9)) = 14 replicas;
		// tooMuch for more than there may be.
		atOnce, wanted = 50, 14
		tooMuch        = 100
		calls          = 500
	)
	r := hardened(t)
	f := r.deploy(t, fn{
		Name: r.unused("pause"), Replicas: 1, Env: map[string]string{"max_inflight": "5"}, Memory: "64Mi", Grace: 60,
		Labels: map[string]string{"faas_function": "pause",
			"com.openfaas.scale.type": "capacity", "com.openfaas.scale.target": fmt.Sprint(target),
			"com.openfaas.scale.min": "1", "com.openfaas.scale.max": fmt.Sprint(highest)},
	})
	f.up(t, 1)
	mark := c.mark(t)
	for _, clients := range []int{atOnce, tooMuch} {
		res := fire(t, load{URLs: urls(r.weirs(t, 2)), Clients: clients, N: calls,
			Next: func(int64) shot { return shot{Path: f.path() + "?ms=1000"} }}).wait()
		what := fmt.Sprintf("%d calls of 1 s, %d at once, max_inflight 5, target 4", calls, clients)
		res.clean(t, what)
		if res.OK != calls {
			t.Errorf("%s: %d answered", what, res.OK)
		}
		n, err := f.replicas()
		if err != nil {
			t.Fatal(err)
		}
		measured.add(what, fmt.Sprintf("all 200 in %s by %d pods; %d replicas asked for; median %s, last %s",
			ms(res.End.Sub(res.Begin)), len(res.Pods), n, ms(quantile(res.Took, .5)), ms(quantile(res.Took, 1))), "no 4xx, no 5xx")
		if clients == tooMuch && n != highest {
			t.Errorf("%s: %d replicas are asked for, want the most that may be, %d", what, n, highest)
		}
		// What waits and runs is seen by several clocks: one more may be asked
		// for, but not what a pile would ask for. Where pods were slow to come
		// the mean of six seconds has not reached the 50 when the calls end.
		if clients == atOnce && (n < wanted-2 || n > wanted+1) {
			t.Errorf("%s: %d replicas are asked for, want %d", what, n, wanted)
		}
	}
	up := f.explainedWrites(t, mark, 1)
	if len(up) == 0 {
		t.Fatal("nothing was written")
	}
	check := func(changes []explained) {
		for _, e := range changes {
			t.Log(e)
			n := e.numbers(t)
			if n.floor != 1 || n.highest != highest || n.target != target*.9 {
				t.Errorf("%v: other settings than the labels'", e)
			}
			if err := e.follows(n); err != nil {
				t.Error(err)
			}
		}
	}
	check(up)
	t.Parallel() // the rest is waiting, for a minute of panic and the mean of another
	eventually(t, "one replica again", func() error {
		n, err := f.replicas()
		if err == nil && n != 1 {
			err = fmt.Errorf("%d replicas", n)
		}
		return err
	})
	all := f.explainedWrites(t, mark, 1)
	check(all[min(len(up), len(all)):])
	turned := false
	for _, e := range all {
		turned = turned || e.To < e.From
		if turned && e.To > e.From {
			t.Errorf("%v: raised again without load: %v", e, all)
		}
	}
}
