package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// 500 calls of a second are sent at once to a function that sleeps, whose pods
// take five at a time. Each is processed once, nobody is told of an overload,
// and replicas are what the formula makes of the calls.
func TestAsyncCallsEachOnce(t *testing.T) {
	r := keepingRelease(t)
	const (
		calls   = 500
		room    = 5
		target  = 4
		highest = 20
	)
	name := r.unused("patient")
	f := r.deploy(t, fn{
		Name: name, Env: map[string]string{"max_inflight": fmt.Sprint(room)},
		Labels: map[string]string{"faas_function": name,
			"com.openfaas.scale.type": "capacity", "com.openfaas.scale.target": fmt.Sprint(target),
			"com.openfaas.scale.min": "1", "com.openfaas.scale.max": fmt.Sprint(highest), "com.openfaas.scale.zero": "true"},
	})
	f.asleep(t)
	w := r.weirs(t, 1)[0]
	mark := r.c.mark(t)
	l := openLedger(t, r.c, nil)
	load := &flood{f: f, ledger: l, urls: []string{r.service(t, "weir")}, clients: 16, calls: calls, ms: func(int) int { return 1000 }}
	replicas := f.curve(w)
	load.start().wait(t)
	outcome, _ := load.settled(t)
	samples := replicas()

	began, ended := l.counts()
	var last time.Time
	for n := range calls {
		a := outcome[n]
		if began[n] != 1 || ended[n] != 1 || a.Attempts != 1 {
			t.Errorf("call %d began %d times and ended %d times: %+v, want once", n, began[n], ended[n], a)
		}
		if a.Ended.After(last) {
			last = a.Ended
		}
	}
	series := fmt.Sprintf(`function_name="%s.%s"`, f.name, r.namespace)
	deliveries, refused := w.metric(t, "weir_async_deliveries_total", series), w.metric(t, "weir_async_refused_total", series)
	// A pod that has just begun does not know yet how much memory a call takes,
	// and lets few in for a second or two: that is no overload.
	full := w.metric(t, "weir_pod_refusals_total", series) - w.metric(t, "weir_pod_refusals_total", series, `reason="memory"`)
	if deliveries < calls || full*100 >= deliveries {
		t.Errorf("%v of %v deliveries were refused by a pod that was full, want fewer than 1 %%", full, deliveries)
	}
	if n := w.metric(t, "gateway_function_invocation_total", series, `code="5`); n != 0 {
		t.Errorf("%v deliveries were answered with a 5xx", n)
	}
	if n := w.metric(t, "queue_worker_messages_processed_total", series, `state="succeeded"`); n != calls {
		t.Errorf("queue_worker_messages_processed_total says %v succeeded, want %d", n, calls)
	}
	f.followed(t, mark, target, highest)
	what := fmt.Sprintf("%d async calls of 1 s from zero, max_inflight %d, target %d, max %d", calls, room, target, highest)
	measured.add(what+": all of them 200", fmt.Sprintf("once each in %.1f s, sent in %s; the pods as they started can do it in %.1f s, all pods at once in %.1f s",
		last.Sub(load.from).Seconds(), ms(load.to.Sub(load.from)), samples.ideal(load.from, calls, room).Seconds(), float64(calls)/highest/room), "")
	measured.add(what+": refused by a full pod", fmt.Sprintf("%v of %v deliveries; refused at first in all, with those by pods that were new and learning what memory a call takes, %v", full, deliveries, refused), "< 1 %")
	measured.add(what+": replicas asked for (pods started)", samples.String(), "")
}

// followed fails the test where a change of the function's replicas since a
// mark, from 0, is not what the formula makes of its numbers, or where the
// most that may be was not asked for.
func (f *function) followed(t *testing.T, mark int64, target float64, highest int) {
	t.Helper()
	most := 0
	for _, e := range f.explainedWrites(t, mark, 0) {
		t.Log(e)
		most = max(most, e.To)
		if e.Reason == fromGateway {
			continue
		}
		n := e.numbers(t)
		if n.floor != 1 || n.highest != highest || n.target != target*.9 {
			t.Errorf("%v: other settings than the labels'", e)
		}
		if err := e.follows(n); err != nil {
			t.Error(err)
		}
	}
	if most != highest {
		t.Errorf("%d replicas were asked for, want the most that may be, %d", most, highest)
	}
}

// A curve is the replicas of a function over time.
type curve struct {
	from time.Time
	all  []point
}

type point struct {
	at            time.Time
	asked, served int
}

// curve looks at the replicas until it is told to end.
func (f *function) curve(w weir) (end func() curve) {
	c := curve{from: time.Now()}
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			if s, err := w.status(f.name); err == nil {
				c.all = append(c.all, point{time.Now(), s.NumberRequested, s.NumberReady})
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-done:
				return
			}
		}
	})
	return func() curve { close(done); looking.Wait(); return c }
}

