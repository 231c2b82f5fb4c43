package guard

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// tree loads a recorded tree: text, and then files with a line "-- name --"
// before each.
func tree(t testing.TB, name string) fstest.MapFS {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../testdata/cgroup", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	files, current := fstest.MapFS{}, ""
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			current = strings.TrimSuffix(name, " --\n")
			files[current] = &fstest.MapFile{}
			continue
		}
		if current != "" {
			files[current].Data = append(files[current].Data, line...)
		}
	}
	return files
}

const (
	mi = 1 << 20
	// The machine of the trees.
	machineTotal, machineAvailable = 8192 * mi, 6192 * mi
	machineTasks, machineMost      = 1042, 63317
)

func memoryOf(root fs.FS) *memory {
	m := newMemory(root).(*memory)
	m.machine = func() (total, available uint64, err error) { return machineTotal, machineAvailable, nil }
	return m
}

// trees has the samples of each recorded tree; nil is an error.
var trees = []struct {
	name         string
	memory, pids []sample
}{
	{"v1-host", []sample{{200 * mi, machineTotal}}, []sample{{31, 0}, {77, 20896}}},
	{"v1-container", []sample{{140 * mi, 256 * mi}}, []sample{{12, 100}}},
	{"v1-container-namespace", []sample{{140 * mi, 256 * mi}}, []sample{{12, 0}, {machineTasks, machineMost}}},
	{"v1-pod", []sample{{140 * mi, 512 * mi}}, []sample{{12, 0}, {machineTasks, machineMost}}},
	{"v1-nested", []sample{{140 * mi, 0}, {240 * mi, 512 * mi}}, []sample{{12, 0}, {15, 100}}},
	{"v1-64k-pages", []sample{{140 * mi, machineTotal}}, []sample{{12, 100}}},
	{"v2-nested", []sample{{200 * mi, 400 * mi}, {680 * mi, 800 * mi}}, []sample{{31, 64}, {90, 500}}},
	{"v2-unlimited", []sample{{200 * mi, machineTotal}}, []sample{{31, 0}, {machineTasks, machineMost}}},
	{"v2-root", []sample{{2000 * mi, machineTotal}}, []sample{{machineTasks, machineMost}}},
	{"v2-not-delegated", []sample{{700 * mi, 1024 * mi}}, []sample{{90, 500}}},
	{"v2-container", []sample{{140 * mi, 256 * mi}}, []sample{{12, 100}}},
	{"v2-container-namespace", []sample{{140 * mi, 256 * mi}}, []sample{{12, 100}}},
	{"v2-above-namespace", []sample{{140 * mi, 256 * mi}, {340 * mi, 512 * mi}}, []sample{{12, 100}}},
	{"v2-beside-namespace", nil, nil},
	{"v2-renamed", []sample{{140 * mi, 256 * mi}}, []sample{{12, 100}}},
	{"v2-several-mounts", []sample{{140 * mi, 256 * mi}, {240 * mi, 512 * mi}, {640 * mi, 1024 * mi}}, []sample{{12, 100}, {20, 200}}},
	{"v2-no-memory", nil, []sample{{12, 100}}},
	{"hybrid-v1", []sample{{140 * mi, 256 * mi}}, []sample{{machineTasks, machineMost}}},
	{"hybrid-v2", []sample{{140 * mi, 256 * mi}}, []sample{{12, 100}}},
	{"over-the-machine", []sample{{140 * mi, machineTotal}}, []sample{{12, 0}, {machineTasks, machineMost}}},
	{"less-than-cache", []sample{{0, 256 * mi}}, []sample{{12, 8}}},
	{"garbage-above", []sample{{140 * mi, 256 * mi}, {640 * mi, 1024 * mi}}, []sample{{12, 100}}},
	{"garbage-own", nil, nil},
	{"garbage-stat", nil, nil},
	{"garbage-paths", nil, []sample{{machineTasks, machineMost}}},
	{"no-mount", nil, nil},
	{"no-controllers", nil, []sample{{machineTasks, machineMost}}},
}

func TestTrees(t *testing.T) {
	for _, c := range trees {
		t.Run(c.name, func(t *testing.T) {
			root := tree(t, c.name)
			for _, s := range []struct {
				name   string
				source source
				want   []sample
			}{{"memory", memoryOf(root), c.memory}, {"pids", newPids(root), c.pids}} {
				// Twice: what the first read has found, the second uses.
				for range 2 {
					before := []sample{{1, 2}}
					got, err := s.source.read(before)
					if (err != nil) != (s.want == nil) {
						t.Errorf("%s: error %v, want samples %v", s.name, err, s.want)
					}
					if err != nil {
						if errors.Is(err, errNothing) || len(got) != 1 {
							t.Errorf("%s: %v with error %v", s.name, got, err)
						}
						continue
					}
					if got[0] != before[0] || !slices.Equal(got[1:], s.want) {
						t.Errorf("%s: %v, want %v", s.name, got[1:], s.want)
					}
				}
			}
		})
	}
}

