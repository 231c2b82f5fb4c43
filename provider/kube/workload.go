package kube

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-run/weir/function"
)

// workloadKey names a workload within its namespace.
type workloadKey struct{ kind, name string }

// subject is an object that Events can be about.
type subject struct {
	workloadKey
	namespace string
	uid       types.UID
}

// reading is what an object was found to be. workload is nil where it is no
// function.
type reading struct {
	subject  subject
	workload *workload
	faults   []function.Fault
}

// workload is a Deployment or StatefulSet that is a function.
type workload struct {
	ref        function.Ref
	kind       string
	uid        types.UID
	version    string
	generation int64
	replicas   int
	created    time.Time
	selector   labels.Selector
	// pairs are the equalities of the selector, at is the one at which the
	// space has it.
	pairs pairs
	at    pair
	// details is replaced, never changed: functions that were put share it.
	details *details

	pods  []*pod // by name
	wrote ownWrite
	// last is the function as it was put, of the details put; nil if it was
	// not.
	last *function.Function
	put  *details
	// hidden: another one is served under the name.
	hidden bool
	// Words that were logged, and those that the owner was told.
	logged, told []word
}

// ownWrite is a write of replicas that the watch may not have seen yet.
type ownWrite struct {
	version  string
	replicas int
}

// details are what changes only when somebody edits the object.
type details struct {
	spec   function.Spec
	faults []function.Fault
	about  function.About
	// cost is the deletion cost that the pods' template asks for.
	cost string
	// grace says why pods have too little time to end, empty if they have
	// enough, should they turn out to be fwatchdogs.
	grace string
}

func (w *workload) subject() subject {
	return subject{workloadKey{w.kind, w.ref.Name}, w.ref.Namespace, w.uid}
}

func readDeployment(d *appsv1.Deployment) reading {
	return read(deployments, &d.ObjectMeta, d.Spec.Replicas, d.Spec.Selector, &d.Spec.Template)
}

func readStatefulSet(s *appsv1.StatefulSet) reading {
	return read(statefulSets, &s.ObjectMeta, s.Spec.Replicas, s.Spec.Selector, &s.Spec.Template)
}

func read(kind string, meta *metav1.ObjectMeta, replicas *int32, selects *metav1.LabelSelector, template *corev1.PodTemplateSpec) reading {
	r := reading{subject: subject{workloadKey{kind, meta.Name}, meta.Namespace, meta.UID}}
	if meta.DeletionTimestamp != nil {
		return r
	}
	spec, marked, faults := function.Parse(function.Sources{
		Kind: kind, Namespace: meta.Namespace, Name: meta.Name,
		Annotations: meta.Annotations, Labels: meta.Labels,
		TemplateAnnotations: template.Annotations, TemplateLabels: template.Labels,
	})
	r.faults = faults
	selector, err := metav1.LabelSelectorAsSelector(selects)
	if !marked || err != nil {
		return r // the API server takes no object whose selector is none
	}
	w := &workload{
		ref: function.Ref{Name: meta.Name, Namespace: meta.Namespace}, kind: kind,
		uid: meta.UID, version: meta.ResourceVersion, generation: meta.Generation, replicas: 1,
		created: meta.CreationTimestamp.Time, selector: selector, pairs: pairsOf(selects.MatchLabels),
		details: &details{spec: spec, faults: faults, about: about(meta, template), cost: template.Annotations[deletionCost], grace: shortGrace(template)},
	}
	if replicas != nil {
		w.replicas = int(*replicas)
	}
	r.workload = w
	return r
}

// refresh takes what the object is now, and says whether its selector is
// another one.
func (w *workload) refresh(now *workload) (reselect bool) {
	w.version, w.generation, w.replicas = now.version, now.generation, now.replicas
	if !newer(w.wrote.version, w.version) {
		w.wrote = ownWrite{}
	}
	if !reflect.DeepEqual(w.details, now.details) {
		w.details = now.details
	}
	return w.selector.String() != now.selector.String()
}

// function is the workload as the rest of weir sees it.
func (w *workload) function(autoscaled bool) *function.Function {
	fn := &function.Function{
		Ref: w.ref, Kind: w.kind, Spec: w.details.spec, Faults: w.details.faults,
		Replicas: w.replicas, Version: versionOf(w.uid, w.generation), Autoscaled: autoscaled,
		Created: w.created, About: w.details.about,
	}
	if len(w.pods) > 0 {
		fn.Pods = make([]function.Pod, len(w.pods))
		for i, p := range w.pods {
			fn.Pods[i] = p.addressed(&w.details.spec)
		}
	}
	return fn
}

// sameState says whether two functions of the same details are the same.
func sameState(a, b *function.Function) bool {
	return a.Replicas == b.Replicas && a.Version == b.Version && a.Autoscaled == b.Autoscaled && slices.Equal(a.Pods, b.Pods)
}

// versionOf names a state of what a function is asked to be. It is not the
// resource version, which changes with every pod that starts.
func versionOf(uid types.UID, generation int64) string {
	return string(uid) + "/" + strconv.FormatInt(generation, 10)
}

// targetOf is what an HPA moves.
func targetOf(h *autoscalingv2.HorizontalPodAutoscaler) workloadKey {
	if h.DeletionTimestamp != nil {
		return workloadKey{}
	}
	return workloadKey{h.Spec.ScaleTargetRef.Kind, h.Spec.ScaleTargetRef.Name}
}

// unshown are annotations that tools keep for themselves; some are long.
var unshown = map[string]bool{
	corev1.LastAppliedConfigAnnotation:  true,
	"deployment.kubernetes.io/revision": true,
}

func about(meta *metav1.ObjectMeta, template *corev1.PodTemplateSpec) function.About {
	a := function.About{
		Labels:      merged(meta.Labels, template.Labels),
		Annotations: merged(meta.Annotations, template.Annotations),
		Secrets:     secrets(&template.Spec),
	}
	for _, key := range slices.Sorted(maps.Keys(template.Spec.NodeSelector)) {
		a.Constraints = append(a.Constraints, key+"="+template.Spec.NodeSelector[key])
	}
	i := functionContainer(template.Annotations, template.Spec.Containers)
	if i < 0 {
		return a
	}
	c := &template.Spec.Containers[i]
	a.Image = c.Image
	for _, env := range c.Env {
		switch {
		case env.Name == "fprocess":
			a.EnvProcess = env.Value
		case env.ValueFrom == nil:
			if a.EnvVars == nil {
				a.EnvVars = map[string]string{}
			}
			a.EnvVars[env.Name] = env.Value
		}
	}
	a.Limits, a.Requests = resources(c.Resources.Limits), resources(c.Resources.Requests)
	a.ReadOnly = c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem
	return a
}

// merged is both, the object's own word before the template's.
func merged(own, template map[string]string) map[string]string {
	if len(own)+len(template) == 0 {
		return nil
	}
	all := make(map[string]string, max(len(own), len(template)))
	for _, from := range []map[string]string{template, own} {
		for key, value := range from {
			if !unshown[key] {
				all[key] = value
			}
		}
	}
	return all
}

func secrets(pod *corev1.PodSpec) []string {
	var names []string
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			names = append(names, v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.Secret != nil {
				names = append(names, source.Secret.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func resources(list corev1.ResourceList) *function.Resources {
	var r function.Resources
	if q, ok := list[corev1.ResourceMemory]; ok {
		r.Memory = q.String()
	}
	if q, ok := list[corev1.ResourceCPU]; ok {
		r.CPU = q.String()
	}
	if r == (function.Resources{}) {
		return nil
	}
	return &r
}