func (c curve) String() string {
	var b strings.Builder
	last := point{asked: -1}
	for _, p := range c.all {
		if p.asked != last.asked || p.served != last.served {
			fmt.Fprintf(&b, "%.1f s: %d (%d), ", p.at.Sub(c.from).Seconds(), p.asked, p.served)
			last = p
		}
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// ideal is how long calls of a second take where every pod that had started
// had as many as it takes.
func (c curve) ideal(from time.Time, calls, room int) time.Duration {
	left, before := float64(calls), point{at: from}
	for _, p := range c.all {
		rate := float64(before.served * room)
		if did := rate * p.at.Sub(before.at).Seconds(); did >= left {
			break
		} else {
			left -= did
		}
		before = p
	}
	return before.at.Sub(from) + time.Duration(left/float64(max(1, before.served*room))*float64(time.Second))
}

// weir is killed with kill -9, or its pod is deleted and the volume given to the
// next, while calls wait, run and are to be tried again, a function's pod is
// told to end, and clients go on sending: every call that was acknowledged is
// processed, and its status says so afterwards.
func TestAsyncCallsSurvive(t *testing.T) {
	r := keepingRelease(t)
	hows := []string{"kill -9", "kubectl delete pod"}
	for _, how := range long(hows, []string{hows[0], hows[1], hows[0], hows[1], hows[0], hows[0]}) {
		t.Run(how, func(t *testing.T) { asyncSurvive(t, r, how) })
	}
}

const (
	// Of the calls in a crash every so many-th is tried twice, and every so
	// many-th runs for longer than the rest.
	retriedOf, longOf = 5, 16
)

// twice has a call that is to be tried again be so.
func twice(n, times int) int {
	if n%retriedOf == 0 && times == 1 {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

func someLong(n int) int {
	if n%longOf == 1 {
		return 3_000
	}
	return 300
}

func asyncSurvive(t *testing.T, r *release, how string) {
	const pods = 2
	f := r.deploy(t, retrying(r.unused("crash"), pods))
	f.up(t, pods)
	load := (&flood{f: f, ledger: openLedger(t, r.c, twice), urls: []string{r.service(t, "weir")}, clients: 4, ms: someLong, pause: 200 * time.Millisecond}).start()
	w := r.weirs(t, 1)[0]
	var at map[string]int
	eventually(t, "calls wait, run, and are to be tried again", func() (err error) {
		at, err = load.states(w.url)
		if err == nil && (at["queued"] == 0 || at["running"] == 0 || at["retrying"] == 0) {
			err = fmt.Errorf("%v", at)
		}
		return err
	})
	all, err := f.pods()
	if err != nil {
		t.Fatal(err)
	}
	r.c.k(t, "-n", r.namespace, "delete", "pod", all[0].Metadata.Name, "--wait=false")
	begin := time.Now()
	if how == "kill -9" {
		r.c.podKill(t, r.namespace, w.name)
	} else {
		r.c.k(t, "-n", r.namespace, "delete", "pod", w.name, "--timeout", patience.String())
	}
	load.more(t, 1)
	away := time.Since(begin)
	load.more(t, 10)
	r.weirs(t, 1)
	load.stop(t)
	outcome, repeated := load.settled(t)
	again := 0
	for _, a := range outcome {
		if a.Attempts > 1 {
			again++
		}
	}
	if again < len(outcome)/retriedOf/2 {
		t.Errorf("%d of %d calls were tried again, want one of %d", again, len(outcome), retriedOf)
	}
	measured.add(how+" of weir with its volume, with calls "+fmt.Sprint(at)[len("map"):],
		fmt.Sprintf("%d acknowledged, 0 lost, %d ran more than once; calls taken again after %s, not taken meanwhile %v", len(outcome), repeated, ms(away), load.unkept), "0 lost")
}

// retrying is a function with so many pods whose calls are tried again soon.
func retrying(name string, pods int) fn {
	d := keepsAwake(name, pods)
	d.Annotations["weir/zero-after"] = "1h" // no call comes before its pods are seen
	d.Env = map[string]string{"max_inflight": "2"}
	d.Annotations["weir/retry-min-wait"], d.Annotations["weir/retry-jitter"] = "3s", "none"
	return d
}

// Two weirs with a NATS server share the calls, and one is killed in the
// middle.
func TestAsyncCallsOverNATS(t *testing.T) {
	c := needNode(t)
	r := &release{c: c, namespace: c.namespace(t, "async-nats")}
	r.kept = keepLogs(c, r.namespace)
	r.explainAll(t)
	r.nats(t)
	r.helm(t, "install", "store.nats.url="+strings.Replace(r.service(t, "nats"), "http:", "nats:", 1),
		"store.nats.user="+natsUser, "store.nats.secret=nats", "store.nats.keys.password=password")
	weirs := r.weirs(t, 2)
	const calls, pods = 200, 4
	f := r.deploy(t, retrying("shared", pods))
	f.up(t, pods)
	load := (&flood{f: f, ledger: openLedger(t, c, twice), urls: urls(weirs), clients: 8, calls: calls, ms: someLong}).start()
	load.more(t, calls/2)
	for _, w := range weirs {
		eventually(t, w.name+" delivers calls", func() error {
			if w.metric(t, "weir_async_deliveries_total", f.name+"."+r.namespace) == 0 {
				return errors.New("none")
			}
			return nil
		})
	}
	c.podKill(t, r.namespace, weirs[0].name)
	load.wait(t)
	r.weirs(t, 2)
	outcome, repeated := load.settled(t)
	var last time.Time
	for _, a := range outcome {
		if a.Ended.After(last) {
			last = a.Ended
		}
	}
	measured.add(fmt.Sprintf("%d async calls through two weirs and NATS, one weir killed -9", calls),
		fmt.Sprintf("all 200 in %.1f s, %d ran more than once; not taken at first %v", last.Sub(load.from).Seconds(), repeated, load.unkept), "0 lost")
}

const (
	natsUser = "weir"
	natsPort = 8080 // that of release.service
)

// nats is a NATS server with JetStream, and the secret that opens it.
func (r *release) nats(t *testing.T) {
	t.Helper()
	const secret = "async-password"
	r.c.k(t, "-n", r.namespace, "create", "secret", "generic", "nats", "--from-literal=password="+secret)
	d := fn{Name: "nats", Image: "nats", Replicas: 1, Memory: "256Mi", Patch: func(d map[string]any) {
		c := container(d)
		c["args"] = []string{"--port", fmt.Sprint(natsPort), "--user", natsUser, "--pass", secret, "--jetstream", "--store_dir", "/tmp"}
		c["readinessProbe"] = map[string]any{"tcpSocket": map[string]any{"port": natsPort}, "periodSeconds": 1}
	}}
	type m = map[string]any
	text, err := json.Marshal(m{"apiVersion": "v1", "kind": "List", "items": []m{
		d.manifest(r.c),
		{"apiVersion": "v1", "kind": "Service", "metadata": m{"name": d.Name}, "spec": m{"selector": m{"app": d.Name}, "ports": []m{{"port": natsPort}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.c.apply(t, r.namespace, string(text))
	r.c.k(t, "-n", r.namespace, "rollout", "status", "deployment/"+d.Name, "--timeout", patience.String())
}

// A volume is one weir's: the chart refuses more, and one that is made by hand
// says why it does not serve, and what to do.
func TestOneWeirKeepsCalls(t *testing.T) {
	c := needNode(t)
	for values, remedy := range map[string]string{
		"store.embedded=true,replicas=2":                      "set replicas to 1, or store.embedded to false and store.nats.url to a NATS server",
		"store.embedded=true,store.nats.url=nats://nats:4222": "set one of them",
	} {
		if out, err := c.tryHelm("template", "weir", root+"/chart", "--kube-version", "1.35", "--set", values); err == nil || !strings.Contains(out, remedy) {
			t.Errorf("helm template --set %s: %v, %q, want a refusal with the remedy %q", values, err, out, remedy)
		}
	}
	r := c.embedded(t, "async-two")
	first := r.weirs(t, 1)[0]
	f := r.deploy(t, zero("kept", nil))
	r.volume(t, "data-weir-1")
	c.k(t, "-n", r.namespace, "scale", "statefulset", "weir", "--replicas=2")
	t.Parallel() // the rest is waiting, for the minute that the second one gives the first
	eventually(t, "the second weir ends", func() error {
		text := r.kept.since(nil)["weir-1.0.log"]
		for _, part := range []string{"serve beside it", "run one weir (chart: store.embedded), or keep calls in WEIR_NATS_URL"} {
			if !strings.Contains(text, part) {
				return fmt.Errorf("%q is not in the log of weir-1:\n%s", part, text)
			}
		}
		return nil
	})
	c.k(t, "-n", r.namespace, "scale", "statefulset", "weir", "--replicas=1")
	r.weirs(t, 1)
	l := openLedger(t, c, nil)
	load := (&flood{f: f, ledger: l, urls: []string{first.url}, clients: 1, calls: 3, ms: func(int) int { return 0 }}).start()
	load.wait(t)
	load.settled(t)
}

// The weir that has a volume has no more than it needs beside it: it runs where
// `restricted` is enforced, and can write to nothing else.
func TestKeepingWeirIsRestricted(t *testing.T) {
	r := keepingRelease(t)
	processes := r.c.processes(t, r.namespace, "weir")
	if len(processes) == 0 {
		t.Error("no process of weir")
	}
	for _, p := range processes {
		if p.program != "/weir" {
			t.Errorf("process %d is %s", p.pid, p.program)
		}
		for _, fault := range p.faults(t, "/var/lib/weir") {
			t.Errorf("process %d: %s", p.pid, fault)
		}
	}
	var policy struct {
		Spec struct {
			PodSelector struct{ MatchLabels map[string]string }
			PolicyTypes []string
		}
	}
	if err := r.c.get("/apis/networking.k8s.io/v1/namespaces/"+r.namespace+"/networkpolicies/weir", &policy); err != nil {
		t.Fatal(err)
	}
	pods, err := r.c.pods(r.namespace, "app.kubernetes.io/name=weir")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		for name, value := range policy.Spec.PodSelector.MatchLabels {
			if p.Metadata.Labels[name] != value {
				t.Errorf("the NetworkPolicy selects %s=%s, and %s has %q", name, value, p.Metadata.Name, p.Metadata.Labels[name])
			}
		}
	}
}
