package kube

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	autoscalingclient "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/weir-run/weir/fleet"
)

// The cluster that weir is to hold: DESIGN.md's figures.
const (
	manyFunctions = 10_000
	podsOfEach    = 5
)

// bigCluster makes objects of a usual size as they are asked for, and keeps
// none: what the heap holds afterwards is weir's.
type bigCluster struct {
	// marked is the share of Deployments that are functions, in percent.
	marked int
	pods   *watch.FakeWatcher
}

func (b *bigCluster) name(i int) string { return fmt.Sprintf("function-%05d", i) }

func (b *bigCluster) meta(name string, uid int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: "functions", Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", uid)),
		ResourceVersion: strconv.Itoa(uid + 1), Generation: 1, CreationTimestamp: metav1.Now(),
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: &metav1.FieldsV1{Raw: make([]byte, 2048)}}},
	}
}

func labelsOf(name string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": strings.Clone(name), "app.kubernetes.io/part-of": "functions", "app.kubernetes.io/managed-by": "helm"}
}

func (b *bigCluster) podSpec() corev1.PodSpec {
	grace := int64(60)
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{
		Name: "main", Image: strings.Clone("registry.example.test/functions/image:1.2.3"),
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
	}}}
	for i := range 10 {
		spec.Containers[0].Env = append(spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("setting_%d", i), Value: fmt.Sprintf("value of it %d", i)})
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: fmt.Sprintf("volume-%d", i)})
	}
	return spec
}

func (b *bigCluster) deployment(i int) appsv1.Deployment {
	name := b.name(i)
	d := appsv1.Deployment{ObjectMeta: b.meta(name, i)}
	replicas := int32(podsOfEach)
	d.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: strings.Repeat("x", 2048)}
	if i%100 < b.marked {
		d.Annotations["weir/function"], d.Annotations["weir/max"] = "true", "10"
	}
	d.Labels = labelsOf(name)
	d.Spec = appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labelsOf(name)},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(name)}, Spec: b.podSpec()},
	}
	return d
}

func (b *bigCluster) pod(i int) *corev1.Pod {
	name, yes := b.name(i/podsOfEach), true
	p := &corev1.Pod{ObjectMeta: b.meta(fmt.Sprintf("%s-5c8b4f9d77-%05d", name, i%podsOfEach), manyFunctions+i), Spec: b.podSpec()}
	p.Labels = labelsOf(name)
	p.Labels["pod-template-hash"] = "5c8b4f9d77"
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name + "-5c8b4f9d77", Controller: &yes}}
	alive(p, fmt.Sprintf("198.51.%d.%d", 100+i/250, i%250))
	return p
}

// page calls each with what a page holds, and returns the list's metadata.
func page(o metav1.ListOptions, all int, each func(int)) metav1.ListMeta {
	first, _ := strconv.Atoi(o.Continue)
	next := min(first+int(o.Limit), all)
	for i := first; i < next; i++ {
		each(i)
	}
	meta := metav1.ListMeta{ResourceVersion: "1000000"}
	if next < all {
		meta.Continue = strconv.Itoa(next)
	}
	return meta
}

type bigDeployments struct {
	appsclient.DeploymentInterface
	of *bigCluster
}

type bigApps struct {
	appsclient.AppsV1Interface
	of *bigCluster
}

func (b bigApps) Deployments(string) appsclient.DeploymentInterface {
	return bigDeployments{of: b.of}
}

func (b bigDeployments) List(_ context.Context, o metav1.ListOptions) (*appsv1.DeploymentList, error) {
	var list appsv1.DeploymentList
	list.ListMeta = page(o, manyFunctions, func(i int) { list.Items = append(list.Items, b.of.deployment(i)) })
	return &list, nil
}

func (b bigDeployments) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return watch.NewFake(), nil
}

type noSets struct {
	appsclient.StatefulSetInterface
}

func (b bigApps) StatefulSets(string) appsclient.StatefulSetInterface { return noSets{} }

func (noSets) List(context.Context, metav1.ListOptions) (*appsv1.StatefulSetList, error) {
	return &appsv1.StatefulSetList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
}

func (noSets) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return watch.NewFake(), nil
}

type noHPAs struct {
	autoscalingclient.HorizontalPodAutoscalerInterface
}

type bigAutoscaling struct {
	autoscalingclient.AutoscalingV2Interface
}

