package gateway

import (
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// ignored are the dependencies that come to nothing, with why: those that
// close a circle, and those on functions that do not exist. Before it is known
// which exist it is empty.
func ignored(f *fleet.Fleet) map[function.Edge]function.Fault {
	if !complete(f) {
		return nil
	}
	depend := false
	for e := range f.All() {
		depend = depend || len(e.Function().Spec.DependsOn) > 0
	}
	if !depend {
		return nil
	}
	specs := make(map[function.Ref]*function.Spec, f.Len())
	for e := range f.All() {
		fn := e.Function()
		specs[fn.Ref] = &fn.Spec
	}
	return function.CheckDependencies(specs)
}

// dependencies tells owners of what is ignored, once for as long as it is so.
// It is one goroutine's.
type dependencies struct {
	told map[function.Edge]function.Fault
}

func (d *dependencies) tell(g *Gateway) {
	now := ignored(g.cfg.Fleet)
	for _, fault := range sortedFaults(now, func(e function.Edge) bool { return d.told[e] != now[e] }) {
		g.cfg.Log.Warn("dependency ignored", slog.String("object", fault.Object),
			slog.String("key", fault.Key), slog.String("value", fault.Value), slog.String("expected", fault.Expected))
	}
	for edge, fault := range now {
		if d.told[edge] != fault {
			g.cfg.Provider.Event(edge.From, function.Event{Warning: true, Reason: "DependencyIgnored", Message: fault.String()})
		}
	}
	d.told = now
}

// sortedFaults are those of some edges, in the order of their text.
func sortedFaults(of map[function.Edge]function.Fault, some func(function.Edge) bool) []function.Fault {
	var all []function.Fault
	for edge := range maps.Keys(of) {
		if some(edge) {
			all = append(all, of[edge])
		}
	}
	slices.SortFunc(all, func(a, b function.Fault) int { return strings.Compare(a.String(), b.String()) })
	return all
}
