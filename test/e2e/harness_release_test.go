package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// password is the chart's secret in every release of the tests.
const password = "e2e-password"

// A release is weir, installed with the chart.
type release struct {
	c         *cluster
	namespace string
	one       bool           // it has one weir, not two
	used      map[string]int // names that unused has made, and how many
	kept      *logKeeper     // logs of one whose weirs are killed
}

// count is how many weirs the release has.
func (r *release) count() int {
	if r.one {
		return 1
	}
	return 2
}

// A weir is one pod of a release.
type weir struct {
	name, ip     string
	url, metrics string // http://IP:PORT
}

// sharedRelease is one release with two weirs for all who need nothing special.
func sharedRelease(t *testing.T) *release {
	t.Helper()
	c := need(t)
	if c.shared == nil {
		c.shared = c.install(t, "e2e")
		return c.shared
	}
	c.shared.explainFailure(t)
	return c.shared
}

// install puts weir into a namespace of its own; values are for --set.
func (c *cluster) install(t *testing.T, prefix string, values ...string) *release {
	t.Helper()
	r := &release{c: c, namespace: c.namespace(t, prefix)}
	r.explainFailure(t)
	r.helm(t, "install", values...)
	r.weirs(t, 2)
	return r
}

// helm installs or upgrades the release.
func (r *release) helm(t *testing.T, action string, values ...string) {
	t.Helper()
	args := []string{action, "weir", root + "/chart", "-n", r.namespace, "--wait", "--timeout", patience.String()}
	policy := "Never"
	if r.c.dir == "" {
		policy = "IfNotPresent"
	}
	for _, v := range append([]string{"image.repository=" + r.c.images + "weir", "image.tag=" + imageTag, "image.pullPolicy=" + policy,
		"auth.password=" + password, "resources.requests.cpu=10m"}, values...) {
		args = append(args, "--set", v)
	}
	r.c.helm(t, args...)
}

// weirs waits until n weirs are Ready and no other is left, and returns them.
func (r *release) weirs(t *testing.T, n int) []weir {
	t.Helper()
	var all []weir
	eventually(t, fmt.Sprintf("%d weirs", n), func() error {
		pods, err := r.c.pods(r.namespace, "app.kubernetes.io/name=weir")
		if err != nil {
			return err
		}
		all = nil
		for _, p := range pods {
			if p.Metadata.DeletionTimestamp == nil && p.ready() {
				all = append(all, weir{name: p.Metadata.Name, ip: p.Status.PodIP})
			}
		}
		if len(all) != n || len(pods) != n {
			return fmt.Errorf("%d pods, %d ready", len(pods), len(all))
		}
		return nil
	})
	for i := range all {
		all[i].url, all[i].metrics = r.reach(t, all[i].name, all[i].ip, 8080), r.reach(t, all[i].name, all[i].ip, 8082)
	}
	return all
}

