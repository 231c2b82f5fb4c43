package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// template is one folder of templates/ and what its example function does.
type template struct {
	name string
	// needs are the programs without which it cannot run here.
	needs []string
	// echoes: POST gives back the body; else the function is no program.
	echoes bool
	// greets: GET says hello from its path.
	greets bool
	// prepare changes a build context before it is built, nil for none.
	prepare func(t testing.TB, context string)
}

var functionTemplates = []template{
	{name: "python3-http", needs: []string{"python3"}, echoes: true, greets: true},
	{name: "node", needs: []string{"node", "npm"}, echoes: true, greets: true},
	{name: "golang-http", needs: []string{"go"}, echoes: true, greets: true},
	{name: "golang-inproc", needs: []string{"go"}, echoes: true, greets: true, prepare: useCheckout},
	{name: "bash-streaming", needs: []string{"sh"}, echoes: true, greets: true},
	{name: "dockerfile", needs: []string{"cat"}, echoes: true},
	{name: "static"},
}

// useCheckout has a Go template take weir from this checkout.
func useCheckout(t testing.TB, context string) {
	t.Helper()
	checkout, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "mod", "edit", "-replace", "github.com/weir-run/weir="+checkout)
	cmd.Dir = context
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod edit: %v\n%s", err, out)
	}
	copyTree(t, "go.sum", filepath.Join(context, "go.sum"))
}

