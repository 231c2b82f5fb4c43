package kube

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/providertest"
)

// The rules are exactly what is used: the conformance tests passed with them,
// so nothing is missing; what the API server was asked for by weirs says that
// nothing is idle.
func TestRulesAreExactlyWhatIsUsed(t *testing.T) {
	p := newPlace(t, deployments)
	for _, kind := range []string{deployments, statefulSets} {
		p.kind = kind
		name := strings.ToLower(kind)
		p.make(t, providertest.Function{Name: name, Labels: settings()})
	}
	l := p.live(t).complete(t)
	eventually(t, "leading", l.Leads)
	for _, kind := range []string{"deployment", "statefulset"} {
		ref := p.ref(kind)
		must(t, l.Scale(t.Context(), ref, 2, ""))
		eventually(t, "pods of "+kind, func() bool { return len(l.function(t, ref).Pods) == 2 })
		// Another write comes between, until it had to read again.
		n := 2
		eventually(t, "another write between", func() bool {
			n = 5 - n
			for range 5 {
				p.touchStatus(t, kind, ref)
			}
			if err := l.Scale(t.Context(), ref, n, l.function(t, ref).Version); err != nil && !errors.Is(err, function.ErrConflict) {
				t.Error(err)
			}
			return len(p.audit(t, "system:serviceaccount:"+p.namespace+":weir", `"verb":"get"`, kind+"s")) > 0
		})
		for range 2 { // the second one counts the first
			l.Event(ref, function.Event{Reason: "Test", Message: "The same twice."})
		}
	}
	eventually(t, "a busy pod is spared", func() bool {
		busy := map[string]int{}
		for _, name := range podNames(l.fleet, p.ref("deployment")) {
			busy[name] = 3
		}
		must(t, l.Spare(t.Context(), p.ref("deployment"), busy))
		return len(p.audit(t, "system:serviceaccount:"+p.namespace+":weir", `"verb":"patch"`, `"pods"`)) > 0
	})
	eventually(t, "a counted Event", func() bool { return len(p.events(t, "Test")) == 2 && p.events(t, "Test")[0].Count == 2 })
	l.end()

	type use struct{ group, resource, verb string }
	used, allowed := map[use]bool{}, map[use]bool{}
	for _, rules := range [][]rbacv1.PolicyRule{FunctionRules(), OwnRules()} {
		for _, r := range rules {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					allowed[use{r.APIGroups[0], resource, verb}] = true
				}
			}
		}
	}
	for _, line := range p.audit(t, "system:serviceaccount:"+p.namespace+":weir") {
		var entry struct {
			Verb      string
			ObjectRef struct{ APIGroup, Resource, Subresource string }
		}
		must(t, json.Unmarshal([]byte(line), &entry))
		resource := entry.ObjectRef.Resource
		if entry.ObjectRef.Subresource != "" {
			resource += "/" + entry.ObjectRef.Subresource
		}
		used[use{entry.ObjectRef.APIGroup, resource, entry.Verb}] = true
	}
	for u := range used {
		if !allowed[u] {
			t.Errorf("used and not in the rules: %v", u)
		}
	}
	for u := range allowed {
		if !used[u] {
			t.Errorf("in the rules and not used: %v", u)
		}
	}
}
