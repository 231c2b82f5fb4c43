package kube

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// told is what a view said to owners; leads is whether it may.
type told struct {
	leads bool
	all   []string
}

func (o *told) tell(s subject, e function.Event) bool {
	if o.leads {
		o.all = append(o.all, fmt.Sprintf("%s %s %s", s.kind, s.name, e.Reason))
	}
	return o.leads
}

func newTestView(scopes ...string) (*view, *fleet.Fleet, *told) {
	owner := &told{leads: true}
	v, f := newView(slog.New(slog.DiscardHandler), scopes, owner.tell), fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})
	v.begin(f)
	return v, f, owner
}

// readAll tells the view that it has read everything that was put.
func readAll(v *view, ns string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, kind := range []string{deployments, statefulSets, allPods, allHPAs} {
		v.have(ns, kind)
	}
}

func synced(f *fleet.Fleet) bool {
	select {
	case <-f.Complete():
		return true
	default:
		return false
	}
}

func deployment(ns, name, uid string, selector map[string]string, annotations map[string]string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid), Annotations: annotations, ResourceVersion: "1", Generation: 1},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: selector}},
	}
}

func statefulSet(ns, name, uid string, selector map[string]string) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid), Annotations: marked, ResourceVersion: "1", Generation: 1},
		Spec:       appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: selector}},
	}
}

func livePod(ns, name, uid string, labels map[string]string, owner workloadKey) *corev1.Pod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid), Labels: labels}}
	if owner != (workloadKey{}) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: owner.kind, Name: owner.name, Controller: &yes}}
	}
	p.Status.PodIP = "198.51.100.1"
	return p
}

var marked = map[string]string{"weir/function": "true"}

func podNames(f *fleet.Fleet, ref function.Ref) []string {
	e := f.Get(ref)
	if e == nil {
		return nil
	}
	names := []string{}
	for _, p := range e.Function().Pods {
		names = append(names, p.Name)
	}
	return names
}

func TestNothingIsPutBeforeAllOfItIsKnown(t *testing.T) {
	v, f, _ := newTestView("a", "b")
	app := map[string]string{"app": "f"}
	refA, refB := function.Ref{Name: "f", Namespace: "a"}, function.Ref{Name: "f", Namespace: "b"}
	for _, ns := range []string{"a", "b"} {
		v.pod(readPod(livePod(ns, "p", "p", app, workloadKey{})))
		v.workload(readDeployment(deployment(ns, "f", "u", app, marked)))
	}
	if f.Len() != 0 {
		t.Error("put before anything was read to its end")
	}
	if _, err := v.find(refA); err == nil || strings.Contains(err.Error(), function.ErrNotFound.Error()) {
		t.Errorf("before it was read: %v, expected unavailable", err)
	}
	readAll(v, "a")
	if got := podNames(f, refA); !slices.Equal(got, []string{"p"}) || f.Get(refB) != nil || synced(f) {
		t.Errorf("pods of the one that was read: %v; the other is known: %t; complete: %t", got, f.Get(refB) != nil, synced(f))
	}
	readAll(v, "b")
	if got := podNames(f, refB); !slices.Equal(got, []string{"p"}) || !synced(f) {
		t.Errorf("pods of the other: %v, complete %t", got, synced(f))
	}
}

func TestSameName(t *testing.T) {
	v, f, owner := newTestView("ns")
	readAll(v, "ns")
	ref := function.Ref{Name: "f", Namespace: "ns"}
	v.workload(readStatefulSet(statefulSet("ns", "f", "s", map[string]string{"app": "s"})))
	first := f.Get(ref)
	if first.Function().Kind != statefulSets {
		t.Fatalf("alone it is a %s", first.Function().Kind)
	}
	owner.leads = false
	for range 3 {
		v.workload(readDeployment(deployment("ns", "f", "d", map[string]string{"app": "d"}, marked)))
	}
	if e := f.Get(ref); e == first || e.Function().Kind != deployments || !first.Gone() {
		t.Errorf("of two of one name a %s is served, the old entry gone: %t", e.Function().Kind, first.Gone())
	}
	if len(owner.all) != 0 {
		t.Errorf("one that does not lead told %v", owner.all)
	}
	owner.leads = true
	v.tellAll()
	v.tellAll()
	v.workload(readStatefulSet(statefulSet("ns", "f", "s", map[string]string{"app": "s"})))
	if want := []string{"StatefulSet f NameTaken"}; !slices.Equal(owner.all, want) {
		t.Errorf("told %v, expected %v, once", owner.all, want)
	}
	v.dropWorkload(deployments, object{"ns", "f"})
	if e := f.Get(ref); e == nil || e.Function().Kind != statefulSets {
		t.Error("the other is not served after the first was removed")
	}
	v.dropWorkload(statefulSets, object{"ns", "f"})
	if f.Get(ref) != nil || len(v.spaces) != 0 {
		t.Errorf("known still: %t; %d spaces are kept", f.Get(ref) != nil, len(v.spaces))
	}
}

