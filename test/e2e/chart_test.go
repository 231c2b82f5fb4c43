package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A manifest is an object as the API server would take it.
type manifest struct {
	Kind, APIVersion string
	Metadata         struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Rules   []rule
	RoleRef struct{ Kind, Name string }
	Spec    json.RawMessage
}

type rule struct{ APIGroups, Resources, Verbs []string }

// accepted is what the API server would make of a text: nothing is kept.
func (c *cluster) accepted(t *testing.T, namespace, text string) (all []manifest) {
	t.Helper()
	// kubectl takes the objects of one namespace at a time.
	in := map[string]string{}
	for document := range strings.SplitSeq(text, "\n---\n") {
		at := namespace
		if _, after, ok := strings.Cut(document, "\n  namespace: "); ok {
			at, _, _ = strings.Cut(after, "\n")
		}
		in[at] += document + "\n---\n"
	}
	for _, namespace := range slices.Sorted(maps.Keys(in)) {
		out, err := c.kubectl(in[namespace], "-n", namespace, "apply", "--dry-run=server", "-o", "json", "-f", "-")
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		if list.Items == nil { // one object is not a List
			list.Items = []json.RawMessage{json.RawMessage(out)}
		}
		for _, item := range list.Items {
			var m manifest
			var spec bytes.Buffer
			if err := json.Unmarshal(item, &m); err != nil {
				t.Fatal(err)
			}
			if m.Spec != nil {
				if err := json.Compact(&spec, m.Spec); err != nil {
					t.Fatal(err)
				}
				m.Spec = spec.Bytes()
			}
			all = append(all, m)
		}
	}
	return all
}

