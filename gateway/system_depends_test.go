package gateway

import (
	"strings"
	"testing"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// TestIgnoredDependenciesAreTold: in the description, and once to the owner for
// as long as it is so.
func TestIgnoredDependenciesAreTold(t *testing.T) {
	w := newAPIWorld(t, nil)
	put := func(name string, on ...string) {
		fn := &function.Function{Ref: function.Ref{Name: name, Namespace: "fn"}, Spec: function.Defaults()}
		for _, to := range on {
			fn.Spec.DependsOn = append(fn.Spec.DependsOn, function.Ref{Name: to, Namespace: "fn"})
		}
		w.fleet.Put(fn)
	}
	var d dependencies
	told := func() string {
		d.tell(w.Gateway)
		var all []string
		for _, e := range w.provider.events() {
			if !e.Warning || e.Reason != "DependencyIgnored" {
				t.Errorf("%+v", e)
			}
			all = append(all, e.Message)
		}
		return strings.Join(all, "; ")
	}
	if got := told(); got != "" {
		t.Errorf("nobody depends, but %s", got)
	}
	put("a", "b")
	put("b", "a")
	const circle = "function fn/b: weir/depends-on=\"a.fn\": expected no circle: a.fn → b.fn → a.fn; this link is ignored"
	if got := told(); got != circle {
		t.Errorf("a circle: %q", got)
	}
	if got := told(); got != "" {
		t.Errorf("told twice: %q", got)
	}
	body := w.ask("GET", "/system/function/b", "", asAdmin).Body.String()
	if !strings.Contains(body, `"faults":[{"object":"function fn/b","key":"weir/depends-on","value":"a.fn"`) {
		t.Errorf("b: %s", body)
	}
	if body := w.ask("GET", "/system/function/a", "", asAdmin).Body.String(); strings.Contains(body, "faults") {
		t.Errorf("a: %s", body)
	}
	put("b")
	put("a", "nobody")
	if got := told(); !strings.Contains(got, "none of that name") {
		t.Errorf("nobody: %q", got)
	}
	put("a", "b")
	if got := told(); got != "" {
		t.Errorf("mended: %q", got)
	}
	put("b", "a")
	if got := told(); got != circle {
		t.Errorf("broken again: %q", got)
	}
}

// TestDependenciesBeforeAllIsRead: what was not read yet is not unknown.
func TestDependenciesBeforeAllIsRead(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Put(&function.Function{
		Ref:  function.Ref{Name: "a", Namespace: "fn"},
		Spec: function.Spec{DependsOn: []function.Ref{{Name: "b", Namespace: "fn"}}},
	})
	if got := ignored(f); got != nil {
		t.Errorf("%v", got)
	}
	f.Synced()
	if got := ignored(f); len(got) != 1 {
		t.Errorf("%v", got)
	}
}
