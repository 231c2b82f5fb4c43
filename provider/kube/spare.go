package kube

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-run/weir/function"
)

// sparesAtOnce bounds the patches under way: they are read by one controller.
const sparesAtOnce = 8

// Spare has a Deployment's busy pods go last when it shrinks: their deletion
// cost is how busy they are. That of the others is what their template says.
// Only what differs is written. StatefulSets go by ordinal; nothing is written
// for them.
func (p *Provider) Spare(ctx context.Context, ref function.Ref, busy map[string]int) error {
	if _, err := p.view.find(ref); err != nil {
		return err
	}
	a := p.api.Load()
	patches := p.view.costs(ref, busy)
	var all sync.WaitGroup
	var once sync.Once
	var fault error
	work := make(chan costPatch, len(patches))
	for _, patch := range patches {
		work <- patch
	}
	close(work)
	for range min(sparesAtOnce, len(patches)) {
		all.Go(func() {
			for patch := range work {
				if err := p.spare(ctx, a, ref, patch); err != nil {
					once.Do(func() { fault = err })
				}
			}
		})
	}
	all.Wait()
	return fault
}

func (p *Provider) spare(ctx context.Context, a *api, ref function.Ref, patch costPatch) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	what := call{"patch", "pods", ref.Namespace}
	_, err := a.chores.Pods(ref.Namespace).Patch(ctx, patch.pod, types.MergePatchType, patch.body(), metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it went, or another one has the name
	}
	p.said.hear(what, err)
	if err == nil {
		p.view.priced(ref, patch)
	}
	return what.explain(err)
}

// costPatch sets the deletion cost of a pod; an empty one is none.
type costPatch struct {
	pod  string
	uid  types.UID
	cost string
}

func (c costPatch) body() []byte {
	var cost *string
	if c.cost != "" {
		cost = &c.cost
	}
	body, _ := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": c.uid, "annotations": map[string]*string{deletionCost: cost},
	}})
	return body
}

// costs are the patches that make pods as dear as they are busy.
func (v *view) costs(ref function.Ref, busy map[string]int) []costPatch {
	v.mu.Lock()
	defer v.mu.Unlock()
	w := v.served(ref)
	if w == nil || w.kind != deployments {
		return nil
	}
	var patches []costPatch
	for _, p := range w.pods {
		cost := w.details.cost
		if n := busy[p.about.Name]; n > 0 {
			cost = strconv.Itoa(min(n, math.MaxInt32))
		}
		if cost != p.cost && !p.about.Stopping {
			patches = append(patches, costPatch{p.about.Name, p.uid, cost})
		}
	}
	return patches
}

// priced remembers a patch until the watch has seen it.
func (v *view) priced(ref function.Ref, patch costPatch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p := v.in(ref.Namespace).pods[patch.pod]; p != nil && p.uid == patch.uid {
		p.cost = patch.cost
	}
}
