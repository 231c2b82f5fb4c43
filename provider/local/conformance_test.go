package local

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/providertest"
)

// yard is the world of the conformance tests: a stack file that is written
// anew at each change, and read again.
type yard struct {
	*site
	functions map[string]providertest.Function
	fixed     map[string]bool
	first     map[function.Ref]int // replicas from the beginning
	opened    bool
	forgotten map[function.Ref]int // writes that were part of making it
}

func (y *yard) text() string {
	var b strings.Builder
	b.WriteString("functions:\n")
	for _, name := range slices.Sorted(maps.Keys(y.functions)) {
		fmt.Fprintf(&b, "  %s:\n    fprocess: cat\n    labels:\n", name)
		for key, value := range y.functions[name].Labels {
			fmt.Fprintf(&b, "      %s: %q\n", key, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(y.fixed)) {
		fmt.Fprintf(&b, "  %s:\n    url: http://127.0.0.1:9\n", name)
	}
	return b.String()
}

func (y *yard) reload(t *testing.T) {
	t.Helper()
	y.write(y.text())
	if y.opened {
		if err := y.Reload(); err != nil {
			t.Fatal(err)
		}
	}
}

// begun is the Provider with what runs from the beginning.
type begun struct {
	*Provider
	yard *yard
}

func (b begun) Run(ctx context.Context, f *fleet.Fleet) error {
	if len(b.yard.first) > 0 {
		go func() {
			<-f.Complete()
			for ref, n := range b.yard.first {
				_ = b.Scale(ctx, ref, n, "")
			}
		}()
	}
	return b.Provider.Run(ctx, f)
}

var written = regexp.MustCompile(`msg=replicas function=(\S+) from=(\d+) to=(\d+)`)

func (y *yard) writes(of function.Ref) (all []providertest.Write) {
	for _, m := range written.FindAllStringSubmatch(y.log.String(), -1) {
		if m[1] == of.String() {
			from, _ := strconv.Atoi(m[2])
			to, _ := strconv.Atoi(m[3])
			all = append(all, providertest.Write{Old: from, New: to})
		}
	}
	return all[y.forgotten[of]:]
}

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		y := &yard{
			site: newSite(t, "functions:\n"), functions: map[string]providertest.Function{}, fixed: map[string]bool{},
			first: map[function.Ref]int{}, forgotten: map[function.Ref]int{},
		}
		t.Cleanup(y.nothingLeft)
		return providertest.Subject{
			Namespace: "default",
			New: func(t *testing.T) providertest.Provider {
				p, err := New(y.config())
				if err != nil {
					t.Fatal(err)
				}
				y.Provider, y.opened = p, true
				return begun{p, y}
			},
			Make: func(t *testing.T, fn providertest.Function) {
				y.functions[fn.Name] = fn
				y.reload(t)
				switch {
				case fn.Replicas == 0:
				case !y.opened:
					y.first[ref(fn.Name)] = fn.Replicas
				default:
					if err := y.Scale(t.Context(), ref(fn.Name), fn.Replicas, ""); err != nil {
						t.Fatal(err)
					}
				}
				if fn.Replicas > 0 {
					y.forgotten[ref(fn.Name)]++
				}
			},
			Writes: func(t *testing.T, of function.Ref) []providertest.Write { return y.writes(of) },
			Remove: func(t *testing.T, of function.Ref) {
				delete(y.functions, of.Name)
				y.reload(t)
			},
			Relabel: func(t *testing.T, of function.Ref, labels map[string]string) {
				y.functions[of.Name] = providertest.Function{Name: of.Name, Labels: labels}
				y.reload(t)
			},
			Resize: func(t *testing.T, of function.Ref, n int) {
				if err := y.Scale(t.Context(), of, n, ""); err != nil {
					t.Fatal(err)
				}
			},
			Running: func(t *testing.T, of function.Ref) int { return len(y.watchdogs(of.Name)) },
			Restart: func(t *testing.T, of function.Ref, pod string) {
				for _, pid := range y.watchdogs(of.Name) {
					if strings.Contains(describe(pid), "/"+pod+".") {
						_ = unix.Kill(pid, unix.SIGKILL)
					}
				}
			},
			MakeFixed: func(t *testing.T, name string) {
				y.fixed[name] = true
				y.reload(t)
			},
			Patience: patience,
		}
	})
}
