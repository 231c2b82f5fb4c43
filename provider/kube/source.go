package kube

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// listTimeout bounds one page of a list: 500 objects.
const listTimeout = time.Minute

// rewatch is for how long broken streams may follow each other.
const rewatch = time.Minute

// livePods are those that may ever serve; the API server keeps the others to
// itself, and says that one is deleted when it fails.
const livePods = "status.phase!=Succeeded,status.phase!=Failed"

// source keeps what is known of one resource in one scope. The protocol of
// lists and watches is client-go's reflector's. Waiting for an API server that
// is away is done here: the reflector waits for up to a minute, and not always
// to an end.
type source struct {
	resource, namespace string
	said                *complaints
	of                  runtime.Object
	store               cache.ReflectorStore
	listPage            func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watchFrom           func(context.Context, metav1.ListOptions) (watch.Interface, error)
	// without, where not nil, is called when the resource may not be read
	// and need not be.
	without func()
}

func (s *source) run(ctx context.Context) {
	name := s.resource
	if s.namespace != everywhere {
		name += " in " + s.namespace
	}
	r := cache.NewReflectorWithOptions(s, s.of, s.store, cache.ReflectorOptions{Name: name})
	// A stream that breaks goes on where it was, not after a new list.
	r.MaxInternalErrorRetryDuration = rewatch
	r.RunWithContext(ctx)
}

// IsWatchListSemanticsUnSupported has the reflector list in pages: it would
// keep all that it is streamed, whole, until the last object has come.
func (s *source) IsWatchListSemanticsUnSupported() bool { return true }

// List is ListWithContext for an interface that is older than contexts.
func (s *source) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// Watch is WatchWithContext for an interface that is older than contexts.
func (s *source) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// ListWithContext returns when it has a page, when what was asked for is too
// old, or when ctx ends.
func (s *source) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.Limit > 0 && o.ResourceVersion == "0" {
		o.ResourceVersion = "" // by "0" the API server gives all at once
	}
	return persist(ctx, s, "list", func() (runtime.Object, error) {
		ctx, cancel := context.WithTimeout(ctx, listTimeout)
		defer cancel()
		return s.listPage(ctx, o)
	})
}

// WatchWithContext is ListWithContext for a watch.
func (s *source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return persist(ctx, s, "watch", func() (watch.Interface, error) { return s.watchFrom(ctx, o) })
}

// persist asks until there is an answer. Another version to begin with is for
// the reflector to choose.
func persist[T any](ctx context.Context, s *source, verb string, ask func() (T, error)) (T, error) {
	var pause backoff
	for {
		answer, err := ask()
		if err != nil && ctx.Err() != nil {
			return answer, ctx.Err()
		}
		if s.said.hear(call{verb, s.resource, s.namespace}, err) && s.without != nil {
			s.without()
		}
		if err == nil || tooOld(err) {
			return answer, err
		}
		if !pause.wait(ctx) {
			return answer, ctx.Err()
		}
	}
}

func tooOld(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// sources are all that is watched.
func (p *Provider) sources(a *api) []*source {
	var all []*source
	for _, ns := range p.scopes {
		all = append(all, p.deployments(a, ns), p.statefulSets(a, ns), p.pods(a, ns), p.hpas(a, ns))
	}
	if p.cfg.Peers != "" {
		all = append(all, p.peerPods(a))
	}
	return all
}

func (p *Provider) deployments(a *api, ns string) *source {
	client, store := a.apps.Deployments(ns), workloads(p.view, ns, deployments, readDeployment)
	return &source{
		resource: "deployments.apps", namespace: ns, said: p.said, of: &appsv1.Deployment{}, store: store,
		listPage:  pages(client.List, func(l *appsv1.DeploymentList) []appsv1.Deployment { return l.Items }, store.read),
		watchFrom: client.Watch,
	}
}

func (p *Provider) statefulSets(a *api, ns string) *source {
	client, store := a.apps.StatefulSets(ns), workloads(p.view, ns, statefulSets, readStatefulSet)
	return &source{
		resource: "statefulsets.apps", namespace: ns, said: p.said, of: &appsv1.StatefulSet{}, store: store,
		listPage:  pages(client.List, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items }, store.read),
		watchFrom: client.Watch,
	}
}

// workloads tells the view of one kind of them.
func workloads[T any](v *view, ns, kind string, find func(*T) reading) store[T] {
	return store[T]{
		read: func(o *T) *digest {
			found := find(o)
			return &digest{object{found.subject.namespace, found.subject.name}, func() { v.workload(found) }}
		},
		drop: func(name object) { v.dropWorkload(kind, name) },
		kept: func(names map[object]bool) { v.keepWorkloads(ns, kind, names) },
	}
}

