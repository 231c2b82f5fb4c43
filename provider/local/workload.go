package local

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// workload is one function and its replicas. Its methods are called with the
// Provider locked.
type workload struct {
	p       *Provider
	def     *definition
	created time.Time

	// want is how many replicas are asked for, version names that and the
	// definition.
	want    int
	version uint64
	// live are the replicas that are to stay, oldest first, stopping those
	// that were told to end and have not.
	live, leaving []*replica
	named         int // replicas so far
	busy          map[string]int
	gone          bool
}

// resize asks for n replicas.
func (w *workload) resize(n int) {
	w.p.cfg.Log.Debug("replicas", "function", w.def.ref.String(), "from", w.want, "to", n)
	w.p.asked += n - w.want
	w.want = n
	w.revise()
	for len(w.live) < n {
		w.grow()
	}
	for len(w.live) > n {
		w.shrink(w.live)
	}
	w.publish()
}

// revise makes versions that were read before it stale.
func (w *workload) revise() {
	w.p.serial++
	w.version = w.p.serial
}

func (w *workload) grow() {
	w.named++
	r := &replica{
		w: w, def: w.def, created: time.Now(), stop: make(chan struct{}),
		name: w.def.ref.Name + "-" + strconv.Itoa(w.named),
	}
	r.uid = w.p.nextUID()
	w.live = append(w.live, r)
	w.p.replicas.Go(r.run)
}

// shrink has one of several replicas end: one that does not serve before one
// that does, then the least busy, then the youngest.
func (w *workload) shrink(of []*replica) {
	r := slices.MinFunc(of, func(a, b *replica) int {
		return cmp.Or(
			compareBool(a.at != nil, b.at != nil),
			cmp.Compare(w.busy[a.name], w.busy[b.name]),
			b.created.Compare(a.created))
	})
	w.end(r)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// end tells everybody that a replica stops, then the replica.
func (w *workload) end(r *replica) {
	r.stopping = true
	w.live = slices.DeleteFunc(w.live, func(o *replica) bool { return o == r })
	w.leaving = append(w.leaving, r)
	w.publish()
	close(r.stop)
}

// roll replaces replicas of an older definition, one at a time: a new one
// first, and when all new ones serve an old one goes, so that a definition
// whose replicas never serve leaves the old ones alone. It returns whether
// there is nothing to replace, or nothing more.
func (w *workload) roll() (over bool) {
	for {
		var old []*replica
		ready := true
		for _, r := range w.live {
			if !r.def.sameProcess(w.def) {
				old = append(old, r)
			} else if !w.serves(r) {
				ready = false
			}
		}
		switch {
		case len(old) == 0 || w.gone || !w.p.leads:
			return true
		case len(w.live) <= w.want:
			w.grow()
			w.publish()
			return false
		case !ready:
			return false
		}
		w.shrink(old)
	}
}

// serves goes by what the Fleet has heard of a replica itself.
func (w *workload) serves(r *replica) bool {
	e := w.p.fleet.Get(w.def.ref)
	return e != nil && slices.ContainsFunc(e.Pods(), func(p *fleet.Pod) bool {
		return p.About().UID == r.uid && p.State() == fleet.Started && !p.Said().Guarded
	})
}

// leave has all replicas end; the function is no more.
func (w *workload) leave() {
	w.gone = true
	w.p.asked -= w.want
	w.want = 0
	for len(w.live) > 0 {
		w.end(w.live[0])
	}
}

// publish puts what is known into the Fleet.
func (w *workload) publish() {
	if w.p.fleet == nil || w.gone {
		return
	}
	fn := &function.Function{
		Ref: w.def.ref, Kind: function.KindProcess, Spec: w.def.spec, Faults: w.def.faults,
		Replicas: w.want, Version: w.versionText(),
		Created: w.created, About: w.def.about,
	}
	for _, list := range [][]*replica{w.live, w.leaving} {
		for _, r := range list {
			fn.Pods = append(fn.Pods, r.pod())
		}
	}
	if w.def.addr != "" {
		fn.Kind, fn.Fixed, fn.Replicas = function.KindURL, true, 1
		fn.Pods = []function.Pod{w.elsewhere()}
	}
	w.p.fleet.Put(fn)
}

// elsewhere is the one pod of a function that this provider does not run. Only
// a connect can tell whether it is ready.
func (w *workload) elsewhere() function.Pod {
	pod := function.Pod{Name: "url", UID: w.def.addr, Addr: w.def.addr, Ready: true, Created: w.created}
	if port := w.def.spec.MetricsPort; port != 0 {
		pod.Metrics = onPort(w.def.addr, port)
	}
	return pod
}

// sameProcess says whether replicas of one definition do for the other.
func (d *definition) sameProcess(other *definition) bool {
	return d == other || d.grace == other.grace && maps.Equal(d.environment, other.environment)
}

func (w *workload) versionText() string { return fmt.Sprintf("%s-%d", w.p.id, w.version) }
