package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// One weir lowers the replicas while pods are busy: those go last, and long
// calls finish where they began.
func TestBusyPodsSpared(t *testing.T) {
	r := faultyRelease(t)
	const pods, left = 5, 2
	d := keepsAwake("spared", pods)
	d.Annotations["weir/target"], d.Annotations["weir/zero-after"] = "1000", "1h"
	d.Env = map[string]string{"max_inflight": "1"} // so that each call has a pod of its own
	f := r.deploy(t, d)
	f.up(t, pods)
	weirs := urls(r.weirs(t, 2))
	for range long(1, 4) {
		mark := r.c.mark(t)
		busy, calls := f.occupy(t, weirs, left)
		r.c.k(t, "-n", r.namespace, "annotate", "deployment", f.name, "--overwrite", fmt.Sprintf("weir/min=%d", left), fmt.Sprintf("weir/max=%d", left))
		f.up(t, left)
		f.gone(t, left)
		pods, err := f.pods()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			if !slices.Contains(busy, p.Metadata.Name) {
				t.Errorf("pod %s stayed, which had nothing to do; %v had", p.Metadata.Name, busy)
			}
		}
		calls.finish(t)
		for _, w := range f.explained(t, mark, 5, left, left) {
			t.Log(w)
		}
		r.c.k(t, "-n", r.namespace, "annotate", "deployment", f.name, "--overwrite", "weir/min=5", "weir/max=8")
		f.up(t, 5)
	}
	measured.add("5 pods lowered to 2 while 2 were busy", "the busy ones stayed, their calls ended 200", "")
}

// occupied are long calls under way.
type occupied struct {
	all    sync.WaitGroup
	mu     sync.Mutex
	faults []error
}

func (o *occupied) finish(t *testing.T) {
	t.Helper()
	o.all.Wait()
	for _, err := range o.faults {
		t.Errorf("a long call: %v", err)
	}
}

// occupy has n pods of a function do something for a while, and says which.
func (f *function) occupy(t *testing.T, weirs []string, n int) (busy []string, o *occupied) {
	t.Helper()
	o = &occupied{}
	pods := make(chan string, n)
	for i := range n {
		o.all.Go(func() {
			// Events begin at once and say by their header who has the call.
			resp, err := http.Get(fmt.Sprintf("%s%s/sse?n=40&ms=400", weirs[0], f.path()))
			if err != nil {
				pods <- ""
				o.fault(fmt.Errorf("call %d: %w", i, err))
				return
			}
			defer resp.Body.Close()
			pods <- resp.Header.Get("X-Pod")
			size := 0
			for buf := make([]byte, 512); ; {
				n, err := resp.Body.Read(buf)
				if size += n; err != nil {
					break
				}
			}
			want := 0
			for i := range 40 {
				want += len(fmt.Sprintf("data: %d\n\n", i))
			}
			if resp.StatusCode != http.StatusOK || size != want {
				o.fault(fmt.Errorf("call %d: %s with %d bytes of %d", i, resp.Status, size, want))
			}
		})
	}
	for range n {
		name := <-pods
		if name == "" || slices.Contains(busy, name) {
			t.Fatalf("the long calls went to %v and %q, want %d pods", busy, name, n)
		}
		busy = append(busy, name)
	}
	return busy, o
}

func (o *occupied) fault(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults = append(o.faults, err)
}

