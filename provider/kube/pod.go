package kube

import (
	"cmp"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-run/weir/function"
)

const (
	// deletionCost ranks the pods of a ReplicaSet when it shrinks: the least
	// go first.
	deletionCost = corev1.PodDeletionCost
	// defaultContainer names the one of several containers that is meant, as
	// kubectl understands it.
	defaultContainer = "kubectl.kubernetes.io/default-container"

	defaultPort        = 8080
	defaultMetricsPort = 8081
)

// pair is one label. Labels repeat in every pod of a function, so each text is
// kept once.
type pair struct{ key, value unique.Handle[string] }

// pairs are labels, as selectors read them.
type pairs []pair

func pairsOf(set map[string]string) pairs {
	all := make(pairs, 0, len(set))
	for key, value := range set {
		all = append(all, pair{unique.Make(key), unique.Make(value)})
	}
	return all
}

// Lookup is of labels.Labels, as Has and Get are.
func (all pairs) Lookup(key string) (string, bool) {
	for _, p := range all {
		if p.key.Value() == key {
			return p.value.Value(), true
		}
	}
	return "", false
}

// Has says whether there is a label of the key.
func (all pairs) Has(key string) bool { _, has := all.Lookup(key); return has }

// Get is the label's value, or empty.
func (all pairs) Get(key string) string { value, _ := all.Lookup(key); return value }

// pod is what is kept of a live pod.
type pod struct {
	uid    types.UID
	labels pairs
	// owner is the kind and name of the controller, empty for none.
	owner workloadKey
	// of is the workload whose pod it is, nil for none.
	of *workload

	ip   string
	port int // unless the function's settings name another
	cost string
	// about has all but the addresses, unless they are those of ports.
	about function.Pod
	ports [2]int
}

func readPod(p *corev1.Pod) (namespace string, kept *pod) {
	kept = &pod{
		uid: p.UID, labels: pairsOf(p.Labels), ip: strings.Clone(p.Status.PodIP),
		port: defaultPort, cost: p.Annotations[deletionCost],
		about: function.Pod{
			Name: p.Name, UID: string(p.UID), Created: p.CreationTimestamp.Time, Stopping: p.DeletionTimestamp != nil,
		},
	}
	if owner := metav1.GetControllerOf(p); owner != nil {
		kept.owner = workloadKey{owner.Kind, owner.Name}
	}
	if grace := p.Spec.TerminationGracePeriodSeconds; grace != nil {
		kept.about.Grace = time.Duration(min(*grace, math.MaxInt32)) * time.Second
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			kept.about.Ready = c.Status == corev1.ConditionTrue
		}
	}
	if i := functionContainer(p.Annotations, p.Spec.Containers); i >= 0 {
		kept.port = portOf(p.Spec.Containers, i)
		for _, status := range p.Status.ContainerStatuses {
			if status.Name == p.Spec.Containers[i].Name && status.RestartCount > 0 {
				kept.about.UID += "/" + strconv.Itoa(int(status.RestartCount))
			}
		}
	}
	return p.Namespace, kept
}

// functionContainer is the index of the container that is the function: the
// one that is said to be the default, else the first. -1 is none.
func functionContainer(annotations map[string]string, all []corev1.Container) int {
	if i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == annotations[defaultContainer] }); i >= 0 {
		return i
	}
	return min(len(all), 1) - 1
}

// portOf is the port named http, of the function's container or else of any,
// else the only one of the function's container, else 8080.
func portOf(all []corev1.Container, i int) int {
	for _, containers := range [][]corev1.Container{all[i : i+1], all} {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.Name == "http" && tcp(port) {
					return int(port.ContainerPort)
				}
			}
		}
	}
	if ports := all[i].Ports; len(ports) == 1 && tcp(ports[0]) {
		return int(ports[0].ContainerPort)
	}
	return defaultPort
}

func tcp(p corev1.ContainerPort) bool { return p.Protocol == "" || p.Protocol == corev1.ProtocolTCP }

// addressed is the pod with its addresses, under a function's settings.
func (p *pod) addressed(spec *function.Spec) function.Pod {
	if ports := [2]int{cmp.Or(spec.Port, p.port), cmp.Or(spec.MetricsPort, defaultMetricsPort)}; p.ip != "" && p.ports != ports {
		p.ports = ports
		p.about.Addr = net.JoinHostPort(p.ip, strconv.Itoa(ports[0]))
		p.about.Metrics = net.JoinHostPort(p.ip, strconv.Itoa(ports[1]))
	}
	return p.about
}

// enlist has a workload found by its selector, at the pair that fewest share:
// one that every object of a release carries would find them all.
func (sp *space) enlist(w *workload) {
	if len(w.pairs) == 0 {
		sp.wide = append(sp.wide, w)
		return
	}
	w.at = slices.MinFunc(w.pairs, func(a, b pair) int { return cmp.Compare(len(sp.byPair[a]), len(sp.byPair[b])) })
	sp.byPair[w.at] = append(sp.byPair[w.at], w)
}

func (sp *space) delist(w *workload) {
	is := func(other *workload) bool { return other == w }
	if len(w.pairs) == 0 {
		sp.wide = slices.DeleteFunc(sp.wide, is)
		return
	}
	if left := slices.DeleteFunc(sp.byPair[w.at], is); len(left) > 0 {
		sp.byPair[w.at] = left
	} else {
		delete(sp.byPair, w.at)
	}
}

// place gives a pod to the workload whose it is.
func (sp *space) place(p *pod) {
	w := sp.ownerOf(p)
	if w == p.of && (w == nil || w.has(p)) {
		return
	}
	sp.release(p)
	if p.of = w; w != nil {
		at, _ := slices.BinarySearchFunc(w.pods, p.about.Name, func(q *pod, name string) int { return cmp.Compare(q.about.Name, name) })
		w.pods = slices.Insert(w.pods, at, p)
	}
}

func (w *workload) has(p *pod) bool { return slices.Contains(w.pods, p) }

func (sp *space) release(p *pod) {
	if w := p.of; w != nil {
		w.pods = slices.DeleteFunc(w.pods, func(q *pod) bool { return q == p })
		p.of = nil
	}
}

// ownerOf finds the workload whose selector takes the pod. Where several do,
// the pod's controller says which. Pods of other controllers, such as a Job
// with the same labels, are nobody's.
func (sp *space) ownerOf(p *pod) *workload {
	var found *workload
	consider := func(w *workload) {
		if !w.selector.Matches(p.labels) || !p.mayBelong(w) {
			return
		}
		if found == nil || p.names(w) || !p.names(found) && w.before(found) {
			found = w
		}
	}
	for _, at := range p.labels {
		for _, w := range sp.byPair[at] {
			consider(w)
		}
	}
	for _, w := range sp.wide {
		consider(w)
	}
	return found
}

// before is the order of workloads between which nothing else decides.
func (w *workload) before(other *workload) bool {
	return cmp.Or(cmp.Compare(w.ref.Name, other.ref.Name), cmp.Compare(w.kind, other.kind)) < 0
}

// mayBelong says whether the pod's controller can be one of w's.
func (p *pod) mayBelong(w *workload) bool {
	switch p.owner.kind {
	case "":
		return true
	case "ReplicaSet":
		return w.kind == deployments
	case statefulSets:
		return w.kind == statefulSets && w.ref.Name == p.owner.name
	}
	return false
}

// names says whether the pod's controller has the name that w gives.
func (p *pod) names(w *workload) bool {
	hash := p.labels.Get("pod-template-hash")
	return p.owner.kind == "ReplicaSet" && hash != "" && p.owner.name == w.ref.Name+"-"+hash
}
