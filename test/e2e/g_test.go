package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// weir and a function run where Pod Security `restricted` is enforced, and
// every process of theirs has no more than it needs: no root, no capability,
// nothing to gain, a filter of system calls, nothing to write to but /tmp.
func TestRestricted(t *testing.T) {
	r := hardened(t)
	// The namespace does enforce it.
	if _, err := r.c.kubectl("", "-n", r.namespace, "run", "careless", "--image="+r.c.images+"echo:"+imageTag, "--dry-run=server"); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a pod without a security context: %v, want that it is refused", err)
	}
	modest := zero("modest", nil)
	modest.Patch = func(d map[string]any) { // who runs it is not the image's to say
		podSpec(d)["securityContext"] = map[string]any{"runAsUser": 12000, "runAsGroup": 12000}
	}
	f := r.deploy(t, modest)
	f.asleep(t)
	weirs := r.weirs(t, 2)
	for _, w := range weirs {
		if resp, text := ask(t, "POST", w.url+f.path(), strings.NewReader("unprivileged")); resp.StatusCode != 200 || text != "unprivileged" {
			t.Fatalf("%s %q", resp.Status, text)
		}
	}
	if r.c.dir == "" {
		t.Skip("the processes of another cluster's node cannot be looked at")
	}
	want := map[string][]string{"weir": {"/weir"}, "modest": {"/fwatchdog", "/echo"}}
	for container, programs := range want {
		seen := map[string]int{}
		for _, p := range r.c.processes(t, r.namespace, container) {
			seen[p.program]++
			for _, fault := range p.faults(t) {
				t.Errorf("%s, process %d (%s): %s", container, p.pid, p.program, fault)
			}
		}
		for _, program := range programs {
			if seen[program] == 0 || len(seen) != len(programs) {
				t.Errorf("%s: processes %v, want %v", container, seen, programs)
			}
		}
		t.Logf("%s: %v", container, seen)
	}
}

// A process of a container, as the node sees it.
type process struct {
	pid     int
	program string
}

// processes are all of a namespace's containers of one name.
func (c *cluster) processes(t *testing.T, namespace, container string) (all []process) {
	t.Helper()
	var list struct {
		Items []struct {
			Status struct {
				ContainerStatuses []struct{ Name, ContainerID string }
			}
		}
	}
	if err := c.get("/api/v1/namespaces/"+namespace+"/pods", &list); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, p := range list.Items {
		for _, s := range p.Status.ContainerStatuses {
			if _, id, ok := strings.Cut(s.ContainerID, "://"); ok && s.Name == container {
				ids[id] = true
			}
		}
	}
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range groups {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for id := range ids {
			if !strings.Contains(string(text), id) {
				continue
			}
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, process{pid, program})
		}
	}
	return all
}

// faults is what the process has and should not; it may write to what is named.
func (p process) faults(t *testing.T, writes ...string) (all []string) {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	status := map[string]string{}
	for line := range strings.Lines(read("status")) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	for _, name := range []string{"Uid", "Gid"} {
		for id := range strings.FieldsSeq(status[name]) {
			if id == "0" {
				all = append(all, name+" "+status[name])
				break
			}
		}
	}
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if bits, err := strconv.ParseUint(status[name], 16, 64); err != nil || bits != 0 {
			all = append(all, name+" "+status[name])
		}
	}
	if status["NoNewPrivs"] != "1" {
		all = append(all, "NoNewPrivs "+status["NoNewPrivs"])
	}
	if status["Seccomp"] != "2" { // a filter
		all = append(all, "Seccomp "+status["Seccomp"])
	}
	for line := range strings.Lines(read("mountinfo")) {
		// ID parent device root POINT OPTIONS …
		f := strings.Fields(line)
		if len(f) < 6 || kernels(f[4]) {
			continue
		}
		writable := !strings.HasPrefix(f[5]+",", "ro,")
		switch f[4] {
		case "/tmp", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf":
			// The kubelet's own files may be written to, but not by this user.
		default:
			if writable && !slices.Contains(writes, f[4]) {
				all = append(all, "can write to "+f[4]+": "+f[5])
			}
		}
	}
	return all
}

// kernels says whether it is the kernel that says who may write there.
func kernels(point string) bool {
	for _, dir := range []string{"/proc", "/dev", "/sys"} {
		if point == dir || strings.HasPrefix(point, dir+"/") {
			return true
		}
	}
	return false
}
