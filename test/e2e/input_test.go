package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An answer as these tests look at it.
type answer struct {
	status int
	header http.Header
	body   string
}

// send makes one request; user is for basic auth, "" sends none.
func send(t *testing.T, method, url, user string, body []byte) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if name, secret, ok := strings.Cut(user, ":"); ok {
		req.SetBasicAuth(name, secret)
	}
	resp, err := plainClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// What does not exist, is not spelt as it should be, or is not anybody's to
// ask is answered so, and plainly.
func TestBadInput(t *testing.T) {
	need(t)
	r := sharedRelease(t)
	w := r.weirs(t, 2)[0]
	const admin = "admin:" + password
	for _, tc := range []struct {
		method, path, user string
		status             int
		says               string
	}{
		{"GET", "/function/nosuch", "", 404, "nosuch"},
		{"POST", "/function/nosuch/further?a=b", "", 404, "nosuch"},
		{"GET", "/function/weir", "", 404, "weir"}, // a Deployment that is no function
		{"GET", "/function/nosuch.kube-system", "", 404, "nosuch"},
		{"GET", "/wake-function/nosuch", "", 404, "nosuch"},
		{"GET", "/status-function/nosuch", "", 404, "nosuch"},
		{"GET", "/function/Bad_Name", "", 400, "Bad_Name"},
		{"GET", "/function/-x", "", 400, "-x"},
		{"GET", "/function/", "", 400, ""},
		{"GET", "/function/..%2f..%2fsystem%2ffunctions", "", 400, ""},
		{"GET", "/function/198.51.100.1:6443/", "", 400, ""},
		{"POST", "/system/functions", admin, 501, "apply a manifest"},
		{"PUT", "/system/functions", admin, 501, "apply a manifest"},
		{"DELETE", "/system/functions", admin, 501, "apply a manifest"},
		{"POST", "/system/secrets", admin, 501, "apply a manifest"},
		{"GET", "/system/functions", "", 401, ""},
		{"POST", "/system/functions", "", 401, ""},
		{"GET", "/system/function/nosuch", "", 401, ""},
		{"POST", "/system/scale-function/nosuch", "", 401, ""},
		{"GET", "/system/info", "", 401, ""},
		{"GET", "/system/no-such-route", "", 401, ""},
		{"GET", "/system/functions", "admin:wrong", 401, ""},
		{"GET", "/system/functions", "somebody:" + password, 401, ""},
		{"GET", "/system/functions", admin, 200, "["},
		{"GET", "/system/info", admin, 200, "weir"},
		{"GET", "/system/function/nosuch", admin, 404, "nosuch"},
		{"GET", "/no-such-route", "", 404, ""},
		{"GET", "/metrics", "", 404, ""}, // not on this port
		{"GET", "/healthz", "", 200, ""},
	} {
		a := send(t, tc.method, w.url+tc.path, tc.user, nil)
		if a.status != tc.status || !strings.Contains(a.body, tc.says) {
			t.Errorf("%s %s as %q: %d %.200q, want %d and %q", tc.method, tc.path, tc.user, a.status, a.body, tc.status, tc.says)
		}
		if a.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s %s: 401 without WWW-Authenticate", tc.method, tc.path)
		}
	}
}

// weir is no open proxy: neither an absolute target, nor a Host, nor CONNECT
// gets anybody to an address.
func TestNoOpenProxy(t *testing.T) {
	c := needNode(t)
	r := sharedRelease(t)
	w := r.weirs(t, 2)[0]
	api := strings.TrimPrefix(c.server, "https://")
	for _, head := range []string{
		"GET http://" + api + "/version HTTP/1.1\r\nHost: " + api,
		"GET /version HTTP/1.1\r\nHost: " + api,
		"CONNECT " + api + " HTTP/1.1\r\nHost: " + api,
	} {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(w.url, "http://"), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%s\r\nConnection: close\r\n\r\n", head)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%q: %v", head, err)
		} else if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%q: %s", head, resp.Status)
		}
		conn.Close()
	}
}

