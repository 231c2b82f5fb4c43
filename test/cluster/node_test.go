package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNode is the whole life of a node and of a workload on it.
func TestNode(t *testing.T) {
	needNode(t)
	tmp := t.TempDir()
	program, hello := filepath.Join(tmp, "cluster"), filepath.Join(tmp, "hello")
	build(t, ".", program)
	build(t, "./testdata/hello", hello)
	dir := filepath.Join(tmp, "node")

	r := up(t, program, dir, "weir-life")
	t.Logf("up to Ready: %s", r.took.Round(time.Millisecond))
	if err := r.cluster("image", "-dir", dir, "-name", "hello:1", "-user", "12000", hello+"=/hello"); err != nil {
		t.Fatal(err)
	}
	r.must("apply", "-f", "testdata/hello.yaml")

	t.Run("scale", func(t *testing.T) { testScale(t, r) })
	t.Run("logs and exec", func(t *testing.T) { testLogsAndExec(t, r) })
	t.Run("out of memory", func(t *testing.T) { testOutOfMemory(t, r) })
	t.Run("pod killed", func(t *testing.T) { testPodKilled(t, r) })
	t.Run("apiserver restart", func(t *testing.T) { testAPIServerRestart(t, r) })
	t.Run("audit", func(t *testing.T) { testAudit(t, r) })
	t.Run("second in the same place", func(t *testing.T) {
		if err := r.cluster("up", "-dir", dir, "-bin", *binFolder, "-netns", "weir-other"); err == nil || !strings.Contains(err.Error(), "choose another -dir") {
			t.Errorf("up in the same folder: %v", err)
		}
		if err := r.cluster("up", "-dir", dir+"2", "-bin", *binFolder, "-netns", r.netns); err == nil || !strings.Contains(err.Error(), "choose another -netns") {
			t.Errorf("up in the same namespace: %v", err)
		}
	})

	r.cmd.Process.Signal(syscall.SIGTERM)
	if err := r.wait(); err != nil {
		t.Errorf("cluster up after SIGTERM: %v\n%s", err, &r.stderr)
	}
	if left := leftovers(dir, r.netns); len(left) > 0 {
		t.Errorf("left after SIGTERM: %q", left)
	}
}

// TestKilledNode is about what a killed cluster up leaves, and that a test
// that dies takes its node along.
func TestKilledNode(t *testing.T) {
	needNode(t)
	tmp := t.TempDir()
	program, hello := filepath.Join(tmp, "cluster"), filepath.Join(tmp, "hello")
	build(t, ".", program)
	build(t, "./testdata/hello", hello)
	dir := filepath.Join(tmp, "node")

	first := up(t, program, dir, "weir-kill")
	if err := first.cluster("image", "-dir", dir, "-name", "hello:1", "-user", "12000", hello+"=/hello"); err != nil {
		t.Fatal(err)
	}
	first.must("apply", "-f", "testdata/hello.yaml")
	first.must("scale", "deployment/hello", "--replicas=1")
	first.must("wait", "--for=condition=Available", "--timeout="+patience.String(), "deployment/hello")
	first.cmd.Process.Kill()
	first.wait()
	if left := leftovers(dir, first.netns); len(left) == 0 {
		t.Error("a killed cluster up left nothing: this test shows nothing")
	}

	second := up(t, program, dir, "weir-kill")
	t.Logf("up after a kill to Ready: %s", second.took.Round(time.Millisecond))
	if pods := second.must("get", "pods", "-A", "-o", "name"); pods != "" {
		t.Errorf("pods of the killed node: %s", pods)
	}
	second.stdin.Close()
	if err := second.wait(); err != nil {
		t.Errorf("cluster up after the end of stdin: %v\n%s", err, &second.stderr)
	}
	if left := leftovers(dir, second.netns); len(left) > 0 {
		t.Errorf("left after the end of stdin: %q", left)
	}
}

// testScale goes from zero to one and back, seen by pod and by Service.
func testScale(t *testing.T, r *running) {
	client := r.inside()
	start := time.Now()
	r.must("scale", "deployment/hello", "--replicas=1")
	var ip string
	r.eventually("a pod gets an address", func() error {
		ip = r.must("get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[0].status.podIP}", "--ignore-not-found")
		if !strings.HasPrefix(ip, "198.51.102.") {
			return fmt.Errorf("address %q", ip)
		}
		return nil
	})
	answers := func(url string) func() error {
		return func() error {
			body, err := get(client, url)
			if err == nil && !strings.HasPrefix(body, "hello from hello-") {
				err = fmt.Errorf("answer %q", body)
			}
			return err
		}
	}
	r.eventually("the pod answers", answers("http://"+ip+":8080/"))
	byPod := time.Since(start)
	r.eventually("the Service answers", answers("http://198.51.101.10/"))
	t.Logf("scale call to the pod's answer: %s, to the Service's: %s", byPod.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	r.must("scale", "deployment/hello", "--replicas=0")
	r.eventually("no pod is left", func() error {
		if pods := r.must("get", "pods", "-l", "app=hello", "-o", "name"); pods != "" {
			return errors.New(pods)
		}
		return nil
	})
	r.eventually("the Service refuses", func() error {
		if _, err := get(client, "http://198.51.101.10/"); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("want connection refused, got %v", err)
		}
		return nil
	})
	r.must("scale", "deployment/hello", "--replicas=1")
	r.must("wait", "--for=condition=Available", "--timeout="+patience.String(), "deployment/hello")
}

