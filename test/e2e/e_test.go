package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// slimfaas is the Deployment of SlimFaas's README under another name, with the
// changes that are named and its image replaced by one that holds no
// fwatchdog. It has no security context, and cannot be in a hardened release.
func (r *release) slimfaas(t *testing.T, name string, changes ...string) *function {
	t.Helper()
	text, err := os.ReadFile("testdata/slimfaas.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changes = append([]string{"fibonacci1", name,
		"docker.io/axaguildev/fibonacci:latest", r.c.images + "fibonacci-plain:" + imageTag}, changes...)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(string(text), changes[i]) {
			t.Fatalf("no %q to replace in testdata/slimfaas.yaml", changes[i])
		}
	}
	r.manifest(t, strings.NewReplacer(changes...).Replace(string(text)))
	return r.known(t, name)
}

// A function as SlimFaas marks it, with its own manifest and without
// fwatchdog, and one as OpenFaaS does, with it: both come from zero and go back,
// side by side, and SlimFaas's clients see it happen.
func TestSideBySide(t *testing.T) {
	c := needNode(t)
	r := sharedRelease(t)
	asItStands := r.slimfaas(t, "fibonacci1")
	shorter := r.slimfaas(t, "fibonacci2", `SetReplicasMin: "300"`, `SetReplicasMin: "5"`)
	figlet := r.deploy(t, fn{Name: "figlet", Image: "fibonacci",
		Labels: map[string]string{"faas_function": "figlet",
			"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "5s"}})
	all := []*function{asItStands, shorter, figlet}
	// The first would take its five minutes, and not for the first time.
	if got := r.explain(t, "fibonacci1"); got.Autoscaling.ZeroAfterSeconds != 300 || got.Autoscaling.Floor != 1 || len(got.Faults) != 0 {
		t.Errorf("fibonacci1 as its manifest stands: %+v, want 300 s, at least 1 while awake, and no faults", got)
	}
	asItStands.scale(t, 0)
	for _, f := range all {
		f.asleep(t)
		if n := f.endpoints(t); n != 0 {
			t.Fatalf("%d endpoints of %s before the first request", n, f.name)
		}
	}

	weirs := r.weirs(t, 2)
	watched := weirs[0].watch(t)
	mark, begin := c.mark(t), time.Now()
	res := fire(t, load{URLs: urls(weirs), Clients: 30, N: 60, Next: func(n int64) shot {
		return shot{Path: all[n%3].path() + "/hello/guillaume"}
	}}).wait()
	res.clean(t, "side by side")
	for pod, started := range res.Started {
		if started.Before(begin) {
			t.Errorf("pod %s answered, which runs since %v, before the first request", pod, started)
		}
	}
	for i, w := range weirs {
		for _, f := range all {
			if resp, text := ask(t, http.MethodGet, w.url+f.path()+"/hello/elodie", nil); resp.StatusCode != 200 || text != "Hello elodie\n" {
				t.Errorf("%s: %s %q", f.name, resp.Status, text)
			}
			want := `{"NumberReady":1,"numberRequested":1}`
			eventually(t, f.name+"'s status", func() error {
				resp, text, err := tryAsk(http.MethodGet, w.url+"/status-function/"+f.name, nil)
				if err == nil && strings.TrimSpace(text) != want {
					err = fmt.Errorf("%s of weir %d: %s %s, want %s", f.name, i, resp.Status, text, want)
				}
				return err
			})
			if resp, _ := ask(t, http.MethodGet, w.url+"/wake-function/"+f.name, nil); resp.StatusCode != http.StatusOK {
				t.Errorf("/wake-function/%s, which is up: %s, want 200", f.name, resp.Status)
			}
		}
		if resp, text := ask(t, http.MethodPost, w.url+asItStands.path()+"/fibonacci", strings.NewReader(`{"input":10}`)); resp.StatusCode != 200 || text != `{"result":55}`+"\n" {
			t.Errorf("POST /fibonacci: %s %q", resp.Status, text)
		}
	}
	shorter.asleep(t)
	figlet.asleep(t)
	if n, err := asItStands.replicas(); err != nil || n != 1 {
		t.Errorf("fibonacci1, which has 300 s: %d replicas, %v", n, err)
	}
	for _, f := range all {
		f.wokenOnce(t, mark)
	}
	for _, f := range all[1:] {
		watched.saw(t, f.name, []status{{0, 0}, {1, 1}, {0, 0}})
	}
	watched.saw(t, "fibonacci1", []status{{0, 0}, {1, 1}})
}

// wokenOnce fails the test unless there was one write from zero since a mark,
// and none by weir that was neither this nor back to zero.
func (f *function) wokenOnce(t *testing.T, mark int64) {
	t.Helper()
	woken := 0
	for _, w := range f.writes(t, mark, 0) {
		switch {
		case !w.byWeir() || !w.Done:
		case w.Old == 0 && w.New > 0:
			woken++
		case w.New != 0 && w.New != w.Old:
			t.Errorf("%s: %v", f.name, w)
		}
	}
	if woken != 1 {
		t.Errorf("%s: %d writes from zero, want 1", f.name, woken)
	}
}

// A pod without fwatchdog gets no more requests at once than its annotation
// says, over both weirs, and those that find no room wait.
func TestLimitOfAPlainPod(t *testing.T) {
	needNode(t)
	const limit = 4
	r := sharedRelease(t)
	f := r.slimfaas(t, "fibonacci3", `SlimFaas/ReplicasMin: "0"`,
		fmt.Sprintf("SlimFaas/NumberParallelRequestPerPod: \"%d\"\n        weir/max: \"1\"\n        SlimFaas/ReplicasMin: \"0\"", limit))
	f.up(t, 1)
	before, err := f.pods()
	if err != nil || len(before) != 1 {
		t.Fatalf("%d pods, %v", len(before), err)
	}
	res := fire(t, load{URLs: urls(r.weirs(t, 2)), Clients: 40, N: 200, Next: func(int64) shot {
		return shot{Path: f.path() + "/hello/julie?ms=50"}
	}}).wait()
	res.clean(t, "40 at once to a pod that takes 4")
	if len(res.Pods) != 1 {
		t.Errorf("answers by %v, want one pod", res.Pods)
	}
	resp, _ := ask(t, http.MethodGet, "http://"+before[0].Status.PodIP+":8080/hello/itself", nil)
	if most := resp.Header.Get("X-Most"); most != fmt.Sprint(limit) {
		t.Errorf("the pod had %s requests at once, want %d and no more", most, limit)
	}
}

// An explanation is what /system/function/NAME says beyond OpenFaaS.
type explanation struct {
	Autoscaling struct {
		Leading          bool
		Reason, Why      string
		Floor, Max       int
		ZeroAfterSeconds float64
	}
	Faults []struct{ Object, Key, Value, Expected string }
}

// explain asks the weir that decides.
func (r *release) explain(t *testing.T, name string) (e explanation) {
	t.Helper()
	weirs := r.weirs(t, 2)
	eventually(t, "the weir that decides has looked at "+name, func() error {
		for _, w := range weirs {
			e = explanation{}
			if err := w.system("/system/function/"+name, &e); err != nil {
				return err
			}
			if e.Autoscaling.Leading && e.Autoscaling.Reason != "" {
				return nil
			}
		}
		return fmt.Errorf("none of %d weirs: %+v", len(weirs), e)
	})
	return e
}

// system reads a protected route.
func (w weir) system(path string, into any) error {
	req, err := http.NewRequest(http.MethodGet, w.url+path, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth("admin", password)
	resp, err := plainClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// A watching notes what the status stream of a weir says.
type watching struct {
	mu   sync.Mutex
	seen map[string][]status // of each function, without repeats
	err  error
}

func (w weir) watch(t *testing.T) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/status-functions-stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("/status-functions-stream: %s, %s", resp.Status, kind)
	}
	s := &watching{seen: map[string][]status{}}
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		defer resp.Body.Close()
		kind := ""
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			if text, ok := strings.CutPrefix(in.Text(), "event: "); ok {
				kind = text
			}
			if text, ok := strings.CutPrefix(in.Text(), "data: "); ok {
				s.note(kind, text)
			}
		}
	}()
	eventually(t, "a first event", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.seen) == 0 && s.err == nil {
			return fmt.Errorf("none")
		}
		return nil
	})
	return s
}

func (s *watching) note(kind, data string) {
	var state struct {
		Functions []struct {
			Name string
			status
		}
	}
	err := json.Unmarshal([]byte(data), &state)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || kind != "state" {
		s.err = fmt.Errorf("event %q, data %q: %v", kind, data, err)
		return
	}
	for _, f := range state.Functions {
		if seen := s.seen[f.Name]; len(seen) == 0 || seen[len(seen)-1] != f.status {
			s.seen[f.Name] = append(seen, f.status)
		}
	}
}

// saw waits until these states were among those that the stream told of, in
// this order.
func (s *watching) saw(t *testing.T, name string, want []status) {
	t.Helper()
	eventually(t, fmt.Sprintf("the stream tells of %s: %v", name, want), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil {
			return s.err
		}
		next := 0
		for _, state := range s.seen[name] {
			if next < len(want) && state == want[next] {
				next++
			}
		}
		if next < len(want) {
			return fmt.Errorf("seen: %v", s.seen[name])
		}
		return nil
	})
}
