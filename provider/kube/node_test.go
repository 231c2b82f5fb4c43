package kube

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-run/weir/provider/providertest"
)

// nodeAgent plays scheduler and kubelet: pods are bound, get an address, run
// and are ready; told to end they stay for a moment.
type nodeAgent struct {
	api  kubernetes.Interface
	last atomic.Uint32
}

// idle pods are bound and get no status: tests write it.
const idle = "weir.test/idle"

// parting is how long a pod takes to end.
const parting = 300 * time.Millisecond

func (n *nodeAgent) run(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(n.api, 0)
	factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { go n.see(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { go n.see(ctx, o.(*corev1.Pod)) },
	})
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
}

func (n *nodeAgent) see(ctx context.Context, pod *corev1.Pod) {
	pods := n.api.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil:
		select {
		case <-ctx.Done():
		case <-time.After(parting):
			now := int64(0)
			pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		}
	case pod.Spec.NodeName == "":
		pods.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: "node"},
		}, metav1.CreateOptions{})
	case pod.Status.PodIP == "" && pod.Labels[idle] == "":
		pod = pod.DeepCopy()
		i := n.last.Add(1)
		alive(pod, fmt.Sprintf("198.51.%d.%d", 102+i/250%100, 1+i%250))
		pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	}
}

// alive gives a pod the status of one that runs and is ready.
func alive(pod *corev1.Pod, ip string) {
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
	}
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: true, Image: c.Image, ContainerID: "test://" + string(pod.UID),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
}

// writeLog holds every change of replicas, as the API server tells of it.
type writeLog struct {
	mu  sync.Mutex
	of  map[types.UID]*writes
	api kubernetes.Interface
}

type writes struct {
	all      []providertest.Write
	replicas int
	version  string
}

func recordWrites(ctx context.Context, api kubernetes.Interface) *writeLog {
	w := &writeLog{of: map[types.UID]*writes{}, api: api}
	follow := func(open func(metav1.ListOptions) (watch.Interface, error)) {
		stream, err := open(metav1.ListOptions{})
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				select {
				case <-ctx.Done():
					stream.Stop()
					return
				case event, ok := <-stream.ResultChan():
					if !ok {
						// The API server went; what happens meanwhile is told
						// from where we are.
						time.Sleep(50 * time.Millisecond)
						if again, err := open(metav1.ListOptions{}); err == nil {
							stream = again
						}
						continue
					}
					w.note(event.Object)
				}
			}
		}()
	}
	follow(func(o metav1.ListOptions) (watch.Interface, error) { return api.AppsV1().Deployments("").Watch(ctx, o) })
	follow(func(o metav1.ListOptions) (watch.Interface, error) {
		return api.AppsV1().StatefulSets("").Watch(ctx, o)
	})
	return w
}

func (w *writeLog) note(o any) {
	var meta metav1.ObjectMeta
	var replicas *int32
	switch o := o.(type) {
	case *appsv1.Deployment:
		meta, replicas = o.ObjectMeta, o.Spec.Replicas
	case *appsv1.StatefulSet:
		meta, replicas = o.ObjectMeta, o.Spec.Replicas
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	it := w.of[meta.UID]
	if it == nil {
		it = &writes{replicas: int(*replicas)}
		w.of[meta.UID] = it
	}
	if n := int(*replicas); n != it.replicas {
		it.all = append(it.all, providertest.Write{Old: it.replicas, New: n})
		it.replicas = n
	}
	it.version = meta.ResourceVersion
}

// read returns the writes of an object, all of them up to now.
func (w *writeLog) read(t *testing.T, meta metav1.ObjectMeta) []providertest.Write {
	t.Helper()
	var all []providertest.Write
	eventually(t, "the writes of "+meta.Name, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		it := w.of[meta.UID]
		if it == nil || newer(meta.ResourceVersion, it.version) {
			return false
		}
		all = append([]providertest.Write(nil), it.all...)
		return true
	})
	return all
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
	}
}
