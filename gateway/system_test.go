package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// figlet is a function of which everything is known.
func figlet() *function.Function {
	return &function.Function{
		Ref: function.Ref{Name: "figlet", Namespace: "fn"}, Kind: function.KindDeployment,
		Spec: function.Defaults(), Replicas: 3, Created: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC),
		Faults: []function.Fault{{Object: "Deployment fn/figlet, label", Key: "weir/min", Value: "x", Expected: "a number"}},
		About: function.About{
			Image: "ghcr.io/x/figlet:1", EnvProcess: "figlet", EnvVars: map[string]string{"a": "b"},
			Constraints: []string{"node=1"}, Secrets: []string{"s"},
			Labels: map[string]string{"faas_function": "figlet"}, Annotations: map[string]string{"topic": "t"},
			Limits: &function.Resources{Memory: "128Mi", CPU: "1"}, Requests: &function.Resources{Memory: "64Mi"}, ReadOnly: true,
		},
	}
}

const figletJSON = `{"name":"figlet","image":"ghcr.io/x/figlet:1","namespace":"fn","envProcess":"figlet","envVars":{"a":"b"},` +
	`"constraints":["node=1"],"secrets":["s"],"labels":{"faas_function":"figlet"},"annotations":{"topic":"t"},` +
	`"limits":{"memory":"128Mi","cpu":"1"},"requests":{"memory":"64Mi"},"readOnlyRootFilesystem":true,` +
	`"replicas":3,"createdAt":"2026-05-04T03:02:01Z"`

// sameJSON compares what two texts mean.
func sameJSON(t *testing.T, what, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Errorf("%s: %v: %s", what, err, got)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestSystemFunctions(t *testing.T) {
	w := newAPIWorld(t, func(c *Config) {
		c.Explain = func(ref function.Ref) any { return map[string]string{"why": "of " + ref.String()} }
	})
	w.fleet.Put(figlet())
	const asleep = `{"name":"asleep","image":"","namespace":"fn"}`
	const echo = `{"name":"echo","image":"","namespace":"fn","replicas":1,"availableReplicas":1}`
	const far = `{"name":"echo","image":"","namespace":"far","replicas":1,"availableReplicas":1}`
	const farPod = `{"name":"echo-1","state":"started","nature":"plain","room":true}`
	for target, want := range map[string]string{
		"/system/functions":                   "[" + asleep + "," + echo + "," + figletJSON + "}]",
		"/system/functions?namespace=fn":      "[" + asleep + "," + echo + "," + figletJSON + "}]",
		"/system/functions?namespace=far":     "[" + far + "]",
		"/system/functions?namespace=nowhere": "[]",
		"/system/function/figlet": figletJSON + `,"autoscaling":{"why":"of figlet.fn"},` +
			`"faults":[{"object":"Deployment fn/figlet, label","key":"weir/min","value":"x","expected":"a number"}]}`,
		"/system/function/echo?namespace=far&usage=1": strings.TrimSuffix(far, "}") + `,"autoscaling":{"why":"of echo.far"},"pods":[` + farPod + `]}`,
		"/system/function/echo.far?namespace=fn":      strings.TrimSuffix(far, "}") + `,"autoscaling":{"why":"of echo.far"},"pods":[` + farPod + `]}`,
		"/system/namespaces":                          `["far","fn"]`,
		"/system/info": `{"provider":{"provider":"weir","orchestration":"kubernetes","version":{"sha":"abc","release":"v1.2.3"}},` +
			`"version":{"sha":"abc","release":"v1.2.3"}}`,
		"/status-function/echo":   `{"NumberReady":1,"numberRequested":1}`,
		"/status-function/figlet": `{"NumberReady":0,"numberRequested":3}`,
		"/status-functions": `[{"NumberReady":0,"numberRequested":0,"NumberRequested":0,"PodType":"Deployment","Visibility":"Public","Name":"asleep"},` +
			`{"NumberReady":1,"numberRequested":1,"NumberRequested":1,"PodType":"Deployment","Visibility":"Public","Name":"echo"},` +
			`{"NumberReady":1,"numberRequested":1,"NumberRequested":1,"PodType":"Deployment","Visibility":"Public","Name":"echo.far"},` +
			`{"NumberReady":0,"numberRequested":3,"NumberRequested":3,"PodType":"Deployment","Visibility":"Public","Name":"figlet"}]`,
	} {
		rec := w.ask("GET", target, "", asAdmin)
		if rec.Code != 200 || rec.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %q", target, rec.Code, rec.Header().Get("Content-Type"))
		}
		sameJSON(t, target, rec.Body.String(), want)
	}
	if got := w.ask("GET", "/status-function/echo", "", nil).Body.String(); got != "{\"NumberReady\":1,\"numberRequested\":1}\n" {
		t.Errorf("SlimFaas's clients read %q", got)
	}
	if rec := w.ask("GET", "/system/functions?namespace=No", "", asAdmin); rec.Code != 400 {
		t.Errorf("a bad namespace: %d", rec.Code)
	}
	// Calls are counted.
	for range 3 {
		w.ask("GET", "/function/echo", "", nil)
	}
	if got := w.ask("GET", "/system/function/echo", "", asAdmin).Body.String(); !strings.Contains(got, `"invocationCount":3`) {
		t.Errorf("after three calls: %s", got)
	}
}