func (bigAutoscaling) HorizontalPodAutoscalers(string) autoscalingclient.HorizontalPodAutoscalerInterface {
	return noHPAs{}
}

func (noHPAs) List(context.Context, metav1.ListOptions) (*autoscalingv2.HorizontalPodAutoscalerList, error) {
	return &autoscalingv2.HorizontalPodAutoscalerList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
}

func (noHPAs) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return watch.NewFake(), nil
}

type bigCore struct {
	coreclient.CoreV1Interface
	of *bigCluster
}

type bigPods struct {
	coreclient.PodInterface
	of *bigCluster
}

func (b bigCore) Pods(string) coreclient.PodInterface { return bigPods{of: b.of} }

func (b bigPods) List(_ context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
	var list corev1.PodList
	list.ListMeta = page(o, manyFunctions*podsOfEach, func(i int) { list.Items = append(list.Items, *b.of.pod(i)) })
	return &list, nil
}

func (b bigPods) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return b.of.pods, nil
}

// heap is what is held.
func heap() (held uint64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// peak samples how much the heap grows to while it is stopped.
func peak() (stop func() uint64) {
	var most uint64
	var all sync.WaitGroup
	done := make(chan struct{})
	all.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return func() uint64 { close(done); all.Wait(); return most }
}

// readBig reads a big cluster through the real sources and returns it, with
// what it came to in the Fleet.
func readBig(tb testing.TB, marked int) (*Provider, *fleet.Fleet, *bigCluster, func()) {
	p, err := New(Config{Log: slog.New(slog.DiscardHandler), Namespace: "functions", Identity: "weir-0"})
	if err != nil {
		tb.Fatal(err)
	}
	f := fleet.New(fleet.Config{Log: slog.New(slog.DiscardHandler)})
	p.view.begin(f)
	big := &bigCluster{marked: marked, pods: watch.NewFake()}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, s := range p.sources(&api{apps: bigApps{of: big}, core: bigCore{of: big}, autoscaling: bigAutoscaling{}}) {
		all.Go(func() { s.run(ctx) })
	}
	select {
	case <-f.Complete():
	case <-time.After(5 * patience):
		tb.Fatal("not read")
	}
	return p, f, big, func() { cancel(); all.Wait() }
}

// BenchmarkBigCluster reads 10,000 Deployments with 50,000 pods, and says what
// they take, what is taken at most while they are read, and what a change of
// one pod costs among them. The Fleet's part is in it.
func BenchmarkBigCluster(b *testing.B) {
	for _, share := range []int{100, 1} {
		b.Run(fmt.Sprintf("marked=%d%%", share), func(b *testing.B) {
			before := heap()
			stop, start := peak(), time.Now()
			p, f, big, end := readBig(b, share)
			defer end()
			took, most := time.Since(start), stop()
			held := heap() - before
			if f.Len() != manyFunctions*share/100 {
				b.Fatalf("%d functions are known", f.Len())
			}
			i := 0
			for b.Loop() {
				pod := big.pod(i % podsOfEach)
				pod.Status.Conditions[0].Status = []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse}[i/podsOfEach%2]
				p.view.pod(readPod(pod))
				i++
			}
			b.ReportMetric(float64(held)/1e6, "MB-held")
			b.ReportMetric(float64(most-before)/1e6, "MB-peak")
			b.ReportMetric(took.Seconds(), "s-to-read")
			runtime.KeepAlive(p)
		})
	}
}

// The bound is a third of what weir may take in all for as many.
func TestBigClusterFits(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	before := heap()
	p, f, _, end := readBig(t, 100)
	defer end()
	held := heap() - before
	if n := f.Len(); n != manyFunctions {
		t.Fatalf("%d functions are known, expected %d", n, manyFunctions)
	}
	pods := 0
	for e := range f.All() {
		pods += len(e.Pods())
	}
	if pods != manyFunctions*podsOfEach {
		t.Errorf("%d pods are known, expected %d", pods, manyFunctions*podsOfEach)
	}
	if held > 500_000_000/3 {
		t.Errorf("%d functions and %d pods hold %d MB, expected at most %d", f.Len(), pods, held/1e6, 500/3)
	}
	t.Logf("%d functions and %d pods hold %d MB", f.Len(), pods, held/1e6)
	runtime.KeepAlive(p)
}