// TestEveryTreeIsTested fails for a tree that was recorded and forgotten.
func TestEveryTreeIsTested(t *testing.T) {
	found, err := filepath.Glob("../../testdata/cgroup/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if !slices.ContainsFunc(trees, func(c struct {
			name         string
			memory, pids []sample
		}) bool {
			return c.name == name
		}) {
			t.Errorf("%s is in no test", path)
		}
	}
}

// TestEveryFileCanVanish takes each file of each tree away in turn, and brings
// it back: the source says so or leaves a level out, and recovers.
func TestEveryFileCanVanish(t *testing.T) {
	for _, c := range trees {
		root := tree(t, c.name)
		m, p := memoryOf(root), newPids(root)
		m.read(nil) // what the machine has is read once
		p.read(nil)
		for name, file := range root {
			for _, gone := range []*fstest.MapFile{nil, {}, {Data: []byte("\x00\n")}, {Mode: fs.ModeDir}} {
				if root[name] = gone; gone == nil {
					delete(root, name)
				}
				for range moveReads {
					for _, s := range []source{m, p} {
						samples, err := s.read(nil)
						if err == nil && len(samples) == 0 {
							t.Fatalf("%s without %s: neither a sample nor an error", c.name, name)
						}
						for _, s := range samples {
							if s.limit > machineTotal {
								t.Fatalf("%s without %s: %v", c.name, name, samples)
							}
						}
					}
				}
				root[name] = file
			}
			for range moveReads {
				m.read(nil)
				p.read(nil)
			}
			if got, err := m.read(nil); (err != nil) != (c.memory == nil) || err == nil && !slices.Equal(got, c.memory) {
				t.Fatalf("%s with %s again: memory %v, %v, want %v", c.name, name, got, err, c.memory)
			}
			if got, err := p.read(nil); (err != nil) != (c.pids == nil) || err == nil && !slices.Equal(got, c.pids) {
				t.Fatalf("%s with %s again: pids %v, %v, want %v", c.name, name, got, err, c.pids)
			}
		}
	}
}

func TestLimitsAreFollowed(t *testing.T) {
	root := tree(t, "v2-container-namespace")
	m, p := memoryOf(root), newPids(root)
	for _, limit := range []struct {
		text string
		want uint64
	}{{"268435456\n", 256 * mi}, {"536870912\n", 512 * mi}, {"104857600\n", 100 * mi}, {"max\n", machineTotal}} {
		root["sys/fs/cgroup/memory.max"].Data = []byte(limit.text)
		if got, err := m.read(nil); err != nil || !slices.Equal(got, []sample{{140 * mi, limit.want}}) {
			t.Errorf("memory.max %q: %v, %v", limit.text, got, err)
		}
	}
	root["sys/fs/cgroup/pids.max"].Data = []byte("17\n")
	if got, err := p.read(nil); err != nil || !slices.Equal(got, []sample{{12, 17}}) {
		t.Errorf("pids.max 17: %v, %v", got, err)
	}
}

// TestMoveIsFollowed: a supervisor may move a process that runs.
func TestMoveIsFollowed(t *testing.T) {
	root := tree(t, "v2-nested")
	m := memoryOf(root)
	m.read(nil)
	root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte("0::/system.slice/app.slice\n")}
	var got []sample
	for range moveReads {
		got, _ = m.read(nil)
	}
	if want := []sample{{680 * mi, 800 * mi}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestOwnLevelThatGoesAway: a cgroup that was removed is not waited for, and a
// level that has lost a file is not taken for one without the controller.
func TestOwnLevelThatGoesAway(t *testing.T) {
	root := tree(t, "v2-nested")
	m, p := memoryOf(root), newPids(root)
	m.read(nil)
	p.read(nil)
	const own = "sys/fs/cgroup/system.slice/app.slice/app.service"
	for _, name := range []string{"/memory.current", "/memory.stat", "/pids.current"} {
		file := root[own+name]
		delete(root, own+name)
		s := source(m)
		if name == "/pids.current" {
			s = p
		}
		if got, err := s.read(nil); err == nil {
			t.Errorf("without %s: %v", name, got)
		}
		root[own+name] = file
	}
	m.read(nil)
	p.read(nil)
	for name := range root {
		if strings.HasPrefix(name, own) {
			delete(root, name)
		}
	}
	root[own+"/memory.max"] = &fstest.MapFile{Data: []byte("nothing\n")} // a level in the middle of its end
	root[own+"/pids.max"] = root[own+"/memory.max"]
	root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte("0::/system.slice/app.slice\n")}
	if got, err := m.read(nil); err != nil || !slices.Equal(got, []sample{{680 * mi, 800 * mi}}) {
		t.Errorf("memory: %v, %v", got, err)
	}
	if got, err := p.read(nil); err != nil || !slices.Equal(got, []sample{{40, 0}, {90, 500}}) {
		t.Errorf("pids: %v, %v", got, err)
	}
}