// Of each pod it is said what it is, and why it is not more.
func TestPodsAreTold(t *testing.T) {
	w := newAPIWorld(t, nil)
	fn := describe("looping", 4, 4)
	fn.Namespace = "fn"
	fn.Pods[0].Reason, fn.Pods[0].LastExit = "BackOff", "2026-05-04T03:02:01Z: ended with exit status 3 after 12ms"
	w.fleet.Put(fn)
	pods := w.fleet.Get(fn.Ref).Pods()
	pods[1].Learn(started(4, 2))
	pods[2].Learn(guarded)
	pods[3].Drains()
	rec := w.ask("GET", "/system/function/looping", "", asAdmin)
	var got struct{ Pods []map[string]any }
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"name": "looping-0", "state": "starting", "nature": "unknown", "room": false, "reason": "BackOff", "lastExit": fn.Pods[0].LastExit},
		{"name": "looping-1", "state": "started", "nature": "watchdog", "room": true},
		{"name": "looping-2", "state": "started", "nature": "watchdog", "room": false, "guarded": true},
		{"name": "looping-3", "state": "stopping", "nature": "unknown", "room": false},
	}
	if !reflect.DeepEqual(got.Pods, want) {
		t.Errorf("\n got %v\nwant %v", got.Pods, want)
	}
}

func TestScaleRoute(t *testing.T) {
	w := newAPIWorld(t, nil)
	const path = "/system/scale-function/echo"
	for _, row := range []struct {
		target, body string
		want         int
		asks         string
	}{
		{path, `{"serviceName":"echo","replicas":3}`, 202, "echo.fn=3"},
		{path, `{"serviceName":"echo","replicas":0}`, 202, "echo.fn=0"},
		{path, `{"replicas":20}`, 202, "echo.fn=20"},
		{path, `{"serviceName":"echo","replicas":2,"namespace":"far"}`, 202, "echo.far=2"},
		{path + "?namespace=far", `{"replicas":2}`, 202, "echo.far=2"},
		{path + ".far", `{"serviceName":"echo.far","replicas":2}`, 202, "echo.far=2"},
		{path, `{"replicas":21}`, 400, ""},
		{path, `{"replicas":18446744073709551615}`, 400, ""},
		{path, `{"replicas":-1}`, 400, ""},
		{path, `{"replicas":1.5}`, 400, ""},
		{path, `{"serviceName":"echo"}`, 400, ""},
		{path, `{"serviceName":"asleep","replicas":1}`, 400, ""},
		{path, `{"replicas":1,"namespace":"No"}`, 400, ""},
		{path, `{"replicas":1,"namespace":"nowhere"}`, 404, ""},
		{path, ``, 400, ""},
		{path, `[1]`, 400, ""},
		{path, `{"serviceName":"` + strings.Repeat("x", maxScaleBody) + `","replicas":1}`, 413, ""},
	} {
		rec := w.ask("POST", row.target, row.body, asAdmin)
		_, asks := w.provider.asked()
		if rec.Code != row.want || strings.Join(asks, " ") != row.asks {
			t.Errorf("%s %.60s: %d %s, asked for %q; want %d, %q", row.target, row.body, rec.Code, rec.Body, asks, row.want, row.asks)
		}
	}
	for err, want := range map[error]int{
		function.ErrFixed: 409, function.ErrConflict: 409, function.ErrNotFound: 404, function.ErrForbidden: 500, function.ErrUnavailable: 503,
	} {
		w.provider.fail(fmt.Errorf("scale: %w: do this", err))
		rec := w.ask("POST", path, `{"replicas":1}`, asAdmin)
		if rec.Code != want || !strings.Contains(rec.Body.String(), "do this") || (want == 503) != (rec.Header().Get("Retry-After") != "") {
			t.Errorf("%v: %d %s", err, rec.Code, rec.Body)
		}
	}
}

