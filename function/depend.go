package function

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Edge is one function's dependence on another.
type Edge struct{ From, To Ref }

// CheckDependencies looks at what all functions depend on, and returns the
// edges that must be ignored, each with the fault that says why: those that
// close a circle, and those to a function that does not exist. It is the same
// for the same functions, whoever asks. functions must be all there are.
func CheckDependencies(functions map[Ref]*Spec) (ignore map[Edge]Fault) {
	var depending []Ref
	for ref, s := range functions {
		if len(s.DependsOn) > 0 {
			depending = append(depending, ref)
		}
	}
	slices.SortFunc(depending, compareRefs)
	w := &walk{functions: functions, ignore: map[Edge]Fault{}, done: map[Ref]bool{}, at: map[Ref]int{}}
	for _, ref := range depending {
		if !w.done[ref] {
			w.visit(ref)
		}
	}
	return w.ignore
}

// walk is one search, depth first.
type walk struct {
	functions map[Ref]*Spec
	ignore    map[Edge]Fault
	done      map[Ref]bool
	// path is how the search came here, at where on it each function stands.
	path []Ref
	at   map[Ref]int
}

// visit recurses as deep as functions depend on one another.
func (w *walk) visit(ref Ref) {
	w.at[ref] = len(w.path)
	w.path = append(w.path, ref)
	for _, to := range w.functions[ref].DependsOn {
		begin, circle := w.at[to]
		switch {
		case circle:
			w.drop(Edge{ref, to}, "no circle: "+circleText(w.path[begin:], to)+"; this link is ignored")
		case w.done[to]:
		case w.functions[to] == nil:
			w.drop(Edge{ref, to}, "the name of a function; there is none of that name, and it is not waited for")
		default:
			w.visit(to)
		}
	}
	w.path = w.path[:len(w.path)-1]
	delete(w.at, ref)
	w.done[ref] = true
}

func (w *walk) drop(e Edge, expected string) {
	w.ignore[e] = Fault{
		Object: fmt.Sprintf("function %s/%s", e.From.Namespace, e.From.Name),
		Key:    cmp.Or(w.functions[e.From].DependsOnKey, weirPrefix+"depends-on"), Value: e.To.String(), Expected: expected,
	}
}

// maxCircleText bounds how much of a circle is named.
const maxCircleText = 8

func circleText(circle []Ref, to Ref) string {
	var names []string
	for i, ref := range circle {
		if i == maxCircleText {
			names = append(names, "…")
			break
		}
		names = append(names, ref.String())
	}
	return strings.Join(append(names, to.String()), " → ")
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
