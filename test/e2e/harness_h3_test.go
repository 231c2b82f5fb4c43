package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// killGrace is how long after a kill a connection may be refused: DESIGN's
// word on what is lost.
const killGrace = 10 * time.Second

// faulty is one release for all who break things.
var faulty *release

func faultyRelease(t *testing.T) *release {
	t.Helper()
	c := needNode(t)
	if faulty == nil {
		r := &release{c: c, namespace: c.namespace(t, "faults")}
		r.kept = keepLogs(c, r.namespace)
		r.helm(t, "install")
		faulty = r
	}
	r := faulty
	r.weirs(t, 2)
	r.explainAll(t)
	return r
}

// explainAll is explainFailure for weirs that are killed: what they said is
// read from the node.
func (r *release) explainAll(t *testing.T) {
	from := r.kept.sizes()
	t.Cleanup(func() {
		logs := r.kept.since(from)
		for name, text := range logs {
			for line := range strings.Lines(text) {
				if low := strings.ToLower(line); strings.Contains(low, "conflict") || strings.Contains(low, "panic") && !strings.Contains(low, "in panic") {
					t.Errorf("%s: %s", name, line)
				}
			}
		}
		if !t.Failed() {
			return
		}
		for name, text := range logs {
			r.c.keep(t, name, text)
		}
		for _, what := range []string{"pods", "events", "deployments", "statefulsets", "leases"} {
			if text, err := r.c.kubectl("", "-n", r.namespace, "get", what, "-o", "yaml"); err == nil {
				r.c.keep(t, what+".yaml", text)
			}
		}
	})
}

// A logKeeper has the logs of all containers of a namespace open: those of a
// pod that is deleted are still read then.
type logKeeper struct {
	mu    sync.Mutex
	files map[string]*os.File
}

func keepLogs(c *cluster, namespace string) *logKeeper {
	k := &logKeeper{files: map[string]*os.File{}}
	go func() { // until the tests end
		for ; ; time.Sleep(200 * time.Millisecond) {
			paths, _ := filepath.Glob(filepath.Join(c.dir, "var-log/pods", namespace+"_*", "*", "*.log"))
			for _, path := range paths {
				k.open(path)
			}
		}
	}()
	return k
}

func (k *logKeeper) open(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	parts := strings.Split(path, "/")
	pod := strings.Split(parts[len(parts)-3], "_")
	name := pod[1] + "." + parts[len(parts)-1]
	if k.files[name] != nil {
		return
	}
	if f, err := os.Open(path); err == nil {
		k.files[name] = f
	}
}

func (k *logKeeper) sizes() map[string]int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[string]int64{}
	for name, f := range k.files {
		if info, err := f.Stat(); err == nil {
			all[name] = info.Size()
		}
	}
	return all
}

func (k *logKeeper) since(from map[string]int64) map[string]string {
	k.mu.Lock()
	files := maps.Clone(k.files)
	k.mu.Unlock()
	all := map[string]string{}
	for name, f := range files {
		text, _ := io.ReadAll(io.NewSectionReader(f, from[name], 1<<30))
		if len(text) > 0 {
			all[name] = string(text)
		}
	}
	return all
}

// steady is a load that a pod or two can carry: GETs, and POSTs of 5 B and
// 100 KB with bodies of their own.
func steady(t *testing.T, f *function, urls ...string) *runningLoad {
	t.Helper()
	return fire(t, load{URLs: urls, Clients: 24, Pause: 40 * time.Millisecond, Next: steadyShot(f.path())})
}

func steadyShot(path string) func(n int64) shot {
	return func(n int64) shot {
		switch n % 4 {
		case 0, 2:
			return shot{Path: path + "?ms=20"}
		case 1:
			return shot{Path: path + "?ms=20", Body: noise(n, 5)}
		}
		return shot{Path: path, Body: noise(n, 100<<10)}
	}
}

// after waits until n more requests of a load have ended.
func (r *runningLoad) after(t *testing.T, n int) {
	t.Helper()
	done := func() int {
		r.result.mu.Lock()
		defer r.result.mu.Unlock()
		return r.result.Done
	}
	goal := done() + n
	eventually(t, fmt.Sprintf("%d more requests end", n), func() error {
		if d := done(); d < goal {
			return fmt.Errorf("%d of %d", d, goal)
		}
		return nil
	})
}

