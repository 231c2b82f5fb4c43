package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/providertest"
)

var lastWorld atomic.Int32

// place is a namespace of a real cluster in which weir may do what its rules
// say, and nothing else.
type place struct {
	*cluster
	kind, namespace string
	kubeconfig      string
	weirs           atomic.Int32
}

func newPlace(t *testing.T, kind string, rules ...rbacv1.PolicyRule) *place {
	t.Helper()
	p := &place{cluster: realCluster(t), kind: kind, namespace: fmt.Sprintf("t%d", lastWorld.Add(1))}
	ctx := t.Context()
	_, err := p.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { p.clear(t) })
	if rules == nil {
		rules = append(FunctionRules(), OwnRules()...)
	}
	p.kubeconfig = p.account(t, "weir", p.namespace, rules)
	return p
}

// account makes a service account that may do what the rules say in its
// namespace, and a kubeconfig of it.
func (p *place) account(t *testing.T, name, namespace string, rules []rbacv1.PolicyRule) string {
	t.Helper()
	ctx := t.Context()
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	_, err := p.admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	must(t, err)
	_, err = p.admin.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	must(t, err)
	_, err = p.admin.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: namespace}},
	}, metav1.CreateOptions{})
	must(t, err)
	token, err := p.admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	return p.cluster.kubeconfig(namespace+"-"+name, token.Status.Token, namespace)
}

// clear takes everything away that would keep controllers busy; a namespace
// that is being deleted takes no pods.
func (p *place) clear(t *testing.T) {
	ctx := context.Background()
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	for _, err := range []error{
		p.admin.AppsV1().Deployments(p.namespace).DeleteCollection(ctx, options, metav1.ListOptions{}),
		p.admin.AppsV1().StatefulSets(p.namespace).DeleteCollection(ctx, options, metav1.ListOptions{}),
		p.admin.AppsV1().ReplicaSets(p.namespace).DeleteCollection(ctx, options, metav1.ListOptions{}),
		p.admin.CoreV1().Pods(p.namespace).DeleteCollection(ctx, options, metav1.ListOptions{}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}

// config is that of the place's next weir.
func (p *place) config(t *testing.T) Config {
	n := p.weirs.Add(1)
	return Config{
		Log:        slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With("weir", n),
		Kubeconfig: p.kubeconfig, Namespace: p.namespace, Identity: fmt.Sprintf("weir-%d", n),
		Lease: "weir", Peers: "app.kubernetes.io/instance=weir", Version: "test",
	}
}

func (p *place) weir(t *testing.T) *Provider {
	t.Helper()
	provider, err := New(p.config(t))
	must(t, err)
	return provider
}

func template(name string) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": name, "release": "test"}
	return &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "example.test/" + name + ":1",
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		}}},
	}
}

func (p *place) make(t *testing.T, fn providertest.Function) {
	t.Helper()
	ctx := t.Context()
	replicas := int32(fn.Replicas)
	selector, pods := template(fn.Name)
	meta := metav1.ObjectMeta{Name: fn.Name, Annotations: fn.Labels}
	if p.kind == statefulSets {
		_, err := p.admin.AppsV1().StatefulSets(p.namespace).Create(ctx, &appsv1.StatefulSet{
			ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: selector, Template: pods},
		}, metav1.CreateOptions{})
		must(t, err)
	} else {
		_, err := p.admin.AppsV1().Deployments(p.namespace).Create(ctx, &appsv1.Deployment{
			ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: pods},
		}, metav1.CreateOptions{})
		must(t, err)
	}
	// The controller's first touch is an annotation, and so a new generation.
	eventually(t, "the controller's first look at "+fn.Name, func() bool {
		_, observed := p.get(t, fn.Name)
		return observed
	})
}

