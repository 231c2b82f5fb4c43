package kube

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-run/weir/function"
)

func TestReadWorkload(t *testing.T) {
	replicas, yes := int32(3), true
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "f", UID: "u", ResourceVersion: "12", Generation: 4,
			Annotations: map[string]string{"weir/max": "7", corev1.LastAppliedConfigAnnotation: "long", "both": "object"},
			Labels:      map[string]string{"team": "a"},
		},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "f"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{
					Labels:      map[string]string{"app": "f", "faas_function": "f"},
					Annotations: map[string]string{"both": "template", "topic": "t", deletionCost: "-5"},
				},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{"b": "2", "a": "1"},
					Volumes: []corev1.Volume{
						{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
						{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
							{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "api"}}}, {},
							{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}},
						}}}},
					},
					Containers: []corev1.Container{{
						Name: "f", Image: "img:1",
						Env: []corev1.EnvVar{
							{Name: "fprocess", Value: "cat"}, {Name: "mode", Value: "http"},
							{Name: "password", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "k"}}},
						},
						Resources: corev1.ResourceRequirements{
							Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi"), corev1.ResourceCPU: resource.MustParse("500m")},
							Requests: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1")},
						},
						SecurityContext: &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes},
					}},
				},
			},
		},
	}
	w := readDeployment(d).workload
	if w == nil {
		t.Fatal("not taken for a function")
	}
	if w.replicas != 3 || w.details.cost != "-5" || w.details.spec.Max != 7 || w.details.spec.Type != function.RPS {
		t.Errorf("replicas %d, cost %q, spec %+v", w.replicas, w.details.cost, w.details.spec)
	}
	fn := w.function(true)
	if fn.Ref != (function.Ref{Name: "f", Namespace: "ns"}) || fn.Kind != function.KindDeployment || fn.Version != "u/4" || !fn.Autoscaled {
		t.Errorf("function %+v", fn)
	}
	want := function.About{
		Image: "img:1", EnvProcess: "cat", EnvVars: map[string]string{"mode": "http"},
		Constraints: []string{"a=1", "b=2"}, Secrets: []string{"api", "key"},
		Labels:      map[string]string{"team": "a", "app": "f", "faas_function": "f"},
		Annotations: map[string]string{"weir/max": "7", "both": "object", "topic": "t", deletionCost: "-5"},
		Limits:      &function.Resources{Memory: "128Mi", CPU: "500m"}, ReadOnly: true,
	}
	if !reflect.DeepEqual(fn.About, want) {
		t.Errorf("about:\n%+v\nexpected\n%+v", fn.About, want)
	}

	d.Spec.Replicas = nil
	if w := readDeployment(d).workload; w.replicas != 1 {
		t.Errorf("unset replicas are %d, expected Kubernetes' default, 1", w.replicas)
	}
	now := metav1.Now()
	d.DeletionTimestamp = &now
	if readDeployment(d).workload != nil {
		t.Error("one that is being deleted is a function still")
	}
	d.DeletionTimestamp, d.Spec.Template.Labels = nil, map[string]string{"app": "f"}
	if readDeployment(d).workload != nil {
		t.Error("one without a mark is a function")
	}
	if (&appsv1.StatefulSet{}).Spec.Replicas != nil || readStatefulSet(&appsv1.StatefulSet{}).workload != nil {
		t.Error("an empty StatefulSet is a function")
	}
}

func TestTargetOf(t *testing.T) {
	h := &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "f"},
	}}
	if got := targetOf(h); got != (workloadKey{deployments, "f"}) {
		t.Errorf("target %v", got)
	}
	now := metav1.Now()
	h.DeletionTimestamp = &now
	if got := targetOf(h); got != (workloadKey{}) {
		t.Errorf("target of one that goes: %v", got)
	}
}