// A kill is a process that was killed, and when: no earlier than from, no
// later than to.
type kill struct{ from, to time.Time }

func (c *cluster) podKill(t *testing.T, namespace, pod string) kill {
	t.Helper()
	k := kill{from: time.Now()}
	c.fault(t, "pod-kill", namespace+"/"+pod)
	k.to = time.Now()
	return k
}

// A verdict sorts what went wrong in a load.
type verdict struct {
	lost    []failure
	cut     int // what a killed process had
	refused int // nobody was there to take it, soon after a kill
	again   []int64
}

// weirKilled judges a load over the death of a weir. at says whether a failure
// may come from the one that died.
func (r *result) weirKilled(k kill, at func(failure) bool) (v verdict) {
	for _, f := range r.Failures {
		dead := errors.Is(f.Err, syscall.ECONNREFUSED) || errors.Is(f.Err, syscall.EHOSTUNREACH) || !f.Wrote
		switch {
		case !at(f) || f.Status != 0 && f.Status != http.StatusOK || f.At.Before(k.from):
			v.lost = append(v.lost, f)
			continue
		case f.Sent.Before(k.to):
			v.cut++
		case dead && f.At.Before(k.to.Add(killGrace)):
			v.refused++
		case f.Status == 0 && f.Sent.Before(k.to.Add(time.Second)):
			v.refused++ // the kernel took it while it buried the dead
		default:
			v.lost = append(v.lost, f)
			continue
		}
		v.again = append(v.again, f.N)
	}
	return v
}

// dying is how long the kernel may still take requests for a process that was
// killed: until it has closed its sockets. What it took then had a killed
// process for its owner, as what came before.
const dying = 250 * time.Millisecond

// podKilled judges a load over the death of a function's processes: what they
// had begun is answered 502, but what may be repeated is: unless it is the
// watchdog that answered for its dead handler. What comes to a watchdog whose
// handler is dead already another pod answers.
func (r *result) podKilled(k kill, handlerOnly bool) (v verdict) {
	for _, f := range r.Failures {
		half := f.Status == http.StatusOK && strings.HasPrefix(f.Err.Error(), "body after ") // of an answer that had begun
		none := f.Status == http.StatusBadGateway && (f.Method == http.MethodPost || handlerOnly)
		switch {
		case f.At.Before(k.from):
			v.lost = append(v.lost, f)
		case (half || none) && f.Sent.Before(k.to.Add(dying)):
			v.cut++
		default:
			v.lost = append(v.lost, f)
		}
	}
	return v
}

func (v verdict) check(t *testing.T, what string) {
	t.Helper()
	const shown = 10
	for _, f := range v.lost[:min(shown, len(v.lost))] {
		t.Errorf("%s: lost: %v", what, f)
	}
	if len(v.lost) > shown {
		t.Errorf("%s: %d lost in all", what, len(v.lost))
	}
}

// retry sends again what a client would.
func (v verdict) retry(t *testing.T, f *function, url string) {
	t.Helper()
	if len(v.again) == 0 {
		return
	}
	next := steadyShot(f.path())
	fire(t, load{URLs: []string{url}, Clients: min(8, len(v.again)), N: len(v.again), Next: func(n int64) shot { return next(v.again[n]) }}).
		wait().clean(t, "sent again")
}

// reasons are the changes of a function's replicas that weir told the reason
// of, "1 → 3", with the Event's text.
func (f *function) reasons() (map[string]string, error) {
	var list struct {
		Items []struct {
			InvolvedObject        struct{ Name string }
			Reason, Message, Type string
		}
	}
	if err := f.r.c.get("/api/v1/namespaces/"+f.r.namespace+"/events?limit=5000", &list); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range list.Items {
		if e.InvolvedObject.Name != f.name {
			continue
		}
		if m := changeMessage.FindStringSubmatch(e.Message); m != nil {
			all[m[1]+" → "+m[2]] = e.Message
		}
		if m := wokenMessage.FindStringSubmatch(e.Message); m != nil {
			all["0 → "+m[1]] = e.Message
		}
	}
	return all, nil
}

var (
	changeMessage = regexp.MustCompile(`^(\d+) to (\d+) replicas \(`)
	wokenMessage  = regexp.MustCompile(`asked for (\d+) replicas`)
)