// What is over a bound is refused, with a word on when to come again; what is
// within it waits, and is told in the end why in vain.
func TestBounds(t *testing.T) {
	c := needNode(t)
	const held = 5
	r := c.install(t, "e2e-bounds", "env.WEIR_MAX_BODY=64Ki", fmt.Sprintf("env.WEIR_HOLD_REQUESTS=%d", held), "env.WEIR_HOLD_TIMEOUT=10s")
	w := r.weirs(t, 2)[0]

	f := r.deploy(t, zero("small", nil))
	if a := send(t, "POST", w.url+f.path(), "", noise(1, 64<<10)); a.status != 200 || len(a.body) != 64<<10 {
		t.Errorf("a body of the longest length: %d, %d bytes", a.status, len(a.body))
	}
	if a := send(t, "POST", w.url+f.path(), "", noise(1, 64<<10+1)); a.status != 413 {
		t.Errorf("a longer body: %d %.200q", a.status, a.body)
	}

	never := r.deploy(t, zero("never", nil).without())
	answers := make(chan answer, held)
	var waiting sync.WaitGroup
	for range held {
		waiting.Go(func() { answers <- send(t, "GET", w.url+never.path(), "", nil) })
	}
	eventually(t, "as many as may wait do", func() error {
		if n := w.scrape(t)[`weir_held_requests{function_name="never.`+r.namespace+`"}`]; n != held {
			return fmt.Errorf("%v wait", n)
		}
		return nil
	})
	more := send(t, "GET", w.url+never.path(), "", nil)
	waiting.Wait()
	close(answers)
	check := func(what string, a answer, says string) {
		if a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, says) {
			t.Errorf("%s: %d, Retry-After %q, %.300q", what, a.status, a.header.Get("Retry-After"), a.body)
		}
	}
	check("one more than may wait", more, "wait already")
	for a := range answers {
		check("one that waited", a, "started within 10s")
	}
}

// without takes its image away, so that no pod of it ever starts.
func (f fn) without() fn {
	f.Image = "no-such-image"
	return f
}

// A Service named weir has Kubernetes set WEIR_PORT and the like in the weirs'
// own containers, where no enableServiceLinks: false keeps it from that. They
// start all the same, and start again.
func TestBesideItsOwnService(t *testing.T) {
	c := needNode(t)
	r := c.install(t, "e2e-links")
	c.k(t, "-n", r.namespace, "patch", "deployment", "weir", "-p", `{"spec":{"template":{"spec":{"enableServiceLinks":true}}}}`)
	c.k(t, "-n", r.namespace, "rollout", "status", "deployment", "weir", "--timeout", patience.String())
	weirs := r.weirs(t, 2)
	for _, w := range weirs {
		environ := environment(t, w.name)
		for _, name := range []string{"WEIR_PORT", "WEIR_SERVICE_HOST", "WEIR_SERVICE_PORT", "WEIR_PORT_8080_TCP_ADDR"} {
			if environ[name] == "" {
				t.Errorf("Kubernetes did not set %s for %s: this test shows nothing", name, w.name)
			}
		}
	}
	f := r.deploy(t, zero("beside", nil))
	if err := greet(weirs[0].url + f.path()); err != nil {
		t.Error(err)
	}
	c.fault(t, "pod-kill", r.namespace+"/"+weirs[0].name)
	eventually(t, "it starts again", func() error {
		pods, err := c.pods(r.namespace, "app.kubernetes.io/name=weir")
		if err != nil {
			return err
		}
		for _, p := range pods {
			if p.Metadata.Name == weirs[0].name && p.ready() && p.Status.ContainerStatuses[0].RestartCount > 0 {
				return nil
			}
		}
		return fmt.Errorf("%s is not ready again", weirs[0].name)
	})
	for _, w := range r.weirs(t, 2) {
		if err := greet(w.url + f.path()); err != nil {
			t.Errorf("through %s: %v", w.name, err)
		}
	}
	for line := range strings.Lines(c.k(t, "-n", r.namespace, "logs", "-l", "app.kubernetes.io/name=weir", "--tail=-1")) {
		if strings.Contains(line, "no such setting") {
			t.Errorf("a service link is taken for a misspelt setting: %s", line)
		}
	}
}

// environment is that of the process of a pod on this machine.
func environment(t *testing.T, pod string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		environ := map[string]string{}
		for entry := range strings.SplitSeq(string(text), "\x00") {
			name, value, _ := strings.Cut(entry, "=")
			environ[name] = value
		}
		if environ["HOSTNAME"] == pod {
			return environ
		}
	}
	t.Fatalf("no process of pod %s", pod)
	return nil
}