// get is the object's metadata, and whether its controller has seen it.
func (p *place) get(t *testing.T, name string) (metav1.ObjectMeta, bool) {
	t.Helper()
	if p.kind == statefulSets {
		s, err := p.admin.AppsV1().StatefulSets(p.namespace).Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		return s.ObjectMeta, s.Status.ObservedGeneration == s.Generation
	}
	d, err := p.admin.AppsV1().Deployments(p.namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	return d.ObjectMeta, d.Status.ObservedGeneration == d.Generation && d.Annotations["deployment.kubernetes.io/revision"] != ""
}

func (p *place) remove(t *testing.T, ref function.Ref) {
	t.Helper()
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if p.kind == statefulSets {
		must(t, p.admin.AppsV1().StatefulSets(ref.Namespace).Delete(t.Context(), ref.Name, options))
		return
	}
	must(t, p.admin.AppsV1().Deployments(ref.Namespace).Delete(t.Context(), ref.Name, options))
}

func (p *place) relabel(t *testing.T, ref function.Ref, labels map[string]string) {
	t.Helper()
	set := func(meta *metav1.ObjectMeta) {
		maps.DeleteFunc(meta.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, "weir/") })
		maps.Copy(meta.Annotations, labels)
	}
	// Controllers write status meanwhile.
	var err error
	for range 20 {
		if p.kind == statefulSets {
			s, _ := p.admin.AppsV1().StatefulSets(ref.Namespace).Get(t.Context(), ref.Name, metav1.GetOptions{})
			set(&s.ObjectMeta)
			_, err = p.admin.AppsV1().StatefulSets(ref.Namespace).Update(t.Context(), s, metav1.UpdateOptions{})
		} else {
			d, _ := p.admin.AppsV1().Deployments(ref.Namespace).Get(t.Context(), ref.Name, metav1.GetOptions{})
			set(&d.ObjectMeta)
			_, err = p.admin.AppsV1().Deployments(ref.Namespace).Update(t.Context(), d, metav1.UpdateOptions{})
		}
		if err == nil {
			return
		}
	}
	must(t, err)
}

func (p *place) resize(t *testing.T, ref function.Ref, replicas int) {
	t.Helper()
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: ref.Name, Namespace: ref.Namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: int32(replicas)}}
	var err error
	if p.kind == statefulSets {
		_, err = p.admin.AppsV1().StatefulSets(ref.Namespace).UpdateScale(t.Context(), ref.Name, scale, metav1.UpdateOptions{})
	} else {
		_, err = p.admin.AppsV1().Deployments(ref.Namespace).UpdateScale(t.Context(), ref.Name, scale, metav1.UpdateOptions{})
	}
	must(t, err)
}

func (p *place) running(t *testing.T, ref function.Ref) int {
	t.Helper()
	pods, err := p.admin.CoreV1().Pods(ref.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + ref.Name})
	must(t, err)
	return len(pods.Items)
}

// restart has the kubelet's word that the container was started anew.
func (p *place) restart(t *testing.T, ref function.Ref, name string) {
	t.Helper()
	pods := p.admin.CoreV1().Pods(ref.Namespace)
	var err error
	for range 20 {
		pod, _ := pods.Get(t.Context(), name, metav1.GetOptions{})
		pod.Status.ContainerStatuses[0].RestartCount++
		if _, err = pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// conform runs over a real API server, and weir is there with the rights that
// its chart gives it.
func conform(t *testing.T, kind string) {
	realCluster(t)
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		p := newPlace(t, kind)
		return providertest.Subject{
			Namespace: p.namespace, Several: true, Unordered: kind == statefulSets, Patience: patience,
			New:  func(t *testing.T) providertest.Provider { return p.weir(t) },
			Make: p.make, Remove: p.remove, Relabel: p.relabel, Resize: p.resize,
			Running: p.running, Restart: p.restart,
			Writes: func(t *testing.T, ref function.Ref) []providertest.Write {
				meta, _ := p.get(t, ref.Name)
				return p.writes.read(t, meta)
			},
			// Connections that client-go keeps for the next one, and what the
			// test itself runs.
			Ignore: []string{"net/http", "golang.org/x/net/http2", "nodeAgent", "informers", "tools/cache.(*processorListener)"},
		}
	})
}

func TestConformanceDeployments(t *testing.T)  { conform(t, deployments) }
func TestConformanceStatefulSets(t *testing.T) { conform(t, statefulSets) }