// explained are weir's writes to a function's replicas since a mark. Each must
// have been taken and have its reason, and lie between the bounds.
func (f *function) explained(t *testing.T, since int64, replicas, floor, most int) []write {
	t.Helper()
	var own []write
	for _, w := range f.writes(t, since, replicas) {
		if w.byWeir() {
			own = append(own, w)
		}
	}
	for _, w := range own {
		switch {
		case w.ResponseStatus.Code == http.StatusBadRequest, w.ResponseStatus.Code == http.StatusUnprocessableEntity:
			t.Errorf("a write that is wrong: %v", w)
			continue
		case !w.Done:
			// A conflict, which is settled; or an API server that has just
			// begun, and knows neither accounts nor roles: it is written again.
			continue
		case w.New < floor || w.New > most:
			t.Errorf("a write below %d or above %d: %v", floor, most, w)
		}
		if w.New == w.Old {
			continue
		}
		change := fmt.Sprintf("%d → %d", w.Old, w.New)
		eventually(t, "an Event says why "+f.name+" went "+change, func() error {
			all, err := f.reasons()
			if err == nil && all[change] == "" {
				err = fmt.Errorf("only %v", slices.Sorted(maps.Keys(all)))
			}
			return err
		})
	}
	return own
}

// calm is explained for a load that asks for no change: weir may raise the
// replicas while pods are missing, and lowers nothing.
func (f *function) calm(t *testing.T, since int64, replicas, floor, most int) {
	t.Helper()
	for _, w := range f.explained(t, since, replicas, floor, most) {
		t.Log(w)
		if w.Done && w.New < w.Old {
			t.Errorf("lowered under load: %v", w)
		}
	}
}

// decider is the weir that has the Lease.
func (r *release) decider() (string, error) {
	var lease struct {
		Spec struct{ HolderIdentity string }
	}
	err := r.c.get("/apis/coordination.k8s.io/v1/namespaces/"+r.namespace+"/leases/weir", &lease)
	if err == nil && lease.Spec.HolderIdentity == "" {
		err = errors.New("nobody has the Lease")
	}
	return lease.Spec.HolderIdentity, err
}

// sides are the weir that decides, and another.
func (r *release) sides(t *testing.T) (decides, other weir) {
	t.Helper()
	eventually(t, "one of two weirs decides", func() error {
		name, err := r.decider()
		if err != nil {
			return err
		}
		two := r.weirs(t, 2)
		i := slices.IndexFunc(two, func(w weir) bool { return w.name == name })
		if i < 0 {
			return fmt.Errorf("%s has the Lease and is none of them", name)
		}
		decides, other = two[i], two[1-i]
		return nil
	})
	return decides, other
}

// scaling is what a weir says of a function's last decision.
type scaling struct {
	Leading         bool
	Reason, Why     string
	Wanted, Started int
	IdleSeconds     float64
}

func (w weir) scaling(name string) (s scaling, err error) {
	req, err := http.NewRequest(http.MethodGet, w.url+"/system/function/"+name, nil)
	if err != nil {
		return s, err
	}
	req.SetBasicAuth("admin", password)
	resp, err := plainClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s says %s", req.URL, resp.Status)
	}
	var body struct{ Autoscaling scaling }
	err = json.NewDecoder(resp.Body).Decode(&body)
	return body.Autoscaling, err
}

// keepsAwake is a function with so many pods that sleeps 2 s after its last
// call: under a load it never may.
func keepsAwake(name string, pods int) fn {
	return fn{Name: name, Replicas: pods, Annotations: map[string]string{
		"weir/function": "true", "weir/zero": "true", "weir/zero-after": "2s", "weir/min": strconv.Itoa(pods), "weir/max": strconv.Itoa(pods + 3),
	}}
}

// underLoad deploys a function and has a steady load on it when it returns;
// mark is the audit log as of then.
func underLoad(t *testing.T, r *release, d fn, urls ...string) (f *function, l *runningLoad, mark int64) {
	t.Helper()
	f = r.deploy(t, d)
	l = steady(t, f, urls...)
	f.up(t, d.Replicas)
	l.after(t, 50)
	return f, l, r.c.mark(t)
}

// counts is what a load came to, for the table.
func (r *result) counts(v verdict) string {
	text := fmt.Sprintf("%d requests, %d lost", r.Done, len(v.lost))
	if v.cut+v.refused > 0 {
		text += fmt.Sprintf(", %d cut with the killed process, %d refused soon after", v.cut, v.refused)
	}
	return text
}
