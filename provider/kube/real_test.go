package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/providertest"
)

// live is a weir's provider that runs.
type live struct {
	*Provider
	fleet *fleet.Fleet
	log   *lines
	end   func()
}

func (p *place) live(t *testing.T, change ...func(*Config)) *live {
	t.Helper()
	cfg := p.config(t)
	l := &live{log: &lines{}, fleet: fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})}
	cfg.Log = slog.New(slog.NewTextHandler(l.log, nil))
	for _, f := range change {
		f(&cfg)
	}
	provider, err := New(cfg)
	must(t, err)
	l.Provider = provider
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); provider.Run(ctx, l.fleet) }()
	l.end = func() { cancel(); <-ended }
	t.Cleanup(l.end)
	return l
}

func (l *live) complete(t *testing.T) *live {
	t.Helper()
	select {
	case <-l.fleet.Complete():
	case <-time.After(patience):
		t.Fatalf("not synced; the log:\n%s", strings.Join(l.log.all(), "\n"))
	}
	return l
}

func (l *live) function(t *testing.T, ref function.Ref) *function.Function {
	t.Helper()
	e := l.fleet.Get(ref)
	if e == nil {
		t.Fatalf("%s is not known", ref)
	}
	return e.Function()
}

func (p *place) ref(name string) function.Ref {
	return function.Ref{Name: name, Namespace: p.namespace}
}

func settings(pairs ...string) map[string]string {
	all := map[string]string{"weir/function": "true", "weir/min": "0"}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = pairs[i+1]
	}
	return all
}

// touchStatus writes the object's status, as controllers do all the time.
func (p *place) touchStatus(t *testing.T, kind string, ref function.Ref) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Touched","status":"True","message":"%d"}]}}`, time.Now().UnixNano())
	var err error
	if strings.EqualFold(kind, statefulSets) {
		_, err = p.admin.AppsV1().StatefulSets(ref.Namespace).Patch(t.Context(), ref.Name, "application/merge-patch+json", patch, metav1.PatchOptions{}, "status")
	} else {
		_, err = p.admin.AppsV1().Deployments(ref.Namespace).Patch(t.Context(), ref.Name, "application/merge-patch+json", patch, metav1.PatchOptions{}, "status")
	}
	must(t, err)
}

func (p *place) events(t *testing.T, reason string) []corev1.Event {
	t.Helper()
	list, err := p.admin.CoreV1().Events(p.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
	must(t, err)
	return list.Items
}

// TestStatusComesBetween writes while the status of the object changes all the
// time: conflicts are met, and nobody hears of them.
func TestStatusComesBetween(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings()})
	l, ref := p.live(t).complete(t), p.ref("f")
	ctx, cancel := context.WithCancel(t.Context())
	var churn sync.WaitGroup
	churn.Go(func() {
		for ctx.Err() == nil {
			p.touchStatus(t, deployments, ref)
			time.Sleep(5 * time.Millisecond) // no controller writes more often
		}
	})
	stop := func() { cancel(); churn.Wait() }
	defer stop()
	var want []providertest.Write
	for replicas := range 15 {
		next := replicas%3 + 1
		if replicas%5 == 4 {
			next = 0
		}
		old := l.function(t, ref)
		if old.Replicas == next {
			continue
		}
		must(t, l.Scale(t.Context(), ref, next, old.Version))
		want = append(want, providertest.Write{Old: old.Replicas, New: next})
		eventually(t, "the write", func() bool { return l.function(t, ref).Replicas == next })
		if next == 0 {
			must(t, l.Wake(t.Context(), ref, 1))
			want = append(want, providertest.Write{Old: 0, New: 1})
			eventually(t, "the wake", func() bool { return l.function(t, ref).Replicas == 1 })
		}
	}
	stop()
	meta, _ := p.get(t, "f")
	if got := p.writes.read(t, meta); !slices.Equal(got, want) {
		t.Errorf("written %v, expected %v", got, want)
	}
	if met := p.audit(t, "serviceaccount:"+p.namespace+":weir", `"code":409`, "/scale"); len(met) == 0 {
		t.Error("no conflict was met: the test shows nothing")
	}
	if said := l.log.with("onflict"); len(said) != 0 {
		t.Errorf("conflicts are in the log: %q", said)
	}
}

