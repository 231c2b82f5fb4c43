package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A function's pods are replaced under load, by a new template and by
// deletion: no request notices.
func TestRollingUpdateUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 3
	f, l, mark := underLoad(t, r, keepsAwake("rolled", pods), urls(r.weirs(t, 2))...)
	for i := range long(1, 5) {
		r.c.k(t, "-n", r.namespace, "patch", "deployment", f.name, "-p",
			fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"e2e/update":"%d"}}}}}`, i))
		r.c.k(t, "-n", r.namespace, "rollout", "status", "deployment/"+f.name, "--timeout", patience.String())
	}
	f.gone(t, pods)
	l.after(t, 50)
	res := l.stop()
	res.clean(t, "rolling update")
	f.calm(t, mark, pods, pods, pods+3)
	if len(res.Pods) < 2*pods {
		t.Errorf("answers came from %d pods, want the %d old and the %d new ones", len(res.Pods), pods, pods)
	}
	measured.add("rolling update of 3 pods under load", res.counts(verdict{}), "0 lost")
}

// gone waits until no more than n pods of a function are left, those that end
// included.
func (f *function) gone(t *testing.T, n int) {
	t.Helper()
	eventually(t, "the old pods are gone", func() error {
		pods, err := f.pods()
		if err == nil && len(pods) > n {
			err = fmt.Errorf("%d pods", len(pods))
		}
		return err
	})
}

func TestPodsDeletedUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	f, l, mark := underLoad(t, r, keepsAwake("deleted", pods), urls(r.weirs(t, 2))...)
	deleted := 0
	for range long(1, 5) {
		old, err := f.pods()
		if err != nil {
			t.Fatal(err)
		}
		// One after another, faster than they are replaced: for a while all
		// of them end at once.
		for _, p := range old {
			if p.Metadata.DeletionTimestamp == nil {
				r.c.k(t, "-n", r.namespace, "delete", "pod", p.Metadata.Name, "--wait=false")
				deleted++
			}
		}
		f.up(t, pods)
		l.after(t, 50)
	}
	f.gone(t, pods)
	l.after(t, 50)
	res := l.stop()
	res.clean(t, "pod deletion")
	f.calm(t, mark, pods, pods, pods+3)
	measured.add(fmt.Sprintf("%d pods of 2 deleted under load", deleted), res.counts(verdict{}), "0 lost")
}

// restarts are how often containers of the function were started again.
func (f *function) restarts() (n int, err error) {
	pods, err := f.pods()
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			n += c.RestartCount
		}
	}
	return n, err
}

func (f *function) restarted(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d restarts of %s", n, f.name), func() error {
		got, err := f.restarts()
		if err == nil && got != n {
			err = fmt.Errorf("%d", got)
		}
		return err
	})
}

// The processes of a pod are killed from outside: what a GET began is begun
// again elsewhere, a POST that was begun is cut and says so.
func TestPodKilledUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	f, l, mark := underLoad(t, r, keepsAwake("killed", pods), urls(r.weirs(t, 2))...)
	var kills []kill
	cut := 0
	for i := range long(2, 8) {
		all, err := f.pods()
		if err != nil {
			t.Fatal(err)
		}
		begun := f.beginLong(t, urls(r.weirs(t, 2)))
		// Kubernetes starts a container anew later each time: each its turn.
		kills = append(kills, r.c.podKill(t, r.namespace, all[i%len(all)].Metadata.Name))
		res := begun.wait()
		v := res.podsKilled(kills, false)
		v.check(t, "long calls that had begun")
		if v.cut == 0 || v.cut == longCalls/2 || res.OK != longCalls-v.cut {
			t.Errorf("of %d long POSTs on two pods %d were answered 502, and %d of %d calls 200", longCalls/2, v.cut, res.OK, longCalls)
		}
		cut += v.cut
		f.restarted(t, len(kills))
		f.up(t, pods)
		l.after(t, 50)
	}
	res := l.stop()
	v := res.podsKilled(kills, false)
	v.check(t, "pod-kill")
	f.calm(t, mark, pods, pods, pods+3)
	v.cut += cut
	measured.add(fmt.Sprintf("%d × kill -9 of a pod's processes under load", len(kills)), res.counts(v), "0 lost")
}

// longCalls are sent by beginLong: half of them are POSTs.
const longCalls = 16

// beginLong sends calls that take a while, and returns when the pods have all
// of them.
func (f *function) beginLong(t *testing.T, weirs []string) *runningLoad {
	t.Helper()
	before := f.inFlight(t)
	var posts atomic.Int64
	l := fire(t, load{URLs: weirs, Clients: longCalls, N: longCalls, Next: func(n int64) shot {
		s := shot{Path: f.path() + "?ms=4000"}
		if posts.Add(1)%2 == 0 {
			s.Body = noise(n, 5)
		}
		return s
	}})
	// Calls of the steady load come and go: a few of these may not be there
	// yet, which does no harm.
	eventually(t, "the long calls have begun", func() error {
		if n := f.inFlight(t); n < before+longCalls/2 {
			return fmt.Errorf("%v in flight, %v before", n, before)
		}
		return nil
	})
	return l
}

// inFlight is what the pods' watchdogs have at this moment.
func (f *function) inFlight(t *testing.T) (n float64) {
	t.Helper()
	pods, err := f.pods()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		resp, err := plainClient.Get("http://" + p.Status.PodIP + ":8081/metrics")
		if err != nil {
			continue // it is being started again
		}
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			if text, ok := strings.CutPrefix(in.Text(), "http_requests_in_flight "); ok {
				v, _ := strconv.ParseFloat(text, 64)
				n += v
			}
		}
		resp.Body.Close()
	}
	return n
}

// podsKilled is podKilled for several.
func (r *result) podsKilled(kills []kill, handlerOnly bool) verdict {
	v := verdict{lost: r.Failures}
	for _, k := range kills {
		one := (&result{Failures: v.lost}).podKilled(k, handlerOnly)
		v.cut, v.lost = v.cut+one.cut, one.lost
	}
	return v
}

// A handler takes more memory than its pod may have and the kernel kills it.
// The watchdog answers for what its handler had begun; what comes before it
// ends itself is sent elsewhere.
func TestPodOutOfMemoryUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	d := keepsAwake("hungry", pods)
	d.Memory = "96Mi"
	f, l, mark := underLoad(t, r, d, urls(r.weirs(t, 2))...)
	var kills []kill
	for i := range long(1, 4) {
		k := kill{from: time.Now()}
		resp, err := http.Post(r.weirs(t, 2)[i%2].url+f.path()+"/alloc?mb=300", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		k.to = time.Now()
		kills = append(kills, k)
		if resp.StatusCode != http.StatusBadGateway {
			t.Errorf("the POST that ended its pod: %s %.200s, want 502", resp.Status, text)
		}
		f.restarted(t, len(kills)) // one pod only: it was not sent to the other
		f.up(t, pods)
		l.after(t, 50)
	}
	res := l.stop()
	v := res.podsKilled(kills, true)
	v.check(t, "out of memory")
	f.calm(t, mark, pods, pods, pods+3)
	measured.add(fmt.Sprintf("%d × handler killed by the kernel for its memory under load", len(kills)), res.counts(v), "0 lost")
}
