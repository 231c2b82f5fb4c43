package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	withCluster = flag.Bool("cluster", false, "bring up real nodes; needs root, cluster deps and cluster build")
	binFolder   = flag.String("bin", "../../bin/kube", "the folder that cluster build wrote to")
)

// patience is how long a condition may take on a machine that does ten other
// things. It says nothing about how long it should.
const patience = 3 * time.Minute

// A running is a started `cluster up`.
type running struct {
	t       *testing.T
	dir     string
	netns   string
	program string
	cmd     *exec.Cmd
	stdin   io.Closer
	stderr  bytes.Buffer
	exited  chan error
	took    time.Duration // from the start to the ready line
}

// needNode skips where no node can be, unless one was asked for.
func needNode(t *testing.T) {
	t.Helper()
	if !*withCluster {
		t.Skip("a real node: run with -cluster, as root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("-cluster needs root")
	}
}

func build(t *testing.T, pkg, out string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, text)
	}
}

// up starts a node in dir and waits for its ready line.
func up(t *testing.T, program, dir, netns string) *running {
	t.Helper()
	r := &running{t: t, dir: dir, netns: netns, program: program, exited: make(chan error, 1)}
	r.cmd = exec.Command(program, "up", "-dir", dir, "-bin", *binFolder, "-netns", netns)
	r.cmd.Stderr = &r.stderr
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	r.took = time.Since(start)
	if want := fmt.Sprintf("ready %s %s\n", filepath.Join(dir, "admin.kubeconfig"), netns); line != want {
		r.end()
		t.Fatalf("cluster up said %q, want %q\n%s", line, want, &r.stderr)
	}
	go func() { r.exited <- r.cmd.Wait() }()
	return r
}

// end makes sure that a failed test leaves no node behind.
func (r *running) end() {
	if r.cmd.ProcessState == nil {
		r.stdin.Close()
		r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.exited:
		case <-time.After(patience):
			r.cmd.Process.Kill()
		}
	}
}

// wait is for the end of cluster up, and what it returned.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.exited:
		r.exited <- err
		return err
	case <-time.After(patience):
		r.t.Fatal("cluster up does not end")
		return nil
	}
}

// kubectl runs it inside the namespace.
func (r *running) kubectl(args ...string) (string, error) {
	argv := append([]string{"--net=/run/netns/" + r.netns, filepath.Join(*binFolder, "kubectl"), "--kubeconfig", filepath.Join(r.dir, "admin.kubeconfig")}, args...)
	out, err := exec.Command("nsenter", argv...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r *running) must(args ...string) string {
	r.t.Helper()
	out, err := r.kubectl(args...)
	if err != nil {
		r.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// cluster runs another command of the program on this node.
func (r *running) cluster(args ...string) error {
	out, err := exec.Command(r.program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// eventually asks until the answer holds.
func (r *running) eventually(what string, ask func() error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			pods, _ := r.kubectl("get", "pods,events", "-A")
			r.t.Fatalf("%s: %v\n%s", what, err, pods)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// inside gives a client whose connections start in the namespace.
func (r *running) inside() *http.Client {
	r.t.Helper()
	p, err := enter(r.netns, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(p.leave)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
}

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return string(body), err
}

// leftovers lists what there still is of a node: processes, mounts, cgroups,
// the namespace, and what its folder should no longer hold.
func leftovers(dir, netns string) []string {
	var left []string
	for _, pattern := range []string{
		"/run/netns/" + netns,
		"/run/weir-cluster-" + netns,
		"/sys/fs/cgroup/weir-" + netns,
		"/sys/fs/cgroup/*/weir-" + netns,
		filepath.Join(dir, "containerd*"),
		filepath.Join(dir, "kubelet"),
		filepath.Join(dir, "*.sock"),
	} {
		paths, _ := filepath.Glob(pattern)
		left = append(left, paths...)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		for _, file := range []string{"cmdline", "mountinfo", "cgroup"} {
			text, err := os.ReadFile(filepath.Join(proc, file))
			if err == nil && filepath.Base(proc) != fmt.Sprint(os.Getpid()) && (bytes.Contains(text, []byte(dir)) || bytes.Contains(text, []byte("/weir-"+netns))) {
				left = append(left, filepath.Join(proc, file))
			}
		}
	}
	return left
}