func (p *Provider) pods(a *api, ns string) *source {
	client := a.core.Pods(ns)
	read := func(pod *corev1.Pod) *digest {
		namespace, kept := readPod(pod)
		return &digest{nameOf(pod), func() { p.view.pod(namespace, kept) }}
	}
	return &source{
		resource: "pods", namespace: ns, said: p.said, of: &corev1.Pod{},
		listPage: pages(func(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
			o.FieldSelector = livePods
			return client.List(ctx, o)
		}, podItems, read),
		watchFrom: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = livePods
			return client.Watch(ctx, o)
		},
		store: store[corev1.Pod]{
			read: read, drop: p.view.dropPod,
			kept: func(names map[object]bool) { p.view.keepPods(ns, names) },
		},
	}
}

// hpas are watched for one thing: weir leaves it to them to move replicas
// between 1 and more. Where they may not be read there are none.
func (p *Provider) hpas(a *api, ns string) *source {
	client := a.autoscaling.HorizontalPodAutoscalers(ns)
	read := func(h *autoscalingv2.HorizontalPodAutoscaler) *digest {
		name, target := nameOf(h), targetOf(h)
		return &digest{name, func() { p.view.hpa(name, target) }}
	}
	return &source{
		resource: "horizontalpodautoscalers.autoscaling", namespace: ns, said: p.said,
		of: &autoscalingv2.HorizontalPodAutoscaler{},
		listPage: pages(client.List, func(l *autoscalingv2.HorizontalPodAutoscalerList) []autoscalingv2.HorizontalPodAutoscaler {
			return l.Items
		}, read),
		watchFrom: client.Watch,
		store: store[autoscalingv2.HorizontalPodAutoscaler]{
			read: read,
			drop: func(name object) { p.view.hpa(name, workloadKey{}) },
			kept: func(names map[object]bool) { p.view.keepHPAs(ns, names) },
		},
		without: func() { p.view.keepHPAs(ns, nil) },
	}
}

// object is the name of one.
type object struct{ namespace, name string }

func nameOf(o metav1.Object) object { return object{o.GetNamespace(), o.GetName()} }

// digest is all that is kept of an object from the moment it was read: a list
// of them is a small part of the list of the objects.
type digest struct {
	name object
	// apply tells the view.
	apply func()
}

// GetObjectKind makes a digest pass where client-go wants an object.
func (*digest) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is for the same.
func (d *digest) DeepCopyObject() runtime.Object { return &digest{d.name, d.apply} }

// digests is a page of a list.
type digests struct {
	metav1.ListMeta
	Items []runtime.Object
}

// GetObjectKind makes it pass for a list.
func (*digests) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is for the same.
func (d *digests) DeepCopyObject() runtime.Object {
	return &digests{d.ListMeta, slices.Clone(d.Items)}
}

// pages makes digests of what list finds, page by page.
func pages[T any, L metav1.ListMetaAccessor](
	list func(context.Context, metav1.ListOptions) (L, error), items func(L) []T, read func(*T) *digest,
) func(context.Context, metav1.ListOptions) (runtime.Object, error) {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		page, err := list(ctx, o)
		if err != nil {
			return nil, err
		}
		found, meta := items(page), page.GetListMeta()
		all := &digests{Items: make([]runtime.Object, len(found))}
		all.SetResourceVersion(meta.GetResourceVersion())
		all.SetContinue(meta.GetContinue())
		all.SetRemainingItemCount(meta.GetRemainingItemCount())
		for i := range found {
			all.Items[i] = read(&found[i])
		}
		return all, nil
	}
}

func podItems(l *corev1.PodList) []corev1.Pod { return l.Items }

// store hands on what a reflector finds: objects that a watch tells of, and
// digests of a list.
type store[T any] struct {
	read func(*T) *digest
	drop func(object)
	// kept is told the names of everything that there is, once all of it was
	// applied: whatever has another name is gone.
	kept func(map[object]bool)
}

func (s store[T]) Add(o any) error    { s.read(o.(*T)).apply(); return nil }
func (s store[T]) Update(o any) error { s.read(o.(*T)).apply(); return nil }
func (s store[T]) Delete(o any) error { s.drop(s.read(o.(*T)).name); return nil }
func (s store[T]) Resync() error      { return nil }

func (s store[T]) Replace(all []any, _ string) error {
	names := make(map[object]bool, len(all))
	for _, o := range all {
		d := o.(*digest)
		names[d.name] = true
		d.apply()
	}
	s.kept(names)
	return nil
}
