package function

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// graph reads "a>b,c d>a": names are single, in one namespace.
func graph(text string) map[Ref]*Spec {
	g := map[Ref]*Spec{}
	for _, part := range strings.Fields(text) {
		from, to, _ := strings.Cut(part, ">")
		s := &Spec{}
		for name := range strings.SplitSeq(to, ",") {
			if name != "" {
				s.DependsOn = append(s.DependsOn, Ref{name, "ns"})
			}
		}
		g[Ref{from, "ns"}] = s
	}
	return g
}

func TestCheckDependencies(t *testing.T) {
	edge := func(from, to string) Edge { return Edge{Ref{from, "ns"}, Ref{to, "ns"}} }
	for text, want := range map[string][]Edge{
		"":                          nil,
		"a b":                       nil,
		"a>b b>c c":                 nil,
		"a>b,c b>d c>d d":           nil, // two ways to one are no circle
		"a>a":                       {edge("a", "a")},
		"a>b b>a":                   {edge("b", "a")},
		"b>a a>b":                   {edge("b", "a")},
		"a>b b>c c>a":               {edge("c", "a")},
		"a>b b>c,b c>a d>a":         {edge("c", "a"), edge("b", "b")},
		"a>b b>a c>d d>c":           {edge("b", "a"), edge("d", "c")},
		"a>nowhere":                 {edge("a", "nowhere")},
		"x>a,b a>b b>a":             {edge("b", "a")},
		"a>b,nowhere b>nowhere,a c": {edge("b", "nowhere"), edge("b", "a"), edge("a", "nowhere")},
	} {
		ignore := CheckDependencies(graph(text))
		for _, e := range want {
			if _, ok := ignore[e]; !ok || len(ignore) != len(want) {
				t.Errorf("%q: ignores %v, want %v", text, ignore, want)
			}
		}
		if want == nil && len(ignore) > 0 {
			t.Errorf("%q: ignores %v", text, ignore)
		}
	}
}

func TestCheckDependenciesSays(t *testing.T) {
	ignore := CheckDependencies(graph("a>b b>c c>a"))
	got := ignore[Edge{Ref{"c", "ns"}, Ref{"a", "ns"}}].String()
	want := `function ns/c: weir/depends-on="a.ns": expected no circle: a.ns → b.ns → c.ns → a.ns; this link is ignored`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	long := ""
	for i := range 100 {
		long += fmt.Sprintf("f%02d>f%02d ", i, (i+1)%100)
	}
	ignore = CheckDependencies(graph(long))
	for _, fault := range ignore {
		if len(ignore) != 1 || len(fault.String()) > 300 {
			t.Errorf("a long circle: %v", ignore)
		}
	}
}

// TestCheckDependenciesLeavesNoCircle follows what is left of random graphs:
// it must come to an end, and say the same twice.
func TestCheckDependenciesLeavesNoCircle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		g := map[Ref]*Spec{}
		n := 1 + random.IntN(12)
		for i := range n {
			s := &Spec{}
			for range random.IntN(4) {
				s.DependsOn = append(s.DependsOn, Ref{fmt.Sprint(random.IntN(n + 1)), "ns"})
			}
			g[Ref{fmt.Sprint(i), "ns"}] = s
		}
		ignore := CheckDependencies(g)
		again := CheckDependencies(g)
		if !reflect.DeepEqual(ignore, again) {
			t.Fatalf("not the same twice: %v, %v", ignore, again)
		}
		var deep func(ref Ref, depth int)
		deep = func(ref Ref, depth int) {
			if depth > n {
				t.Fatalf("still a circle: %v ignoring %v", g, ignore)
			}
			if g[ref] == nil {
				t.Fatalf("still depends on %v, which is not there", ref)
			}
			for _, to := range g[ref].DependsOn {
				if _, ignored := ignore[Edge{ref, to}]; !ignored {
					deep(to, depth+1)
				}
			}
		}
		for ref := range g {
			deep(ref, 0)
		}
	}
}