func TestFaultsAreToldOncePerValue(t *testing.T) {
	v, _, owner := newTestView("ns")
	readAll(v, "ns")
	put := func(max string) {
		d := deployment("ns", "f", "d", map[string]string{"app": "d"}, map[string]string{"weir/function": "true", "weir/max": max})
		v.workload(readDeployment(d))
	}
	expect := func(when string, n int) {
		t.Helper()
		if len(owner.all) != n {
			t.Errorf("%s: told %v, expected %d", when, owner.all, n)
		}
	}
	owner.leads = false
	put("many")
	expect("not leading", 0)
	owner.leads = true
	v.tellAll()
	v.tellAll()
	put("many")
	expect("the same value", 1)
	put("few")
	expect("another value", 2)
	put("3")
	expect("a good value", 2)
	put("few")
	expect("bad again", 3)

	// One that is not marked, for want of a mark that can be read.
	suspicious := deployment("ns", "g", "e", map[string]string{"app": "e"}, map[string]string{"weir/function": "ture"})
	for range 2 {
		v.workload(readDeployment(suspicious))
		v.tellAll()
	}
	expect("a bad mark", 4)
	v.dropWorkload(deployments, object{"ns", "g"})
	v.dropWorkload(deployments, object{"ns", "f"})
	if len(v.spaces) != 0 {
		t.Errorf("%d spaces are kept", len(v.spaces))
	}
}

func TestHPA(t *testing.T) {
	v, f, _ := newTestView(everywhere)
	v.workload(readDeployment(deployment("ns", "f", "d", map[string]string{"app": "d"}, marked)))
	v.hpa(object{"ns", "h"}, workloadKey{deployments, "f"})
	readAll(v, everywhere)
	autoscaled := func() bool { return f.Get(function.Ref{Name: "f", Namespace: "ns"}).Function().Autoscaled }
	for i, step := range []struct {
		do   func()
		want bool
	}{
		{func() {}, true},
		{func() { v.hpa(object{"ns", "h2"}, workloadKey{deployments, "f"}) }, true},
		{func() { v.hpa(object{"ns", "h"}, workloadKey{}) }, true},
		{func() { v.hpa(object{"ns", "h2"}, workloadKey{statefulSets, "f"}) }, false},
		{func() { v.hpa(object{"ns", "h2"}, workloadKey{deployments, "f"}) }, true},
		{func() { v.keepHPAs(everywhere, nil) }, false},
		{func() { v.keepHPAs(everywhere, nil) }, false},
	} {
		if step.do(); autoscaled() != step.want {
			t.Errorf("step %d: autoscaled %t", i, autoscaled())
		}
	}
}

func TestPodsOfOverlappingSelectors(t *testing.T) {
	v, f, _ := newTestView("ns")
	readAll(v, "ns")
	app := map[string]string{"app": "x"}
	for _, name := range []string{"a", "b"} {
		v.workload(readDeployment(deployment("ns", name, name, app, marked)))
	}
	v.workload(readStatefulSet(statefulSet("ns", "s", "s", app)))
	hashed := map[string]string{"app": "x", "pod-template-hash": "77"}
	for name, owner := range map[string]workloadKey{
		"of-a": {"ReplicaSet", "a-77"}, "of-b": {"ReplicaSet", "b-77"}, "of-s": {statefulSets, "s"},
		"of-t": {statefulSets, "t"}, "of-job": {"Job", "a"}, "of-daemons": {"DaemonSet", "a"},
		"adopted": {"ReplicaSet", "old-77"}, "bare": {},
	} {
		v.pod(readPod(livePod("ns", name, name, hashed, owner)))
	}
	for name, want := range map[string][]string{"a": {"adopted", "bare", "of-a"}, "b": {"of-b"}, "s": {"of-s"}} {
		if got := podNames(f, function.Ref{Name: name, Namespace: "ns"}); !slices.Equal(got, want) {
			t.Errorf("pods of %s: %v, expected %v", name, got, want)
		}
	}
	v.dropWorkload(deployments, object{"ns", "a"})
	if got, want := podNames(f, function.Ref{Name: "b", Namespace: "ns"}), []string{"adopted", "bare", "of-a", "of-b"}; !slices.Equal(got, want) {
		t.Errorf("pods of b after a went: %v, expected %v", got, want)
	}
}

// TestViewAgainstModel holds the view, with its index and its many shortcuts,
// against a model that looks at everything anew after each step.
func TestViewAgainstModel(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 1))
		v, f, _ := newTestView(everywhere)
		m := &model{deployments: map[object]*appsv1.Deployment{}, sets: map[object]*appsv1.StatefulSet{}, pods: map[object]*corev1.Pod{}}
		opens := 40 + rng.IntN(40)
		for step := range 300 {
			m.step(rng, v)
			if step == opens {
				readAll(v, everywhere)
			}
			if step < opens {
				continue
			}
			if diff := m.compare(f); diff != "" {
				t.Fatalf("seed %d, step %d: %s", seed, step, diff)
			}
		}
	}
}