// buildContext is the folder that faas-cli hands to the builder for a function
// with the files in overlay beside, or instead of, the template's own.
func (tpl template) buildContext(t testing.TB, overlay map[string]string) string {
	t.Helper()
	context := t.TempDir()
	function := filepath.Join(context, "function")
	if tpl.name == "dockerfile" { // faas-cli builds it in the function's folder
		function = context
		copyTree(t, filepath.Join("templates", tpl.name, "function"), context)
	} else {
		copyTree(t, filepath.Join("templates", tpl.name), context)
	}
	for name, text := range overlay {
		if err := os.WriteFile(filepath.Join(function, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if tpl.prepare != nil {
		tpl.prepare(t, context)
	}
	return context
}

// build assembles a function of the template.
func (tpl template) build(t testing.TB, overlay map[string]string) *image {
	t.Helper()
	for _, program := range tpl.needs {
		interpreter(t, program)
	}
	watchdog := &image{root: t.TempDir(), workdir: "/"}
	copyTree(t, fwatchdog(t), watchdog.path("fwatchdog"))
	copyTree(t, fwatchdogClassic(t), watchdog.path("fwatchdog-classic"))
	return assemble(t, tpl.buildContext(t, overlay), watchdog)
}

// serve runs a function of the template and waits until it is ready. A handler
// that does not die on TERM fails the test: it is not killed in time.
func (tpl template) serve(t testing.TB, overlay map[string]string, env ...string) (*instance, int) {
	t.Helper()
	w, port := tpl.build(t, overlay).launch(t, append(env, "kill_grace=10m")...)
	w.waitReady()
	return w, port
}

func TestTemplates(t *testing.T) {
	for _, tpl := range functionTemplates {
		t.Run(tpl.name, func(t *testing.T) {
			t.Parallel()
			w, port := tpl.serve(t, nil)
			if tpl.greets {
				greets(t, w)
			}
			if tpl.echoes {
				echoes(t, w)
			}
			if tpl.name == "static" {
				servesFiles(t, w)
			}
			if port != 0 {
				onlyOnLoopback(t, port)
			}
			if tpl.echoes {
				drains(t, w)
			} else {
				w.stop()
			}
		})
	}
}

func greets(t *testing.T, w *instance) {
	t.Helper()
	for _, path := range []string{"/", "/a/b", "/x?q=1"} {
		path, _, _ := strings.Cut(path, "?")
		a := w.do("GET", path, "")
		if want := "Hello from " + path + "\n"; a.StatusCode != 200 || a.body != want || a.err != nil {
			t.Errorf("GET %s: %d %q %v, want 200 %q", path, a.StatusCode, a.body, a.err, want)
		}
	}
}

// echoes sends bodies of nothing, 5 bytes and 1 MB, with and without an
// announced length.
func echoes(t *testing.T, w *instance) {
	t.Helper()
	large := strings.Repeat("0123456789abcdefghijklmnopqrstu\n", 1<<15)
	for _, body := range []string{"", "hello", large} {
		for _, length := range []int64{int64(len(body)), -1} {
			if body == "" && length != 0 {
				continue // net/http sends no empty body without a length
			}
			req, err := http.NewRequest("POST", w.url+"/echo", io.NopCloser(strings.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			if body == "" {
				req.Body = http.NoBody
			}
			req.Header.Set("Content-Type", "text/plain")
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("POST of %d bytes, length %d: %v", len(body), length, err)
				continue
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(got) != body || err != nil {
				t.Errorf("POST of %d bytes, length %d: %d with %d bytes, %v", len(body), length, resp.StatusCode, len(got), err)
			}
			if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
				t.Errorf("POST of %d bytes: Content-Type %q", len(body), kind)
			}
		}
	}
}

func servesFiles(t *testing.T, w *instance) {
	t.Helper()
	for _, c := range []struct {
		path, kind, part string
		status           int
	}{
		{"/", "text/html", "Hello from a file", 200},
		{"/style.css", "text/css", "sans-serif", 200},
		{"/none", "", "", 404},
		{"/../template.yml", "", "", 404},
	} {
		a := w.do("GET", c.path, "")
		if a.StatusCode != c.status || !strings.Contains(a.body, c.part) || !strings.HasPrefix(a.Header.Get("Content-Type"), c.kind) {
			t.Errorf("GET %s: %d %s %.80q", c.path, a.StatusCode, a.Header.Get("Content-Type"), a.body)
		}
	}
}

// onlyOnLoopback wants a handler's server to listen on 127.0.0.1 alone: one
// that listens on all addresses can be reached past the watchdog, and answers
// on every other address of the loopback range too.
func onlyOnLoopback(t *testing.T, port int) {
	t.Helper()
	dial := func(host string) error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), programtest.Patience)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial("127.0.0.1"); err != nil {
		t.Errorf("the handler is not on its port: %v", err)
	}
	if dial("127.0.0.2") == nil {
		t.Errorf("the handler listens on more than 127.0.0.1")
	}
}

// drains begins a request, sends TERM, ends the request, and wants its answer
// whole and the exit code 0.
func drains(t *testing.T, w *instance) {
	t.Helper()
	body, rest := io.Pipe()
	req, err := http.NewRequest("POST", w.url+"/echo", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/plain")
	type result struct {
		status int
		body   string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		done <- result{resp.StatusCode, string(all), err}
	}()
	fmt.Fprint(rest, "begun, ")
	programtest.Eventually(t, "the request is in flight", func() bool {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", w.metric))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		all, _ := io.ReadAll(resp.Body)
		return strings.Contains(string(all), "\nhttp_requests_in_flight 1\n")
	})
	w.signal(syscall.SIGTERM)
	programtest.Eventually(t, "the listener is closed", func() bool {
		_, err := w.status("/_/health")
		return err != nil
	})
	fmt.Fprint(rest, "and ended")
	rest.Close()
	if r := <-done; r.status != 200 || r.body != "begun, and ended" || r.err != nil {
		t.Errorf("request over a TERM: %d %q %v", r.status, r.body, r.err)
	}
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d after TERM, want 0", code)
	}
}

// exchange is a request and what it must be answered.
type exchange struct {
	method, path, body string
	headers            []string
	status             int
	answer             string
	// header is "Name: value" of the answer, "" for no wish.
	header string
}

func (e exchange) check(t *testing.T, w *instance) {
	t.Helper()
	a := w.do(e.method, e.path, e.body, e.headers...)
	if a.StatusCode != e.status || a.body != e.answer || a.err != nil {
		t.Errorf("%s %s: %d %q %v, want %d %q", e.method, e.path, a.StatusCode, a.body, a.err, e.status, e.answer)
	}
	if name, value, ok := strings.Cut(e.header, ": "); ok && a.Header.Get(name) != value {
		t.Errorf("%s %s: %s is %q, want %q", e.method, e.path, name, a.Header.Get(name), value)
	}
}

const pythonHandler = `
def handle(event, context):
    case = event.path[1:]
    if case == "none":
        return None
    if case == "text":
        return "é"
    if case == "dict":
        return {"query": event.query, "agent": event.headers.get("x-agent"), "bytes": len(event.body)}
    if case == "made":
        return {"statusCode": 201, "headers": [("X-One", "1")], "body": [1, 2]}
    if case == "empty":
        return {"statusCode": 204, "body": "not sent"}
    if case == "split":
        return {"headers": {"X-Bad": "a\r\nX-Worse: b"}}
    raise ValueError(case)
`

func TestTemplatePythonHandler(t *testing.T) {
	t.Parallel()
	w, _ := template{name: "python3-http", needs: []string{"python3"}}.serve(t, map[string]string{"handler.py": pythonHandler})
	const failed = "the function failed\n"
	for _, e := range []exchange{
		{"GET", "/none", "", nil, 200, "", "Content-Length: 0"},
		{"GET", "/text", "", nil, 200, "é", "Content-Type: text/plain; charset=utf-8"},
		{"HEAD", "/text", "", nil, 200, "", "Content-Length: 2"},
		{"PATCH", "/dict?a=1&a=2&b=", "12345", []string{"X-Agent: me"}, 200, `{"query": {"a": "1", "b": ""}, "agent": "me", "bytes": 5}`, "Content-Type: application/json"},
		{"PUT", "/made", "", nil, 201, "[1, 2]", "X-One: 1"},
		{"DELETE", "/empty", "", nil, 204, "", ""},
		{"GET", "/split", "", nil, 500, failed, "X-Worse: "},
		{"GET", "/boom", "", nil, 500, failed, ""},
		{"GET", "/none", "", nil, 200, "", ""},
	} {
		e.check(t, w)
	}
	w.wantLog("ValueError: boom")
	w.stop()
}

const nodeHandler = `
module.exports = (event, context, callback) => {
  switch (event.path.slice(1)) {
    case "returns": return Promise.resolve({ kind: typeof event.body, body: event.body, query: event.query });
    case "returnsContext": return context.status(204);
    case "callback": setTimeout(() => callback(null, "later"), 1); return;
    case "callbackFails": setTimeout(() => callback("no"), 1); return;
    case "made": return context.status(201).headers({ "X-One": "1" }).succeed([1, 2]);
    case "fails": return context.status(403).fail("not you");
    case "twice": context.succeed("first"); context.succeed("second"); return;
    case "split": return context.headers({ "X-Bad": "a\r\nX-Worse: b" }).succeed("x");
    case "splitLater": setTimeout(() => context.headers({ "X-Bad": "a\r\nb" }).succeed("x"), 1); return;
    case "rejects": return Promise.reject(new Error("boom"));
    default: throw new Error("thrown");
  }
};
`

func TestTemplateNodeHandler(t *testing.T) {
	t.Parallel()
	w, _ := template{name: "node", needs: []string{"node", "npm"}}.serve(t, map[string]string{"handler.js": nodeHandler})
	const failed = "the function failed\n"
	asJSON, asForm := []string{"Content-Type: application/json"}, []string{"Content-Type: application/x-www-form-urlencoded"}
	for _, e := range []exchange{
		{"POST", "/returns?a=1", `{"n":1}`, asJSON, 200, `{"kind":"object","body":{"n":1},"query":{"a":"1"}}`, "Content-Type: application/json"},
		{"POST", "/returns", "n=1", asForm, 200, `{"kind":"object","body":{"n":"1"},"query":{}}`, ""},
		{"POST", "/returns", "é", nil, 200, `{"kind":"string","body":"é","query":{}}`, ""},
		{"POST", "/returns", "{", asJSON, 400, "the request's body is not JSON\n", ""},
		{"GET", "/returnsContext", "", nil, 204, "", ""},
		{"GET", "/callback", "", nil, 200, "later", "Content-Type: text/plain; charset=utf-8"},
		{"GET", "/callbackFails", "", nil, 500, "no", ""},
		{"PUT", "/made", "", nil, 201, "[1,2]", "X-One: 1"},
		{"HEAD", "/made", "", nil, 201, "", "Content-Length: 5"},
		{"GET", "/fails", "", nil, 403, "not you", ""},
		{"GET", "/twice", "", nil, 200, "first", ""},
		{"GET", "/split", "", nil, 500, failed, "X-Worse: "},
		{"GET", "/splitLater", "", nil, 500, failed, ""},
		{"GET", "/rejects", "", nil, 500, failed, ""},
		{"GET", "/throws", "", nil, 500, failed, ""},
		{"GET", "/twice", "", nil, 200, "first", ""},
	} {
		e.check(t, w)
	}
	w.wantLog("Error: boom")
	w.stop()
}

// TestTemplateShellHandlerFails: what a handler says with its exit code must
// get through index.sh.
func TestTemplateShellHandlerFails(t *testing.T) {
	t.Parallel()
	w, _ := template{name: "bash-streaming", needs: []string{"sh"}}.serve(t, map[string]string{"handler.sh": "exit 3\n"})
	if a := w.do("POST", "/", "x"); a.StatusCode != 500 {
		t.Errorf("a handler that exits 3: %d, want 500", a.StatusCode)
	}
	w.stop()
}

// TestTemplateFiles holds what faas-cli, Kubernetes and a reader expect of
// every template.
func TestTemplateFiles(t *testing.T) {
	folders, err := os.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, tpl := range functionTemplates {
		known[tpl.name] = true
	}
	for _, folder := range folders {
		if !known[folder.Name()] {
			t.Errorf("templates/%s is run by no test", folder.Name())
		}
		t.Run(folder.Name(), func(t *testing.T) { templateFiles(t, folder.Name()) })
	}
}

func templateFiles(t *testing.T, name string) {
	dir := filepath.Join("templates", name)
	dockerfile := filepath.Join(dir, "Dockerfile")
	if name == "dockerfile" {
		dockerfile = filepath.Join(dir, "function", "Dockerfile")
	}
	final := map[string]string{}
	for _, in := range parseDockerfile(t, dockerfile) {
		switch in.name {
		case "FROM":
			clear(final)
			if !strings.Contains(in.rest, "${") {
				t.Errorf("FROM %s: the base image is no build argument", in.rest)
			}
		case "ENV":
			variable, value, _ := strings.Cut(in.rest, "=")
			final[variable] = strings.Trim(value, `"`)
		default:
			final[in.name] = in.rest
		}
	}
	for instruction, want := range map[string]string{
		"EXPOSE":      "8080",
		"CMD":         `["fwatchdog"]`,
		"HEALTHCHECK": `--interval=5s CMD [ -e /tmp/.lock ] || exit 1`,
		"STOPSIGNAL":  "", // TERM
		"ENTRYPOINT":  "", // what runs is the CMD, as in every OpenFaaS image
	} {
		if final[instruction] != want {
			t.Errorf("%s is %q, want %q", instruction, final[instruction], want)
		}
	}
	if uid, err := strconv.Atoi(final["USER"]); err != nil || uid == 0 {
		t.Errorf("USER is %q: Kubernetes' runAsNonRoot wants a number that is not 0", final["USER"])
	}
	yml := topLevel(t, filepath.Join(dir, "template.yml"))
	if yml["language"] != name {
		t.Errorf("language is %q", yml["language"])
	}
	if yml["fprocess"] != final["fprocess"] {
		t.Errorf("faas-cli deploys fprocess %q over the image's %q", yml["fprocess"], final["fprocess"])
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(readme), "\n"); lines != 3 || !strings.Contains(string(readme), "`curl ") {
		t.Errorf("README.md has %d lines, want three with a curl", lines)
	}
}

// topLevel reads the scalars at the top of a YAML file.
func topLevel(t testing.TB, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), ": ")
		if ok && !strings.HasPrefix(name, " ") {
			found[name] = value
		}
	}
	return found
}