// Functions go to sleep again and again while requests come in that very
// moment: each is answered.
func TestSleepRacedByRequests(t *testing.T) {
	r := faultyRelease(t)
	const functions = 6
	rounds := long(3, 30)
	weirs := urls(r.weirs(t, 2))
	var all sync.WaitGroup
	var mu sync.Mutex
	sent, asleep, draining := 0, 0, 0
	mark := r.c.mark(t)
	var fs []*function
	for i := range functions {
		d := idler(fmt.Sprintf("drowsy-%d", i))
		d.Replicas = 0
		d.Annotations["weir/zero-after"] = "1s"
		d.Env = map[string]string{"healthcheck_interval": "1s"}
		fs = append(fs, r.deploy(t, d))
	}
	for i, f := range fs {
		all.Go(func() {
			for round := range rounds {
				woken := fire(t, load{URLs: weirs, Clients: 2, N: 2, Next: steadyShot(f.path())}).wait()
				race := f.race(t, weirs, (i+round)%2 == 0)
				mu.Lock()
				for _, res := range []*result{woken, race.result} {
					res.clean(t, fmt.Sprintf("%s, round %d", f.name, round))
					sent += res.Done
				}
				asleep += race.asleep
				draining += race.old
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slept := 0
	for _, f := range fs {
		for _, w := range f.explained(t, mark, 0, 0, 20) {
			if w.Done && w.Old > 0 && w.New == 0 {
				slept++
			}
		}
	}
	if slept < functions {
		t.Errorf("the %d functions went to sleep %d times: nothing was raced", functions, slept)
	}
	measured.add("1 → 0 raced by requests", fmt.Sprintf("%d requests around %d falls asleep, %d of them sent at replicas 0, %d answered by pods that were told to end or stayed; all 200",
		sent, slept, asleep, draining), "all 200")
}

type raced struct {
	result      *result
	asleep, old int
}

// race waits until a function should fall asleep and sends requests around
// that moment: as soon as its replicas are seen at 0, or blindly before.
func (f *function) race(t *testing.T, weirs []string, seen bool) raced {
	before := map[string]bool{}
	pods, err := f.pods()
	if err != nil {
		t.Error(err)
	}
	for _, p := range pods {
		before[p.Metadata.Name] = true
	}
	var out raced
	if seen {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if n, err := f.replicas(); err == nil && n == 0 {
				break
			}
		}
	} else {
		time.Sleep(700*time.Millisecond + rand.N(time.Second))
	}
	if n, err := f.replicas(); err == nil && n == 0 {
		out.asleep = 12
	}
	out.result = fire(t, load{URLs: weirs, Clients: 4, N: 12, Pause: rand.N(150 * time.Millisecond), Next: steadyShot(f.path())}).wait()
	for name, n := range out.result.Pods {
		if before[name] {
			out.old += n
		}
	}
	return out
}

// What a person changes while weir runs counts at once.
func TestChangedByHandUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	d := fn{Name: "handled", Replicas: 1, Labels: map[string]string{
		"faas_function": "handled", "com.openfaas.scale.type": "capacity", "com.openfaas.scale.target": "100",
		"com.openfaas.scale.max": "5", "com.openfaas.scale.min": "1",
	}}
	f, l, mark := underLoad(t, r, d, urls(r.weirs(t, 2))...)
	taken := func(what string, n int, change func()) {
		begin := time.Now()
		change()
		f.up(t, n)
		measured.add(what+" → "+fmt.Sprint(n)+" pods serve", ms(time.Since(begin)), "")
		l.after(t, 50)
	}
	taken("kubectl scale --replicas=3", 3, func() { f.scale(t, 3) })
	taken("kubectl edit of target to 0.2", 5, func() {
		editor := filepath.Join(t.TempDir(), "editor")
		if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i 's/scale.target: \"100\"/scale.target: \"0.2\"/' \"$1\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(r.c.kubectlBin, "--kubeconfig", r.c.kubeconfig, "-n", r.namespace, "edit", "deployment", f.name)
		cmd.Env = append(os.Environ(), "KUBE_EDITOR="+editor)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kubectl edit: %v: %s", err, out)
		}
	})
	taken("kubectl label max=2", 2, func() {
		r.c.k(t, "-n", r.namespace, "label", "deployment", f.name, "--overwrite", "com.openfaas.scale.max=2")
	})
	taken("kubectl label min=4 max=4", 4, func() {
		r.c.k(t, "-n", r.namespace, "label", "deployment", f.name, "--overwrite", "com.openfaas.scale.min=4", "com.openfaas.scale.max=4")
	})
	res := l.stop()
	res.clean(t, "changes by hand")
	for _, w := range f.explained(t, mark, 1, 2, 5) {
		t.Log(w)
	}
}

// A Deployment is deleted and made again under load: nobody is there in
// between, and then it works as before.
func TestDeletedAndMadeAgainUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	d := keepsAwake("reborn", pods)
	f, l, _ := underLoad(t, r, d, urls(r.weirs(t, 2))...)
	for range long(1, 4) {
		deleted := time.Now()
		r.c.k(t, "-n", r.namespace, "delete", "deployment", f.name, "--wait=false")
		for _, w := range r.weirs(t, 2) {
			eventually(t, w.name+" knows that "+f.name+" is gone", func() error {
				resp, err := plainClient.Get(w.url + f.path())
				if err != nil {
					return err
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusNotFound {
					err = fmt.Errorf("%s", resp.Status)
				}
				return err
			})
		}
		l.after(t, 50)
		mark := r.c.mark(t)
		f = r.deploy(t, d)
		made := time.Now()
		f.up(t, pods)
		l.after(t, 100)
		l.result.mu.Lock()
		notFound, rest := 0, []failure(nil)
		for _, x := range l.result.Failures {
			if x.Status == http.StatusNotFound && x.At.After(deleted) && x.Sent.Before(made) {
				notFound++
			} else {
				rest = append(rest, x)
			}
		}
		l.result.Failures = rest
		l.result.mu.Unlock()
		if notFound == 0 {
			t.Error("no request was answered 404 while the function was not there")
		}
		f.calm(t, mark, pods, pods, pods+3)
	}
	l.stop().clean(t, "deletion of the function")
}
