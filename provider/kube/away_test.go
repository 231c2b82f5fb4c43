package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/providertest"
)

// What may not be read is said by its name, once, with what to do; the rest
// goes on, and so does all when it is allowed.
func TestRightsAreMissing(t *testing.T) {
	without := func(resource, verb string) []rbacv1.PolicyRule {
		rules := append(FunctionRules(), OwnRules()...)
		for i := range rules {
			if slices.Contains(rules[i].Resources, resource) {
				rules[i].Verbs = slices.DeleteFunc(rules[i].Verbs, func(v string) bool { return v == verb })
			}
		}
		return slices.DeleteFunc(rules, func(r rbacv1.PolicyRule) bool { return len(r.Verbs) == 0 })
	}
	for _, c := range []struct {
		resource, verb, named string
		needed                bool
	}{
		{"pods", "list", "list pods", true},
		{"deployments", "list", "list deployments.apps", true},
		{"statefulsets", "watch", "", false},
		{"horizontalpodautoscalers", "list", "list horizontalpodautoscalers.autoscaling", false},
		{"deployments/scale", "update", "update deployments.apps/scale", false},
		{"leases", "create", "create leases.coordination.k8s.io", false},
		{"events", "create", "create events", false},
		{"pods", "patch", "patch pods", false},
	} {
		t.Run(c.verb+" "+strings.ReplaceAll(c.resource, "/", "."), func(t *testing.T) {
			t.Parallel()
			named := c.named
			if named == "" {
				named = c.verb + " " + c.resource + ".apps"
			}
			p := newPlace(t, deployments, without(c.resource, c.verb)...)
			p.make(t, providertest.Function{Name: "f", Labels: settings(), Replicas: 1})
			l, ref := p.live(t), p.ref("f")
			if !c.needed {
				l.complete(t)
				switch c.resource + " " + c.verb {
				case "deployments/scale update":
					for range 3 {
						time.Sleep(sureAfter / 2)
						err := l.Scale(t.Context(), ref, 2, "")
						if !errors.Is(err, function.ErrForbidden) || !strings.Contains(err.Error(), p.namespace) {
							t.Errorf("Scale: %v, expected %v and the namespace", err, function.ErrForbidden)
						}
					}
				case "events create":
					for i := range 3 {
						time.Sleep(sureAfter / 2)
						l.Event(ref, function.Event{Reason: "Test", Message: fmt.Sprint(i)})
					}
				case "pods patch":
					eventually(t, "a pod", func() bool { return len(l.function(t, ref).Pods) == 1 })
					for range 3 {
						time.Sleep(sureAfter / 2)
						if err := l.Spare(t.Context(), ref, map[string]int{l.function(t, ref).Pods[0].Name: 1}); !errors.Is(err, function.ErrForbidden) {
							t.Errorf("Spare: %v, expected %v", err, function.ErrForbidden)
						}
					}
				}
			}
			eventually(t, "a word on it", func() bool { return len(l.log.with("denies", named, p.namespace, "may "+c.verb)) > 0 })
			if c.needed && l.fleet.Get(ref) != nil {
				t.Error("a function is known whose pods or kind could not be read")
			}
			role, err := p.admin.RbacV1().Roles(p.namespace).Get(t.Context(), "weir", metav1.GetOptions{})
			must(t, err)
			role.Rules = append(FunctionRules(), OwnRules()...)
			_, err = p.admin.RbacV1().Roles(p.namespace).Update(t.Context(), role, metav1.UpdateOptions{})
			must(t, err)
			l.complete(t)
			eventually(t, "leading", l.Leads)
			if c.resource == "deployments/scale" {
				eventually(t, "scaling", func() bool { return l.Scale(t.Context(), ref, 2, "") == nil })
			}
			if n := len(l.log.with("level=WARN", named)); n != 1 {
				t.Errorf("said %d times, expected once:\n%s", n, strings.Join(l.log.all(), "\n"))
			}
		})
	}
}

// The API server goes and comes back: what was known stays, it is said once,
// and what happened meanwhile is found.
func TestServerGoes(t *testing.T) {
	p := newPlace(t, deployments)
	p.make(t, providertest.Function{Name: "f", Labels: settings(), Replicas: 1})
	p.make(t, providertest.Function{Name: "g", Labels: settings()})
	l, ref := p.live(t).complete(t), p.ref("f")
	eventually(t, "leading", l.Leads)
	eventually(t, "a pod", func() bool { pods := l.function(t, ref).Pods; return len(pods) == 1 && pods[0].Addr != "" })
	before := l.function(t, ref)

	back := p.away(t)
	if err := l.Wake(t.Context(), p.ref("g"), 1); !errors.Is(err, function.ErrUnavailable) {
		t.Errorf("Wake: %v, expected %v", err, function.ErrUnavailable)
	}
	eventually(t, "the Lease lost", func() bool { return !l.Leads() })
	late := p.live(t) // one that starts meanwhile
	eventually(t, "a word on it", func() bool { return len(late.log.with("cannot be asked")) == 1 })
	if got := l.function(t, ref); got != before {
		t.Errorf("what was known is %+v now", got)
	}
	back()

	p.resize(t, ref, 2)
	for _, weir := range []*live{l, late.complete(t)} {
		eventually(t, "what happened since", func() bool {
			fn := weir.function(t, ref)
			return fn.Replicas == 2 && len(fn.Pods) == 2
		})
	}
	must(t, l.Wake(t.Context(), p.ref("g"), 1))
	eventually(t, "one that leads", func() bool { return l.Leads() != late.Leads() })
	for name, weir := range map[string]*live{"that was there": l, "that came late": late} {
		if n := len(weir.log.with("level=WARN")); n != 1 {
			t.Errorf("the one %s: %d warnings:\n%s", name, n, strings.Join(weir.log.all(), "\n"))
		}
		if n := len(weir.log.with("answers again")); n != 1 {
			t.Errorf("the one %s said %d times that it answers again", name, n)
		}
	}
}

// asChild has the test program be a weir that is killed.
const asChild = "WEIR_TEST_KUBECONFIG"

func childWeir() {
	p, err := New(Config{Kubeconfig: os.Getenv(asChild), Namespace: os.Getenv("WEIR_TEST_NAMESPACE"), Identity: "killed", Version: "test"})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		for !p.Leads() {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("leads")
	}()
	p.Run(context.Background(), fleet.New(fleet.Config{}))
}

// A weir that decides is killed as by kill -9. The bound of 15 s is what users
// are promised; a busy machine gets more.
func TestKilledLeader(t *testing.T) {
	p := newPlace(t, deployments)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), asChild+"="+p.kubeconfig, "WEIR_TEST_NAMESPACE="+p.namespace)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	defer child.Wait()
	defer child.Process.Kill()
	word := make([]byte, 5)
	if _, err := out.Read(word); err != nil || string(word) != "leads" {
		t.Fatalf("%q, %v", word, err)
	}
	l := p.live(t).complete(t)
	time.Sleep(4 * time.Second) // it must not lead meanwhile
	if l.Leads() {
		t.Fatal("two lead")
	}
	child.Process.Kill()
	killed := time.Now()
	eventually(t, "the other leads", l.Leads)
	t.Logf("%v without decisions", time.Since(killed))
}