// What was read before somebody else's change is no ground for a write.
func TestScaleLosesToAWakeBetween(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings(), Replicas: 1})
	deciding, other := p.live(t).complete(t), p.live(t).complete(t)
	ref := p.ref("f")
	for range 5 {
		eventually(t, "one", func() bool { return deciding.function(t, ref).Replicas == 1 && other.function(t, ref).Replicas == 1 })
		decided := deciding.function(t, ref).Version
		// To sleep and awake again: replicas are what they were.
		must(t, other.Scale(t.Context(), ref, 0, other.function(t, ref).Version))
		must(t, other.Wake(t.Context(), ref, 1))
		if err := deciding.Scale(t.Context(), ref, 0, decided); !errors.Is(err, function.ErrConflict) {
			t.Fatalf("lowered by what was decided before a wake: %v", err)
		}
	}
}

func TestAutoscaledByHPA(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings()})
	l, ref := p.live(t).complete(t), p.ref("f")
	hpas := p.admin.AutoscalingV2().HorizontalPodAutoscalers(p.namespace)
	_, err := hpas.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "h"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "f"},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "autoscaled", func() bool { return l.function(t, ref).Autoscaled })
	must(t, hpas.Delete(t.Context(), "h", metav1.DeleteOptions{}))
	eventually(t, "not any more", func() bool { return !l.function(t, ref).Autoscaled })
}

// Pods that ended stay in the API for long; they are no pods of a function.
func TestEndedPodsAreNone(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings(), Replicas: 1})
	pods := p.admin.CoreV1().Pods(p.namespace)
	add := func(name string) *corev1.Pod {
		_, spec := template("f")
		spec.Labels[idle] = "true"
		pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: spec.Labels, OwnerReferences: nil}, Spec: spec.Spec}, metav1.CreateOptions{})
		must(t, err)
		return pod
	}
	end := func(name string, phase corev1.PodPhase, reason string) {
		eventually(t, name+" bound", func() bool {
			pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
			must(t, err)
			alive(pod, "198.51.100.9")
			pod.Status.Phase, pod.Status.Reason = phase, reason
			_, err = pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
			return err == nil && pod.Spec.NodeName != ""
		})
	}
	selector, _ := template("f")
	unowned := func() (names []string) {
		list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
		must(t, err)
		for _, pod := range list.Items {
			names = append(names, pod.Name)
		}
		return names
	}
	add("evicted")
	end("evicted", corev1.PodFailed, "Evicted")
	l, ref := p.live(t).complete(t), p.ref("f")
	eventually(t, "the one that runs, alone", func() bool {
		now := l.function(t, ref).Pods
		return len(now) == 1 && now[0].Name != "evicted" && now[0].Ready
	})
	add("done")
	eventually(t, "one more", func() bool { return len(podNames(l.fleet, ref)) >= 1 && slices.Contains(unowned(), "done") })
	end("done", corev1.PodSucceeded, "")
	eventually(t, "none of the ended ones", func() bool {
		now := podNames(l.fleet, ref)
		return len(now) == 1 && !slices.Contains(now, "done") && !slices.Contains(now, "evicted")
	})
}

func TestFaultsBecomeEvents(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings("weir/max", "many")})
	first := p.live(t).complete(t)
	eventually(t, "leading", first.Leads)
	second := p.live(t).complete(t)
	eventually(t, "an Event", func() bool { return len(p.events(t, "BadSetting")) == 1 })
	p.relabel(t, p.ref("f"), settings("weir/max", "few"))
	eventually(t, "an Event of the other value", func() bool { return len(p.events(t, "BadSetting")) == 2 })
	for _, e := range p.events(t, "BadSetting") {
		if e.InvolvedObject.Kind != deployments || e.InvolvedObject.Name != "f" || e.Type != "Warning" || e.Source.Component != "weir" ||
			!strings.Contains(e.Message, "weir/max") || e.Count != 1 {
			t.Errorf("the Event is %+v", e)
		}
	}
	for _, l := range []*live{first, second} {
		if n := len(l.log.with("BadSetting", "many")); n != 1 {
			t.Errorf("logged %d times, expected once by each weir", n)
		}
	}
}

