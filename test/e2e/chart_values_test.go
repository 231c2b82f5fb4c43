package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// schema is the part of JSON Schema by which values are named.
type schema struct {
	Properties map[string]schema
}

// The schema of the chart's values names each of them, and nothing else: it
// refuses what it does not name. It needs no cluster.
func TestSchemaNamesEachValue(t *testing.T) {
	text, err := os.ReadFile(root + "/chart/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	delete(s.Properties, "global") // helm's own
	delete(s.Properties["resources"].Properties, "claims")
	if text, err = os.ReadFile(root + "/chart/values.yaml"); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	var compare func(where string, s schema, values map[string]any)
	compare = func(where string, s schema, values map[string]any) {
		if s.Properties == nil {
			return // the user's own names
		}
		if named, there := slices.Sorted(maps.Keys(s.Properties)), slices.Sorted(maps.Keys(values)); !slices.Equal(named, there) {
			t.Errorf("%s: the schema names %q, values.yaml has %q", where, named, there)
		}
		for name, value := range values {
			if inner, is := value.(map[string]any); is {
				compare(where+name+".", s.Properties[name], inner)
			}
		}
	}
	compare("", s, values)
}

// Values that cannot be meant are refused, by their names, and numbers of a
// file reach weir as they were written. It needs helm and no cluster.
func TestChartRefusesNonsense(t *testing.T) {
	helm, err := program("helm")
	if err != nil {
		t.Skip("no helm: make e2e-deps builds one")
	}
	home := t.TempDir()
	template := func(release string, args ...string) (string, error) {
		cmd := exec.Command(helm, append([]string{"template", release, root + "/chart", "--kube-version", "1.35"}, args...)...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for values, named := range map[string]string{
		"repicas=3":             "repicas",
		"replicas=-1":           "/replicas",
		"replicas=two":          "/replicas",
		"namespaces=fn":         "/namespaces",
		"namespaces={fn,B_c}":   "/namespaces/1",
		"store.nats.url=nats":   "/store/nats/url",
		"store.nats.replicas=2": "/store/nats/replicas",
		"store.size=10":         "/store/size",
		"drainInterval=5s":      "/drainInterval",
		"auth.user=a:b":         "/auth/user",
		"service.port=0":        "/service/port",
		"env.A=null,env.B={x}":  "/env/B",
	} {
		if out, err := template("weir", "--set", values); err == nil || !strings.Contains(out, named) {
			t.Errorf("--set %s: %v, %q, want a refusal that names %s", values, err, out, named)
		}
	}
	if out, err := template("weir.prod"); err == nil || !strings.Contains(out, `release name "weir.prod": expected`) {
		t.Errorf("a release that no Service can be named by: %v, %q", err, out)
	}
	file := filepath.Join(home, "values.yaml")
	if err := os.WriteFile(file, []byte("env: {WEIR_ASYNC_MAX_CALLS: 3000000, WEIR_HOLD_REQUESTS: 20000}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := template("weir", "-f", file)
	if err != nil {
		t.Fatal(err, out)
	}
	for _, want := range []string{`{name: WEIR_ASYNC_MAX_CALLS, value: "3000000"}`, `{name: WEIR_HOLD_REQUESTS, value: "20000"}`} {
		if !strings.Contains(out, want) {
			t.Errorf("not there: %s", want)
		}
	}
}