func TestMounts(t *testing.T) {
	for _, c := range []struct {
		line string
		v2   bool
		want []mount
	}{
		{"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory", false, []mount{{"/", "sys/fs/cgroup/memory"}}},
		{"35 31 0:32 / /sys/fs/cgroup/memory rw shared:1 master:2 - cgroup cgroup rw,memory,pids", false, []mount{{"/", "sys/fs/cgroup/memory"}}},
		{"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory", true, nil},
		{"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup2 cgroup rw,memory", false, nil},
		{"35 31 0:32 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,memoryless", false, nil},
		{"35 31 0:32 /a\\040b\\134 /c\\011d rw,relatime - cgroup2 none rw", true, []mount{{"/a b\\", "c\td"}}},
		{"35 31 0:32 /a\\04 /c\\0 rw,relatime - cgroup2 none rw", true, []mount{{"/a\\04", "c\\0"}}},
		{"35 31 0:32 / / rw,relatime - cgroup2 none rw", true, []mount{{"/", "."}}},
		{"35 31 0:32 / /a/../b rw,relatime - cgroup2 none rw", true, nil},
		{"35 31 0:32 net:[4026531840] /a rw,relatime - cgroup2 none rw", true, nil},
		{"35 31 0:32 / /a rw,relatime - cgroup2", true, nil},
		{"35 31 0:32 / /a - cgroup2 none rw", true, nil},
	} {
		if got := parseMounts([]byte(c.line+"\n"), "memory", c.v2); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}

func TestHolds(t *testing.T) {
	c := cgroup{files: files{root: fstest.MapFS{
		"cg/b/x":     {},
		"cg/own/x":   {},
		"cg/a/own/x": {},
		"b/x":        {},
	}}}
	for _, h := range []struct{ root, point, own, want string }{
		{"/", "cg", "/", "cg"},
		{"/", "cg", "/a/own", "cg/a/own"},
		{"/a", "cg", "/a/own", "cg/own"},
		{"/a", "cg", "/a", "cg"},
		{"/a", "cg", "/ab", ""}, // not b below /a
		{"/a", "cg", "/c/a/own", ""},
		{"/", "cg", "/../b", ""}, // not beside the mount
		{"/..", "cg", "/../b", "cg/b"},
		{"/../..", "cg", "/../b", ""},
		{"/", "cg", "/b/x", ""}, // not a folder
		{"/", ".", "/b", "b"},
		{"/", ".", "/", "."},
	} {
		got, ok := mount{root: h.root, point: h.point}.holds(&c, h.own)
		if !ok {
			got = ""
		}
		if got != h.want {
			t.Errorf("%s of %s at %s: %q, want %q", h.own, h.root, h.point, got, h.want)
		}
	}
}

func TestMachineOfUnknownSize(t *testing.T) {
	unlimited := memoryOf(tree(t, "v2-unlimited"))
	unlimited.machine = func() (uint64, uint64, error) { return 0, 0, fs.ErrPermission }
	if got, err := unlimited.read(nil); err != nil || !slices.Equal(got, []sample{{200 * mi, 0}}) {
		t.Errorf("unlimited: %v, %v", got, err)
	}
	root := memoryOf(tree(t, "v2-root"))
	root.machine = unlimited.machine
	if got, err := root.read(nil); !errors.Is(err, fs.ErrPermission) || len(got) > 0 {
		t.Errorf("root: %v, %v", got, err)
	}
	pages := memoryOf(tree(t, "v1-64k-pages"))
	pages.machine = unlimited.machine
	if got, err := pages.read(nil); err != nil || !slices.Equal(got, []sample{{140 * mi, 0}}) {
		t.Errorf("no limit in pages of 64 KiB: %v, %v", got, err)
	}
	files := tree(t, "v2-unlimited")
	files["proc/sys/kernel/pid_max"] = &fstest.MapFile{Data: []byte("32768\n")}
	if got, err := newPids(files).read(nil); err != nil || got[1] != (sample{machineTasks, 32768}) {
		t.Errorf("small pid_max: %v, %v", got, err)
	}
	delete(files, "proc/sys/kernel/pid_max")
	if got, err := newPids(files).read(nil); err != nil || got[1] != (sample{machineTasks, machineMost}) {
		t.Errorf("without pid_max: %v, %v", got, err)
	}
	delete(files, "proc/sys/kernel/threads-max")
	if got, err := newPids(files).read(nil); err != nil || got[1] != (sample{machineTasks, 0}) {
		t.Errorf("without either: %v, %v", got, err)
	}
}

// TestLongFile: there is no end to what a file may claim to hold.
func TestLongFile(t *testing.T) {
	f := files{root: fstest.MapFS{
		"long":    {Data: make([]byte, maxFile-1)},
		"toolong": {Data: make([]byte, maxFile)},
	}}
	if text, err := f.text("long"); err != nil || len(text) != maxFile-1 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if _, err := f.text("toolong"); err == nil {
		t.Error("no error")
	}
}