func TestWhatWeirLeavesToOthers(t *testing.T) {
	w := newAPIWorld(t, nil)
	for _, row := range []struct{ method, target string }{
		{"POST", "/system/functions"}, {"PUT", "/system/functions"}, {"DELETE", "/system/functions"},
		{"POST", "/system/namespace/x"}, {"GET", "/system/namespace/"},
		{"GET", "/system/secrets"}, {"POST", "/system/secrets"}, {"GET", "/system/logs?name=echo&follow=true"},
	} {
		rec := w.ask(row.method, row.target, "{}", asAdmin)
		if rec.Code != 501 || !strings.Contains(rec.Body.String(), "kubectl") {
			t.Errorf("%s %s: %d %s", row.method, row.target, rec.Code, rec.Body)
		}
	}
	rec := w.ask("PATCH", "/system/functions", "", asAdmin)
	if rec.Code != 405 || rec.Header().Get("Allow") != "GET, POST, PUT, DELETE" {
		t.Errorf("PATCH: %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
}

// TestFaasCLI replays what faas-cli sends for list, describe, invoke,
// scale and version, header for header, and reads the answers into types that
// have the names of its own.
func TestFaasCLI(t *testing.T) {
	w := newAPIWorld(t, nil)
	w.fleet.Put(figlet())
	server := httptest.NewServer(w.handler)
	defer server.Close()
	do := func(method, path, body string, admin bool) *http.Response {
		t.Helper()
		r, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", "faas-cli/dev (openfaas; linux; amd64)")
		if admin {
			r.SetBasicAuth(apiUser, apiPassword)
			r.Header.Set("Content-Type", "application/json")
		} else {
			r.Header.Set("Content-Type", "text/plain")
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	type status struct {
		Name              string             `json:"name"`
		Image             string             `json:"image"`
		InvocationCount   float64            `json:"invocationCount,omitempty"`
		Replicas          uint64             `json:"replicas,omitempty"`
		AvailableReplicas uint64             `json:"availableReplicas,omitempty"`
		Labels            *map[string]string `json:"labels,omitempty"`
		CreatedAt         time.Time          `json:"createdAt,omitempty"`
	}
	var list []status
	if resp := do("GET", "/system/functions?namespace=fn", "", true); resp.StatusCode != 200 || json.NewDecoder(resp.Body).Decode(&list) != nil || len(list) != 3 {
		t.Errorf("list: %d %+v", resp.StatusCode, list)
	}
	var one status
	if resp := do("GET", "/system/function/figlet?namespace=fn&usage=1", "", true); resp.StatusCode != 200 || json.NewDecoder(resp.Body).Decode(&one) != nil ||
		one.Image != "ghcr.io/x/figlet:1" || one.Replicas != 3 || (*one.Labels)["faas_function"] != "figlet" {
		t.Errorf("describe: %+v", one)
	}
	if resp := do("GET", "/system/function/nobody?usage=1", "", true); resp.StatusCode != 404 {
		t.Errorf("describe nobody: %d", resp.StatusCode)
	}
	if resp := do("GET", "/system/functions", "", false); resp.StatusCode != 401 {
		t.Errorf("list without login: %d", resp.StatusCode)
	}
	if resp := do("POST", "/function/echo.fn?a=b", "body", false); resp.StatusCode != 200 {
		t.Errorf("invoke: %d", resp.StatusCode)
	}
	if resp := do("POST", "/system/scale-function/echo", `{"serviceName":"echo","replicas":2}`, true); resp.StatusCode != 202 {
		t.Errorf("scale: %d", resp.StatusCode)
	}
	var info struct {
		Provider struct{ Provider, Orchestration string }
		Version  struct{ Release, SHA string }
	}
	if resp := do("GET", "/system/info", "", true); json.NewDecoder(resp.Body).Decode(&info) != nil || info.Provider.Provider != "weir" || info.Version.Release != "v1.2.3" {
		t.Errorf("version: %+v", info)
	}
}

// TestRealFaasCLI runs the program itself where FAAS_CLI names it.
func TestRealFaasCLI(t *testing.T) {
	cli := os.Getenv("FAAS_CLI")
	if cli == "" {
		t.Skip("FAAS_CLI names no faas-cli")
	}
	w := newAPIWorld(t, nil)
	w.fleet.Put(figlet())
	server := httptest.NewServer(w.handler)
	defer server.Close()
	home := t.TempDir()
	run := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), cli, append(args, "--gateway", server.URL)...)
		cmd.Env = []string{"HOME=" + home, "OPENFAAS_CONFIG=" + home, "PATH=" + os.Getenv("PATH")}
		cmd.Dir, cmd.Stdin = home, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		t.Logf("faas-cli %s: %v\n%s", strings.Join(args, " "), err, out)
		return string(out), err
	}
	expect := func(stdin string, wants []string, args ...string) {
		t.Helper()
		out, err := run(stdin, args...)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q", args, want)
			}
		}
	}
	if out, err := run("", "list"); err == nil || !strings.Contains(strings.ToLower(out), "unauthorized") {
		t.Errorf("list before login: %v %s", err, out)
	}
	expect(apiPassword, []string{"credentials saved"}, "login", "-u", apiUser, "--password-stdin")
	expect("", []string{"asleep", "echo", "figlet", "Replicas"}, "list")
	expect("", []string{"ghcr.io/x/figlet:1"}, "list", "--verbose", "-n", "fn")
	expect("", []string{"Name:", "figlet", "Not Ready", "faas_function: figlet"}, "describe", "figlet")
	expect("", []string{"Ready", "/function/echo.far"}, "describe", "echo", "-n", "far")
	expect("a body", []string{"POST /?q=1 a body"}, "invoke", "echo", "--query", "q=1")
	expect("a body", []string{"PUT / a body"}, "invoke", "echo", "-n", "far", "-m", "PUT")
	expect("", []string{"fn", "far"}, "namespaces")
	expect("", []string{"weir", "kubernetes", "v1.2.3"}, "version", "--warn-update=false")
	if out, _ := run("", "describe", "nobody"); !strings.Contains(strings.ToLower(out), "no such function") {
		t.Errorf("describe nobody: %s", out)
	}
	if out, _ := run("", "remove", "echo"); !strings.Contains(out, "apply a manifest") {
		t.Errorf("remove: %s", out)
	}
}

// A function that is deleted is unknown at once.
func TestDeletedFunctionIsUnknown(t *testing.T) {
	w := newAPIWorld(t, nil)
	w.fleet.Delete(function.Ref{Name: "echo", Namespace: "fn"})
	for _, target := range []string{"/function/echo", "/status-function/echo", "/system/function/echo"} {
		if rec := w.ask("GET", target, "", asAdmin); rec.Code != 404 {
			t.Errorf("%s: %d", target, rec.Code)
		}
	}
	if rec := w.ask("GET", "/", "", func(r *http.Request) { r.Host = "echo.fn" }); rec.Code != 404 {
		t.Errorf("by Host: %d", rec.Code)
	}
	if n := w.fleet.Len(); n != 2 {
		t.Errorf("%d functions", n)
	}
}