type model struct {
	deployments map[object]*appsv1.Deployment
	sets        map[object]*appsv1.StatefulSet
	pods        map[object]*corev1.Pod
	made        int
}

func (m *model) step(rng *rand.Rand, v *view) {
	ns := []string{"x", "y"}[rng.IntN(2)]
	name := object{ns, string(rune('a' + rng.IntN(5)))}
	label := func() map[string]string {
		set := map[string]string{"app": string(rune('a' + rng.IntN(5))), "release": "r"}
		if rng.IntN(4) == 0 {
			delete(set, "app")
		}
		return set
	}
	m.made++
	uid := fmt.Sprint(m.made)
	switch rng.IntN(8) {
	case 0, 1:
		d := m.deployments[name]
		if d == nil || rng.IntN(3) == 0 { // a new one, or one made anew whose end was missed
			d = deployment(ns, name.name, uid, label(), marked)
		} else {
			d = d.DeepCopy()
			d.Generation++
			d.Annotations = []map[string]string{marked, nil, {"weir/function": "true", "weir/port": uid}}[rng.IntN(3)]
		}
		m.deployments[name] = d
		v.workload(readDeployment(d))
	case 2:
		s := statefulSet(ns, name.name, uid, label())
		m.sets[name] = s
		v.workload(readStatefulSet(s))
	case 3:
		delete(m.deployments, name)
		v.dropWorkload(deployments, name)
	case 4:
		delete(m.sets, name)
		v.dropWorkload(statefulSets, name)
	case 5, 6:
		owner := []workloadKey{{}, {"ReplicaSet", name.name}, {statefulSets, name.name}, {"Job", "j"}}[rng.IntN(4)]
		p := livePod(ns, "p"+fmt.Sprint(rng.IntN(8)), uid, label(), owner)
		m.pods[nameOf(p)] = p
		v.pod(readPod(p))
	case 7:
		gone := object{ns, "p" + fmt.Sprint(rng.IntN(8))}
		delete(m.pods, gone)
		v.dropPod(gone)
	}
	if rng.IntN(20) == 0 { // a list anew, in which some are missing
		names := map[object]bool{}
		for name := range m.pods {
			if rng.IntN(4) == 0 {
				delete(m.pods, name)
			} else {
				names[name] = true
			}
		}
		v.mu.Lock()
		missing := len(v.scopes[everywhere].missing) > 0
		v.mu.Unlock()
		if !missing {
			v.keepPods(everywhere, names)
		} else {
			for _, sp := range v.within(everywhere) {
				for name := range sp.pods {
					if !names[object{sp.name, name}] {
						v.dropPod(object{sp.name, name})
					}
				}
			}
		}
	}
}

// functions are the workloads that are served, by selector.
func (m *model) functions() map[function.Ref]*workload {
	all := map[function.Ref]*workload{}
	for _, s := range m.sets {
		w := readStatefulSet(s).workload
		all[w.ref] = w
	}
	for _, d := range m.deployments {
		if w := readDeployment(d).workload; w != nil {
			all[w.ref] = w
		}
	}
	return all
}

func (m *model) compare(f *fleet.Fleet) string {
	all := m.functions()
	if f.Len() != len(all) {
		return fmt.Sprintf("%d functions are known, expected %d", f.Len(), len(all))
	}
	// Every workload may take pods, the ones that are not served too.
	var takers []*workload
	for _, d := range m.deployments {
		if w := readDeployment(d).workload; w != nil {
			takers = append(takers, w)
		}
	}
	for _, s := range m.sets {
		takers = append(takers, readStatefulSet(s).workload)
	}
	pods := map[*workload][]string{}
	for _, p := range m.pods {
		ns, kept := readPod(p)
		var best *workload
		for _, w := range takers {
			if w.ref.Namespace == ns && w.selector.Matches(kept.labels) && kept.mayBelong(w) && (best == nil || w.ref.Name+w.kind < best.ref.Name+best.kind) {
				best = w
			}
		}
		pods[best] = append(pods[best], p.Name)
	}
	for ref, w := range all {
		e := f.Get(ref)
		if e == nil {
			return fmt.Sprintf("%s is not known", ref)
		}
		fn := e.Function()
		if fn.Kind != w.kind || fn.Version != versionOf(w.uid, w.generation) || fn.Spec.Port != w.details.spec.Port {
			return fmt.Sprintf("%s is a %s of version %s, expected %s %s", ref, fn.Kind, fn.Version, w.kind, versionOf(w.uid, w.generation))
		}
		var want []string
		for taker, names := range pods {
			if taker != nil && taker.ref == ref && taker.kind == w.kind {
				want = names
			}
		}
		slices.Sort(want)
		if got := podNames(f, ref); !slices.Equal(got, want) {
			return fmt.Sprintf("%s has pods %v, expected %v", ref, got, want)
		}
	}
	return ""
}
