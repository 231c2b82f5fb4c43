package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// A StatefulSet comes from zero by its ordinals, each pod after the one before
// it is ready, and goes back from the highest.
func TestStatefulSet(t *testing.T) {
	c := needNode(t)
	const replicas = 3
	r := hardened(t)
	f := zero("shelf", map[string]string{"weir/min": fmt.Sprint(replicas), "weir/zero-after": "8s"})
	f.Patch = func(d map[string]any) {
		d["kind"] = "StatefulSet"
		d["spec"].(map[string]any)["serviceName"] = "shelf"
		container(d)["readinessProbe"] = map[string]any{"httpGet": map[string]any{"path": "/_/ready", "port": 8080}, "periodSeconds": 1}
	}
	shelf := r.deploy(t, f)
	t.Cleanup(func() {
		if _, err := c.kubectl("", "-n", r.namespace, "delete", "statefulset", "shelf", "--wait=false"); err != nil {
			t.Log(err)
		}
	})
	asked := func() (n int) {
		var s struct{ Spec struct{ Replicas int } }
		if err := c.get("/apis/apps/v1/namespaces/"+r.namespace+"/statefulsets/shelf", &s); err != nil {
			t.Fatal(err)
		}
		return s.Spec.Replicas
	}
	if n := asked(); n != 0 {
		t.Fatalf("%d replicas before the first request", n)
	}
	mark := c.mark(t)
	w := r.weirs(t, 2)[0]
	if resp, text := ask(t, http.MethodGet, w.url+shelf.path(), nil); resp.StatusCode != http.StatusOK || resp.Header.Get("X-Pod") != "shelf-0" {
		t.Errorf("the first answer: %s %s by %q, want the first pod's", resp.Status, text, resp.Header.Get("X-Pod"))
	}
	// Kept awake until the last of them serves.
	load := fire(t, load{URLs: []string{w.url}, Clients: 1, Pause: 200 * time.Millisecond, Next: func(int64) shot { return shot{Path: shelf.path()} }})
	shelf.up(t, replicas)
	pods, err := shelf.pods()
	if err != nil {
		t.Fatal(err)
	}
	load.stop().clean(t, "while the pods come up")
	slices.SortFunc(pods, func(a, b pod) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	for i, p := range pods {
		if want := fmt.Sprintf("shelf-%d", i); p.Metadata.Name != want {
			t.Fatalf("pod %s, want %s", p.Metadata.Name, want)
		}
		if i > 0 && p.Metadata.CreationTimestamp.Before(pods[i-1].Metadata.CreationTimestamp) {
			t.Errorf("%s was made before %s", p.Metadata.Name, pods[i-1].Metadata.Name)
		}
	}
	// On the way back those that stay are always the first ones.
	eventually(t, "the StatefulSet sleeps", func() error {
		pods, err := shelf.pods()
		if err != nil {
			return err
		}
		var stay []string
		for _, p := range pods {
			if p.Metadata.DeletionTimestamp == nil {
				stay = append(stay, p.Metadata.Name)
			}
		}
		slices.Sort(stay)
		for i, name := range stay {
			if want := fmt.Sprintf("shelf-%d", i); name != want {
				t.Errorf("%v stay: no %s", stay, want)
			}
		}
		if n := asked(); n != 0 || len(pods) > 0 {
			return fmt.Errorf("%d replicas asked for, %d pods", n, len(pods))
		}
		return nil
	})
	var made []string
	for _, w := range shelf.writes(t, mark, 0) {
		if w.byWeir() && w.Done {
			made = append(made, fmt.Sprintf("%s/%s %d → %d", w.ObjectRef.Resource, w.ObjectRef.Subresource, w.Old, w.New))
		}
	}
	if want := []string{"statefulsets/scale 0 → 3", "statefulsets/scale 3 → 0"}; !slices.Equal(made, want) {
		t.Errorf("weir wrote %v, want %v", made, want)
	}
	shelf.explainedWrites(t, mark, 0)
}

// Where an HPA moves the replicas weir only wakes the function and puts it to
// sleep, whatever the load.
func TestHPAOwnsTheReplicas(t *testing.T) {
	c := needNode(t)
	const least = 2
	r := hardened(t)
	owned := zero("owned", map[string]string{"weir/target": "1", "weir/zero-after": "5s"})
	f := r.deploy(t, owned)
	f.asleep(t)
	// There are no metrics here: this HPA only keeps to its bounds.
	r.manifest(t, fmt.Sprintf(`{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"owned"},"spec":{
		"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"owned"},"minReplicas":%d,"maxReplicas":4,
		"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}}]}}`, least))
	mark := c.mark(t)
	// Ten at once, of a target of one: weir by itself would ask for more pods.
	running := fire(t, load{URLs: urls(r.weirs(t, 2)), Clients: 10, Next: func(int64) shot { return shot{Path: f.path() + "?ms=1000"} }})
	f.up(t, least)
	eventually(t, "weir leaves it to the HPA", func() error {
		e := r.explain(t, "owned").Autoscaling
		if e.Reason != "autoscaled" {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	running.stop().clean(t, "under an HPA")
	f.asleep(t)
	var made []string
	raised := false
	for _, w := range f.writes(t, mark, 0) {
		if w.byWeir() && w.Done {
			made = append(made, fmt.Sprintf("%d → %d", w.Old, w.New))
		}
		raised = raised || !w.byWeir() && w.New == least
	}
	if want := []string{"0 → 1", fmt.Sprintf("%d → 0", least)}; !slices.Equal(made, want) || !raised {
		t.Errorf("weir wrote %v, want %v, with the HPA's %d in between (%v)", made, want, least, raised)
	}
	f.explainedWrites(t, mark, 0)
}