func TestPeersOfACluster(t *testing.T) {
	p := newPlace(t, deployments)
	l := p.live(t).complete(t)
	eventually(t, "peers known", l.peers.known)
	labels := map[string]string{"app.kubernetes.io/instance": "weir"}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	replicas := int32(2)
	_, err := p.admin.AppsV1().StatefulSets(p.namespace).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "weir"},
		Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: selector, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "weir", Image: "weir"}}},
		}},
	}, metav1.CreateOptions{})
	must(t, err)
	// weir-1 is what this one is called, so the other is its peer.
	eventually(t, "one peer", func() bool {
		peers := l.Peers()
		return len(peers) == 1 && strings.HasSuffix(peers[0], ":8082") && strings.HasPrefix(peers[0], "198.51.")
	})
	p.kind = statefulSets
	p.resize(t, p.ref("weir"), 0)
	eventually(t, "none", func() bool { return len(l.Peers()) == 0 })
}

// All namespaces by one watch each, and the rights of a ClusterRole.
func TestAllNamespaces(t *testing.T) {
	p, q := newPlace(t, deployments), newPlace(t, deployments)
	meta := metav1.ObjectMeta{Name: "weir-" + p.namespace}
	_, err := p.admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: FunctionRules()}, metav1.CreateOptions{})
	must(t, err)
	_, err = p.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "weir", Namespace: p.namespace}},
	}, metav1.CreateOptions{})
	must(t, err)
	p.make(t, providertest.Function{Name: "f", Labels: settings()})
	q.make(t, providertest.Function{Name: "f", Labels: settings("weir/max", "3")})
	q.make(t, providertest.Function{Name: "no", Labels: map[string]string{}})
	all := p.live(t, func(c *Config) { c.Namespaces = []string{"*"} }).complete(t)
	two := p.live(t, func(c *Config) { c.Namespaces = []string{p.namespace, q.namespace} }).complete(t)
	for _, l := range []*live{all, two} {
		l.function(t, p.ref("f"))
		if n := l.function(t, q.ref("f")).Spec.Max; n != 3 || l.fleet.Get(q.ref("no")) != nil {
			t.Errorf("in the other namespace: max %d, an unmarked one known %t", n, l.fleet.Get(q.ref("no")) != nil)
		}
		must(t, l.Wake(t.Context(), q.ref("f"), 1))
		eventually(t, "its pod", func() bool { return len(l.function(t, q.ref("f")).Pods) == 1 })
	}
	q.remove(t, q.ref("f"))
	for _, l := range []*live{all, two} {
		eventually(t, "removal", func() bool { return l.fleet.Get(q.ref("f")) == nil })
	}
}

// A wake is one call of the API server, however often it is asked for; and
// what is awake costs none.
func TestCallsOfTheServer(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings()})
	l, ref := p.live(t).complete(t), p.ref("f")
	user := "system:serviceaccount:" + p.namespace + ":weir"
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			if err := l.Wake(t.Context(), ref, 1); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, "a pod", func() bool { pods := l.function(t, ref).Pods; return len(pods) == 1 && pods[0].Ready })
	for range 300 {
		must(t, l.Wake(t.Context(), ref, 1))
	}
	if calls := p.audit(t, user, `"deployments"`, `"name":"f"`); len(calls) != 1 || !strings.Contains(calls[0], `"verb":"update"`) || !strings.Contains(calls[0], `"code":200`) {
		t.Errorf("%d calls for 600 wakes, expected one update:\n%s", len(calls), strings.Join(calls, "\n"))
	}
	if agents := p.audit(t, user, `"userAgent":"weir/test (linux/`); len(agents) != len(p.audit(t, user)) {
		t.Errorf("%d of %d calls have weir's user agent", len(agents), len(p.audit(t, user)))
	}
}
