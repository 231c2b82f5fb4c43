package kube

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// view is what the watches have found: the marked workloads, and every live
// pod in a form of some hundred bytes, for a workload may be marked after its
// pods were seen. It writes the Fleet, in the order of what it hears.
type view struct {
	log *slog.Logger
	// tell puts something before a workload's owner, and says whether this
	// weir is the one to do so.
	tell func(subject, function.Event) bool

	mu     sync.Mutex
	fleet  *fleet.Fleet
	scopes map[string]*scope
	spaces map[string]*space
}

// scope is one watched namespace, or all. Its functions are put once all that
// belongs to it was read: one without its pods would look asleep.
type scope struct{ missing map[string]bool }

// space is what one namespace holds.
type space struct {
	name      string
	workloads map[workloadKey]*workload
	pods      map[string]*pod
	// byPair finds the workloads whose selector holds a pair, each at one of
	// its pairs; wide are those whose selector holds none.
	byPair map[pair][]*workload
	wide   []*workload
	// hpas are the targets of the HPAs, by name; scaled counts them.
	hpas   map[string]workloadKey
	scaled map[workloadKey]int
	// suspects are objects that are not marked but perhaps should be.
	suspects map[workloadKey]*suspect
}

type suspect struct {
	reading
	told bool
}

// What a scope reads.
const (
	deployments  = function.KindDeployment
	statefulSets = function.KindStatefulSet
	allPods      = "Pod"
	allHPAs      = "HorizontalPodAutoscaler"
)

func newView(log *slog.Logger, scopes []string, tell func(subject, function.Event) bool) *view {
	v := &view{log: log, tell: tell, scopes: map[string]*scope{}, spaces: map[string]*space{}}
	for _, ns := range scopes {
		v.scopes[ns] = &scope{missing: map[string]bool{deployments: true, statefulSets: true, allPods: true, allHPAs: true}}
	}
	return v
}

func (v *view) begin(f *fleet.Fleet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fleet = f
}

// in is called with the view locked, as all that returns a space.
func (v *view) in(namespace string) *space {
	sp := v.spaces[namespace]
	if sp == nil {
		sp = &space{
			name: namespace, workloads: map[workloadKey]*workload{}, pods: map[string]*pod{},
			byPair: map[pair][]*workload{}, hpas: map[string]workloadKey{}, scaled: map[workloadKey]int{},
			suspects: map[workloadKey]*suspect{},
		}
		v.spaces[namespace] = sp
	}
	return sp
}

// open says whether what is in a namespace is known as a whole.
func (v *view) open(namespace string) bool {
	sc := v.scopes[namespace]
	if sc == nil {
		sc = v.scopes[everywhere]
	}
	return sc != nil && len(sc.missing) == 0
}

// within yields the spaces of a scope.
func (v *view) within(ns string) []*space {
	if ns != everywhere {
		return []*space{v.in(ns)}
	}
	all := make([]*space, 0, len(v.spaces))
	for _, sp := range v.spaces {
		all = append(all, sp)
	}
	return all
}

// have is called once all of one kind in a scope was read. The last one puts
// every function of the scope.
func (v *view) have(ns, kind string) {
	sc := v.scopes[ns]
	if !sc.missing[kind] {
		return
	}
	delete(sc.missing, kind)
	if len(sc.missing) > 0 {
		return
	}
	for _, sp := range v.within(ns) {
		for _, p := range sp.pods {
			sp.place(p)
		}
		for key := range sp.workloads {
			v.publish(sp, key.name)
		}
	}
	for _, other := range v.scopes {
		if len(other.missing) > 0 {
			return
		}
	}
	v.fleet.Synced()
}

// workload takes what an object was found to be.
func (v *view) workload(found reading) {
	v.mu.Lock()
	defer v.mu.Unlock()
	sp := v.in(found.subject.namespace)
	key := found.subject.workloadKey
	if found.workload == nil {
		v.suspect(sp, found)
		v.remove(sp, key)
		return
	}
	delete(sp.suspects, key)
	w := sp.workloads[key]
	if w != nil && w.uid != found.workload.uid {
		v.remove(sp, key) // made anew, and the end of the old one was missed
		w = nil
	}
	if w == nil {
		w = found.workload
		sp.workloads[key] = w
		sp.enlist(w)
		v.gather(sp, w)
	} else if w.refresh(found.workload) {
		sp.delist(w)
		w.selector, w.pairs = found.workload.selector, found.workload.pairs
		sp.enlist(w)
		v.gather(sp, w)
	}
	v.publish(sp, key.name)
}

// gather places the pods that a new selector may take.
func (v *view) gather(sp *space, w *workload) {
	if !v.open(sp.name) {
		return // once, when all is known
	}
	for _, p := range sp.pods {
		if w.selector.Matches(p.labels) || p.of == w {
			v.move(sp, p)
		}
	}
}

