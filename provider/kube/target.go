package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/weir-run/weir/function"
)

// target is what a write of replicas is made to.
type target struct {
	ref      function.Ref
	kind     string
	uid      types.UID
	replicas int
	// version is the object's, generation that of its spec. generation is 0
	// where it is not known, after a write of our own.
	version    string
	generation int64
}

// find is what is known of a function: by the watch or, if newer, by our own
// last write.
func (v *view) find(ref function.Ref) (target, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w := v.served(ref)
	if w == nil {
		if !v.open(ref.Namespace) && v.watched(ref.Namespace) {
			return target{}, fmt.Errorf("%w: %s: namespace %s was not read yet", function.ErrUnavailable, ref, ref.Namespace)
		}
		return target{}, fmt.Errorf("%w: %s", function.ErrNotFound, ref)
	}
	t := target{ref: ref, kind: w.kind, uid: w.uid, replicas: w.replicas, version: w.version, generation: w.generation}
	if w.wrote.version != "" && newer(w.wrote.version, w.version) {
		t.replicas, t.version, t.generation = w.wrote.replicas, w.wrote.version, 0
	}
	return t, nil
}

func (v *view) watched(namespace string) bool {
	return v.scopes[namespace] != nil || v.scopes[everywhere] != nil
}

// served is the workload that has the name.
func (v *view) served(ref function.Ref) *workload {
	sp := v.spaces[ref.Namespace]
	if sp == nil || !v.open(ref.Namespace) {
		return nil
	}
	if w := sp.workloads[workloadKey{deployments, ref.Name}]; w != nil {
		return w
	}
	return sp.workloads[workloadKey{statefulSets, ref.Name}]
}

// wrote remembers a write of our own until the watch has seen it.
func (v *view) wrote(t target, version string, replicas int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if w := v.served(t.ref); w != nil && w.uid == t.uid && newer(version, w.version) {
		w.wrote = ownWrite{version, replicas}
	}
}

// newer compares versions of one object. Those of the API server are numbers
// that grow; of one that is not the answer is no.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}
