package cage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A process of this test that is killed while it holds a cage: see
// TestRemovedWhenItsOwnerIsKilled.
func TestMain(m *testing.M) {
	if os.Getenv("CAGE_TEST_OWNER") == "" {
		os.Exit(m.Run())
	}
	c, err := New(Limits{Memory: 64 << 20, Pids: 20})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := c.Command("sleep", "1h").Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, g := range c.groups {
		fmt.Println(g.dir)
	}
	fmt.Println("end")
	time.Sleep(time.Hour)
}

func caged(t *testing.T, l Limits) *Cage {
	t.Helper()
	c, err := New(l)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestInsideFromTheStart(t *testing.T) {
	c := caged(t, Limits{Memory: 64 << 20, Pids: 20})
	cmd := c.Command("sh", "-c", `echo $$; exec cat /proc/self/cgroup`)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, g := range c.groups {
		if name := "/" + filepath.Base(g.dir) + "\n"; !strings.Contains(string(out), name) {
			t.Errorf("not inside %s:\n%s", name, out)
		}
	}
	if pid, _, _ := strings.Cut(string(out), "\n"); pid != fmt.Sprint(cmd.Process.Pid) {
		t.Errorf("the program's pid is %s, its command's %d", pid, cmd.Process.Pid)
	}
}

func TestLimitsAreEnforced(t *testing.T) {
	c := caged(t, Limits{Memory: 1 << 40, Pids: 1000})
	if err := errors.Join(c.SetMemory(16<<20), c.SetPids(4)); err != nil {
		t.Fatal(err)
	}
	// tail holds a line until it ends.
	_ = c.Command("sh", "-c", "head -c 67108864 /dev/zero | tail -n 1 | cat >/dev/null").Run()
	if n, err := c.OOMKills(); err != nil || n < 1 {
		t.Errorf("%d kills, %v, where 64 MiB are too many", n, err)
	}
	if peak, err := c.Peak(); err != nil || peak > 16<<20 || peak < 8<<20 {
		t.Errorf("peak %d, %v, with a limit of 16 MiB", peak, err)
	}
	if out, err := c.Command("sh", "-c", "for i in 1 2 3 4 5; do sleep 0.2 & done; wait").CombinedOutput(); err == nil {
		t.Errorf("a limit of 4 lets 6 processes run: %s", out)
	}
	if err := errors.Join(c.SetMemory(256<<20), c.SetPids(100)); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Command("sh", "-c", "for i in 1 2 3 4 5; do sleep 0.01 & done; wait; head -c 67108864 /dev/zero | tail -n 1 | cat >/dev/null").CombinedOutput(); err != nil {
		t.Errorf("raised limits: %v\n%s", err, out)
	}
}

func TestProcessorTimeIsLimited(t *testing.T) {
	c := caged(t, Limits{CPU: 0.2})
	began := time.Now()
	cmd := c.Command("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Half as much again for what a period allows at its ends.
	if used, took := cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), time.Since(began); used.Seconds() > 0.3*took.Seconds()+0.02 {
		t.Errorf("%v of processor time in %v", used, took)
	}
}

func TestCloseEndsWhatRunsInside(t *testing.T) {
	c, err := New(Limits{Pids: 20})
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := c.Command("sh", "-c", "sleep 1h & sleep 1h")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if n, _ := c.Pids(); n == 3 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the processes do not come up")
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
}

// A test that is killed leaves no group behind.
func TestRemovedWhenItsOwnerIsKilled(t *testing.T) {
	caged(t, Limits{Memory: 1 << 30, Pids: 1000}) // or skips
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), "CAGE_TEST_OWNER=1")
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var text string
	for buf := make([]byte, 4096); !strings.Contains(text, "end\n"); {
		n, err := out.Read(buf)
		if text += string(buf[:n]); err != nil {
			t.Fatalf("%v after %q", err, text)
		}
	}
	dirs := strings.Fields(strings.TrimSuffix(text, "end\n"))
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	for _, dir := range dirs {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(dir); os.IsNotExist(err) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s outlives its owner", dir)
			}
		}
	}
}

func TestLocate(t *testing.T) {
	const (
		v1     = "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
		v2     = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		inside = "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
	)
	for _, c := range []struct {
		name, own, mounts, controller string
		dir                           string
		v2, ok                        bool
	}{
		{"v1", "4:memory:/a/b\n0::/\n", v1, "memory", "/sys/fs/cgroup/memory/a/b", false, true},
		{"v1, two controllers", "4:cpu,cpuacct:/\n", v1, "cpuacct", "/sys/fs/cgroup/cpu,cpuacct", false, true},
		{"v1, not there", "4:memory:/a\n", v1, "pids", "", false, false},
		{"v2", "0::/user.slice/x.scope\n", v2, "memory", "/sys/fs/cgroup/user.slice/x.scope", true, true},
		{"v2, root", "0::/\n", v2, "pids", "/sys/fs/cgroup", true, true},
		{"v2, mount of a part", "0::/docker/abc/d\n", inside, "pids", "/sys/fs/cgroup/d", true, true},
		{"v2, mount of just that", "0::/docker/abc\n", inside, "pids", "/sys/fs/cgroup", true, true},
		{"hybrid", "4:memory:/a\n0::/b\n", v1 + v2, "memory", "/sys/fs/cgroup/memory/a", false, true},
		{"hybrid, the other", "4:memory:/a\n0::/b\n", v1 + v2, "pids", "/sys/fs/cgroup/b", true, true},
		{"nothing", "", "", "memory", "", false, false},
		{"garbage", "x\n:\n::\n", "- - -\n1 2 3 4 5 - cgroup2\n", "memory", "", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, dir, v2, ok := locate(c.own, c.mounts, c.controller)
			if dir != c.dir || ok != c.ok || ok && v2 != c.v2 {
				t.Errorf("%q %v %v, want %q %v %v", dir, v2, ok, c.dir, c.v2, c.ok)
			}
		})
	}
}
