package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// A pod that has no room says so to the kubelet, and the function's Service
// sends nobody there until it has room again. weir goes its own way to the
// other pod meanwhile, and nobody is refused.
func TestFullPodLeavesTheService(t *testing.T) {
	c := needNode(t)
	const room = 2
	r := hardened(t)
	f := r.deploy(t, fn{
		Name: "full", Replicas: 2, Env: map[string]string{"max_inflight": fmt.Sprint(room)},
		// Two pods, whatever happens.
		Annotations: map[string]string{"weir/function": "true", "weir/min": "2", "weir/max": "2"},
		Patch: func(d map[string]any) {
			container(d)["readinessProbe"] = map[string]any{
				"httpGet":       map[string]any{"path": "/_/ready", "port": 8080},
				"periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1,
			}
		},
	})
	r.manifest(t, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"full"},"spec":{"selector":{"app":"full"},"ports":[{"port":80,"targetPort":8080}]}}`)
	service := "http://" + strings.TrimSpace(c.k(t, "-n", r.namespace, "get", "service", "full", "-o", "jsonpath={.spec.clusterIP}"))
	f.up(t, 2)
	pods, err := f.pods()
	if err != nil || len(pods) != 2 {
		t.Fatalf("%d pods: %v", len(pods), err)
	}
	saturated, free := pods[0], pods[1]
	f.servedBy(t, service, saturated.Metadata.Name, free.Metadata.Name)

	release := occupy(t, "http://"+saturated.Status.PodIP+":8080", room)
	eventually(t, "the kubelet finds the full pod not ready", func() error { return f.readiness(saturated.Metadata.Name, false) })
	resp, text := ask(t, http.MethodGet, "http://"+saturated.Status.PodIP+":8080/_/ready", nil)
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("/_/ready of the full pod: %d %s, want 429", resp.StatusCode, text)
	}
	f.servedBy(t, service, free.Metadata.Name)
	for _, w := range r.weirs(t, 2) {
		if s, err := w.status("full"); err != nil || s.NumberReady != 2 {
			t.Errorf("%s: %+v %v: a full pod serves nevertheless, and is none that weir waits for", w.name, s, err)
		}
	}
	res := fire(t, load{URLs: urls(r.weirs(t, 2)), Clients: 2, N: 200, Next: func(n int64) shot {
		return shot{Path: f.path(), Body: noise(n, 100)}
	}}).wait()
	res.clean(t, "through weir, past the full pod")
	if res.Pods[free.Metadata.Name] != 200 {
		t.Errorf("through weir, past the full pod: answers by %v", res.Pods)
	}

	release()
	eventually(t, "the kubelet finds the pod ready again", func() error { return f.readiness(saturated.Metadata.Name, true) })
	f.servedBy(t, service, saturated.Metadata.Name, free.Metadata.Name)
	pods, err = f.pods()
	if err != nil || len(pods) != 2 || restarts(pods) != 0 {
		t.Errorf("pods afterwards: %+v %v, want the same two, never restarted", pods, err)
	}
}

// container is the only one of a manifest made by fn.
func container(d map[string]any) map[string]any {
	return podSpec(d)["containers"].([]map[string]any)[0]
}

func podSpec(d map[string]any) map[string]any {
	return d["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
}

func restarts(pods []pod) (n int) {
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			n += c.RestartCount
		}
	}
	return n
}

// occupy has n requests run at an address until it is told to end them.
func occupy(t *testing.T, base string, n int) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan error, n)
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/sse?n=1000000&ms=600000", nil)
			if err != nil {
				began <- err
				return
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				began <- err
				return
			}
			defer resp.Body.Close()
			// Its first byte says that it runs.
			if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil || resp.StatusCode != http.StatusOK {
				began <- fmt.Errorf("%s: %w", resp.Status, err)
				return
			}
			began <- nil
			_, _ = io.Copy(io.Discard, resp.Body)
		})
	}
	release = func() { cancel(); all.Wait() }
	t.Cleanup(release)
	for range n {
		if err := <-began; err != nil {
			t.Fatalf("occupy %s: %v", base, err)
		}
	}
	return release
}

// readiness says whether the pod's condition and its endpoint are as wanted.
func (f *function) readiness(pod string, want bool) error {
	pods, err := f.pods()
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.Metadata.Name == pod && p.ready() != want {
			return fmt.Errorf("pod ready %v", p.ready())
		}
	}
	var list struct {
		Items []struct {
			Endpoints []struct {
				TargetRef  struct{ Name string }
				Conditions struct{ Ready bool }
			}
		}
	}
	if err := f.r.c.get("/apis/discovery.k8s.io/v1/namespaces/"+f.r.namespace+"/endpointslices", &list); err != nil {
		return err
	}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.TargetRef.Name == pod {
				if e.Conditions.Ready != want {
					return fmt.Errorf("endpoint ready %v", e.Conditions.Ready)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("no endpoint of %s", pod)
}

// servedBy waits until connections to a Service reach these pods and no other.
func (f *function) servedBy(t *testing.T, service string, want ...string) {
	t.Helper()
	const tries = 50 // with two pods all of one by chance: once in 10^15
	eventually(t, fmt.Sprintf("the Service sends to %v only, and to each of them", want), func() error {
		got := map[string]int{}
		for range tries {
			resp, text, err := tryAsk(http.MethodGet, service, nil)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s %s", resp.Status, text)
			}
			got[resp.Header.Get("X-Pod")]++
		}
		for _, name := range want {
			if got[name] == 0 {
				return fmt.Errorf("answers by %v", got)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("answers by %v", got)
		}
		return nil
	})
}