// reach is the URL of a pod's port: by its address on a node of this machine,
// else forwarded by kubectl until the test ends.
func (r *release) reach(t *testing.T, pod, ip string, port int) string {
	t.Helper()
	if r.c.dir != "" {
		return fmt.Sprintf("http://%s:%d", ip, port)
	}
	cmd := exec.Command(r.c.kubectlBin, "--kubeconfig", r.c.kubeconfig, "-n", r.namespace, "port-forward", "pod/"+pod, fmt.Sprintf(":%d", port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:PORT -> 8080
	_, address, ok := strings.Cut(line, "from ")
	address, _, _ = strings.Cut(address, " ")
	if !ok {
		t.Fatalf("kubectl port-forward %s: %q", pod, line)
	}
	return "http://" + address
}

// panics fails the test where a weir ended by itself, and keeps what it said
// last: tests kill weirs, but nothing makes one end with the code of a panic.
func (r *release) panics(t *testing.T) {
	t.Helper()
	ended, err := r.c.kubectl("", "-n", r.namespace, "get", "pods", "-l", "app.kubernetes.io/name=weir",
		"-o", `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].lastState.terminated.exitCode}{"\n"}{end}`)
	if err != nil {
		t.Log(err)
	}
	for line := range strings.Lines(ended) {
		name, code, _ := strings.Cut(strings.TrimSpace(line), " ")
		if code == "" {
			continue
		}
		last, err := r.c.kubectl("", "-n", r.namespace, "logs", "--previous", name)
		if err != nil {
			t.Log(err)
		}
		r.c.keep(t, name+"-previous.log", last)
		if code == "2" {
			t.Errorf("%s ended with a panic: %s", name, last[max(0, strings.LastIndex(last, "panic:")):])
		}
	}
}

// explainFailure keeps what the weirs and the cluster said if the test fails,
// and fails it if a weir has logged a conflict.
func (r *release) explainFailure(t *testing.T) {
	since := time.Now()
	t.Cleanup(func() {
		logs, err := r.c.kubectl("", "-n", r.namespace, "logs", "-l", "app.kubernetes.io/name=weir", "--prefix", "--tail=-1", "--since-time", since.UTC().Format(time.RFC3339))
		if err != nil {
			t.Log(err)
		}
		events, err := r.c.kubectl("", "-n", r.namespace, "get", "events", "--field-selector", "source=weir", "-o", "custom-columns=:.involvedObject.name,:.reason,:.message", "--no-headers")
		if err != nil {
			t.Log(err)
		}
		for line := range strings.Lines(logs + events) {
			if strings.Contains(strings.ToLower(line), "conflict") {
				t.Errorf("a conflict in a log or an Event: %s", line)
			}
		}
		r.panics(t)
		if !t.Failed() {
			return
		}
		r.c.keep(t, "weir.log", logs)
		for _, what := range []string{"pods", "events", "deployments", "statefulsets", "leases"} {
			text, err := r.c.kubectl("", "-n", r.namespace, "get", what, "-o", "yaml")
			if err == nil {
				r.c.keep(t, what+".yaml", text)
			}
		}
	})
}

// A fn is a Deployment that weir serves.
type fn struct {
	Name                string
	Image               string // echo unless told; echo-plain is the same without fwatchdog
	Replicas            int
	Annotations, Labels map[string]string // of the Deployment
	Env                 map[string]string // of the container
	Memory              string            // its limit; 128Mi unless told
	Grace               int               // 60 s unless told: more than a drain may take
	Patch               func(deployment map[string]any)
}

// deploy makes it and a Service of its name, and removes both when the test
// ends. It returns when every weir knows the function.
func (r *release) deploy(t *testing.T, f fn) *function {
	t.Helper()
	d := &function{r: r, name: f.Name}
	type m = map[string]any
	text, err := json.Marshal(m{"apiVersion": "v1", "kind": "List", "items": []m{
		f.manifest(r.c),
		{"apiVersion": "v1", "kind": "Service", "metadata": m{"name": f.Name},
			"spec": m{"selector": m{"app": f.Name}, "ports": []m{{"port": 8080}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.c.apply(t, r.namespace, string(text))
	t.Cleanup(func() {
		if _, err := r.c.kubectl("", "-n", r.namespace, "delete", "deployment,service", f.Name, "--ignore-not-found", "--wait=false"); err != nil {
			t.Log(err)
		}
	})
	for _, w := range r.weirs(t, r.count()) {
		eventually(t, f.Name+" is known to "+w.name, func() error {
			_, err := w.status(f.Name)
			return err
		})
	}
	return d
}

// unused is a name that no test before this one has used: for one that reads
// logs and Events, which stay when the function goes.
func (r *release) unused(name string) string {
	if r.used == nil {
		r.used = map[string]int{}
	}
	if r.used[name]++; r.used[name] == 1 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, r.used[name])
}

func (f fn) manifest(c *cluster) map[string]any {
	type m = map[string]any
	if f.Image == "" {
		f.Image = "echo"
	}
	if f.Memory == "" {
		f.Memory = "128Mi"
	}
	if f.Grace == 0 {
		f.Grace = 60
	}
	env := []m{}
	for name, value := range f.Env {
		env = append(env, m{"name": name, "value": value})
	}
	policy := "Never"
	if c.dir == "" {
		policy = "IfNotPresent"
	}
	labels := m{"app": f.Name}
	container := m{
		"name": f.Name, "image": c.images + f.Image + ":" + imageTag, "imagePullPolicy": policy, "env": env,
		"ports":     []m{{"containerPort": 8080}},
		"resources": m{"requests": m{"cpu": "5m", "memory": "16Mi"}, "limits": m{"memory": f.Memory}},
		"securityContext": m{"runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
			"capabilities": m{"drop": []string{"ALL"}}, "seccompProfile": m{"type": "RuntimeDefault"}},
		"volumeMounts": []m{{"name": "tmp", "mountPath": "/tmp"}},
	}
	d := m{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": m{"name": f.Name, "labels": f.Labels, "annotations": f.Annotations},
		"spec": m{
			"replicas": f.Replicas, "selector": m{"matchLabels": labels},
			"template": m{
				"metadata": m{"labels": labels},
				"spec": m{"enableServiceLinks": false, "terminationGracePeriodSeconds": f.Grace,
					"containers": []m{container}, "volumes": []m{{"name": "tmp", "emptyDir": m{}}}},
			},
		},
	}
	if f.Patch != nil {
		f.Patch(d)
	}
	return d
}

// A function is one that was deployed.
type function struct {
	r    *release
	name string
}

// path is that of calls to it.
func (f *function) path() string { return "/function/" + f.name }

func (f *function) pods() ([]pod, error) { return f.r.c.pods(f.r.namespace, "app="+f.name) }

// replicas are those that are asked for.
func (f *function) replicas() (int, error) {
	var d struct{ Spec struct{ Replicas int } }
	err := f.r.c.get("/apis/apps/v1/namespaces/"+f.r.namespace+"/deployments/"+f.name, &d)
	return d.Spec.Replicas, err
}

// service is the URL of the function's Service, or of weir's own.
func (r *release) service(t *testing.T, name string) string {
	t.Helper()
	var s struct{ Spec struct{ ClusterIP string } }
	if err := r.c.get("/api/v1/namespaces/"+r.namespace+"/services/"+name, &s); err != nil {
		t.Fatal(err)
	}
	return "http://" + s.Spec.ClusterIP + ":8080"
}

// endpoints counts the addresses of all EndpointSlices that name its pods.
func (f *function) endpoints(t *testing.T) (n int) {
	t.Helper()
	var list struct {
		Items []struct {
			Endpoints []struct{ TargetRef struct{ Name string } }
		}
	}
	if err := f.r.c.get("/apis/discovery.k8s.io/v1/namespaces/"+f.r.namespace+"/endpointslices", &list); err != nil {
		t.Fatal(err)
	}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if strings.HasPrefix(e.TargetRef.Name, f.name+"-") {
				n++
			}
		}
	}
	return n
}

// asleep waits until it has no replicas, no pods, and every weir knows.
func (f *function) asleep(t *testing.T) {
	t.Helper()
	eventually(t, f.name+" sleeps", func() error {
		n, err := f.replicas()
		if err != nil {
			return err
		}
		pods, err := f.pods()
		if err != nil {
			return err
		}
		if n != 0 || len(pods) != 0 {
			return fmt.Errorf("%d replicas, %d pods", n, len(pods))
		}
		return nil
	})
	for _, w := range f.r.weirs(t, f.r.count()) {
		eventually(t, w.name+" knows that "+f.name+" sleeps", func() error {
			s, err := w.status(f.name)
			if err == nil && (s.NumberReady != 0 || s.NumberRequested != 0) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
}

// up waits until n pods of it serve, in the eyes of every weir.
func (f *function) up(t *testing.T, n int) {
	t.Helper()
	for _, w := range f.r.weirs(t, f.r.count()) {
		eventually(t, fmt.Sprintf("%s sees %d pods of %s", w.name, n, f.name), func() error {
			s, err := w.status(f.name)
			if err == nil && (s.NumberReady != n || s.NumberRequested != n) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
}

// scale sets the replicas as a person does.
func (f *function) scale(t *testing.T, n int) {
	t.Helper()
	f.r.c.k(t, "-n", f.r.namespace, "scale", "deployment", f.name, fmt.Sprintf("--replicas=%d", n))
}

// status is what a weir knows of a function.
type status struct{ NumberReady, NumberRequested int }

var plainClient = &http.Client{Timeout: time.Minute}

func (w weir) status(name string) (s status, err error) {
	resp, err := plainClient.Get(w.url + "/status-function/" + name)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status of %s: %s", name, resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// A pod is what tests want to know of one.
type pod struct {
	Metadata struct {
		Name, Namespace, UID string
		Labels, Annotations  map[string]string
		CreationTimestamp    time.Time
		DeletionTimestamp    *time.Time
	}
	Spec   struct{ NodeName string }
	Status struct {
		Phase, PodIP string
		Conditions   []struct {
			Type, Status       string
			LastTransitionTime time.Time
		}
		ContainerStatuses []struct {
			Name         string
			Ready        bool
			RestartCount int
			State        struct {
				Running *struct{ StartedAt time.Time }
			}
		}
	}
}

func (p pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// pods are those with a label.
func (c *cluster) pods(namespace, label string) ([]pod, error) {
	var list struct{ Items []pod }
	err := c.get("/api/v1/namespaces/"+namespace+"/pods?labelSelector="+strings.ReplaceAll(label, "=", "%3D"), &list)
	return list.Items, err
}