func testLogsAndExec(t *testing.T, r *running) {
	r.eventually("the log shows", func() error {
		if out := r.must("logs", "deployment/hello"); out != "listening" {
			return fmt.Errorf("log %q", out)
		}
		return nil
	})
	if out := r.must("exec", "deployment/hello", "--", "/hello", "from exec"); out != "from exec" {
		t.Errorf("exec printed %q", out)
	}
}

// restarted waits until the container has been started again, and says how it
// ended before.
func restarted(r *running, times int) string {
	r.t.Helper()
	var reason string
	r.eventually(fmt.Sprintf("the container is in its start %d", times), func() error {
		out := r.must("get", "pods", "-l", "app=hello", "-o", `jsonpath={.items[0].status.containerStatuses[0].restartCount} {.items[0].status.containerStatuses[0].ready} {.items[0].status.containerStatuses[0].lastState.terminated.reason} {.items[0].status.containerStatuses[0].lastState.terminated.exitCode}`)
		if !strings.HasPrefix(out, fmt.Sprintf("%d true ", times)) {
			return fmt.Errorf("restarts, ready, reason, code: %s", out)
		}
		_, reason, _ = strings.Cut(out, " true ")
		return nil
	})
	return reason
}

func testOutOfMemory(t *testing.T, r *running) {
	client := r.inside()
	ip := r.must("get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[0].status.podIP}")
	if body, err := get(client, "http://"+ip+":8080/take?mib=4"); err != nil {
		t.Fatalf("4 MiB of 32 MiB: %v %s", err, body)
	}
	if _, err := get(client, "http://"+ip+":8080/take?mib=64"); err == nil {
		t.Error("64 MiB of 32 MiB were given")
	}
	if reason := restarted(r, 1); reason != "OOMKilled 137" {
		t.Errorf("the container ended with %q, want OOMKilled 137", reason)
	}
}

func testPodKilled(t *testing.T, r *running) {
	pod := strings.TrimPrefix(r.must("get", "pods", "-l", "app=hello", "-o", "name"), "pod/")
	if err := r.cluster("fault", "-dir", r.dir, "pod-kill", "default/"+pod); err != nil {
		t.Fatal(err)
	}
	if reason := restarted(r, 2); reason != "Error 137" {
		t.Errorf("the container ended with %q, want Error 137", reason)
	}
	if err := r.cluster("fault", "-dir", r.dir, "pod-kill", "default/none"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("killing a pod that is not there: %v", err)
	}
}

func testAPIServerRestart(t *testing.T, r *running) {
	if err := r.cluster("fault", "-dir", r.dir, "-down", "1s", "apiserver-restart"); err != nil {
		t.Fatal(err)
	}
	if pods := r.must("get", "pods", "-l", "app=hello", "-o", "name"); !strings.HasPrefix(pods, "pod/hello-") {
		t.Errorf("pods after the restart: %q", pods)
	}
	if err := r.cluster("fault", "-dir", r.dir, "etcd-restart"); err == nil || !strings.Contains(err.Error(), "no program") {
		t.Errorf("restart of etcd: %v", err)
	}
}

// testAudit finds this test's own scale calls as a test of weir would.
func testAudit(t *testing.T, r *running) {
	f, err := os.Open(filepath.Join(r.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var replicas []int
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var event struct {
			Verb, UserAgent string
			ObjectRef       struct{ Resource, Subresource, Name string }
			RequestObject   *struct{ Spec struct{ Replicas int } }
			ResponseObject  *struct{ Spec struct{ Replicas int } }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("audit line %q: %v", lines.Bytes(), err)
		}
		if event.ObjectRef.Name != "hello" || event.ObjectRef.Subresource != "scale" || event.Verb != "patch" {
			continue
		}
		if !strings.HasPrefix(event.UserAgent, "kubectl/") || event.RequestObject == nil || event.ResponseObject == nil {
			t.Fatalf("a scale call without its objects or agent: %s", lines.Bytes())
		}
		replicas = append(replicas, event.ResponseObject.Spec.Replicas)
	}
	if fmt.Sprint(replicas) != "[1 0 1]" {
		t.Errorf("scale calls in the audit log: %v, want [1 0 1]; %v", replicas, lines.Err())
	}
}