// render is the chart with values, as the API server takes it.
func (c *cluster) render(t *testing.T, namespace string, values ...string) []manifest {
	t.Helper()
	args := []string{"template", "weir", root + "/chart", "-n", namespace, "--kube-version", "1.35"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	return c.accepted(t, namespace, c.helm(t, args...))
}

func find(all []manifest, kind, name string) *manifest {
	for i := range all {
		if all[i].Kind == kind && (name == "" || all[i].Metadata.Name == name) {
			return &all[i]
		}
	}
	return nil
}

// container is the first of a Deployment.
type contained struct {
	Image, ImagePullPolicy string
	Env                    []struct{ Name, Value string }
}

func (m *manifest) container(t *testing.T) contained {
	t.Helper()
	var spec struct {
		Template struct {
			Spec struct{ Containers []contained }
		}
	}
	if err := json.Unmarshal(m.Spec, &spec); err != nil {
		t.Fatal(err)
	}
	return spec.Template.Spec.Containers[0]
}

func (c contained) env(name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// The chart's options give objects that the API server takes, with the same
// rules wherever they stand: provider/kube compares those of deploy/weir.yaml
// with what it asks for.
func TestChartRenders(t *testing.T) {
	c := needNode(t)
	own, a, b := c.namespace(t, "e2e-chart"), c.namespace(t, "e2e-chart-a"), c.namespace(t, "e2e-chart-b")
	c.k(t, "apply", "-f", "testdata/servicemonitor-crd.yaml")
	c.k(t, "wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com")

	plain := c.render(t, own)
	functions, mine := find(plain, "Role", "weir-functions"), find(plain, "Role", "weir")
	if functions == nil || mine == nil || find(plain, "ClusterRole", "") != nil {
		t.Fatal("expected two Roles and no ClusterRole by default")
	}
	bound := func(all []manifest, kind string) (namespaces []string) {
		for _, m := range all {
			if m.Kind == "RoleBinding" && m.RoleRef.Kind == kind {
				namespaces = append(namespaces, m.Metadata.Namespace)
			}
		}
		return namespaces
	}
	for name, tc := range map[string]struct {
		values []string
		check  func(all []manifest) string
	}{
		"the defaults": {nil, func(all []manifest) string {
			d := find(all, "Deployment", "weir").container(t)
			for _, kind := range []string{"Secret", "PodDisruptionBudget", "NetworkPolicy", "Service", "ServiceAccount"} {
				if find(all, kind, "") == nil {
					return "no " + kind
				}
			}
			if find(all, "ServiceMonitor", "") != nil {
				return "a ServiceMonitor that nobody asked for"
			}
			if !strings.HasPrefix(d.Image, "weir/weir:") || strings.HasSuffix(d.Image, ":latest") || d.env("WEIR_NAMESPACE") != "" {
				return fmt.Sprintf("image %s, WEIR_NAMESPACE %q", d.Image, d.env("WEIR_NAMESPACE"))
			}
			return ""
		}},
		"its own namespace in a list": {[]string{"namespaces={" + own + "}"}, func(all []manifest) string {
			if find(all, "ClusterRole", "") != nil {
				return "a ClusterRole for one's own namespace"
			}
			return ""
		}},
		"other namespaces": {[]string{"namespaces={" + a + "," + b + "}"}, func(all []manifest) string {
			role := find(all, "ClusterRole", own+"-weir-functions")
			if role == nil || !reflect.DeepEqual(role.Rules, functions.Rules) {
				return "no ClusterRole with the Role's rules"
			}
			if in := bound(all, "ClusterRole"); !slices.Equal(in, []string{a, b}) {
				return fmt.Sprintf("bound in %v", in)
			}
			if in := bound(all, "Role"); !slices.Equal(in, []string{own}) || find(all, "ClusterRoleBinding", "") != nil {
				return fmt.Sprintf("its own bound in %v, or all of the cluster", in)
			}
			if env := find(all, "Deployment", "weir").container(t).env("WEIR_NAMESPACE"); env != a+","+b {
				return "WEIR_NAMESPACE=" + env
			}
			return ""
		}},
		"all namespaces": {[]string{"namespaces={*}"}, func(all []manifest) string {
			role, binding := find(all, "ClusterRole", own+"-weir-functions"), find(all, "ClusterRoleBinding", "")
			if role == nil || !reflect.DeepEqual(role.Rules, functions.Rules) || binding == nil || binding.RoleRef.Name != role.Metadata.Name {
				return "no ClusterRole with the Role's rules, bound"
			}
			if env := find(all, "Deployment", "weir").container(t).env("WEIR_NAMESPACE"); env != "*" {
				return "WEIR_NAMESPACE=" + env
			}
			if role := find(all, "Role", "weir"); role == nil || !reflect.DeepEqual(role.Rules, mine.Rules) {
				return "other rules in its own namespace"
			}
			return ""
		}},
		"one replica": {[]string{"replicas=1"}, func(all []manifest) string {
			if find(all, "PodDisruptionBudget", "") != nil {
				return "a budget that would keep its only pod from leaving"
			}
			return ""
		}},
		"a secret of one's own": {[]string{"auth.existingSecret=mine", "auth.user=me"}, func(all []manifest) string {
			if find(all, "Secret", "") != nil || !strings.Contains(string(find(all, "Deployment", "weir").Spec), `"secretName":"mine"`) {
				return "a secret made, or not the one that was named"
			}
			return ""
		}},
		"a ServiceMonitor": {[]string{"serviceMonitor.enabled=true", "serviceMonitor.interval=7s", "serviceMonitor.labels.release=prometheus"}, func(all []manifest) string {
			m := find(all, "ServiceMonitor", "weir")
			if m == nil || m.Metadata.Labels["release"] != "prometheus" {
				return "no ServiceMonitor, or not with its label"
			}
			var monitor struct {
				Selector  struct{ MatchLabels map[string]string }
				Endpoints []struct{ Port, Interval string }
			}
			var service struct{ Ports []struct{ Name string } }
			s := find(all, "Service", "weir-metrics")
			if json.Unmarshal(m.Spec, &monitor) != nil || json.Unmarshal(s.Spec, &service) != nil {
				return "not what it should look like"
			}
			for name, value := range monitor.Selector.MatchLabels {
				if s.Metadata.Labels[name] != value {
					return "it does not select the metrics Service by " + name
				}
				if other := find(all, "Service", "weir"); name == "app.kubernetes.io/component" && other.Metadata.Labels[name] == value {
					return "it selects the other Service too"
				}
			}
			if monitor.Endpoints[0].Port != service.Ports[0].Name || monitor.Endpoints[0].Interval != "7s" {
				return fmt.Sprintf("endpoints %v", monitor.Endpoints)
			}
			return ""
		}},
		"nothing that can be left out": {[]string{"networkPolicy.enabled=false", "podDisruptionBudget.enabled=false", "topologySpread=false", "resources.limits=null"}, func(all []manifest) string {
			if find(all, "NetworkPolicy", "") != nil || find(all, "PodDisruptionBudget", "") != nil {
				return "a NetworkPolicy or a budget"
			}
			return ""
		}},
		"everything else": {[]string{"env.WEIR_LOG_FORMAT=json", "env.WEIR_HOLD_REQUESTS=7", "imagePullSecrets[0].name=pull", "priorityClassName=system-cluster-critical",
			"nodeSelector.disk=ssd", "tolerations[0].operator=Exists", "podLabels.team=x", "podAnnotations.note=y", "service.type=NodePort",
			"service.annotations.a=b", "serviceAccount.annotations.c=d", "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
			"affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
			"affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=k",
			"affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists"}, func(all []manifest) string {
			d := find(all, "Deployment", "weir")
			if d.container(t).env("WEIR_LOG_FORMAT") != "json" || d.container(t).env("WEIR_HOLD_REQUESTS") != "7" {
				return "settings that do not arrive"
			}
			for _, want := range []string{`"disk":"ssd"`, `"name":"pull"`, `"team":"x"`, `"note":"y"`, "system-cluster-critical"} {
				if !strings.Contains(string(d.Spec), want) {
					return "no " + want
				}
			}
			if !strings.Contains(string(find(all, "NetworkPolicy", "").Spec), `"name":"monitoring"`) {
				return "no peer for metrics"
			}
			return ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if fault := tc.check(c.render(t, own, tc.values...)); fault != "" {
				t.Error(fault)
			}
		})
	}
}

// The manifests for those without helm are the chart's, and the API server
// takes them.
func TestManifests(t *testing.T) {
	c := needNode(t)
	made := filepath.Join(t.TempDir(), "weir.yaml")
	cmd := exec.Command(root+"/deploy/make.sh", made)
	cmd.Env = append(os.Environ(), "HELM="+c.helmBin, "HELM_CACHE_HOME="+c.home, "HELM_CONFIG_HOME="+c.home, "HELM_DATA_HOME="+c.home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(root + "/deploy/weir.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("deploy/weir.yaml is not what deploy/make.sh writes: run make deploy")
	}

	const namespace = "weir" // its head says so
	c.namespaces = append(c.namespaces, namespace)
	c.k(t, "create", "namespace", namespace)
	all := c.accepted(t, namespace, string(got))
	for _, m := range all {
		if m.Metadata.Namespace != namespace {
			t.Errorf("%s %s is in namespace %q", m.Kind, m.Metadata.Name, m.Metadata.Namespace)
		}
	}
	if len(all) < 10 {
		t.Errorf("%d objects", len(all))
	}
	function, err := os.ReadFile(root + "/deploy/function.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.accepted(t, namespace, string(function))
}

// A weir that is given other namespaces serves their functions, and no others;
// one that is given all serves all.
func TestOtherNamespaces(t *testing.T) {
	c := needNode(t)
	listed, other := c.namespace(t, "e2e-listed"), c.namespace(t, "e2e-other")
	for _, namespace := range []string{listed, other} {
		text, err := json.Marshal(zero("there", nil).manifest(c))
		if err != nil {
			t.Fatal(err)
		}
		c.apply(t, namespace, string(text))
	}
	r := c.install(t, "e2e-wide", "namespaces={"+listed+"}")
	t.Cleanup(func() { c.helm(t, "uninstall", "weir", "-n", r.namespace, "--wait", "--timeout", patience.String()) })
	w := r.weirs(t, 2)[0]
	for path, status := range map[string]int{"/function/there." + listed: 200, "/function/there." + other: 404, "/function/there": 200} {
		if a := send(t, "GET", w.url+path, "", nil); a.status != status {
			t.Errorf("%s of one that serves %s: %d, want %d: %.200q", path, listed, a.status, status, a.body)
		}
	}
	r.helm(t, "upgrade", "namespaces={*}")
	w = r.weirs(t, 2)[0]
	eventually(t, "functions of all namespaces", func() error { return greet(w.url + "/function/there." + other) })
}
