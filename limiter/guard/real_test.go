package guard

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestThisMachine reads it as it is.
func TestThisMachine(t *testing.T) {
	root := newMachine()
	for name, s := range map[string]source{"memory": newMemory(root), "pids": newPids(root)} {
		got, err := s.read(nil)
		if err != nil {
			t.Logf("%s: %v", name, err) // a machine may have no such cgroup
			continue
		}
		limited := slices.ContainsFunc(got, func(s sample) bool { return s.limit > 0 })
		if len(got) == 0 || got[0].used == 0 || !limited {
			t.Errorf("%s: %v", name, got)
		}
		t.Logf("%s: %v", name, got)
	}
}

// levels are two real cgroups, one in the other, below our own.
type levels struct {
	outer, inner string // folders
	top          string // where the hierarchy is mounted
	limit        string // the name of the file with the limit
}

// makeLevels skips where it may not or cannot make any.
func makeLevels(t *testing.T, controller, v1limit, v2limit string) levels {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make cgroups")
	}
	c := cgroup{files: files{root: newMachine()}, controller: controller}
	if err := c.locate(); err != nil {
		t.Skip(err)
	}
	l := levels{top: "/" + c.dirs[len(c.dirs)-1], limit: v1limit}
	l.outer = filepath.Join("/"+c.dirs[0], fmt.Sprintf("guard-test-%d", os.Getpid()))
	l.inner = filepath.Join(l.outer, "inner")
	if c.v2 {
		l.limit = v2limit
	}
	for _, dir := range []string{l.outer, l.inner} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { removed(t, dir) })
		if c.v2 && dir == l.outer {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
				t.Skip(err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, l.limit)); err != nil {
			t.Skipf("the %s controller is not passed down: %v", controller, err)
		}
	}
	return l
}

// removed removes a cgroup, which the kernel refuses until the last process in
// it is gone entirely.
func removed(t *testing.T, dir string) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}

func (l levels) set(t *testing.T, dir string, limit uint64) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, l.limit), []byte(strconv.FormatUint(limit, 10)), 0); err != nil {
		t.Fatal(err)
	}
}

// enter moves the helper in.
func (l levels) enter(t *testing.T, h *helper) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.inner, "cgroup.procs"), []byte(strconv.Itoa(h.pid)), 0); err != nil {
		t.Fatal(err)
	}
}

// TestRealMemory: a real process in a real cgroup, with limits that change
// while it runs.
func TestRealMemory(t *testing.T) {
	l := makeLevels(t, "memory", "memory.limit_in_bytes", "memory.max")
	l.set(t, l.outer, 256*mi)
	h := start(t, 0, 0)
	l.enter(t, h)
	before := h.read(t, "memory")
	if limited := before[len(before)-1].limit; limited != 256*mi {
		t.Errorf("limit of the outer level only: %v", before)
	}
	h.read(t, strconv.Itoa(40*mi))
	after := h.read(t, "memory")
	if more := int64(after[0].used) - int64(before[0].used); more < 40*mi || more > 60*mi {
		t.Errorf("40 MiB taken: %v, then %v", before, after)
	}
	for _, limit := range []uint64{128 * mi, 192 * mi, 112 * mi} {
		l.set(t, l.inner, limit)
		got := h.read(t, "memory")
		if got[0].limit != limit || got[1].limit != 256*mi || got[1].used < got[0].used {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
}

func TestRealPids(t *testing.T) {
	l := makeLevels(t, "pids", "pids.max", "pids.max")
	h := start(t, 0, 0)
	l.enter(t, h)
	if got := h.read(t, "pids"); got[0].used == 0 || got[0].limit != 0 {
		t.Errorf("no limit: %v", got)
	}
	l.set(t, l.outer, 500)
	if got := h.read(t, "pids"); got[0].limit != 0 || got[1].limit != 500 {
		t.Errorf("limit of the outer level: %v", got)
	}
	l.set(t, l.inner, 200)
	got := h.read(t, "pids")
	if got[0].limit != 200 || got[1].limit != 500 || got[0].used != got[1].used {
		t.Errorf("limits of both levels: %v", got)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", h.pid))
	if err != nil || got[0].used != uint64(len(tasks)) {
		t.Errorf("%v, but there are %d tasks, %v", got, len(tasks), err)
	}
}

// TestRealContainer sees the hierarchy as from inside a container, where the
// own cgroup is mounted in the place of the whole: with a cgroup namespace,
// and without one.
func TestRealContainer(t *testing.T) {
	for name, unshare := range map[string]string{"namespace": "unshare -C -m", "no namespace": "unshare -m"} {
		t.Run(name, func(t *testing.T) {
			l := makeLevels(t, "memory", "memory.limit_in_bytes", "memory.max")
			if out, err := exec.Command("sh", "-c", unshare+" true").CombinedOutput(); err != nil {
				t.Skipf("%s: %v, %s", unshare, err, out)
			}
			l.set(t, l.outer, 256*mi)
			h := startBy(t, fmt.Sprintf(`echo $$ > %s/cgroup.procs; exec %s sh -ec 'mount --bind %s %s; exec "$0" "$@"' "$0" "$@"`,
				l.inner, unshare, l.inner, l.top), 0, 0)
			got := h.read(t, "memory")
			if len(got) != 1 || got[0].used == 0 {
				t.Errorf("%v", got)
			}
			// Version 1 tells of a limit above what is mounted.
			if l.limit == "memory.limit_in_bytes" && got[0].limit != 256*mi {
				t.Errorf("limit of a level that is not visible: %v", got)
			}
			l.set(t, l.inner, 128*mi)
			if got := h.read(t, "memory"); len(got) != 1 || got[0].limit != 128*mi {
				t.Errorf("own limit: %v", got)
			}
		})
	}
}