// move places a pod, and puts the functions that lose and win it.
func (v *view) move(sp *space, p *pod) {
	before := p.of
	sp.place(p)
	for _, w := range []*workload{before, p.of} {
		if w != nil && before != p.of {
			v.publish(sp, w.ref.Name)
		}
	}
}

func (v *view) dropWorkload(kind string, name object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	sp, key := v.in(name.namespace), workloadKey{kind, name.name}
	delete(sp.suspects, key)
	v.remove(sp, key)
	v.forget(sp)
}

// forget drops a space that holds nothing any more.
func (v *view) forget(sp *space) {
	if len(sp.workloads)+len(sp.pods)+len(sp.hpas)+len(sp.suspects) == 0 {
		delete(v.spaces, sp.name)
	}
}

func (v *view) keepWorkloads(ns, kind string, names map[object]bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, sp := range v.within(ns) {
		for key := range sp.workloads {
			if key.kind == kind && !names[object{sp.name, key.name}] {
				v.remove(sp, key)
			}
		}
	}
	v.have(ns, kind)
}

func (v *view) remove(sp *space, key workloadKey) {
	w := sp.workloads[key]
	if w == nil {
		return
	}
	delete(sp.workloads, key)
	sp.delist(w)
	if w.last != nil {
		v.fleet.Delete(w.ref) // before another one is put under the name
		w.last = nil
	}
	for _, p := range slices.Clone(w.pods) {
		v.move(sp, p)
	}
	v.publish(sp, key.name)
}

func (v *view) pod(namespace string, p *pod) {
	v.mu.Lock()
	defer v.mu.Unlock()
	sp := v.in(namespace)
	old := sp.pods[p.about.Name]
	sp.pods[p.about.Name] = p
	var before *workload
	if old != nil {
		before = old.of
		sp.release(old)
	}
	if !v.open(namespace) {
		return
	}
	sp.place(p)
	if before != nil && before != p.of {
		v.publish(sp, before.ref.Name)
	}
	if p.of != nil { // another state of it, even where it stays
		v.publish(sp, p.of.ref.Name)
	}
}

func (v *view) dropPod(name object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	sp := v.in(name.namespace)
	v.lose(sp, name.name)
	v.forget(sp)
}

func (v *view) lose(sp *space, name string) {
	p := sp.pods[name]
	if p == nil {
		return
	}
	delete(sp.pods, name)
	w := p.of
	sp.release(p)
	if w != nil {
		v.publish(sp, w.ref.Name)
	}
}

func (v *view) keepPods(ns string, names map[object]bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, sp := range v.within(ns) {
		for name := range sp.pods {
			if !names[object{sp.name, name}] {
				v.lose(sp, name)
			}
		}
	}
	v.have(ns, allPods)
}

// hpa takes what an HPA moves; an empty target is that it is gone.
func (v *view) hpa(name object, target workloadKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.aim(v.in(name.namespace), name.name, target)
}

func (v *view) aim(sp *space, name string, target workloadKey) {
	old := sp.hpas[name]
	if old == target {
		return
	}
	delete(sp.hpas, name)
	if old != (workloadKey{}) {
		if sp.scaled[old]--; sp.scaled[old] == 0 {
			delete(sp.scaled, old)
		}
		v.publish(sp, old.name)
	}
	if target != (workloadKey{}) {
		sp.hpas[name] = target
		sp.scaled[target]++
		v.publish(sp, target.name)
	}
}

func (v *view) keepHPAs(ns string, names map[object]bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, sp := range v.within(ns) {
		for name := range sp.hpas {
			if !names[object{sp.name, name}] {
				v.aim(sp, name, workloadKey{})
			}
		}
	}
	v.have(ns, allHPAs)
}

// publish puts the function of a name, if anything of it changed.
func (v *view) publish(sp *space, name string) {
	if !v.open(sp.name) {
		return
	}
	w, hidden := sp.workloads[workloadKey{deployments, name}], sp.workloads[workloadKey{statefulSets, name}]
	if w == nil {
		w, hidden = hidden, nil
	}
	if w == nil {
		return
	}
	w.hidden = false
	if hidden != nil && !hidden.hidden {
		v.hide(hidden)
	}
	fn := w.function(sp.scaled[workloadKey{w.kind, name}] > 0)
	if w.last != nil && w.put == w.details && sameState(w.last, fn) {
		return
	}
	w.last, w.put = fn, w.details
	v.fleet.Put(fn)
	v.report(w)
}

// hide takes the second of two of one name out of the Fleet.
func (v *view) hide(w *workload) {
	w.hidden = true
	if w.last != nil {
		v.fleet.Delete(w.ref)
		w.last = nil
	}
	v.report(w)
}
